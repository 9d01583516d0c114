//! `just soak`: thousands of execs of every kind, many at a time, and a GiB each way; then nothing may be left of them.
//!
//! ```text
//!   fresh agent ──▶ what it holds ──▶ warm-up ──▶ its memory ──▶ the soak ──▶ the GiB ──▶ what it holds, its memory
//!                        └───────────────── must be the same ────────────────────────────────┘         │
//!                                                    └──────────────── within 2 MiB ───────────────────┘
//! ```
//!
//! The agent is a real process in a cgroup of its own, driven over its Unix socket by HTTP written by hand. Every answer is checked
//! byte by byte. Bounded in count and time; exits with 0 only if everything holds, and writes target/soak/report.json.

#![expect(dead_code, reason = "the kit serves the benches too")]

mod big;
mod bytes;
mod holdings;
mod job;
mod perform;
mod report;
mod wire;

#[path = "../bench/kit/mod.rs"]
mod kit;

use std::io::Write;
use std::process::ExitCode;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use holdings::Holdings;
use job::Job;
use kit::agent::{Agent, Home, built};
use kit::http::Http;
use kit::watch::eventually;
use perform::Worker;
use report::{Outcome, Report};

/// Execs of the soak.
const EXECS: usize = 20_000;
/// Execs before it, after which memory is what it stays.
const WARM_UP: usize = 3_000;
/// At a time: what the agent runs at once, in its default configuration.
const AT_ONCE: usize = guestd::limits::EXECS_RUNNING;
/// Execs at the end of either, so small that the records that are kept of them are the same in both.
const SAME_RECORDS: usize = guestd::limits::EXEC_RECORDS + AT_ONCE;

/// After this the soak is given up.
const DEADLINE: Duration = Duration::from_secs(900);
/// In which what has ended must be gone. The runtime keeps an idle thread for 10 s.
const SETTLE: Duration = Duration::from_secs(30);
/// What memory may grow, in KiB.
const GROWTH_KIB: u64 = 2 * 1024;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let done = match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [] => soak(),
        // The command that the execs run: this same program.
        ["emit", seed, out, err] => bytes::emit(seed, out, err).map(|()| true),
        ["digest"] => bytes::digest_stdin().map(|()| true),
        _ => Err(anyhow::anyhow!("usage: soak")),
    };
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "soak: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn soak() -> Result<bool> {
    let began = Instant::now();
    let guestd = built("static/guestd", "just build")?;
    let home = Home::new("soak")?;
    let agent = Agent::start(&home, &guestd, "")?;
    let mut report = Report::default();

    run(&agent, 0..1, began)?;
    let fresh = eventually("a fresh agent is idle", SETTLE, || Holdings::of_idle(&home, &agent))?;

    eprintln!("warm-up: {WARM_UP} execs");
    report.warm_up = run(&agent, 1..WARM_UP, began)?;
    same_records(&agent)?;
    let _ = eventually("the warmed up agent is idle", SETTLE, || Holdings::of_idle(&home, &agent)?.same_as(&fresh));
    report.resident_before_kib = agent.process().resident_kib()?;

    eprintln!("soak: {EXECS} execs, {AT_ONCE} at a time");
    let soaked = Instant::now();
    report.outcomes = run(&agent, WARM_UP..WARM_UP + EXECS, began)?;
    report.secs = soaked.elapsed().as_secs_f64();

    eprintln!("a GiB each way");
    report.big = big::all(&agent, &home, &guestd)?;

    same_records(&agent)?;
    let same = eventually("the agent holds what it held", SETTLE, || Holdings::of_idle(&home, &agent)?.same_as(&fresh));
    report.left = same.err().map(|error| format!("{error:#}"));
    report.resident_after_kib = agent.process().resident_kib()?;
    report.before = Some(fresh);
    report.after = Some(Holdings::of(&home, &agent)?);
    report.show_and_write(GROWTH_KIB, EXECS)
}

/// Performs the jobs of these numbers, so many at a time.
fn run(agent: &Agent, numbers: std::ops::Range<usize>, began: Instant) -> Result<Vec<Outcome>> {
    let next = AtomicUsize::new(numbers.start);
    let work = || {
        let mut worker = Worker::new(agent.socket());
        let mut outcomes = Vec::new();
        loop {
            let number = next.fetch_add(1, Ordering::Relaxed);
            if number >= numbers.end || began.elapsed() > DEADLINE {
                return outcomes;
            }
            let job = Job::of(number);
            let started = Instant::now();
            let result = worker.perform(number, &job);
            let error = result.err().map(|error| format!("exec {number}, {job:?}: {error:#}"));
            outcomes.push(Outcome { kind: job.kind(), millis: started.elapsed().as_secs_f64() * 1000.0, error });
        }
    };
    let all: Vec<Result<Vec<Outcome>>> = thread::scope(|scope| {
        let workers: Vec<_> = (0..AT_ONCE).map(|_| scope.spawn(work)).collect();
        workers.into_iter().map(|worker| worker.join().map_err(|_| anyhow::anyhow!("a worker panicked"))).collect()
    });
    let all: Vec<Vec<Outcome>> = all.into_iter().collect::<Result<_>>()?;
    ensure!(began.elapsed() <= DEADLINE, "given up after {} s", DEADLINE.as_secs());
    Ok(all.into_iter().flatten().collect())
}

/// Fills the table of ended execs with small ones.
fn same_records(agent: &Agent) -> Result<()> {
    let mut http = Http::connect(agent.socket())?;
    for _ in 0..SAME_RECORDS {
        let body = br#"{"command": ["/bin/true"]}"#;
        let result: guestd::api::ExecResult = http.ask("POST", "/v1/exec", body)?;
        ensure!(result.exit_code == 0, "{result:?}");
    }
    Ok(())
}
