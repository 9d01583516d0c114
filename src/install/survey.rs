//! What an image has, as far as it decides what is put into it, and what its builder should be told.

use std::io::Read;

use nix::unistd::geteuid;

use super::{
    Init, InstallError, Program,
    elf::{self, Elf},
    inits::SYSTEMD,
    openssh::{Reads, SSH, SSHD},
};
use crate::{
    keys::GOLDEN_IDENTITY,
    limits, marked,
    sys::root_dir::{Entry, RootDir, RootDirError},
};

/// Programs that nearly every image has, by one of which its architecture is known.
const REFERENCE_PROGRAMS: [&str; 4] = ["/bin/sh", "/bin/busybox", SYSTEMD[0], SYSTEMD[1]];

/// Directories of the services that runit runs, and guestd's link in each: Void and Debian, upstream's two.
const RUNIT_SERVICES: [(&str, &str); 4] = [
    ("/etc/runit/runsvdir/default", "/etc/runit/runsvdir/default/guestd"),
    ("/etc/service", "/etc/service/guestd"),
    ("/var/service", "/var/service/guestd"),
    ("/service", "/service/guestd"),
];

/// OpenRC's runlevels, and guestd's link in each, the earlier one first.
const RUNLEVELS: [(&str, &str); 2] = [
    ("/etc/runlevels/boot", "/etc/runlevels/boot/guestd"),
    ("/etc/runlevels/default", "/etc/runlevels/default/guestd"),
];

/// What `/etc/inittab` says, where busybox's init reads it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Inittab {
    /// There is none.
    Missing,
    /// A file, into which a line of guestd's can go.
    TakesLine,
    /// Somebody has written a line that starts guestd.
    HasItsOwn,
    /// A link or something else than a file.
    NoFile,
}

/// What was seen in an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Survey {
    pub(super) init: Init,
    pub(super) inittab: Inittab,
    /// Whether `/etc/init.d/rcS` is there, which busybox's init runs first.
    pub(super) rcs: bool,
    /// guestd's link in an OpenRC runlevel.
    pub(super) runlevel: &'static str,
    /// guestd's link among runit's services.
    pub(super) runit_link: &'static str,
    pub(super) sshd: Reads,
    pub(super) ssh: Reads,
    pub(super) golden_keys: bool,
    pub(super) root_owned: bool,
    pub(super) program: Option<Elf>,
    pub(super) image: Option<Elf>,
}

impl Survey {
    /// Looks at an image before anything is put into it; `has_keys` says that golden keys will be.
    pub(super) fn of(root: &RootDir, init: Init, program: &Program, has_keys: bool) -> Result<Self, InstallError> {
        let mut head = Vec::new();
        program
            .rewound()
            .and_then(|file| file.take(elf::HEAD_BYTES).read_to_end(&mut head))
            .map_err(|error| program.unreadable(error))?;
        Ok(Self {
            init,
            inittab: inittab(root)?,
            rcs: root.follow("/etc/init.d/rcS")?.is_some(),
            runlevel: first_directory(root, &RUNLEVELS)?,
            runit_link: first_directory(root, &RUNIT_SERVICES)?,
            sshd: SSHD.of(root)?,
            ssh: SSH.of(root)?,
            golden_keys: has_keys || !matches!(root.look(GOLDEN_IDENTITY)?, Entry::Absent),
            root_owned: geteuid().is_root(),
            program: Elf::parse(&head),
            image: architecture(root)?,
        })
    }
}

fn inittab(root: &RootDir) -> Result<Inittab, RootDirError> {
    let file = match root.look("/etc/inittab")? {
        Entry::Absent => return Ok(Inittab::Missing),
        Entry::File(file) => file,
        Entry::Link(_) | Entry::Directory | Entry::Special => return Ok(Inittab::NoFile),
    };
    let text = file.read(limits::INSTALL_FOREIGN_FILE_BYTES)?;
    let others = marked::take(&text).unwrap_or(text);
    Ok(if starts_guestd(&String::from_utf8_lossy(&others)) { Inittab::HasItsOwn } else { Inittab::TakesLine })
}

/// Whether an inittab has a line, `ID:RUNLEVELS:ACTION:COMMAND`, that starts guestd.
fn starts_guestd(inittab: &str) -> bool {
    inittab.lines().map(str::trim_start).filter(|line| !line.starts_with('#')).any(|line| {
        let command = line.splitn(4, ':').nth(3).unwrap_or_default();
        command.contains("guestd")
    })
}

/// The second half of the first pair whose first half is a directory of the image; of the first pair, should there be none.
fn first_directory(root: &RootDir, choice: &[(&'static str, &'static str)]) -> Result<&'static str, RootDirError> {
    for (directory, link) in choice {
        if root.follow_directory(directory)?.is_some() {
            return Ok(link);
        }
    }
    Ok(choice[0].1)
}

fn architecture(root: &RootDir) -> Result<Option<Elf>, InstallError> {
    for path in REFERENCE_PROGRAMS {
        if let Some(file) = root.follow(path)? {
            let mut head = Vec::new();
            file.reader().take(elf::HEAD_BYTES).read_to_end(&mut head).map_err(|source| RootDirError::Content {
                action: "read",
                path: file.path().to_owned(),
                source,
            })?;
            if let Some(elf) = Elf::parse(&head) {
                return Ok(Some(elf));
            }
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_that_somebody_wrote_for_guestd_is_seen_and_a_comment_is_none() {
        assert!(starts_guestd("::sysinit:/etc/init.d/rcS\n  ::respawn:/usr/local/bin/guestd agent\n"));
        assert!(!starts_guestd("#::respawn:/usr/local/bin/guestd agent\n::respawn:/sbin/getty ttyS0\nguestd\n"));
    }
}
