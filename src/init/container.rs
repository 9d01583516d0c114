//! The entry point of a container: runs one program, forwards signals to it, reaps what it leaves, and exits as it did.
//!
//! As tini and dumb-init do it. The program leads a process group of its own, in the foreground of its terminal if there is one.

use std::{io::Write as _, os::unix::process::CommandExt as _, process::Command, process::ExitCode};

use super::{arguments::Container, unit::shown};
use crate::sys::{
    boot,
    pidfd::Exit,
    process::foreground,
    supervise::{self, Signals},
};

/// As shells have them: not to be found, and not to be executed.
const NOT_FOUND: u8 = 127;
const NOT_EXECUTABLE: u8 = 126;

/// Our own failure.
const FAILURE: u8 = 125;

pub(super) fn run(container: &Container) -> ExitCode {
    match serve(container) {
        Ok(status) => ExitCode::from(container.exit_status(status)),
        Err(error) => {
            complain(&format!("{error}"));
            ExitCode::from(FAILURE)
        }
    }
}

fn serve(container: &Container) -> std::io::Result<u8> {
    if container.subreaper {
        boot::adopt_orphans()?;
    }
    if let Some(signal) = container.parent_death {
        boot::signal_at_parents_death(signal)?;
    }
    let signals = Signals::take()?;
    let program = foreground::fork(|| become_program(container))?;
    // Else a program that has the terminal would have us stopped when we complain, and when we take it back.
    supervise::ignore_terminal_stops()?;
    let mut status = None;
    loop {
        let signal = signals.wait()?;
        if signal != libc::SIGCHLD {
            if let Some(signal) = container.forwarded(signal) {
                let target = if container.group { -program } else { program };
                // It may have ended in this instant.
                let _ = supervise::kill(target, signal);
            }
            continue;
        }
        while let Some((pid, exit)) = supervise::reap()? {
            if pid == program {
                status = Some(of(exit));
            } else if container.warn {
                complain(&format!("reaped process {pid}, which nobody waited for: {}", shown(exit)));
            }
        }
        // What has ended with it is reaped as well; what goes on has us no longer.
        if let Some(status) = status {
            return Ok(status);
        }
    }
}

/// In the child. Does not return.
fn become_program(container: &Container) -> u8 {
    let Some((program, arguments)) = container.argv.split_first() else { return FAILURE };
    let error = Command::new(program).args(arguments).exec();
    complain(&format!("{} cannot be run: {error}", program.to_string_lossy()));
    if error.kind() == std::io::ErrorKind::NotFound { NOT_FOUND } else { NOT_EXECUTABLE }
}

fn of(exit: Exit) -> u8 {
    let status = match exit {
        Exit::Code(code) => code,
        Exit::Signal(signal) => 128 + signal,
    };
    u8::try_from(status & 0xff).unwrap_or(FAILURE)
}

fn complain(what: &str) {
    // Not eprintln!, which panics where nobody reads.
    let _ = writeln!(std::io::stderr(), "guestd init: {what}");
}
