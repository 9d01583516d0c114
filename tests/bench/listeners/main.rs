//! `just bench listeners`: what a look at the listeners costs beside `ss` and beside a parse of /proc/net/tcp, and how soon a watcher
//! hears of a new one.
//!
//! In a network namespace of the bench's own, so that the sockets are those that it made. All in one run and round by round; medians
//! over the rounds count. See README.md beside the kit for what each row is.

#![expect(dead_code, reason = "the kit serves the other benches too")]

mod latency;
mod look;
mod report;
mod scene;

#[path = "../kit/mod.rs"]
mod kit;

use std::process::ExitCode;

use anyhow::{Context, Result};
use look::Looks;
use nix::sched::{CloneFlags, unshare};
use report::Report;
use scene::{SCENES, Scene};

/// Rounds; the medians count.
const ROUNDS: usize = 3;

fn main() -> ExitCode {
    let outcome = match std::env::args().nth(1).as_deref() {
        Some(scene::HOLD) => scene::hold(std::env::args().skip(2)).map(|()| true),
        _ => bench(),
    };
    match outcome {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("the bench could not be run: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn bench() -> Result<bool> {
    // Before there is another thread: all of them, and all that is started, are in it then.
    unshare(CloneFlags::CLONE_NEWNET).context("a network namespace of one's own is needed: be root")?;
    scene::loopback_up()?;

    let mut report = Report::default();
    for round in 0..ROUNDS {
        for spec in SCENES {
            eprintln!("round {} of {ROUNDS}: {spec}", round + 1);
            let scene = Scene::set(spec)?;
            let looks = Looks::start()?;
            report.add_looks(spec, looks.measure(&scene)?);
        }
        eprintln!("round {} of {ROUNDS}: events", round + 1);
        report.add_latencies(latency::measure()?);
    }
    report.show_and_write()
}
