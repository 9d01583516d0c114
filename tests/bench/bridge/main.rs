//! `just bench bridge`: the bridge's engine beside other relays and a direct connection, in a network namespace of its own.
//!
//! All in one run and round by round, so that whatever else the machine does happens to all of them; medians over the rounds count.
//! Called with `relay`, this program is the engine alone, in a process of its own like the others.
//! See README.md in the directory above for what each column is, and for the numbers of record.

#![expect(dead_code, reason = "the kit serves the other benches too")]

mod idle;
mod load;
mod relays;
mod report;
mod service;

#[path = "../kit/mod.rs"]
mod kit;

use std::process::{Command, ExitCode};

use anyhow::{Context, Result, ensure};
use nix::{
    sched::{CloneFlags, unshare},
    sys::resource::{Resource, getrlimit, setrlimit},
};
use relays::Relay;
use report::Report;
use service::Service;

/// Rounds; the medians count. Another number by the environment variable ROUNDS.
const ROUNDS: usize = 3;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let result = match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["relay", listen, to] => relays::engine(listen, to).map(|()| true),
        _ => bench(&arguments),
    };
    match result {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("the bench could not be run: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Arguments are the names of rows; without any, all of them.
fn bench(only: &[String]) -> Result<bool> {
    unshare(CloneFlags::CLONE_NEWNET).context("making a network namespace: be root")?;
    ip("link set lo up")?;
    ip("route add local 240.0.0.0/4 dev lo")?;
    // Thousands of idle connections, both ends of which are here.
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, most, most).context("raising the limit of descriptors")?;
    let rounds = std::env::var("ROUNDS").ok().and_then(|rounds| rounds.parse().ok()).unwrap_or(ROUNDS);

    let service = Service::start()?;
    let names = relays::NAMES.iter().filter(|name| only.is_empty() || only.iter().any(|only| only == *name));
    let names: Vec<&'static str> = names.copied().collect();
    let direct = Relay::start("direct", service.address())?;
    let mut report = Report::new(rounds);
    for name in &names {
        let relay = Relay::start(name, service.address())?;
        load::verify(&relay).with_context(|| format!("verifying {name}"))?;
        report.about(name, idle::measure(&relay).with_context(|| format!("idle connections of {name}"))?);
    }
    for round in 0..rounds {
        eprintln!("round {} of {rounds}", round + 1);
        // Each other round the other way round: what a row leaves behind in caches is not always the same row's burden.
        let order: Vec<_> = if round % 2 == 0 { names.clone() } else { names.iter().rev().copied().collect() };
        for name in order {
            let relay = Relay::start(name, service.address())?;
            report.add(name, load::measure(&relay, &direct).with_context(|| format!("measuring {name}"))?);
        }
    }
    report.show_and_write(only.is_empty())
}

fn ip(arguments: &str) -> Result<()> {
    let status = Command::new("ip").args(arguments.split(' ')).status().context("running ip(8) of iproute2")?;
    ensure!(status.success(), "ip {arguments}: {status}");
    Ok(())
}
