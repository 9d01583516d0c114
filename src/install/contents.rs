//! What belongs into an image: every directory, file, link and line, its mode, and whether its owner may edit it.

use std::{borrow::Cow, io::Read};

use super::{
    Init, InstallError, Program,
    manifest::Sha256Hex,
    openssh::{Reads, SSH, SSHD},
    shipped::{self, Shipped},
    survey::{Inittab, Survey},
};
use crate::keys::{AUTHORIZED_KEYS, GOLDEN_IDENTITY, GoldenPair};

/// Where guestd's program is in an image.
pub(crate) const PROGRAM: &str = "/usr/local/bin/guestd";

/// Where the kernel looks for an init first.
pub(super) const SBIN_INIT: &str = "/sbin/init";

/// All below it is about keys, and stays as it is in a run without keys.
const KEYS: &str = "/etc/guestd/ssh/";

/// What was chosen for an installation.
pub(super) struct Selection<'run> {
    pub(super) survey: &'run Survey,
    pub(super) keys: Option<&'run GoldenPair>,
    pub(super) program: &'run Program,
}

impl Selection<'_> {
    /// Whether what a former run has put at `path` stays, though this run has nothing for it.
    pub(super) fn stays(&self, path: &str) -> bool {
        self.keys.is_none() && path.starts_with(KEYS)
    }
}

/// Something that an image should have.
pub(super) struct Wanted<'run> {
    pub(super) path: Cow<'static, str>,
    pub(super) piece: Piece<'run>,
}

/// What it is.
pub(super) enum Piece<'run> {
    /// A directory: one that only root writes to, or, to mount something on, any.
    Directory { roots_alone: bool },
    /// A file.
    File { content: Content<'run>, mode: u32, edits: Edits },
    /// A symbolic link.
    Link { target: &'static str, former: Former },
    /// Lines in a file of somebody else's.
    Lines(&'static str),
}

/// What happens to something else in the place of a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Former {
    /// It stays.
    Kept,
    /// It gets another name, and its own again when guestd is taken out.
    Saved,
}

/// What happens to a file that somebody edited.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Edits {
    /// It stays, the new version goes beside it.
    Kept,
    /// It is replaced: a program or a record is nothing to edit.
    Replaced,
}

/// A file's content; a program is read as a stream.
#[derive(Clone)]
pub(super) enum Content<'run> {
    Text(Cow<'run, str>),
    Program(&'run Program),
}

impl Content<'_> {
    pub(super) fn hash(&self) -> Result<Sha256Hex, InstallError> {
        match self {
            Self::Text(text) => Ok(Sha256Hex::of(text.as_bytes())),
            Self::Program(program) => program
                .rewound()
                .and_then(|mut file| Sha256Hex::of_stream(&mut file))
                .map_err(|error| program.unreadable(error)),
        }
    }

    /// The content as a stream, from its start.
    pub(super) fn reader(&self) -> Result<Box<dyn Read + '_>, InstallError> {
        match self {
            Self::Text(text) => Ok(Box::new(text.as_bytes())),
            Self::Program(program) => match program.rewound() {
                Ok(file) => Ok(Box::new(file)),
                Err(error) => Err(program.unreadable(error)),
            },
        }
    }
}

/// Directories that are guestd's own, parents first. sshd insists on those of keys being root's alone, and what is in those of hooks
/// is run by root.
const DIRECTORIES: [&str; 8] = [
    "/etc/guestd",
    "/etc/guestd/ssh",
    AUTHORIZED_KEYS,
    "/etc/guestd/hooks.d",
    "/etc/guestd/hooks.d/pre-snapshot.d",
    "/etc/guestd/hooks.d/pre-thaw.d",
    "/etc/guestd/hooks.d/post-restore.d",
    "/usr/local/share/guestd",
];

/// What `guestd init` mounts on. A root file system that was exported from a container may lack some.
const MOUNT_POINTS: [&str; 5] = ["/dev", "/proc", "/run", "/sys", "/tmp"];

/// Everything that an image should have, in the order in which it is put there: what starts guestd comes after what it starts.
pub(super) fn wanted<'run>(selection: &Selection<'run>) -> Vec<Wanted<'run>> {
    let survey = selection.survey;
    let mut wanted = vec![
        file(PROGRAM, Content::Program(selection.program), 0o755, Edits::Replaced),
        link("/usr/local/bin/guestctl", "guestd"),
    ];
    wanted.extend(DIRECTORIES.map(|path| directory(path, true)));
    wanted.extend(shipped::EVERYWHERE.iter().map(shipped_file));
    for (part, reads) in [(&SSHD, survey.sshd), (&SSH, survey.ssh)] {
        if reads == Reads::ByLine {
            wanted.push(lines(part.config, part.include));
        }
    }
    if survey.init == Init::Pid1 {
        wanted.push(directory("/etc/guestd/services", true));
        wanted.extend(MOUNT_POINTS.map(|path| directory(path, false)));
    }
    wanted.extend(shipped::of(survey.init, survey.sshd != Reads::Missing).map(shipped_file));
    match survey.init {
        Init::Systemd => wanted.extend(shipped::SYSTEMD_LINKS.map(|(path, target)| link(path, target))),
        Init::Openrc => wanted.push(link(survey.runlevel, shipped::OPENRC_SCRIPT)),
        Init::Busybox if survey.inittab == Inittab::TakesLine => wanted.push(lines("/etc/inittab", shipped::INITTAB)),
        Init::Runit => wanted.push(link(survey.runit_link, shipped::RUNIT_SERVICE)),
        Init::Pid1 => {
            wanted
                .push(Wanted { path: SBIN_INIT.into(), piece: Piece::Link { target: PROGRAM, former: Former::Saved } });
        }
        Init::Busybox | Init::None => {}
    }
    if let Some(pair) = selection.keys {
        let authorized = Content::Text(pair.public_text().into());
        wanted.push(file(format!("{AUTHORIZED_KEYS}/root"), authorized, 0o644, Edits::Kept));
        wanted.push(file(GOLDEN_IDENTITY, Content::Text(pair.private_text().into()), 0o600, Edits::Kept));
    }
    wanted
}

fn directory<'run>(path: &'static str, roots_alone: bool) -> Wanted<'run> {
    Wanted { path: path.into(), piece: Piece::Directory { roots_alone } }
}

fn shipped_file<'run>(shipped: &Shipped) -> Wanted<'run> {
    file(shipped.path, Content::Text(shipped.text.into()), shipped.mode, Edits::Kept)
}

fn file(path: impl Into<Cow<'static, str>>, content: Content<'_>, mode: u32, edits: Edits) -> Wanted<'_> {
    Wanted { path: path.into(), piece: Piece::File { content, mode, edits } }
}

fn link<'run>(path: &'static str, target: &'static str) -> Wanted<'run> {
    Wanted { path: path.into(), piece: Piece::Link { target, former: Former::Kept } }
}

fn lines<'run>(path: &'static str, lines: &'static str) -> Wanted<'run> {
    Wanted { path: path.into(), piece: Piece::Lines(lines) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_parent_directory_comes_before_what_is_in_it() {
        for (index, path) in DIRECTORIES.iter().enumerate() {
            assert!(!DIRECTORIES[..index].iter().any(|earlier| earlier.starts_with(path)), "{path}");
        }
    }
}
