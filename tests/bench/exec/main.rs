//! `just bench exec`: an exec beside OpenSSH with a ControlMaster, qemu-guest-agent, and what the kernel itself takes.
//!
//! All in one run and round by round, so that whatever else the machine does happens to all of them; medians over the rounds count.
//! See README.md beside this for what each row is, and for the numbers of record.

#![expect(dead_code, reason = "the kit serves the soak too")]

mod bare;
mod guestd;
mod qemu_ga;
mod report;
mod rival;
mod ssh;

#[path = "../kit/mod.rs"]
mod kit;

use std::process::ExitCode;

use anyhow::Result;
use report::Report;
use rival::{Rival, Run};

/// Rounds; the medians count.
const ROUNDS: usize = 3;

/// `true` so often in a round.
const LATENCY_RUNS: usize = 200;
/// The same for what starts a client of its own each time.
const LATENCY_RUNS_OF_PROGRAMS: usize = 60;

/// Standard output, in bytes.
const OUTPUT_BYTES: u64 = 512 * 1024 * 1024;

/// Commands at once.
const AT_ONCE: usize = 64;

fn main() -> ExitCode {
    match bench() {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("the bench could not be run: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn bench() -> Result<bool> {
    // Of services that have run nothing yet: what they keep of earlier commands would hide what these take.
    let held = [
        guestd::Service::start()?.held(AT_ONCE)?,
        qemu_ga::Service::start()?.held(AT_ONCE)?,
        ssh::Service::start()?.held(AT_ONCE)?,
    ];
    let guestd = guestd::Service::start()?;
    let qemu_ga = qemu_ga::Service::start()?;
    let ssh = ssh::Service::start()?;
    let mut report = Report::new(vec![guestd.about()?, qemu_ga.about()?, ssh.about()?], held.into());

    let mut rivals: Vec<Box<dyn Rival>> = vec![
        Box::new(bare::Kernel::new()?),
        Box::new(guestd.kept()?),
        Box::new(guestd.anew()),
        Box::new(guestd.guestctl()?),
        Box::new(qemu_ga.client()?),
        Box::new(ssh.client()),
    ];
    for rival in &mut rivals {
        // What each does at its first use only is no part of the comparison.
        for _ in 0..3 {
            rival.run_true()?;
        }
    }
    for round in 0..ROUNDS {
        eprintln!("round {} of {ROUNDS}", round + 1);
        for rival in &mut rivals {
            let run = Run::of(rival.as_mut())?;
            report.add(rival.name(), run);
        }
    }
    report.show_and_write()
}
