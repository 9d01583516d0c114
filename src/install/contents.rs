//! What belongs into an image: every directory, file and link, its mode, and whether its owner may edit it.

use std::{borrow::Cow, io::Read};

use super::{Init, InstallError, Program, manifest::Sha256Hex};
use crate::keys::{AUTHORIZED_KEYS, GOLDEN_IDENTITY, GoldenPair};

/// Where guestd's program is in an image.
pub(super) const PROGRAM: &str = "/usr/local/bin/guestd";

/// What was chosen for an installation.
pub(super) struct Selection<'run> {
    pub(super) init: Init,
    pub(super) keys: Option<&'run GoldenPair>,
    pub(super) program: &'run Program,
}

/// Something that an image should have.
pub(super) struct Wanted<'run> {
    pub(super) path: Cow<'static, str>,
    pub(super) piece: Piece<'run>,
}

/// What it is.
pub(super) enum Piece<'run> {
    /// A directory that only root writes to.
    Directory,
    /// A file.
    File { content: Content<'run>, mode: u32, edits: Edits },
    /// A symbolic link.
    Link { target: &'static str },
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

/// A file of `rootfs-overlay/`, with the path under which it lands in the image.
macro_rules! overlay {
    ($path:literal) => {
        ($path, include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/rootfs-overlay", $path)))
    };
}

/// Files for every image.
const FILES: [(&str, &str); 3] = [
    overlay!("/etc/guestd/config.toml"),
    overlay!("/etc/ssh/sshd_config.d/10-guestd.conf"),
    overlay!("/etc/ssh/ssh_config.d/10-guestd.conf"),
];

/// Files for an image with systemd.
const SYSTEMD_FILES: [(&str, &str); 3] = [
    overlay!("/etc/modules-load.d/guestd.conf"),
    overlay!("/etc/systemd/system/guestd.service"),
    overlay!("/etc/systemd/system/guestd-ssh-hostkeys.service"),
];

/// Links for an image with systemd: what `systemctl enable` makes. Path and target, as in `rootfs-overlay/`.
const SYSTEMD_LINKS: [(&str, &str); 2] = [
    ("/etc/systemd/system/sysinit.target.wants/guestd.service", "../guestd.service"),
    ("/etc/systemd/system/multi-user.target.wants/guestd-ssh-hostkeys.service", "../guestd-ssh-hostkeys.service"),
];

/// Directories that are guestd's own, parents first. sshd insists on these being root's alone.
const DIRECTORIES: [&str; 4] = ["/etc/guestd", "/etc/guestd/ssh", AUTHORIZED_KEYS, "/usr/local/share/guestd"];

/// Everything that an image should have, in the order in which it is put there.
pub(super) fn wanted<'run>(selection: &Selection<'run>) -> Vec<Wanted<'run>> {
    let mut wanted = vec![
        file(PROGRAM, Content::Program(selection.program), 0o755, Edits::Replaced),
        link("/usr/local/bin/guestctl", "guestd"),
    ];
    wanted.extend(DIRECTORIES.map(|path| Wanted { path: path.into(), piece: Piece::Directory }));
    wanted.extend(FILES.map(text));
    if selection.init == Init::Systemd {
        wanted.extend(SYSTEMD_FILES.map(text));
        wanted.extend(SYSTEMD_LINKS.map(|(path, target)| link(path, target)));
    }
    if let Some(pair) = selection.keys {
        let authorized = Content::Text(pair.public_text().into());
        wanted.push(file(format!("{AUTHORIZED_KEYS}/root"), authorized, 0o644, Edits::Kept));
        wanted.push(file(GOLDEN_IDENTITY, Content::Text(pair.private_text().into()), 0o600, Edits::Kept));
    }
    wanted
}

fn text<'run>((path, content): (&'static str, &'static str)) -> Wanted<'run> {
    file(path, Content::Text(content.into()), 0o644, Edits::Kept)
}

fn file(path: impl Into<Cow<'static, str>>, content: Content<'_>, mode: u32, edits: Edits) -> Wanted<'_> {
    Wanted { path: path.into(), piece: Piece::File { content, mode, edits } }
}

fn link<'run>(path: &'static str, target: &'static str) -> Wanted<'run> {
    Wanted { path: path.into(), piece: Piece::Link { target } }
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, fs, path::Path};

    use super::*;

    /// Paths of `rootfs-overlay/` below `dir`; links with their target.
    fn walk(base: &Path, dir: &Path, found: &mut BTreeMap<String, Option<String>>) {
        for entry in fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            let kind = fs::symlink_metadata(&path).unwrap().file_type();
            let shown = format!("/{}", path.strip_prefix(base).unwrap().display());
            if kind.is_dir() {
                walk(base, &path, found);
            } else if kind.is_symlink() {
                found.insert(shown, Some(fs::read_link(&path).unwrap().display().to_string()));
            } else {
                found.insert(shown, None);
            }
        }
    }

    #[test]
    fn everything_in_the_overlay_is_installed_and_nothing_else_is_embedded() {
        let overlay = Path::new(env!("CARGO_MANIFEST_DIR")).join("rootfs-overlay");
        let mut there = BTreeMap::new();
        walk(&overlay, &overlay, &mut there);
        let files = FILES.iter().chain(&SYSTEMD_FILES).map(|(path, _)| ((*path).to_owned(), None));
        let links = SYSTEMD_LINKS.iter().map(|(path, target)| ((*path).to_owned(), Some((*target).to_owned())));
        assert_eq!(files.chain(links).collect::<BTreeMap<_, _>>(), there);
    }

    #[test]
    fn a_parent_directory_comes_before_what_is_in_it() {
        for (index, path) in DIRECTORIES.iter().enumerate() {
            assert!(!DIRECTORIES[..index].iter().any(|earlier| earlier.starts_with(path)), "{path}");
        }
    }
}
