//! `guestd init`: process 1 of a VM that has no other init, or the entry point of a container.
//!
//! Owns what nobody else can: mounts and modules before anything runs, the ends of all processes, the end of the VM; and the services
//! that the image names, the agent the first of them. One thread, no runtime; it never waits for a service, a client or a disk while
//! there is anything else to do. What fails is named (in health, by the agent) and passed over: nothing keeps a VM from booting.
//!
//! ```text
//!                ┌ container: -- ARGV ──> run it, forward signals, reap ──> its exit status
//!  guestd init ──┤
//!                └ early steps ──┬ handoff=INIT ──> execve(INIT)
//!                  mounts … clock└> agent ──> late steps ──> serve: signals, ends, output, questions, times
//!                                             disk … services             │ power off, SIGTERM, SIGINT, SIGPWR
//!                                                                         v
//!                                   services in reverse order ──> agent ──> all others ──> sync, read-only ──> reboot(2)
//! ```
//!
//! Each service's own states are drawn in `service::life`. Pure parts decide: the tables and texts (`mounts`, `modules`, `sysctl`,
//! `arguments`, `power`), `service`, `ring`. `early`, `container`, `vm`, `control` and `ending` act.

mod arguments;
mod container;
mod control;
mod early;
mod ending;
mod files;
mod late;
mod modules;
mod mounts;
mod power;
mod ring;
mod service;
mod spawn;
mod sysctl;
mod timeline;
mod unit;
mod vm;

use std::{
    ffi::{OsStr, OsString},
    path::Path,
    process::ExitCode,
};

use arguments::Mode;

/// The words after `init`, where a program with this command line is to be an init: it is called `init`, or its first argument is.
pub fn words(argv: &[OsString]) -> Option<&[OsString]> {
    let (name, rest) = argv.split_first()?;
    if Path::new(name).file_name() == Some(OsStr::new("init")) {
        return Some(rest);
    }
    rest.split_first().filter(|(first, _)| *first == "init").map(|(_, words)| words)
}

/// Is an init, by the words after `init`. As process 1 of a VM it does not return.
pub fn main(words: &[OsString]) -> ExitCode {
    match Mode::parse(words) {
        Ok(Mode::Vm) if nix::unistd::getpid().as_raw() == 1 => vm::run(),
        Ok(Mode::Vm) => usage("this is not process 1: to run a program as a container does, name it after `--`"),
        Ok(Mode::Container(container)) => container::run(&container),
        Err(why) => usage(&why),
    }
}

fn usage(why: &str) -> ExitCode {
    eprintln!("guestd init: {why}\n{}", arguments::USAGE);
    ExitCode::from(2)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_an_init_by_its_name_or_its_first_word() {
        let found = |line: &str| {
            let argv: Vec<OsString> = line.split(' ').map(OsString::from).collect();
            words(&argv).map(<[OsString]>::to_vec)
        };
        assert_eq!(found("/sbin/init splash").unwrap(), ["splash"]);
        assert_eq!(found("init").unwrap(), [""; 0]);
        assert_eq!(found("/usr/local/bin/guestd init -g -- sh").unwrap(), ["-g", "--", "sh"]);
        assert_eq!(found("guestd agent init"), None);
        assert_eq!(found("/sbin/initctl"), None);
    }
}
