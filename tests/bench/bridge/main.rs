//! `just bench bridge`: the bridge beside other relays and a direct connection, in a network namespace of its own.
//!
//! All in one run and round by round, so that whatever else the machine does happens to all of them; medians over the rounds count.
//! See README.md in the directory above for what each column is, and for the numbers of record.

#![expect(dead_code, reason = "the kit serves the other benches too")]

mod guestd;
mod idle;
mod iperf;
mod load;
mod relays;
mod report;
mod service;

#[path = "../kit/mod.rs"]
mod kit;

use std::{
    process::{Command, ExitCode},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use iperf::Iperf;
use kit::watch::eventually;
use nix::{
    sched::{CloneFlags, unshare},
    sys::resource::{Resource, getrlimit, setrlimit},
};
use relays::Relay;
use report::Report;
use service::Service;

/// Rounds; the medians count. Another number by the environment variable ROUNDS.
const ROUNDS: usize = 7;

/// What a machine has as its default may pace (BBR does), and then timers are measured. Guests have cubic, which a namespace may not choose
/// by itself; without loss, as on loopback, the two do the same.
const CONGESTION_CONTROL: &str = "/proc/sys/net/ipv4/tcp_congestion_control";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match bench(&arguments) {
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
    std::fs::write(CONGESTION_CONTROL, "reno").context("choosing the congestion control of the bench's namespace")?;
    // Thousands of idle connections, both ends of which are here.
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, most, most).context("raising the limit of descriptors")?;
    let rounds = std::env::var("ROUNDS").ok().and_then(|rounds| rounds.parse().ok()).unwrap_or(ROUNDS);

    let service = Service::start()?;
    let names = relays::NAMES.iter().filter(|name| only.is_empty() || only.iter().any(|only| only == *name));
    let names: Vec<&'static str> = names.copied().collect();
    let direct = Both::start("direct", &service)?;
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
            let relay = Both::start(name, &service)?;
            report.add(name, load::measure(&relay, &direct).with_context(|| format!("measuring {name}"))?);
        }
    }
    report.show_and_write(only.is_empty())
}

/// A relay to each of two services: the bench's, and an iperf3 of its own, which would still be busy with the streams of a relay that
/// takes its time to end.
#[derive(Debug)]
struct Both {
    service: Relay,
    iperf: Relay,
    _server: Iperf,
}

impl Both {
    fn start(name: &'static str, service: &Service) -> Result<Self> {
        let server = Iperf::start()?;
        let iperf = Relay::start(name, server.address())?;
        let both = Self { service: Relay::start(name, service.address())?, iperf, _server: server };
        load::verify_reachable(both.service.address())?;
        // What connected to see whether it accepts has to be over first.
        eventually("iperf3 is ready", Duration::from_secs(20), || iperf::probe(both.iperf.address()))?;
        Ok(both)
    }
}

fn ip(arguments: &str) -> Result<()> {
    let status = Command::new("ip").args(arguments.split(' ')).status().context("running ip(8) of iproute2")?;
    ensure!(status.success(), "ip {arguments}: {status}");
    Ok(())
}
