//! Whether an image's OpenSSH reads guestd's part of its configuration, and how it can be made to.

use std::io::Read;

use super::InstallError;
use crate::{
    keys::openssh_version,
    limits, marked,
    sys::root_dir::{Entry, OpenFile, RootDir, RootDirError},
};

/// A program of OpenSSH and its configuration.
#[derive(Debug)]
pub(super) struct Part {
    program: &'static str,
    /// Its configuration.
    pub(super) config: &'static str,
    /// The line that makes it read guestd's part: that file alone, for whoever has others beside it has not switched them on.
    pub(super) include: &'static str,
    /// The first version that knows `Include`; to an older one the word is an error.
    since: (u32, u32),
}

pub(super) const SSHD: Part = Part {
    program: "/usr/sbin/sshd",
    config: "/etc/ssh/sshd_config",
    include: "Include /etc/ssh/sshd_config.d/10-guestd.conf\n",
    since: (8, 2),
};

pub(super) const SSH: Part = Part {
    program: "/usr/bin/ssh",
    config: "/etc/ssh/ssh_config",
    include: "Include /etc/ssh/ssh_config.d/10-guestd.conf\n",
    since: (7, 3),
};

/// How a program comes to read guestd's part.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reads {
    /// The program is not in the image.
    Missing,
    /// Its configuration includes it.
    Already,
    /// A line of guestd's in its configuration makes it.
    ByLine,
    /// Only by hand: it has no configuration, or one that is a link, or is too old, or of no known version.
    Not,
}

impl Part {
    /// Looks at an image.
    pub(super) fn of(&self, root: &RootDir) -> Result<Reads, InstallError> {
        let Some(program) = root.follow(self.program)? else { return Ok(Reads::Missing) };
        let Some(config) = root.follow(self.config)? else { return Ok(Reads::Not) };
        let text = config.read(limits::INSTALL_FOREIGN_FILE_BYTES)?;
        let others = marked::take(&text).unwrap_or(text);
        if includes(&String::from_utf8_lossy(&others), self.config) {
            return Ok(Reads::Already);
        }
        let is_file = matches!(root.look(self.config)?, Entry::File(_));
        let knows_include = version(&program)?.is_some_and(|version| version >= self.since);
        Ok(if is_file && knows_include { Reads::ByLine } else { Reads::Not })
    }
}

/// Whether a configuration includes guestd's file in the directory beside it. What comes after the first `Match` or `Host` holds for
/// some connections only; a relative path is relative to `/etc/ssh`.
fn includes(text: &str, config: &str) -> bool {
    let wanted = [format!("{config}.d/*.conf"), format!("{config}.d/10-guestd.conf")];
    for line in text.lines() {
        let mut words = line.split([' ', '\t', '=']).filter(|word| !word.is_empty());
        let Some(keyword) = words.next() else { continue };
        if ["match", "host"].iter().any(|section| keyword.eq_ignore_ascii_case(section)) {
            return false;
        }
        let is_wanted = |path: &str| {
            let path = path.trim_matches('"');
            wanted.iter().any(|wanted| path == wanted || wanted.strip_prefix("/etc/ssh/") == Some(path))
        };
        if keyword.eq_ignore_ascii_case("include") && words.any(is_wanted) {
            return true;
        }
    }
    false
}

/// Version of a program of OpenSSH. It is not run, as it may be another machine's: it has its version within it.
fn version(program: &OpenFile) -> Result<Option<(u32, u32)>, RootDirError> {
    let mut bytes = Vec::new();
    program
        .reader()
        .take(limits::OPENSSH_PROGRAM_BYTES)
        .read_to_end(&mut bytes)
        .map_err(|source| RootDirError::Content { action: "read", path: program.path().to_owned(), source })?;
    Ok(openssh_version(&bytes))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn an_include_is_seen_in_every_way_to_write_it() {
        for line in [
            "Include /etc/ssh/sshd_config.d/*.conf",
            "  include\t\"/etc/ssh/sshd_config.d/*.conf\"",
            "Include sshd_config.d/*.conf",
            "Include=/etc/ssh/other.conf /etc/ssh/sshd_config.d/10-guestd.conf",
        ] {
            assert!(includes(&format!("Port 22\n{line}\n"), SSHD.config), "{line}");
        }
        for line in [
            "#Include /etc/ssh/sshd_config.d/*.conf",
            "Include /etc/ssh/ssh_config.d/*.conf",
            "Port 22",
            "Match User ada\n  Include /etc/ssh/sshd_config.d/*.conf",
        ] {
            assert!(!includes(&format!("{line}\n"), SSHD.config), "{line}");
        }
    }

    /// An image whose sshd has this in it, and this configuration.
    fn sshd(program: &[u8], config: &str) -> Reads {
        let image = tempfile::tempdir().unwrap();
        fs::create_dir_all(image.path().join("usr/sbin")).unwrap();
        fs::create_dir_all(image.path().join("etc/ssh")).unwrap();
        fs::write(image.path().join("usr/sbin/sshd"), program).unwrap();
        fs::write(image.path().join("etc/ssh/sshd_config"), config).unwrap();
        SSHD.of(&RootDir::open(image.path()).unwrap()).unwrap()
    }

    #[test]
    fn a_line_is_added_only_where_the_program_is_known_to_understand_it() {
        assert_eq!(sshd(b"\0OpenSSH_9.2p1 Debian-2\0", "Port 22\n"), Reads::ByLine);
        assert_eq!(sshd(b"\0OpenSSH_10.0p2\0", "Port 22\n"), Reads::ByLine);
        assert_eq!(sshd(b"OpenSSH_for\0OpenSSH_3.*\0OpenSSH_8.2p1", "Port 22\n"), Reads::ByLine);
        assert_eq!(sshd(b"\0OpenSSH_8.1p1\0", "Port 22\n"), Reads::Not);
        assert_eq!(sshd(b"dropbear", "Port 22\n"), Reads::Not);
        assert_eq!(sshd(b"dropbear", "Include sshd_config.d/*.conf\n"), Reads::Already);
    }

    #[test]
    fn guestds_own_line_is_not_taken_for_one_of_the_image() {
        let config = marked::put(b"Port 22\n", SSHD.include).unwrap();
        assert_eq!(sshd(b"OpenSSH_9.2p1", std::str::from_utf8(&config).unwrap()), Reads::ByLine);
    }

    #[test]
    fn the_version_of_this_machines_own_programs_is_found() {
        let root = RootDir::open(std::path::Path::new("/")).unwrap();
        for part in [&SSHD, &SSH] {
            let program = root.follow(part.program).unwrap().unwrap_or_else(|| panic!("{} is missing", part.program));
            assert!(version(&program).unwrap().is_some_and(|version| version >= part.since), "{}", part.program);
        }
    }
}
