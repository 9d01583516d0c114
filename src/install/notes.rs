//! What the builder of an image should know after an installation: facts are surveyed, notes made from them (pure).

use std::io::Read;

use nix::unistd::geteuid;

use super::{
    Init, InstallError, Program, SYSTEMD,
    contents::PROGRAM,
    elf::{self, Elf},
};
use crate::{
    keys::GOLDEN_IDENTITY,
    limits,
    sys::root_dir::{Entry, RootDir, RootDirError},
};

/// Programs that nearly every image has, by one of which its architecture is known.
const REFERENCE_PROGRAMS: [&str; 4] = ["/bin/sh", "/bin/busybox", SYSTEMD[0], SYSTEMD[1]];

/// A program of OpenSSH and whether its configuration reads guestd's part of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ssh {
    /// The program is not in the image.
    Missing,
    /// It would not read guestd's file.
    NotIncluded,
    /// It reads it.
    Ready,
}

/// What was seen in an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Survey {
    init: Init,
    sshd: Ssh,
    ssh: Ssh,
    openssl: bool,
    golden_keys: bool,
    root_owned: bool,
    program: Option<Elf>,
    image: Option<Elf>,
}

impl Survey {
    pub(super) fn of(root: &RootDir, init: Init, program: &Program) -> Result<Self, InstallError> {
        let mut head = Vec::new();
        program
            .rewound()
            .and_then(|file| file.take(elf::HEAD_BYTES).read_to_end(&mut head))
            .map_err(|error| program.unreadable(error))?;
        Ok(Self {
            init,
            sshd: ssh(root, "/usr/sbin/sshd", "/etc/ssh/sshd_config", "sshd_config.d")?,
            ssh: ssh(root, "/usr/bin/ssh", "/etc/ssh/ssh_config", "ssh_config.d")?,
            openssl: root.follow("/usr/bin/openssl")?.is_some(),
            golden_keys: !matches!(root.look(GOLDEN_IDENTITY)?, Entry::Absent),
            root_owned: geteuid().is_root(),
            program: Elf::parse(&head),
            image: architecture(root)?,
        })
    }
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

fn ssh(root: &RootDir, program: &str, config: &str, directory: &str) -> Result<Ssh, RootDirError> {
    if root.follow(program)?.is_none() {
        return Ok(Ssh::Missing);
    }
    let Some(file) = root.follow(config)? else { return Ok(Ssh::NotIncluded) };
    let text = file.read(limits::INSTALL_FOREIGN_FILE_BYTES)?;
    Ok(if includes(&String::from_utf8_lossy(&text), directory) { Ssh::Ready } else { Ssh::NotIncluded })
}

/// Whether an OpenSSH configuration includes the files of `/etc/ssh/{directory}`; a relative path is relative to `/etc/ssh`.
fn includes(config: &str, directory: &str) -> bool {
    config.lines().any(|line| {
        let mut words = line.split([' ', '\t', '=']).filter(|word| !word.is_empty());
        words.next().is_some_and(|keyword| keyword.eq_ignore_ascii_case("include"))
            && words.any(|path| {
                let path = path.trim_matches('"');
                path.strip_prefix("/etc/ssh/").unwrap_or(path) == format!("{directory}/*.conf")
            })
    })
}

/// What the builder should know, a sentence each, the gravest first.
pub(super) fn notes(survey: &Survey) -> Vec<String> {
    let mut notes = Vec::new();
    if let (Some(program), Some(image)) = (survey.program, survey.image)
        && program.machine != image.machine
    {
        notes.push(format!(
            "{PROGRAM} is for {}, the programs of the image are for {}; give the right one with --binary",
            program.machine_name(),
            image.machine_name()
        ));
    }
    match survey.program {
        None => notes.push(format!("{PROGRAM} is no ELF program; give the right one with --binary")),
        Some(program) if program.dynamic => {
            notes
                .push(format!("{PROGRAM} is linked dynamically and runs only where its C library is; build it static"));
        }
        Some(_) => {}
    }
    if survey.init == Init::None {
        notes.push(format!("nothing starts guestd in this image; have its init run `{PROGRAM} agent`"));
    }
    if !survey.root_owned {
        notes.push("files belong to you, not to root; sshd insists on root, so pack the image with that owner".into());
    }
    if !survey.golden_keys {
        notes.push("no golden keys; SSH between VMs of this image needs --keys".into());
    }
    match survey.sshd {
        Ssh::Missing => notes.push("no sshd in this image; nobody can log in by SSH".into()),
        Ssh::NotIncluded => notes.push(include_advice("sshd_config")),
        Ssh::Ready => {}
    }
    match survey.ssh {
        Ssh::Missing => {}
        Ssh::NotIncluded => notes.push(include_advice("ssh_config")),
        Ssh::Ready if !survey.openssl => {
            notes.push("no openssl in this image; ssh to other VMs goes through it".into())
        }
        Ssh::Ready => {}
    }
    notes
}

fn include_advice(file: &str) -> String {
    format!(
        "/etc/ssh/{file} does not read /etc/ssh/{file}.d/10-guestd.conf; put `Include /etc/ssh/{file}.d/*.conf` at its top"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    const X86_64: Elf = Elf { machine: 62, dynamic: false };

    fn fine() -> Survey {
        Survey {
            init: Init::Systemd,
            sshd: Ssh::Ready,
            ssh: Ssh::Ready,
            openssl: true,
            golden_keys: true,
            root_owned: true,
            program: Some(X86_64),
            image: Some(X86_64),
        }
    }

    #[test]
    fn a_complete_image_needs_no_notes() {
        assert_eq!(notes(&fine()), Vec::<String>::new());
    }

    #[test]
    fn a_program_for_another_machine_is_named_with_both() {
        let notes = notes(&Survey { image: Some(Elf { machine: 183, dynamic: true }), ..fine() });
        assert!(notes[0].contains("is for x86_64") && notes[0].contains("are for aarch64"), "{notes:?}");
    }

    #[test]
    fn each_thing_that_is_missing_is_said_once() {
        let bare = Survey {
            init: Init::None,
            sshd: Ssh::Missing,
            ssh: Ssh::Missing,
            openssl: false,
            golden_keys: false,
            root_owned: false,
            program: None,
            image: None,
        };
        assert_eq!(notes(&bare).len(), 5, "{:?}", notes(&bare));
        let unread = Survey { sshd: Ssh::NotIncluded, ssh: Ssh::NotIncluded, openssl: false, ..fine() };
        assert_eq!(notes(&unread).len(), 2, "{:?}", notes(&unread));
    }

    #[test]
    fn an_include_is_seen_in_every_way_to_write_it() {
        for line in [
            "Include /etc/ssh/sshd_config.d/*.conf",
            "  include\t\"/etc/ssh/sshd_config.d/*.conf\"",
            "Include sshd_config.d/*.conf",
            "Include=/etc/ssh/other.conf /etc/ssh/sshd_config.d/*.conf",
        ] {
            assert!(includes(&format!("Port 22\n{line}\n"), "sshd_config.d"), "{line}");
        }
        for line in ["#Include /etc/ssh/sshd_config.d/*.conf", "Include /etc/ssh/ssh_config.d/*.conf", "Port 22"] {
            assert!(!includes(line, "sshd_config.d"), "{line}");
        }
    }
}
