//! The table, the targets, and target/bench/exec.json.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use serde::Serialize;
use serde_json::json;

use crate::kit::numbers::{Spread, median};
use crate::rival::{About, Held, Run};
use crate::{AT_ONCE, ROUNDS};

/// All that was measured.
#[derive(Debug)]
pub(crate) struct Report {
    about: Vec<About>,
    order: Vec<&'static str>,
    rounds: BTreeMap<&'static str, Vec<Run>>,
    held: Vec<Held>,
}

/// Medians over the rounds.
#[derive(Debug, Clone, Serialize)]
struct Row {
    name: &'static str,
    latency_ms: Spread,
    at_once_ms: f64,
    output_gib_s: f64,
    other_output_gib_s: Option<(&'static str, f64)>,
}

/// Something that guestd is to be, with what it is.
#[derive(Debug, Serialize)]
struct Target {
    is: &'static str,
    value: f64,
    at_most: f64,
    holds: bool,
}

impl Report {
    /// Nothing measured yet.
    pub(crate) fn new(about: Vec<About>, held: Vec<Held>) -> Self {
        Self { about, held, order: Vec::new(), rounds: BTreeMap::new() }
    }

    /// A round.
    pub(crate) fn add(&mut self, name: &'static str, run: Run) {
        if !self.order.contains(&name) {
            self.order.push(name);
        }
        self.rounds.entry(name).or_default().push(run);
    }

    /// Shows everything, writes it down, and says whether all targets hold.
    pub(crate) fn show_and_write(&self) -> Result<bool> {
        let rows: Vec<Row> = self.order.iter().map(|name| row(name, &self.rounds[name])).collect();
        println!(
            "{:<32}{:>10}{:>10}{:>12}{:>14}",
            "median of rounds", "true p50", "p99 ms", "64 at once", "stdout GiB/s"
        );
        for row in &rows {
            let Spread { p50, p99 } = row.latency_ms;
            print!("{:<32}{p50:>10.3}{p99:>10.3}{:>12.1}{:>14.3}", row.name, row.at_once_ms, row.output_gib_s);
            match row.other_output_gib_s {
                Some((form, gib_s)) => println!("  ({form} {gib_s:.3})"),
                None => println!(),
            }
        }
        println!();
        for about in &self.about {
            let kind = if about.is_static { "static" } else { "with shared libraries beside it" };
            let mib = |bytes: u64| bytes as f64 / 1_048_576.0;
            println!(
                "{:<10}idle {:.1} MiB resident, {:.1} MiB of it anonymous; binary {:.2} MiB, {kind}; {}",
                about.name,
                mib(about.idle_resident_kib * 1024),
                mib(about.idle_anonymous_kib * 1024),
                mib(about.binary_bytes),
                about.version,
            );
        }
        for held in &self.held {
            println!("{:<10}{:.1} KiB for each of {} commands that run", held.name, held.kib_each, held.commands);
        }
        println!();
        let targets = targets(&rows)?;
        for target in &targets {
            let word = if target.holds { "holds" } else { "FAILS" };
            println!("{word}  {}: {:.2}, at most {:.2}", target.is, target.value, target.at_most);
        }
        self.write(&rows, &targets)?;
        Ok(targets.iter().all(|target| target.holds))
    }

    fn write(&self, rows: &[Row], targets: &[Target]) -> Result<()> {
        let report = json!({
            "version": env!("CARGO_PKG_VERSION"),
            "kernel": fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default().trim(),
            "rounds": ROUNDS, "at_once": AT_ONCE,
            "programs": self.about, "medians": rows, "memory": self.held, "targets": targets,
            "each_round": self.rounds,
        });
        let out = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/bench");
        fs::create_dir_all(&out)?;
        fs::write(out.join("exec.json"), serde_json::to_vec_pretty(&report)?).context("writing target/bench/exec.json")
    }
}

fn row(name: &'static str, rounds: &[Run]) -> Row {
    let middle = |of: fn(&Run) -> f64| median(rounds.iter().map(of).collect());
    let latencies: Vec<Spread> = rounds.iter().map(|run| run.latency_ms).collect();
    let others: Option<Vec<(&str, f64)>> = rounds.iter().map(|run| run.other_output_gib_s).collect();
    Row {
        name,
        latency_ms: Spread::median(&latencies),
        at_once_ms: middle(|run| run.at_once_ms),
        output_gib_s: middle(|run| run.output_gib_s),
        other_output_gib_s: others
            .and_then(|all| Some((all.first()?.0, median(all.iter().map(|(_, gib_s)| *gib_s).collect())))),
    }
}

/// The project's targets. Each is a ratio that must be at most something, so that it says by how much.
fn targets(rows: &[Row]) -> Result<Vec<Target>> {
    let find = |name: &str| {
        rows.iter().find(|row| row.name.starts_with(name)).with_context(|| format!("nothing was measured of {name}"))
    };
    let (kernel, guestd, qemu_ga, ssh) = (find("kernel")?, find("guestd")?, find("qemu-ga")?, find("ssh")?);
    let guestctl = find("guestctl")?;
    let target = |is, value, at_most| Target { is, value, at_most, holds: value <= at_most };
    let p50 = |row: &Row| row.latency_ms.p50;
    Ok(vec![
        target("true, p50, to bare spawn+wait and a round trip", p50(guestd) / p50(kernel), 1.3),
        target("true, p50, to qemu-ga", p50(guestd) / p50(qemu_ga), 1.0),
        target("true, p50, to ssh", p50(guestd) / p50(ssh), 0.25),
        target("true by guestctl, p50, to ssh", p50(guestctl) / p50(ssh), 1.0),
        target("stdout: plain pipe into a socket, to guestd", kernel.output_gib_s / guestd.output_gib_s, 1.0 / 0.6),
        target("stdout: ssh, to guestd", ssh.output_gib_s / guestd.output_gib_s, 1.0),
    ])
}
