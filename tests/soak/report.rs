//! The table and target/soak/report.json.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use serde_json::json;

use crate::big::Big;
use crate::holdings::Holdings;
use crate::kit::numbers::Spread;

/// Failures that are shown.
const SHOWN: usize = 10;

/// What became of one exec.
#[derive(Debug, Clone)]
pub(crate) struct Outcome {
    /// Its kind.
    pub(crate) kind: &'static str,
    /// From asking to knowing.
    pub(crate) millis: f64,
    /// What did not hold.
    pub(crate) error: Option<String>,
}

/// All that was seen.
#[derive(Debug, Default)]
pub(crate) struct Report {
    pub(crate) warm_up: Vec<Outcome>,
    pub(crate) outcomes: Vec<Outcome>,
    /// Time of the soak.
    pub(crate) secs: f64,
    pub(crate) big: Vec<Big>,
    pub(crate) before: Option<Holdings>,
    pub(crate) after: Option<Holdings>,
    /// What was left behind, in words.
    pub(crate) left: Option<String>,
    pub(crate) resident_before_kib: u64,
    pub(crate) resident_after_kib: u64,
}

impl Report {
    /// Shows everything, writes it down, and says whether all of it holds.
    pub(crate) fn show_and_write(&self, growth_kib: u64, execs: usize) -> Result<bool> {
        let mut kinds: BTreeMap<&str, Vec<&Outcome>> = BTreeMap::new();
        for outcome in &self.outcomes {
            kinds.entry(outcome.kind).or_default().push(outcome);
        }
        println!("{:<28}{:>8}{:>8}{:>12}{:>12}", "exec", "count", "failed", "p50 ms", "p99 ms");
        let mut rows = Vec::new();
        for (kind, outcomes) in kinds {
            let failed = outcomes.iter().filter(|outcome| outcome.error.is_some()).count();
            let millis = Spread::of(outcomes.iter().map(|outcome| outcome.millis).collect());
            println!("{kind:<28}{:>8}{failed:>8}{:>12.1}{:>12.1}", outcomes.len(), millis.p50, millis.p99);
            rows.push(json!({ "kind": kind, "count": outcomes.len(), "failed": failed, "millis": millis }));
        }
        println!(
            "{} execs in {:.1} s, {:.0} a second\n",
            self.outcomes.len(),
            self.secs,
            self.outcomes.len() as f64 / self.secs
        );
        for big in &self.big {
            let word = if big.error.is_none() { "the same" } else { "FAILED" };
            println!("{:<40}{:>8.2} GiB/s   SHA-256 {word}", big.what, big.gib_s);
        }
        println!("\n{:<28}{:>8}{:>8}", "held by the agent", "before", "after");
        self.show_holdings();
        let growth = self.resident_after_kib.saturating_sub(self.resident_before_kib);
        println!(
            "{:<28}{:>8}{:>8}   at most {growth_kib} KiB more",
            "resident KiB", self.resident_before_kib, self.resident_after_kib
        );

        let mut failures: Vec<String> = self.errors();
        failures.extend(self.left.clone());
        if growth > growth_kib {
            failures.push(format!("resident memory grew by {growth} KiB, more than {growth_kib} KiB"));
        }
        if self.outcomes.len() != execs {
            failures.push(format!("{} of {execs} execs were run", self.outcomes.len()));
        }
        self.write(&rows, &failures)?;
        println!();
        for failure in failures.iter().take(SHOWN) {
            println!("FAILED  {failure}");
        }
        println!("{}", if failures.is_empty() { "All of it holds." } else { "Not all of it holds." });
        Ok(failures.is_empty())
    }

    fn show_holdings(&self) {
        let empty = Vec::new();
        let before = self.before.as_ref().map_or(empty.clone(), Holdings::rows);
        let after: BTreeMap<&str, usize> = self.after.as_ref().map_or(empty, Holdings::rows).into_iter().collect();
        for (name, count) in before {
            println!("{name:<28}{count:>8}{:>8}", after.get(name).copied().unwrap_or_default());
        }
    }

    fn errors(&self) -> Vec<String> {
        let execs = self.warm_up.iter().chain(&self.outcomes).filter_map(|outcome| outcome.error.clone());
        let big = self.big.iter().filter_map(|big| Some(format!("{}: {}", big.what, big.error.as_ref()?)));
        execs.chain(big).collect()
    }

    fn write(&self, kinds: &[serde_json::Value], failures: &[String]) -> Result<()> {
        let report = json!({
            "version": env!("CARGO_PKG_VERSION"),
            "execs": self.outcomes.len(), "secs": self.secs, "kinds": kinds, "gib": self.big,
            "before": self.before, "after": self.after,
            "resident_before_kib": self.resident_before_kib, "resident_after_kib": self.resident_after_kib,
            "failures": failures,
        });
        let out = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/soak");
        fs::create_dir_all(&out)?;
        fs::write(out.join("report.json"), serde_json::to_vec_pretty(&report)?)
            .context("writing target/soak/report.json")
    }
}
