//! Which init system an image boots with: by the program that the kernel would start, else by what else there is.

use super::{
    Init,
    contents::PROGRAM,
    inits::{BUSYBOX, KERNELS, OPENRC, RUNIT, SYSTEMD},
};
use crate::sys::root_dir::{OpenFile, RootDir, RootDirError};

/// Finds the init system of an image. Files are compared, not the names of links: busybox and others are often hard links.
pub(super) fn detect(root: &RootDir) -> Result<Init, RootDirError> {
    let init = first(root, &KERNELS)?;
    let is = |programs: &[&str]| match &init {
        Some(init) => is_one_of(root, init, programs),
        None => Ok(false),
    };
    let has = |programs: &[&str]| Ok::<_, RootDirError>(first(root, programs)?.is_some());
    Ok(if is(&[PROGRAM])? {
        Init::Pid1
    } else if is(&SYSTEMD)? {
        Init::Systemd
    } else if is(&RUNIT)? {
        Init::Runit
    } else if is(&BUSYBOX)? {
        // Alpine's init is busybox, and all that it does is to run OpenRC.
        if has(&OPENRC)? { Init::Openrc } else { Init::Busybox }
    } else if init.is_some() && has(&OPENRC)? {
        // Under sysvinit, or its own openrc-init.
        Init::Openrc
    } else if has(&SYSTEMD)? {
        // The kernel is told of it by `init=`, or the init is a script that hands over to it.
        Init::Systemd
    } else if init.is_none() {
        Init::Pid1
    } else {
        Init::None
    })
}

fn first(root: &RootDir, paths: &[&str]) -> Result<Option<OpenFile>, RootDirError> {
    for path in paths {
        if let Some(file) = root.follow(path)? {
            return Ok(Some(file));
        }
    }
    Ok(None)
}

fn is_one_of(root: &RootDir, file: &OpenFile, paths: &[&str]) -> Result<bool, RootDirError> {
    for path in paths {
        if root.follow(path)?.is_some_and(|other| other.is_same_file(file)) {
            return Ok(true);
        }
    }
    Ok(false)
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::symlink, path::Path};

    use super::*;

    /// The init system of an image with these files, each with its own path in it, and these links.
    fn detected(files: &[&str], links: &[(&str, &str)]) -> Init {
        let image = tempfile::tempdir().unwrap();
        let path = |path: &str| {
            let path = image.path().join(path.trim_start_matches('/'));
            fs::create_dir_all(path.parent().unwrap_or(Path::new("/"))).unwrap();
            path
        };
        for file in files {
            fs::write(path(file), file).unwrap();
        }
        for (link, target) in links {
            symlink(target, path(link)).unwrap();
        }
        detect(&RootDir::open(image.path()).unwrap()).unwrap()
    }

    #[test]
    fn each_init_system_is_known_by_the_program_that_the_kernel_starts() {
        let systemd = "/usr/lib/systemd/systemd";
        let usr = [("/sbin", "/usr/sbin"), ("/lib", "usr/lib"), ("/bin", "usr/bin")];
        let debian = |init| [&[("/usr/sbin/init", init)], &usr[..]].concat();
        assert_eq!(detected(&[systemd], &debian("/lib/systemd/systemd")), Init::Systemd);
        assert_eq!(detected(&["/usr/lib/runit/runit-init"], &debian("/lib/runit/runit-init")), Init::Runit);
        let alpine = [("/sbin/init", "/bin/busybox")];
        assert_eq!(detected(&["/bin/busybox", "/sbin/openrc-run"], &alpine), Init::Openrc);
        assert_eq!(detected(&["/bin/busybox"], &alpine), Init::Busybox);
        assert_eq!(detected(&["/sbin/init", "/sbin/openrc-run", systemd], &[]), Init::Openrc);
        assert_eq!(detected(&[PROGRAM, systemd], &[("/sbin/init", PROGRAM)]), Init::Pid1);
    }

    #[test]
    fn busybox_is_known_by_a_hard_link_too() {
        let image = tempfile::tempdir().unwrap();
        fs::create_dir(image.path().join("bin")).unwrap();
        fs::write(image.path().join("bin/busybox"), "").unwrap();
        fs::hard_link(image.path().join("bin/busybox"), image.path().join("bin/init")).unwrap();
        assert_eq!(detect(&RootDir::open(image.path()).unwrap()).unwrap(), Init::Busybox);
    }

    #[test]
    fn what_is_installed_but_not_the_init_is_not_taken_for_it() {
        let programs = ["/usr/lib/systemd/systemd", "/lib/runit/runit-init", "/bin/busybox"];
        assert_eq!(detected(&programs, &[("/sbin/init", "/lib/runit/runit-init")]), Init::Runit);
        assert_eq!(detected(&programs, &[("/sbin/init", "/bin/busybox")]), Init::Busybox);
    }

    #[test]
    fn an_image_without_an_init_gets_guestd_as_one_and_an_unknown_init_is_left_alone() {
        assert_eq!(detected(&["/bin/sh"], &[]), Init::Pid1);
        assert_eq!(detected(&["/usr/lib/systemd/systemd"], &[]), Init::Systemd);
        assert_eq!(detected(&["/sbin/init"], &[]), Init::None);
    }
}
