//! Execs across a restore: which of them came along, up to where their output is that of the VM that was committed, and what becomes of
//! them.
//!
//! From `hold` to `release` the commands that must not run in a copy stand still, so that a snapshot taken meanwhile has them
//! standing still, and none of their instructions is carried out twice.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::{Arc, MutexGuard, PoisonError};
use std::time::Duration;

use super::error::ExecError;
use super::execs::Execs;
use super::record::Exec;
use crate::api::{ExecState, GenerationKind, OnBranch};
use crate::limits;

/// For commands that were let in last to have a process. It takes a millisecond or two.
const START_TIME: Duration = Duration::from_millis(500);

/// For the commands that are to stand still to do so. It takes microseconds, unless one is in the kernel.
const HOLD_TIME: Duration = Duration::from_millis(10);
const HOLD_LOOK: Duration = Duration::from_micros(500);

/// Where the output of an exec that was restored with the VM forks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fork {
    /// The generation that it was carried into.
    pub generation: String,
    /// The end of its output then.
    pub cursor: u64,
}

/// The present generation, and those before it whose output this VM goes on with.
#[derive(Debug, Default)]
pub(super) struct Lineage {
    present: Option<Arc<str>>,
    /// Since the last copy; the latest last.
    same: VecDeque<Arc<str>>,
}

impl Lineage {
    fn go_on(&mut self, generation: &str, is_copy: bool) {
        let former = self.present.replace(generation.into());
        if is_copy {
            self.same.clear();
        } else {
            self.same.extend(former);
            let over = self.same.len().saturating_sub(limits::GENERATIONS_REMEMBERED);
            self.same.drain(..over);
        }
    }

    fn has(&self, generation: &str) -> bool {
        self.present.iter().chain(&self.same).any(|known| **known == *generation)
    }
}

/// Commands that were to stand still, and those that do.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Held {
    /// That are not to run in a copy.
    pub asked: usize,
    /// Of these, that stand still.
    pub still: usize,
}

/// What became of the execs of a VM that was restored.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Inherited {
    /// It was done before, for the same generation, and not again.
    pub again: bool,
    /// That run on.
    pub kept: usize,
    /// That stand still.
    pub frozen: usize,
    /// That were to stand still and could not be stopped.
    pub unstopped: usize,
    /// That were ended.
    pub killed: usize,
    /// Records of ended ones.
    pub records: usize,
}

impl Execs {
    /// No command is started from now on; requests for one wait.
    pub fn close_gate(&self) {
        self.0.gate.close();
    }

    /// Requests that wait at the gate.
    pub fn waiting(&self) -> usize {
        self.0.gate.waiting()
    }

    /// Commands may be started.
    pub fn open_gate(&self) {
        self.0.gate.open();
    }

    /// Where the commands are that are not to run on in a branch, as far as they have cgroups. With the gate closed, so that there will be no
    /// others; those that it has just let in are waited for.
    pub async fn to_hold(&self) -> Vec<PathBuf> {
        let started = async {
            while self.list().iter().any(|exec| exec.is_starting()) {
                tokio::time::sleep(HOLD_LOOK).await;
            }
        };
        // One that cannot be started for so long is not in the commit's way.
        let _ = tokio::time::timeout(START_TIME, started).await;
        let held = self.list().into_iter().filter(|exec| exec.on_branch() != OnBranch::Keep);
        held.filter_map(|exec| exec.cgroup()).collect()
    }

    /// Has them stand still, and notes of all how far they have come.
    pub async fn hold(&self) -> Held {
        let all = self.list();
        let asked: Vec<_> =
            all.iter().filter(|exec| exec.on_branch() != OnBranch::Keep && exec.freeze().is_some()).collect();
        let still = async {
            while asked.iter().any(|exec| !exec.stands_still()) {
                tokio::time::sleep(HOLD_LOOK).await;
            }
        };
        // One that is in the kernel stands still as soon as it would come out of there.
        let _ = tokio::time::timeout(HOLD_TIME, still).await;
        let still = asked.iter().filter(|exec| exec.stands_still()).count();
        let asked = asked.len();
        for exec in &all {
            exec.note_commit(exec.on_branch() != OnBranch::Keep && exec.stands_still());
        }
        Held { asked, still }
    }

