//! guestd's own program in an image.

use super::{Findings, Rule, Tree};
use crate::{
    install::{
        PROGRAM,
        elf::{self, Elf},
    },
    lint::finding::Severity,
};

static GUESTD_PROGRAM: Rule = Rule {
    id: "guestd-program",
    severity: Severity::Error,
    wants: "guestd's program, executable, and writable by root alone",
    reason: "without its agent a VM cannot be reached by its host, and whoever can write the program is root",
    fix: "`guestd install --root DIR`",
};

static GUESTD_STATIC: Rule = Rule {
    id: "guestd-static",
    severity: Severity::Error,
    wants: "a guestd that needs no libraries",
    reason: "it must run whatever becomes of the libraries in a VM, and in images that have none",
    fix: "build it for a musl target, and `guestd install --binary` that",
};

static GUESTD_MACHINE: Rule = Rule {
    id: "guestd-machine",
    severity: Severity::Error,
    wants: "a guestd for the machine that the image's programs are for",
    reason: "it cannot be executed",
    fix: "`guestd install --binary` with the one for that machine",
};

static GUESTCTL_LINK: Rule = Rule {
    id: "guestctl-link",
    severity: Severity::Error,
    wants: "/usr/local/bin/guestctl to lead to guestd",
    reason: "in the VM the client would be missing, or of another version than the agent",
    fix: "`ln -sfn guestd /usr/local/bin/guestctl`, or `guestd install --root DIR`",
};

pub(super) static RULES: &[&Rule] = &[&GUESTD_PROGRAM, &GUESTD_STATIC, &GUESTD_MACHINE, &GUESTCTL_LINK];

const CLIENT: &str = "/usr/local/bin/guestctl";

/// Programs that nearly every image has, by one of which its machine is known.
const OTHER_PROGRAMS: &[&str] = &["/bin/sh", "/bin/busybox", "/usr/lib/systemd/systemd", "/lib/systemd/systemd"];

pub(super) fn check(tree: &Tree, found: &mut Findings) {
    let Some(program) = tree.follow(PROGRAM) else {
        return found.add(&GUESTD_PROGRAM, PROGRAM, format_args!("it is missing"));
    };
    let facts = program.facts();
    if !program.is_file() {
        return found.at(&GUESTD_PROGRAM, program, format_args!("it is no regular file"));
    }
    if facts.mode & 0o111 == 0 {
        found.at(&GUESTD_PROGRAM, program, format_args!("it is not executable: mode {:04o}", facts.mode));
    }
    if facts.mode & 0o022 != 0 || !tree.is_roots(program) {
        found.at(
            &GUESTD_PROGRAM,
            program,
            format_args!("others than root can write it: uid {}, mode {:04o}", facts.uid, facts.mode),
        );
    }
    let head =
        |path| tree.follow(path).and_then(|place| place.read(elf::HEAD_BYTES)).and_then(|head| Elf::parse(&head));
    match head(PROGRAM) {
        None => found.at(&GUESTD_PROGRAM, program, format_args!("it is no ELF program")),
        Some(elf) => {
            if elf.dynamic {
                found.at(&GUESTD_STATIC, program, format_args!("it is linked dynamically"));
            }
            if let Some(other) = OTHER_PROGRAMS.iter().find_map(|path| head(path))
                && other.machine != elf.machine
            {
                let (ours, theirs) = (elf.machine_name(), other.machine_name());
                found.at(
                    &GUESTD_MACHINE,
                    program,
                    format_args!("it is for {ours}, the image's programs are for {theirs}"),
                );
            }
        }
    }
    match tree.follow(CLIENT) {
        Some(client) if client == program => {}
        Some(client) => found.add(&GUESTCTL_LINK, CLIENT, format_args!("it leads to {}", client.path())),
        None => found.add(&GUESTCTL_LINK, CLIENT, format_args!("it is missing, or leads nowhere")),
    }
}
