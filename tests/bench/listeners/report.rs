//! The table, the targets, and target/bench/listeners.json.

use std::{collections::BTreeMap, fs, path::Path, process::Command};

use anyhow::{Context, Result};
use serde::Serialize;
use serde_json::json;

use crate::{
    ROUNDS,
    kit::numbers::{Spread, median},
    latency::{Latencies, POLL_MS},
    look::{DUMP, GET, GUESTCTL, PROC, SS, SS_OWNERS, Times, WAYS},
    scene::{SCENES, Spec},
};

/// All that was measured.
#[derive(Debug, Default)]
pub(crate) struct Report {
    looks: BTreeMap<Spec, Vec<Times>>,
    latencies: Vec<Latencies>,
}

/// Something that guestd is to be, with what it is.
#[derive(Debug, Serialize)]
struct Target {
    is: String,
    value: f64,
    at_most: f64,
    holds: bool,
}

impl Report {
    /// A round's looks at one scene.
    pub(crate) fn add_looks(&mut self, spec: Spec, times: Times) {
        self.looks.entry(spec).or_default().push(times);
    }

    /// A round's events.
    pub(crate) fn add_latencies(&mut self, latencies: Latencies) {
        self.latencies.push(latencies);
    }

    /// Shows everything, writes it down, and says whether all targets hold.
    pub(crate) fn show_and_write(&self) -> Result<bool> {
        print!("{:<34}", "median of rounds, ms");
        for way in WAYS {
            print!("{way:>27}");
        }
        println!();
        for spec in SCENES {
            print!("{:<34}", spec.to_string());
            for way in WAYS {
                print!("{:>27.3}", self.look(spec, way));
            }
            println!();
        }
        let (events, poll) = (self.spread(|round| round.events), self.spread(|round| round.poll));
        println!();
        println!("listen(2) to a watcher's line, by events:   p50 {:.3} ms, p99 {:.3} ms", events.p50, events.p99);
        println!("listen(2) to a watcher's line, by looks:    p50 {:.3} ms, p99 {:.3} ms", poll.p50, poll.p99);
        println!();
        let targets = self.targets(events, poll);
        for target in &targets {
            let word = if target.holds { "holds" } else { "FAILS" };
            println!("{word}  {}: {:.2}, at most {:.2}", target.is, target.value, target.at_most);
        }
        self.write(&targets, events, poll)?;
        Ok(targets.iter().all(|target| target.holds))
    }

    fn look(&self, spec: Spec, way: &str) -> f64 {
        let rounds = self.looks.get(&spec).into_iter().flatten();
        median(rounds.filter_map(|times| times.get(way).copied()).collect())
    }

    fn spread(&self, of: fn(&Latencies) -> Spread) -> Spread {
        Spread::median(&self.latencies.iter().map(of).collect::<Vec<_>>())
    }

    fn targets(&self, events: Spread, poll: Spread) -> Vec<Target> {
        let target = |is: String, value: f64, at_most| Target { is, value, at_most, holds: value <= at_most };
        let [few, _, established, processes, _, many] = SCENES;
        let mut targets = Vec::new();
        for way in [DUMP, GET] {
            for scene in [established, processes] {
                let ratio = self.look(scene, way) / self.look(few, way);
                targets.push(target(format!("{way}: {scene}, to {few}"), ratio, 1.5));
            }
        }
        let pairs = [
            (DUMP, PROC, &[few, established, many][..]),
            (DUMP, SS, &[few, established, many]),
            // With owners and verdicts, which `ss -Hltn` does not look for.
            (GET, SS, &[few, established]),
            (GUESTCTL, SS_OWNERS, &[few, established]),
        ];
        for (way, peer, scenes) in pairs {
            for scene in scenes {
                let ratio = self.look(*scene, way) / self.look(*scene, peer);
                targets.push(target(format!("{scene}: {way}, to {peer}"), ratio, 1.0));
            }
        }
        targets.push(target("events: p99 in ms".to_owned(), events.p99, 5.0));
        let most = f64::from(POLL_MS) + 5.0;
        targets.push(target("looks: p99 in ms, a poll interval and 5".to_owned(), poll.p99, most));
        targets
    }

    fn write(&self, targets: &[Target], events: Spread, poll: Spread) -> Result<()> {
        let looks: Vec<_> = SCENES
            .iter()
            .map(|spec| {
                let medians: BTreeMap<_, _> = WAYS.iter().map(|way| (*way, self.look(*spec, way))).collect();
                json!({"scene": spec, "median_ms": medians, "each_round": self.looks.get(spec)})
            })
            .collect();
        let ss = Command::new("ss").arg("-V").output().context("running ss")?.stdout;
        let report = json!({
            "version": env!("CARGO_PKG_VERSION"),
            "ss": String::from_utf8_lossy(&ss).trim(),
            "kernel": fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default().trim(),
            "rounds": ROUNDS, "looks": looks, "targets": targets,
            "latency_ms": {"events": events, "looks": poll, "poll_ms": POLL_MS, "each_round": self.latencies},
        });
        let out = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/bench");
        fs::create_dir_all(&out)?;
        fs::write(out.join("listeners.json"), serde_json::to_vec_pretty(&report)?)
            .context("writing target/bench/listeners.json")
    }
}
