//! All that an exec has started, as one thing that can be ended.
//!
//! With a cgroup that is exact: whatever a process does with sessions and groups, it is in there. Without one it is the process
//! group, the session, and whoever descends from the leader; a process that has left all three is not found. Signals go through
//! pidfds, and only to a process that was a member before *and* after its pidfd was opened: between the two its pid cannot have
//! come to mean somebody else.

use std::collections::{HashMap, HashSet};
use std::io;
use std::path::Path;
use std::time::Duration;

use futures_util::future::join_all;
use tokio::time::{Instant, timeout_at};

use super::resources::Spent;
use crate::limits;
use crate::sys::cgroup::Cgroup;
use crate::sys::pidfd::{Pidfd, WatchedPidfd};
use crate::sys::process::signal_group;

/// Between two looks at a tree none of whose processes can be waited for.
const LOOK_AGAIN: Duration = Duration::from_millis(10);

/// Looks for processes that a signal to all has not reached yet.
const TELL_LOOKS: usize = 4;

/// What an exec has started.
#[derive(Debug)]
pub(super) enum Tree {
    /// All in this cgroup.
    Cgroup(Cgroup),
    /// All that can be found from this child, which leads a session and is not reaped.
    Session(i32),
}

impl Tree {
    /// Ends all of it: SIGTERM, and after the grace SIGKILL. `false` where something is left even `kill_time` after that.
    ///
    /// The leader must not be reaped before this returns.
    pub(super) async fn end(&self, grace: Duration, kill_time: Duration) -> bool {
        let mut ending = Ending { tree: self, known: HashMap::new(), told: HashSet::new() };
        if ending.signal_until(libc::SIGTERM, Instant::now() + grace).await {
            return true;
        }
        ending.told.clear();
        ending.signal_until(libc::SIGKILL, Instant::now() + kill_time).await
    }

    /// Sends a signal to all of it, also to what comes to be meanwhile, as far as a few looks find it. Whether there was anybody.
    ///
    /// The leader must not be reaped before this returns.
    pub(super) fn tell_all(&self, signal: i32) -> bool {
        let mut told = HashSet::new();
        for _ in 0..TELL_LOOKS {
            let strangers: Vec<i32> = self.members().into_iter().filter(|pid| !told.contains(pid)).collect();
            if strangers.is_empty() {
                break;
            }
            for some in strangers.chunks(limits::EXEC_TREE_HANDLES) {
                let opened: Vec<Pidfd> = some.iter().filter_map(|pid| Pidfd::open(*pid).ok()).collect();
                let still = self.members();
                for process in opened.into_iter().filter(|process| still.contains(&process.pid())) {
                    tell(&process, signal);
                    told.insert(process.pid());
                }
            }
        }
        !told.is_empty()
    }

    /// Kills all of it at one stroke, as far as the kernel offers that.
    pub(super) fn strike(&self) {
        let struck = match self {
            Self::Session(leader) => signal_group(*leader, libc::SIGKILL),
            Self::Cgroup(cgroup) => cgroup.kill().or_else(|error| match error.kind() {
                // Before Linux 5.14. What is frozen cannot fork away while it is killed one by one, which the caller does.
                io::ErrorKind::NotFound => cgroup.freeze(),
                _ => Err(error),
            }),
        };
        if let Err(error) = struck {
            tracing::warn!(%error, tree = ?self, "killing a tree at one stroke failed");
        }
    }

    /// Has all of it stand still: without a cgroup, as far as it can be found. Whether that was done.
    pub(super) fn freeze(&self) -> bool {
        self.stilled(Cgroup::freeze, libc::SIGSTOP)
    }

    /// Has all of it go on.
    pub(super) fn thaw(&self) -> bool {
        self.stilled(Cgroup::thaw, libc::SIGCONT)
    }

    fn stilled(&self, by_cgroup: fn(&Cgroup) -> io::Result<()>, signal: i32) -> bool {
        match self {
            Self::Session(_) => self.tell_all(signal),
            Self::Cgroup(cgroup) => match by_cgroup(cgroup) {
                Ok(()) => true,
                Err(error) => {
                    tracing::warn!(%error, tree = ?self, "having a tree stand still or go on failed");
                    false
                }
            },
        }
    }

    /// Whether none of it runs. Of what has no cgroup that is taken for granted.
    pub(super) fn stands_still(&self) -> bool {
        match self {
            Self::Session(_) => true,
            Self::Cgroup(cgroup) => cgroup.is_frozen(),
        }
    }

    /// Its cgroup's directory, if it has one.
    pub(super) fn cgroup(&self) -> Option<&Path> {
        match self {
            Self::Cgroup(cgroup) => Some(cgroup.path()),
            Self::Session(_) => None,
        }
    }

    /// What it took so far; nothing is known of what has no cgroup.
    pub(super) fn spent(&self) -> Spent {
        match self {
            Self::Cgroup(cgroup) => cgroup.usage().into(),
            Self::Session(_) => Spent::default(),
        }
    }

    /// Its live processes; zombies are no members.
    fn members(&self) -> HashSet<i32> {
        match self {
            Self::Cgroup(cgroup) => cgroup.members().map(HashSet::from_iter).unwrap_or_else(|error| {
                tracing::warn!(%error, cgroup = ?cgroup.path(), "listing a cgroup failed");
                HashSet::new()
            }),
            Self::Session(leader) => session_members(*leader, &all_processes()),
        }
    }
}

