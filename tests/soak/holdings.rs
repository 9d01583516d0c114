//! What an agent holds, seen from outside.

use std::collections::BTreeMap;

use anyhow::{Result, ensure};
use serde::Serialize;

use crate::kit::agent::{Agent, Home};

/// All that could be left behind, but for memory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Holdings {
    /// Open descriptors by kind; a terminal is one `/dev/ptmx` or `/dev/pts/ptmx`.
    descriptors: BTreeMap<String, usize>,
    /// Threads; tasks of the runtime show as their descriptors and memory.
    threads: usize,
    /// Children that are dead and not waited for.
    zombies: usize,
    /// Cgroups below the agent's.
    cgroups: usize,
    /// Processes in its cgroup and below, itself included.
    processes: usize,
}

impl Holdings {
    /// Of this agent, now.
    pub(crate) fn of(home: &Home, agent: &Agent) -> Result<Self> {
        let process = agent.process();
        let zombies = process.children()?.into_iter().filter(|(_, state)| *state == 'Z').count();
        Ok(Self {
            descriptors: process.descriptors()?,
            threads: process.threads()?,
            zombies,
            cgroups: home.cgroups()?.len(),
            processes: home.members()?.len(),
        })
    }

    /// The same of an agent that runs nothing; an error while it does.
    pub(crate) fn of_idle(home: &Home, agent: &Agent) -> Result<Self> {
        let held = Self::of(home, agent)?;
        ensure!(held.processes == 1 && held.cgroups == 0 && held.zombies == 0, "it still has {held:?}");
        Ok(held)
    }

    /// Fails with the difference unless they are the same. Fewer threads are no leak.
    pub(crate) fn same_as(&self, before: &Self) -> Result<()> {
        let but_threads = |held: &Self| Self { threads: 0, ..held.clone() };
        let same = but_threads(self) == but_threads(before) && self.threads <= before.threads;
        ensure!(same, "it held {before:?} and holds {self:?}");
        Ok(())
    }

    /// Name and number of each, for a table.
    pub(crate) fn rows(&self) -> Vec<(&str, usize)> {
        let fixed = [
            ("threads", self.threads),
            ("zombies", self.zombies),
            ("cgroups", self.cgroups),
            ("processes", self.processes),
        ];
        let descriptors = self.descriptors.iter().map(|(kind, count)| (kind.as_str(), *count));
        fixed.into_iter().chain(descriptors).collect()
    }
}
