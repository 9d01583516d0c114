//! A process seen from outside: what it holds.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

/// A process, by its number; it must be one that we started and have not waited for.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Process(pub(crate) u32);

impl Process {
    fn proc(self, name: &str) -> PathBuf {
        format!("/proc/{}/{name}", self.0).into()
    }

    fn names(self, directory: &str) -> Result<Vec<PathBuf>> {
        let path = self.proc(directory);
        let listed = fs::read_dir(&path).with_context(|| format!("listing {}", path.display()))?;
        Ok(listed.filter_map(|entry| Some(entry.ok()?.path())).collect())
    }

    /// Open descriptors by what they are, numbers and names left out: `socket`, `pipe`, `anon_inode:[eventpoll]`, `/dev/ptmx`.
    pub(crate) fn descriptors(self) -> Result<BTreeMap<String, usize>> {
        let mut kinds = BTreeMap::new();
        for link in self.names("fd")? {
            // It may be closed meanwhile.
            let Ok(target) = fs::read_link(link) else { continue };
            let target = target.to_string_lossy();
            let kind = target.split_once(":[").map_or(&*target, |(kind, _)| kind);
            *kinds.entry(if kind == "anon_inode" { target.to_string() } else { kind.to_owned() }).or_default() += 1;
        }
        Ok(kinds)
    }

    /// Its threads.
    pub(crate) fn threads(self) -> Result<usize> {
        Ok(self.names("task")?.len())
    }

    /// Its children, those that nobody has waited for among them, with their state.
    pub(crate) fn children(self) -> Result<Vec<(u32, char)>> {
        let mut found = Vec::new();
        for task in self.names("task")? {
            let pids = fs::read_to_string(task.join("children")).unwrap_or_default();
            found.extend(pids.split_whitespace().filter_map(|pid| pid.parse::<u32>().ok()));
        }
        let state = |pid: u32| {
            let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
            stat.rsplit_once(") ")?.1.chars().next()
        };
        Ok(found.into_iter().filter_map(|pid| Some((pid, state(pid)?))).collect())
    }

    /// A line of /proc/PID/status, in KiB.
    fn status_kib(self, key: &str) -> Result<u64> {
        let path = self.proc("status");
        let text = fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
        let line = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'));
        let kib = line.and_then(|rest| rest.split_whitespace().next()?.parse().ok());
        kib.with_context(|| format!("no {key} in {}", path.display()))
    }

    /// Resident memory, in KiB.
    pub(crate) fn resident_kib(self) -> Result<u64> {
        self.status_kib("VmRSS")
    }

    /// Resident memory that is no file's, in KiB.
    pub(crate) fn anonymous_kib(self) -> Result<u64> {
        self.status_kib("RssAnon")
    }

    /// Its share of memory (PSS), in KiB: what is shared with others is divided among them.
    pub(crate) fn share_kib(self) -> Result<u64> {
        let path = self.proc("smaps_rollup");
        let text = fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
        let line = text.lines().find_map(|line| line.strip_prefix("Pss:"));
        let kib = line.and_then(|rest| rest.split_whitespace().next()?.parse().ok());
        kib.with_context(|| format!("no Pss in {}", path.display()))
    }
}

/// Looks until `look` finds something; fails with what it said last.
pub(crate) fn eventually<T>(what: &str, most: Duration, mut look: impl FnMut() -> Result<T>) -> Result<T> {
    let give_up = Instant::now() + most;
    loop {
        match look() {
            Ok(found) => return Ok(found),
            Err(error) if Instant::now() >= give_up => {
                bail!("waited {} s, and still not: {what}: {error:#}", most.as_secs())
            }
            Err(_) => thread::park_timeout(Duration::from_millis(5)),
        }
    }
}
