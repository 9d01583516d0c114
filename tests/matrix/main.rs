//! `just restart-matrix [ROUNDS]`: does steering ever come in the way of a service that starts again?
//!
//! Every pair of binds, one after the other and beside each other, with every option, user and gap, on an idle and a busy machine, while a client
//! outside holds steered connections and makes new ones. First without steering: what the kernel refuses by itself is not our failure. Then with:
//!
//! - bind and listen do what they do without: what is never refused then is never refused now, and what is refused sometimes is not more often
//!   than chance allows;
//! - once a service listens over IPv6, a fresh connection comes to it;
//! - a steered connection that was there before lives on.
//!
//! There is no agent: the bridge is an accept loop. Writes target/matrix.json and exits with 1 if anything does not hold.

mod bridge;
mod case;
mod world;

use std::{
    collections::BTreeMap,
    io::Write,
    process::ExitCode,
    sync::{
        Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Instant,
};

use anyhow::{Context, Result, bail};
use case::{Bind, Case, Outcome, complaints, complaints_of_all};
use serde_json::json;
use world::World;

/// Gaps in microseconds, the part of the rounds that each is given, and how many cases of it run at once.
const GAPS: [(u32, u32, usize); 5] = [(0, 1, 1), (100, 1, 1), (1_000, 1, 2), (10_000, 10, 8), (100_000, 100, 16)];
/// Complaints that are shown.
const SHOWN: usize = 40;

fn main() -> ExitCode {
    match matrix() {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "restart-matrix: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn matrix() -> Result<bool> {
    let rounds = match std::env::args().skip(1).collect::<Vec<_>>().as_slice() {
        [] => 300,
        [rounds] => rounds.parse().context("ROUNDS is a number")?,
        _ => bail!("usage: restart-matrix [ROUNDS]"),
    };
    let began = Instant::now();
    let mut results = Vec::new();
    for busy in [false, true] {
        for (gap, part, at_once) in GAPS {
            let rounds = rounds / part;
            let cases = Case::all(gap, busy);
            let [control, steered] = [false, true].map(|steered| all(&cases, rounds.max(1), at_once, steered));
            let control = control.context("without steering")?;
            let steered = steered.context("with steering")?;
            results.extend(cases.into_iter().zip(control.into_iter().zip(steered)));
            let _ = writeln!(std::io::stderr(), "gap {gap} µs, busy {busy}: {:?}", began.elapsed());
        }
    }
    report(&results, began)
}

/// Runs all cases, so many at once, and gives their outcomes in their order.
fn all(cases: &[Case], rounds: u32, at_once: usize, steered: bool) -> Result<Vec<Outcome>> {
    let busy = cases.first().is_some_and(|case| case.busy);
    let done = AtomicBool::new(false);
    let queue = Mutex::new(cases.iter().enumerate());
    let outcomes = Mutex::new(BTreeMap::new());
    let run = || -> Result<()> {
        let world = World::enter(steered)?;
        loop {
            let next = queue.lock().ok().context("a worker panicked")?.next();
            let Some((number, case)) = next else { return Ok(()) };
            let outcome = world.run(case, rounds).with_context(|| case.to_string())?;
            outcomes.lock().ok().context("a worker panicked")?.insert(number, outcome);
        }
    };
    thread::scope(|scope| {
        let spin = || {
            while !done.load(Ordering::Relaxed) {
                std::hint::spin_loop()
            }
        };
        let spinners = if busy { thread::available_parallelism().map_or(1, usize::from) } else { 0 };
        (0..spinners).for_each(|_| drop(scope.spawn(spin)));
        let workers: Vec<_> = (0..at_once).map(|_| scope.spawn(run)).collect();
        let ended: Vec<_> = workers.into_iter().map(thread::ScopedJoinHandle::join).collect();
        done.store(true, Ordering::Relaxed);
        ended.into_iter().try_for_each(|ended| ended.unwrap_or_else(|_| bail!("a worker panicked")))
    })?;
    Ok(outcomes.into_inner().ok().context("a worker panicked")?.into_values().collect())
}

type Row = (Case, (Outcome, Outcome));

fn report(results: &[Row], began: Instant) -> Result<bool> {
    let mut out = std::io::stdout().lock();
    let mut all = Vec::new();
    for (case, (control, steered)) in results {
        all.extend(complaints(control, steered).into_iter().map(|complaint| format!("{case}: {complaint}")));
    }
    all.extend(complaints_of_all(results.iter().map(|(_, (control, steered))| (control, steered))));
    writeln!(out, "rounds in which a bind or listen was refused, without steering / with it, of so many")?;
    writeln!(out, "{:>14} {}", "new:", Bind::ALL.map(|new| format!("{new:>20}")).concat())?;
    for how in [case::How::After, case::How::Beside] {
        for old in Bind::ALL {
            write!(out, "{:>6} {old:>11}", format!("{how:?}"))?;
            for new in Bind::ALL {
                let rows = || results.iter().filter(|(case, _)| case.how == how && case.old == old && case.new == new);
                let refused =
                    |pick: fn(&Row) -> &Outcome| rows().map(|row| pick(row).refused.values().sum::<u32>()).sum::<u32>();
                let rounds: u32 = rows().map(|(_, (_, steered))| steered.rounds).sum();
                let cell = format!("{}/{} of {rounds}", refused(|row| &row.1.0), refused(|row| &row.1.1));
                write!(out, "{cell:>20}")?;
            }
            writeln!(out)?;
        }
    }
    let sum = |pick: fn(&Outcome) -> u64| results.iter().map(|(_, (_, steered))| pick(steered)).sum::<u64>();
    let (rounds, bridged, astray) = (sum(|o| o.rounds.into()), sum(|o| o.bridged), sum(|o| o.astray.into()));
    writeln!(
        out,
        "{} cases, {rounds} rounds with steering and as many without, {bridged} connections bridged, {astray} astray, {:.0} s",
        results.len(),
        began.elapsed().as_secs_f64()
    )?;
    for complaint in all.iter().take(SHOWN) {
        writeln!(out, "FAILED: {complaint}")?;
    }
    writeln!(out, "{} failures", all.len())?;
    let rows: Vec<_> = results
        .iter()
        .map(|(case, (control, steered))| json!({"case": case, "control": control, "steered": steered}))
        .collect();
    let report = json!({"failures": all, "rounds": rounds, "bridged": bridged, "cases": rows});
    std::fs::write("target/matrix.json", serde_json::to_vec_pretty(&report)?).context("writing target/matrix.json")?;
    Ok(all.is_empty())
}
