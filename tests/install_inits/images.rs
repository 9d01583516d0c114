//! Root file systems as distributions have them, as far as an installation looks at them.

use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::{MetadataExt, symlink},
    path::{Path, PathBuf},
};

use guestd::install::{Init, UninstallArgs};

use crate::build::Build;

/// An image, the init system that it has, and what makes that start guestd.
pub(crate) struct Image {
    pub(crate) name: &'static str,
    pub(crate) make: fn() -> Build,
    pub(crate) init: Init,
    pub(crate) starts_it: &'static str,
}

pub(crate) const IMAGES: [Image; 8] = [
    Image {
        name: "Debian with systemd",
        make: debian,
        init: Init::Systemd,
        starts_it: "/etc/systemd/system/sysinit.target.wants/guestd.service",
    },
    Image { name: "Alpine", make: alpine, init: Init::Openrc, starts_it: "/etc/runlevels/boot/guestd" },
    Image {
        name: "Debian with OpenRC",
        make: debian_openrc,
        init: Init::Openrc,
        starts_it: "/etc/runlevels/default/guestd",
    },
    Image { name: "Buildroot", make: buildroot, init: Init::Busybox, starts_it: "/etc/init.d/S05guestd" },
    Image {
        name: "busybox without inittab",
        make: bare_busybox,
        init: Init::Busybox,
        starts_it: "/etc/init.d/S05guestd",
    },
    Image { name: "Void", make: void, init: Init::Runit, starts_it: "/etc/runit/runsvdir/default/guestd" },
    Image { name: "runit of upstream", make: runit, init: Init::Runit, starts_it: "/service/guestd" },
    Image { name: "a container's export", make: container, init: Init::Pid1, starts_it: "/sbin/init" },
];

/// Writes the files, each with this content, and makes the links.
fn image(files: &[(&str, &str)], links: &[(&str, &str)]) -> Build {
    let build = Build::empty();
    let parent = |path: &str| fs::create_dir_all(build.path(path).parent().unwrap()).unwrap();
    for (path, target) in links {
        parent(path);
        symlink(target, build.path(path)).unwrap();
    }
    for (path, content) in files {
        parent(path);
        fs::write(build.path(path), content).unwrap();
    }
    build
}

/// Alpine's inittab, which runs OpenRC.
pub(crate) const ALPINE_INITTAB: &str = "# /etc/inittab\n\n::sysinit:/sbin/openrc sysinit\n::sysinit:/sbin/openrc boot\n\
                                         ::wait:/sbin/openrc default\n\n::shutdown:/sbin/openrc shutdown\n";

/// Buildroot's, without an end of its last line.
pub(crate) const BUILDROOT_INITTAB: &str = "# /etc/inittab\n::sysinit:/bin/mount -t proc proc /proc\n\
                                            ::sysinit:/etc/init.d/rcS\n::respawn:/sbin/getty -L console 0 vt100\n\
                                            ::shutdown:/etc/init.d/rcK";

/// A configuration as OpenSSH's own sources have it: it includes nothing.
pub(crate) const SSHD_CONFIG: &str = "#\t$OpenBSD$\nPermitRootLogin yes\nSubsystem sftp /usr/lib/ssh/sftp-server\n";
const SSHD: (&str, &str) = ("/usr/sbin/sshd", "\u{1}OpenSSH_9.7p1\0");
const SSH: (&str, &str) = ("/usr/bin/ssh", "\u{1}OpenSSH_9.7p1\0");
const SSH_CONFIG: (&str, &str) = ("/etc/ssh/ssh_config", "Host *\n  SendEnv LANG\n");

fn debian() -> Build {
    let build = Build::with_systemd();
    let include = |name: &str| format!("Include /etc/ssh/{name}.d/*.conf\n");
    fs::create_dir_all(build.path("/etc/ssh")).unwrap();
    symlink("/lib/systemd/systemd", build.path("/usr/sbin/init")).unwrap();
    for (program, config) in [("/usr/sbin/sshd", "sshd_config"), ("/usr/bin/ssh", "ssh_config")] {
        fs::write(build.path(program), "OpenSSH_9.2p1 Debian").unwrap();
        fs::write(build.path(&format!("/etc/ssh/{config}")), include(config)).unwrap();
    }
    build
}