    /// Lets those run on that [`Execs::hold`] holds; what is frozen by a branch stays so.
    pub fn release(&self) {
        let held = |exec: &&Arc<Exec>| exec.on_branch() != OnBranch::Keep && !exec.is_frozen();
        self.list().iter().filter(held).for_each(|exec| exec.unfreeze());
    }

    /// The VM is another one, or the same again: marks what came along to another one, and does with it what was asked for. Once for each
    /// generation: what was started in it since belongs to it.
    pub fn inherit(&self, kind: GenerationKind, generation: &str) -> Inherited {
        if self.generation().as_deref() == Some(generation) {
            return Inherited { again: true, ..Inherited::default() };
        }
        let mut inherited = Inherited::default();
        let is_copy = matches!(kind, GenerationKind::Branch | GenerationKind::Rollback);
        if is_copy {
            self.0.gate.turn();
        }
        for exec in self.list() {
            if is_copy {
                exec.mark(generation);
            }
            if exec.status().state == ExecState::Exited {
                inherited.records += 1;
                continue;
            }
            match (kind, exec.on_branch()) {
                (GenerationKind::Branch, OnBranch::Freeze) => match exec.freeze_for_good() {
                    Some(true) => inherited.frozen += 1,
                    Some(false) => inherited.unstopped += 1,
                    None => inherited.records += 1,
                },
                (GenerationKind::Branch, OnBranch::Kill) => {
                    exec.kill();
                    inherited.killed += 1;
                }
                _ => inherited.kept += 1,
            }
        }
        self.lineage().go_on(generation, is_copy);
        inherited
    }

    /// The present generation, of which an agent before this one was told.
    pub fn restore_generation(&self, generation: Option<&str>) {
        *self.lineage() = Lineage { present: generation.map(Into::into), same: VecDeque::new() };
    }

    /// The present generation.
    pub fn generation(&self) -> Option<Arc<str>> {
        self.lineage().present.clone()
    }

    fn lineage(&self) -> MutexGuard<'_, Lineage> {
        self.0.lineage.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The exec of this id, for one who will read it from `cursor` on, which is of `generation` if that is said.
    ///
    /// # Errors
    /// There is no such exec, or the cursor is one of another generation, whose output is not this one's.
    pub fn get_at(&self, id: &str, cursor: Option<u64>, generation: Option<&str>) -> Result<Arc<Exec>, ExecError> {
        let exec = self.get(id)?;
        let (is_other, present) = {
            let lineage = self.lineage();
            (generation.is_some_and(|generation| !lineage.has(generation)), lineage.present.clone())
        };
        let end = exec.fork().map(|fork| fork.cursor);
        // Up to the fork both have the same, so that there a cursor needs no generation.
        let is_unclear = generation.is_none() && end.zip(cursor).is_some_and(|(end, cursor)| cursor > end);
        if is_other || is_unclear {
            return Err(ExecError::StaleCursor {
                id: id.to_owned(),
                fork: end.unwrap_or_default(),
                generation: present.map(|present| present.to_string()),
            });
        }
        Ok(exec)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn after_a_pause_cursors_go_on_and_after_a_branch_those_of_before_do_not() {
        let mut lineage = Lineage::default();
        lineage.go_on("one", true);
        lineage.go_on("two", false);
        assert!(lineage.has("one") && lineage.has("two"));
        lineage.go_on("three", true);
        assert!(lineage.has("three") && !lineage.has("one") && !lineage.has("two"));
        for n in 0..limits::GENERATIONS_REMEMBERED * 2 {
            lineage.go_on(&n.to_string(), false);
        }
        assert!(!lineage.has("three") && lineage.same.len() == limits::GENERATIONS_REMEMBERED);
    }
}