/// A tree being ended.
struct Ending<'a> {
    tree: &'a Tree,
    /// Members seen so far, and not yet seen to end. Of a session, those that have meanwhile lost their parent too.
    known: HashMap<i32, WatchedPidfd>,
    /// Those that got the signal.
    told: HashSet<i32>,
}

impl Ending<'_> {
    /// Signals all members, new ones as well, until none is left (`true`) or the time is over.
    async fn signal_until(&mut self, signal: i32, deadline: Instant) -> bool {
        loop {
            if signal == libc::SIGKILL {
                self.tree.strike();
            }
            for (pid, process) in &self.known {
                if self.told.insert(*pid) {
                    tell(process.get(), signal);
                }
            }
            let found = self.meet(signal);
            if !found && self.known.is_empty() {
                return true;
            }
            if Instant::now() >= deadline {
                return false;
            }
            if self.known.is_empty() {
                // No descriptors for handles are to be had: look again soon, rather than spin.
                tokio::time::sleep(LOOK_AGAIN).await;
                continue;
            }
            let ends = self.known.values().map(WatchedPidfd::ended);
            if timeout_at(deadline, join_all(ends)).await.is_err() {
                return false;
            }
            self.known.clear();
            self.told.clear();
        }
    }

    /// Looks for members, signals those that are new, and keeps handles of them. Whether there are any.
    fn meet(&mut self, signal: i32) -> bool {
        let mut found = false;
        let members: Vec<i32> = self.tree.members().into_iter().collect();
        for some in members.chunks(limits::EXEC_TREE_HANDLES) {
            let strangers = some.iter().filter(|pid| !self.known.contains_key(*pid));
            let opened: Vec<Pidfd> = strangers.filter_map(|pid| Pidfd::open(*pid).ok()).collect();
            let still = self.tree.members();
            found |= some.iter().any(|pid| still.contains(pid));
            for process in opened.into_iter().filter(|process| still.contains(&process.pid())) {
                let pid = process.pid();
                if self.told.insert(pid) {
                    tell(&process, signal);
                }
                if self.known.len() < limits::EXEC_TREE_HANDLES
                    && let Ok(process) = WatchedPidfd::new(process)
                {
                    self.known.insert(pid, process);
                }
            }
        }
        found
    }
}

fn tell(process: &Pidfd, signal: i32) {
    if let Err(error) = process.signal(signal) {
        tracing::warn!(%error, pid = process.pid(), signal, "signalling a process failed");
    }
}

/// What /proc says of a process, as far as it counts here.
struct Kin {
    pid: i32,
    parent: i32,
    group: i32,
    session: i32,
}

fn all_processes() -> Vec<Kin> {
    let Ok(processes) = procfs::process::all_processes() else {
        return Vec::new();
    };
    processes
        .filter_map(|process| process.ok()?.stat().ok())
        .filter(|stat| !['Z', 'X'].contains(&stat.state))
        .map(|stat| Kin { pid: stat.pid, parent: stat.ppid, group: stat.pgrp, session: stat.session })
        .collect()
}

/// Who belongs to the session of this leader, by any sign.
fn session_members(leader: i32, processes: &[Kin]) -> HashSet<i32> {
    let mut family = HashSet::from([leader]);
    loop {
        let before = family.len();
        for kin in processes {
            if kin.session == leader || kin.group == leader || family.contains(&kin.parent) {
                family.insert(kin.pid);
            }
        }
        if family.len() == before {
            break;
        }
    }
    // The leader is one only while it lives.
    let live: HashSet<i32> = processes.iter().map(|kin| kin.pid).collect();
    family.retain(|pid| live.contains(pid));
    family
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt;

    use super::*;
    use crate::sys::cgroup::CgroupParent;

    fn kin(pid: i32, parent: i32, group: i32, session: i32) -> Kin {
        Kin { pid, parent, group, session }
    }

    #[test]
    fn a_session_is_found_by_group_session_and_descent() {
        let processes = [
            kin(1, 0, 1, 1),
            kin(14, 13, 13, 13), // grandchild of one that left, listed before its parent
            kin(10, 1, 10, 10),
            kin(11, 10, 10, 10),
            kin(12, 1, 12, 10),  // orphan in the session
            kin(13, 11, 13, 13), // has made a session of its own
            kin(99, 1, 99, 99),
        ];
        let members = session_members(10, &processes);
        assert_eq!(members, HashSet::from([10, 11, 12, 13, 14]));
    }

    #[test]
    fn a_dead_leader_is_no_member_of_its_session() {
        assert_eq!(session_members(10, &[kin(11, 1, 10, 10)]), HashSet::from([11]));
        assert_eq!(session_members(10, &[kin(1, 0, 1, 1)]), HashSet::new());
    }

    #[test]
    fn a_frozen_cgroup_can_be_killed_one_by_one() {
        // What is done where the kernel has no cgroup.kill.
        let name = format!("guestd-frozen-{}", std::process::id());
        let cgroup = CgroupParent::detect().unwrap().create(&name).unwrap();
        let mut child = std::process::Command::new("sleep").arg("600").spawn().unwrap();
        std::fs::write(cgroup.path().join("cgroup.procs"), child.id().to_string()).unwrap();
        cgroup.freeze().unwrap();
        for pid in cgroup.members().unwrap() {
            tell(&Pidfd::open(pid).unwrap(), libc::SIGKILL);
        }
        assert_eq!(child.wait().unwrap().signal(), Some(libc::SIGKILL));
        cgroup.remove().unwrap();
    }
}