fn alpine() -> Build {
    let build = image(
        &[
            ("/bin/busybox", "busybox"),
            ("/sbin/openrc-run", ""),
            ("/etc/inittab", ALPINE_INITTAB),
            SSHD,
            SSH,
            ("/etc/ssh/sshd_config", SSHD_CONFIG),
            SSH_CONFIG,
        ],
        &[("/sbin/init", "/bin/busybox")],
    );
    for runlevel in ["sysinit", "boot", "default", "shutdown"] {
        fs::create_dir_all(build.path("/etc/runlevels").join(runlevel)).unwrap();
    }
    build
}

fn debian_openrc() -> Build {
    let build =
        image(&[("/sbin/init", "sysvinit"), ("/sbin/openrc-run", ""), ("/etc/inittab", "id:2:initdefault:\n")], &[]);
    fs::create_dir_all(build.path("/etc/runlevels/default")).unwrap();
    build
}

pub(crate) fn buildroot() -> Build {
    let files = [
        ("/bin/busybox", "busybox"),
        ("/etc/inittab", BUILDROOT_INITTAB),
        ("/etc/init.d/rcS", "#!/bin/sh\n"),
        SSHD,
        ("/etc/ssh/sshd_config", SSHD_CONFIG),
    ];
    image(&files, &[("/sbin/init", "../bin/busybox")])
}

fn bare_busybox() -> Build {
    let build = image(&[("/bin/busybox", "busybox"), ("/etc/init.d/rcS", "#!/bin/sh\n")], &[]);
    fs::create_dir(build.path("/sbin")).unwrap();
    // As `busybox --install` does it.
    fs::hard_link(build.path("/bin/busybox"), build.path("/sbin/init")).unwrap();
    build
}

fn void() -> Build {
    let build = image(
        &[("/usr/bin/runit-init", "runit-init"), ("/usr/bin/runit", "runit")],
        &[
            ("/usr/bin/init", "runit-init"),
            ("/sbin", "usr/bin"),
            ("/bin", "usr/bin"),
            ("/etc/runit/runsvdir/current", "default"),
            ("/var/service", "/run/runit/runsvdir/current"),
        ],
    );
    fs::create_dir_all(build.path("/etc/runit/runsvdir/default")).unwrap();
    fs::create_dir_all(build.path("/etc/sv/agetty-ttyS0")).unwrap();
    build
}

fn runit() -> Build {
    let build = image(&[("/sbin/runit-init", "runit-init")], &[("/sbin/init", "runit-init")]);
    fs::create_dir_all(build.path("/service")).unwrap();
    build
}

pub(crate) fn container() -> Build {
    image(&[("/usr/bin/dash", ""), SSHD, ("/etc/ssh/sshd_config", SSHD_CONFIG)], &[("/bin", "usr/bin")])
}

/// All that is in an image: type, mode, owner and content by path. Equal for two images that nobody can tell apart.
pub(crate) fn content(build: &Build) -> BTreeMap<PathBuf, String> {
    fn walk(base: &Path, path: &Path, found: &mut BTreeMap<PathBuf, String>) {
        let metadata = fs::symlink_metadata(path).unwrap();
        let mut shown = format!("{:o} {}:{} ", metadata.mode(), metadata.uid(), metadata.gid());
        if metadata.is_dir() {
            for entry in fs::read_dir(path).unwrap() {
                walk(base, &entry.unwrap().path(), found);
            }
        } else if metadata.is_symlink() {
            shown += &fs::read_link(path).unwrap().to_string_lossy();
        } else {
            shown += &String::from_utf8_lossy(&fs::read(path).unwrap());
        }
        found.insert(path.strip_prefix(base).unwrap().to_owned(), shown);
    }
    let mut found = BTreeMap::new();
    walk(&build.root(), &build.root(), &mut found);
    found
}

pub(crate) fn uninstall_args(build: &Build) -> UninstallArgs {
    UninstallArgs { root: build.root(), dry_run: false }
}
