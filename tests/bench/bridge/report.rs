//! The table, the targets, and target/bench/bridge.json.

use std::{collections::BTreeMap, fs, path::Path};

use anyhow::{Context, Result};
use serde::Serialize;
use serde_json::json;

use crate::{
    idle::Idle,
    kit::numbers::median,
    load::{Beside, Run},
};

/// All that was measured.
#[derive(Debug)]
pub(crate) struct Report {
    rounds: usize,
    rows: Vec<(&'static str, Idle, Vec<Run>)>,
}

/// Medians over the rounds; rates as shares of the direct connection's.
#[derive(Debug, Clone, Copy, Serialize)]
struct Row {
    name: &'static str,
    one: f64,
    many: f64,
    cpu_s_per_gb_of_one: f64,
    cpu_s_per_gb_of_many: f64,
    connections: f64,
    ping_pongs: f64,
    errors: u64,
    idle: Idle,
}

/// Something that the bridge is to be, with what it is.
#[derive(Debug, Serialize)]
struct Target {
    is: String,
    value: f64,
    relation: &'static str,
    wanted: f64,
    holds: bool,
}

/// A column: its name, how to get it, and whether more is better.
type Column = (&'static str, fn(&Row) -> f64, bool);

const COLUMNS: &[Column] = &[
    ("1 stream", |row| row.one, true),
    ("64 streams", |row| row.many, true),
    ("CPU s/GB of 1", |row| row.cpu_s_per_gb_of_one, false),
    ("CPU s/GB of 64", |row| row.cpu_s_per_gb_of_many, false),
    ("connections/s", |row| row.connections, true),
    ("64 ping-pongs", |row| row.ping_pongs, true),
    ("descriptors", |row| row.idle.descriptors, false),
    ("bytes", |row| row.idle.bytes, false),
];

/// What the bridge is to reach, by the order of the columns.
const WANTED: [f64; 8] = [0.80, 0.78, 0.25, 0.25, 0.48, 0.53, 2.0, 1024.0];

/// Medians of noisy rounds that are no further apart than this are equal.
const EQUAL: f64 = 0.03;

impl Report {
    /// Nothing measured yet.
    pub(crate) fn new(rounds: usize) -> Self {
        Self { rounds, rows: Vec::new() }
    }

    /// What is known of a relay before the first round.
    pub(crate) fn about(&mut self, name: &'static str, idle: Idle) {
        self.rows.push((name, idle, Vec::new()));
    }

    /// A round.
    pub(crate) fn add(&mut self, name: &str, run: Run) {
        if let Some(row) = self.rows.iter_mut().find(|row| row.0 == name) {
            row.2.push(run);
        }
    }

    /// Shows everything, writes it down, and says whether all targets hold. Without all rows there are no targets.
    pub(crate) fn show_and_write(&self, whole: bool) -> Result<bool> {
        let direct = Direct {
            one: self.direct(|run| run.one),
            many: self.direct(|run| run.many),
            connections: self.direct(|run| run.connections),
            ping_pongs: self.direct(|run| run.ping_pongs),
        };
        let rows: Vec<Row> = self.rows.iter().map(|row| medians(row, &direct)).collect();
        for (what, each, unit, scale) in [
            ("one stream", &direct.one, "Gb/s", 8e-9),
            ("64 streams", &direct.many, "Gb/s", 8e-9),
            ("connections", &direct.connections, "/s", 1.0),
            ("ping-pongs", &direct.ping_pongs, "/s", 1.0),
        ] {
            let [least, middle, most] = [each.least, each.median, each.most].map(|value| value * scale);
            println!(
                "direct, {what}: median {middle:.1} {unit}, {least:.1} to {most:.1} in {} measurements",
                each.number
            );
        }
        print!("{:<10}", "medians");
        COLUMNS.iter().for_each(|column| print!("{:>16}", column.0));
        println!("{:>10}{:>12}", "errors", "idle CPU");
        for row in &rows {
            print!("{:<10}", row.name);
            for (place, column) in COLUMNS.iter().enumerate() {
                let decimals = if place == 7 { 0 } else { 3 };
                print!("{:>16.decimals$}", column.1(row));
            }
            println!("{:>10}{:>12.4}", row.errors, row.idle.cpu);
        }
        println!();
        let targets = if whole { targets(&rows)? } else { Vec::new() };
        for target in &targets {
            let word = if target.holds { "holds" } else { "FAILS" };
            println!("{word}  {}: {:.3}, {} {:.3}", target.is, target.value, target.relation, target.wanted);
        }
        self.write(&rows, &targets)?;
        Ok(targets.iter().all(|target| target.holds))
    }

    /// Of all direct measurements of a phase, before whichever relay: one alone swings by half, with where the kernel puts the threads
    /// of both ends.
    fn direct(&self, phase: Phase) -> Spread {
        let runs = self.rows.iter().flat_map(|row| &row.2);
        let all: Vec<f64> = runs.filter_map(|run| Some(phase(run)?.direct)).collect();
        Spread {
            number: all.len(),
            least: all.iter().copied().reduce(f64::min).unwrap_or(f64::NAN),
            most: all.iter().copied().reduce(f64::max).unwrap_or(f64::NAN),
            median: median(all),
        }
    }

    fn write(&self, rows: &[Row], targets: &[Target]) -> Result<()> {
        let each_round: BTreeMap<_, _> = self.rows.iter().map(|row| (row.0, &row.2)).collect();
        let report = json!({
            "version": env!("CARGO_PKG_VERSION"),
            "kernel": fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default().trim(),
            "rounds": self.rounds, "medians": rows, "targets": targets, "each_round": each_round,
        });
        let out = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/bench");
        fs::create_dir_all(&out)?;
        fs::write(out.join("bridge.json"), serde_json::to_vec_pretty(&report)?)
            .context("writing target/bench/bridge.json")
    }
}

/// One of what was measured in a round.
type Phase = fn(&Run) -> Option<Beside>;

/// A rate's measurements, in its unit.
#[derive(Debug)]
struct Spread {
    number: usize,
    least: f64,
    median: f64,
    most: f64,
}

/// Without a relay.
#[derive(Debug)]
struct Direct {
    one: Spread,
    many: Spread,
    connections: Spread,
    ping_pongs: Spread,
}

fn medians((name, idle, runs): &(&'static str, Idle, Vec<Run>), direct: &Direct) -> Row {
    let middle =
        |phase: Phase, of: fn(Beside) -> f64| median(runs.iter().filter_map(|run| Some(of(phase(run)?))).collect());
    let share = |phase: Phase, direct: &Spread| middle(phase, |beside| beside.relayed) / direct.median;
    let cpu_s_per_gb = |phase: Phase| middle(phase, |beside| beside.cpu / (beside.relayed / 1e9));
    Row {
        name,
        one: share(|run| run.one, &direct.one),
        many: share(|run| run.many, &direct.many),
        cpu_s_per_gb_of_one: cpu_s_per_gb(|run| run.one),
        cpu_s_per_gb_of_many: cpu_s_per_gb(|run| run.many),
        connections: share(|run| run.connections, &direct.connections),
        ping_pongs: share(|run| run.ping_pongs, &direct.ping_pongs),
        errors: runs.iter().map(|run| run.errors).sum(),
        idle: *idle,
    }
}

fn targets(rows: &[Row]) -> Result<Vec<Target>> {
    let guestd = rows.iter().find(|row| row.name == "guestd").context("the bridge is always measured")?;
    let mut targets = Vec::new();
    for ((name, value, more), wanted) in COLUMNS.iter().zip(WANTED) {
        let (value_of, relation) = (*value, if *more { "at least" } else { "at most" });
        let value = value_of(guestd);
        let holds = if *more { value >= wanted } else { value <= wanted };
        targets.push(Target { is: (*name).to_owned(), value, relation, wanted, holds });
        // One that broke connections has no figure.
        let others = rows.iter().filter(|row| !["guestd", "direct"].contains(&row.name) && !value_of(row).is_nan());
        let best = if *more {
            others.max_by(|one, other| value_of(one).total_cmp(&value_of(other)))
        } else {
            others.min_by(|one, other| value_of(one).total_cmp(&value_of(other)))
        };
        let best = best.context("other relays are always measured")?;
        let wanted = value_of(best) * if *more { 1.0 - EQUAL } else { 1.0 + EQUAL };
        let holds = if *more { value >= wanted } else { value <= wanted };
        targets.push(Target {
            is: format!("{name}, beside the best other ({})", best.name),
            value,
            relation,
            wanted,
            holds,
        });
    }
    let errors = guestd.errors as f64;
    targets.push(Target {
        is: "errors".to_owned(),
        value: errors,
        relation: "at most",
        wanted: 0.0,
        holds: errors <= 0.0,
    });
    Ok(targets)
}
