//! What is compared: anything that can run commands, and what is asked of it in a round.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde::Serialize;

use crate::kit::numbers::Spread;
use crate::{AT_ONCE, LATENCY_RUNS, LATENCY_RUNS_OF_PROGRAMS, OUTPUT_BYTES};

/// The command of the latencies. By its path, for a shell has a `true` of its own and would start nothing.
pub(crate) const TRUE: &str = "/bin/true";

/// The program that writes zeros; in blocks that fill a pipe at one stroke.
pub(crate) fn writer(bytes: u64) -> [String; 5] {
    let count = format!("count={}", bytes / (64 * 1024));
    ["dd".to_owned(), "if=/dev/zero".to_owned(), "bs=64k".to_owned(), count, "status=none".to_owned()]
}

/// This PATH, and the directories of daemons, which few users have in theirs.
pub(crate) fn with_sbin() -> String {
    format!("{}:/usr/local/sbin:/usr/sbin:/sbin", std::env::var("PATH").unwrap_or_default())
}

/// Something that runs commands.
pub(crate) trait Rival {
    /// Shown in the table.
    fn name(&self) -> &'static str;

    /// A client program is started for each command.
    fn starts_programs(&self) -> bool {
        false
    }

    /// Before a round.
    fn get_ready(&mut self) -> Result<()> {
        Ok(())
    }

    /// Runs `true`, to the knowledge that it ended well.
    fn run_true(&mut self) -> Result<()>;

    /// Runs so many at once, to the end of the last.
    fn run_at_once(&mut self, count: usize) -> Result<()>;

    /// Has this much written to standard output and takes it; gives how much came. At most [`Rival::most_output`] is asked for.
    fn take_output(&mut self, bytes: u64) -> Result<u64>;

    /// The other form of its output, if it has two: its name, and how much came.
    fn take_other_output(&mut self, _bytes: u64) -> Result<Option<(&'static str, u64)>> {
        Ok(None)
    }

    /// What it can give.
    fn most_output(&self) -> u64 {
        OUTPUT_BYTES
    }
}

/// What came of one round.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Run {
    /// Milliseconds of `true`.
    pub(crate) latency_ms: Spread,
    /// Milliseconds of many at once.
    pub(crate) at_once_ms: f64,
    /// GiB a second of standard output.
    pub(crate) output_gib_s: f64,
    /// The same in another form.
    pub(crate) other_output_gib_s: Option<(&'static str, f64)>,
}

impl Run {
    /// One round.
    pub(crate) fn of(rival: &mut dyn Rival) -> Result<Self> {
        let name = rival.name();
        Self::measure(rival).with_context(|| format!("measuring {name}"))
    }

    fn measure(rival: &mut dyn Rival) -> Result<Self> {
        rival.get_ready()?;
        let runs = if rival.starts_programs() { LATENCY_RUNS_OF_PROGRAMS } else { LATENCY_RUNS };
        let mut latencies = Vec::with_capacity(runs);
        for _ in 0..runs {
            latencies.push(millis(|| rival.run_true())?);
        }
        let at_once_ms = millis(|| rival.run_at_once(AT_ONCE))?;
        let bytes = OUTPUT_BYTES.min(rival.most_output());
        let mut came = 0;
        let took = millis(|| rival.take_output(bytes).map(|count| came = count))?;
        ensure!(came == bytes, "{came} of {bytes} bytes came");
        let mut other = None;
        let other_took = millis(|| rival.take_other_output(bytes).map(|found| other = found))?;
        let other_output_gib_s = match other {
            Some((form, came)) => {
                ensure!(came == bytes, "{came} of {bytes} bytes came as {form}");
                Some((form, gib_s(bytes, other_took)))
            }
            None => None,
        };
        Ok(Self { latency_ms: Spread::of(latencies), at_once_ms, output_gib_s: gib_s(bytes, took), other_output_gib_s })
    }
}

fn gib_s(bytes: u64, millis: f64) -> f64 {
    bytes as f64 / f64::from(1 << 30) / (millis / 1000.0)
}

fn millis(work: impl FnOnce() -> Result<()>) -> Result<f64> {
    let began = Instant::now();
    work()?;
    Ok(began.elapsed().as_secs_f64() * 1000.0)
}

/// What is known of a program that was measured.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct About {
    /// Name.
    pub(crate) name: &'static str,
    /// As it says itself.
    pub(crate) version: String,
    /// Its file, in bytes.
    pub(crate) binary_bytes: u64,
    /// It needs no shared libraries; those are not in `binary_bytes`.
    pub(crate) is_static: bool,
    /// Resident before it ran anything, in KiB.
    pub(crate) idle_resident_kib: u64,
    /// Of that, what is no file's.
    pub(crate) idle_anonymous_kib: u64,
}

/// What commands that run cost in memory.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Held {
    /// Name.
    pub(crate) name: &'static str,
    /// Commands that ran.
    pub(crate) commands: usize,
    /// KiB for each: growth of the service, and of what it has for a command beside the command itself.
    pub(crate) kib_each: f64,
}

/// Longest wait for a state of something that was started.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);
