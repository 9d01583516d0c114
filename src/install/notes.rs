//! What the builder of an image should know after an installation, made from what was seen in it (pure).

use super::{
    Init,
    contents::PROGRAM,
    openssh::{Part, Reads, SSH, SSHD},
    survey::{Inittab, Survey},
};

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
    notes.extend(start(survey));
    if !survey.root_owned {
        notes.push("files belong to you, not to root; sshd insists on root, so pack the image with that owner".into());
    }
    if !survey.golden_keys {
        notes.push("no golden keys; SSH between VMs of this image needs --keys".into());
    }
    match survey.sshd {
        Reads::Missing => notes.push("no sshd in this image; nobody can log in by SSH".into()),
        Reads::Not => notes.push(include_advice(&SSHD)),
        Reads::Already | Reads::ByLine => {}
    }
    match survey.ssh {
        Reads::Not => notes.push(include_advice(&SSH)),
        Reads::Missing | Reads::Already | Reads::ByLine => {}
    }
    notes
}

/// What is to be said of how guestd is started.
fn start(survey: &Survey) -> Option<String> {
    const SCRIPT: &str = "/usr/local/share/guestd/start-agent";
    let inittab = "a line `::respawn:/usr/local/share/guestd/start-agent` in /etc/inittab";
    match (survey.init, survey.inittab) {
        (Init::None, _) => {
            Some(format!("nothing starts guestd in this image; have its init run {SCRIPT}, again whenever it ends"))
        }
        (Init::Busybox, Inittab::NoFile) => {
            Some(format!("/etc/inittab is no file, so nothing was put into it; guestd's place is {inittab}"))
        }
        (Init::Busybox, Inittab::Missing) if !survey.rcs => Some(format!(
            "nothing starts guestd in this image: there is no /etc/init.d/rcS that would call /etc/init.d/S05guestd; make \
             one, or {inittab}, or let guestd be the init (--init pid1)"
        )),
        (Init::Pid1, _) => Some("guestd itself is this image's init; its services are in /etc/guestd/services".into()),
        _ => None,
    }
}

fn include_advice(part: &Part) -> String {
    format!(
        "{config} does not read {config}.d/10-guestd.conf; put `{line}` at its top, if its version knows that word, else what \
         is in that file",
        config = part.config,
        line = part.include.trim_end()
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::install::elf::Elf;

    const X86_64: Elf = Elf { machine: 62, dynamic: false };

    fn fine() -> Survey {
        Survey {
            init: Init::Systemd,
            inittab: Inittab::Missing,
            rcs: false,
            runlevel: "",
            runit_link: "",
            sshd: Reads::Already,
            ssh: Reads::ByLine,
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
            sshd: Reads::Missing,
            ssh: Reads::Missing,
            golden_keys: false,
            root_owned: false,
            program: None,
            image: None,
            ..fine()
        };
        assert_eq!(notes(&bare).len(), 5, "{:?}", notes(&bare));
        let unread = Survey { sshd: Reads::Not, ssh: Reads::Not, ..fine() };
        assert_eq!(notes(&unread).len(), 2, "{:?}", notes(&unread));
    }

    #[test]
    fn an_image_in_which_nothing_would_start_guestd_is_told_of() {
        let busybox = |inittab, rcs| notes(&Survey { init: Init::Busybox, inittab, rcs, ..fine() }).concat();
        assert_eq!(busybox(Inittab::TakesLine, false), "");
        assert_eq!(busybox(Inittab::HasItsOwn, false), "");
        assert_eq!(busybox(Inittab::Missing, true), "");
        assert!(busybox(Inittab::Missing, false).contains("--init pid1"));
        assert!(busybox(Inittab::NoFile, true).contains("/etc/inittab is no file"));
    }
}
