//! The states of the protocol, as a value: what a call means, decided from what was before. It is written to `/run` before the first deed
//! and after the last, so that a successor of a killed agent knows what that was about.

use std::collections::VecDeque;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::api::{ErrorCode, GenerationKind, GenerationPhase, RestoreSign};
use crate::limits;

/// An announcement as far as it counts here.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Announcement {
    /// Its id.
    pub id: String,
    /// What happened.
    pub kind: GenerationKind,
    /// The VM from now on; none: as before.
    pub vm_id: Option<String>,
    /// The VM that was branched, if that was said.
    pub parent_vm_id: Option<String>,
    /// The commit.
    pub commit_id: Option<String>,
    /// Stands for all of its content but what is fresh in each attempt.
    pub fingerprint: u64,
}

/// A generation that was announced.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Current {
    /// The announcement.
    pub announced: Announcement,
    /// Every step did what it should.
    pub complete: bool,
}

/// What is to be done about an announcement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Carry it out.
    Run,
    /// It was carried out; answer as before.
    Replay,
}

/// Why an announcement is not carried out. Nothing has changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// A former generation.
    #[error("generation {id:?} is over, {current:?} has followed it; announce a restore under an id of its own")]
    Stale {
        /// What was announced.
        id: String,
        /// The present one.
        current: String,
    },
    /// The id of the present generation with another content.
    #[error("generation {id:?} was announced with another content; announce what is new under a new id")]
    Changed {
        /// What was announced.
        id: String,
    },
    /// A branch of another VM.
    #[error(
        "the announcement is for a branch of VM {announced:?}, and this is VM {vm_id:?} or a copy of it: it may be meant for another VM"
    )]
    OtherParent {
        /// The parent that was named.
        announced: String,
        /// What the VM knows itself by.
        vm_id: String,
    },
}

impl Refusal {
    /// For programs.
    pub fn code(&self) -> ErrorCode {
        match self {
            Self::Stale { .. } => ErrorCode::StaleGeneration,
            Self::Changed { .. } | Self::OtherParent { .. } => ErrorCode::Conflict,
        }
    }
}

/// Where the protocol is.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Machine {
    phase: Phase,
    current: Option<Current>,
    vm_id: Option<String>,
    /// Ids that were announced before the present one, the latest last.
    past: VecDeque<String>,
    /// An announcement that an agent was killed in.
    interrupted: Option<String>,
    unacked: Vec<RestoreSign>,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
enum Phase {
    #[default]
    Running,
    Prepared {
        frozen: bool,
    },
    Restoring {
        announced: Announcement,
    },
}

impl Machine {
    /// One that knows the VM by its configuration.
    pub fn new(vm_id: Option<String>) -> Self {
        Self { vm_id, ..Self::default() }
    }

    /// What an agent finds that its predecessor left: everything is to be thawed. The announcement that was under way is to be made
    /// again, as nobody knows what of it was done.
    pub fn recovered(mut self) -> Self {
        if let Phase::Restoring { announced } = std::mem::take(&mut self.phase) {
            self.interrupted = Some(announced.id);
        }
        self
    }

    /// Where it is, for showing.
    pub fn phase(&self) -> GenerationPhase {
        match self.phase {
            Phase::Running => GenerationPhase::Running,
            Phase::Prepared { .. } => GenerationPhase::Prepared,
            Phase::Restoring { .. } => GenerationPhase::Restoring,
        }
    }

    /// May commands start?
    pub fn is_open(&self) -> bool {
        self.phase == Phase::Running
    }

    /// The present generation.
    pub fn current(&self) -> Option<&Current> {
        self.current.as_ref()
    }

    /// Its id.
    pub fn id(&self) -> Option<&str> {
        self.current.as_ref().map(|current| current.announced.id.as_str())
    }

    /// Who this VM is.
    pub fn vm_id(&self) -> Option<&str> {
        self.vm_id.as_deref()
    }

    /// The announcement that has to be made again.
    pub fn interrupted(&self) -> Option<&str> {
        self.interrupted.as_deref()
    }

    /// Signs of a restore that nobody has announced.
    pub fn unacked(&self) -> &[RestoreSign] {
        &self.unacked
    }

    /// A snapshot is about to be taken. Whether the disk is to be frozen now.
    pub fn prepare(&mut self, freeze: bool) -> bool {
        let already = matches!(self.phase, Phase::Prepared { frozen: true });
        self.phase = Phase::Prepared { frozen: freeze || already };
        freeze && !already
    }

    /// Whether the disk was to be frozen, and is as far as anybody knows.
    pub fn is_frozen(&self) -> bool {
        matches!(self.phase, Phase::Prepared { frozen: true })
    }

    /// It could not be frozen, or has thawed: the next call for it is to freeze it.
    pub fn is_not_frozen(&mut self) {
        if let Phase::Prepared { frozen } = &mut self.phase {
            *frozen = false;
        }
    }

    /// Commands may start again: the host says so, or was silent for too long. Whether they might not before.
    pub fn thaw(&mut self) -> bool {
        let held = matches!(self.phase, Phase::Prepared { .. });
        if held {
            self.phase = Phase::Running;
        }
        held
    }

    /// The host announces a generation. After [`Verdict::Run`], [`Machine::finish`] is to be called.
    pub fn announce(&mut self, announced: Announcement) -> Result<Verdict, Refusal> {
        let again = self.interrupted.as_deref() == Some(&announced.id);
        let id = || announced.id.clone();
        match &self.current {
            Some(current) if current.announced.id == announced.id => {
                if current.announced.fingerprint != announced.fingerprint {
                    return Err(Refusal::Changed { id: id() });
                }
                if current.complete && !again {
                    return Ok(Verdict::Replay);
                }
            }
            Some(current) if self.past.contains(&announced.id) => {
                return Err(Refusal::Stale { id: id(), current: current.announced.id.clone() });
            }
            _ if !again && announced.kind == GenerationKind::Branch => {
                let named = announced.parent_vm_id.as_ref().zip(self.vm_id.as_ref());
                if let Some((parent, vm_id)) = named.filter(|(parent, vm_id)| parent != vm_id) {
                    return Err(Refusal::OtherParent { announced: parent.clone(), vm_id: vm_id.clone() });
                }
            }
            _ => {}
        }
        self.phase = Phase::Restoring { announced };
        Ok(Verdict::Run)
    }

    /// The steps of the announcement were tried, all of them with success or not. Commands may start again.
    pub fn finish(&mut self, complete: bool) {
        let Phase::Restoring { announced } = std::mem::take(&mut self.phase) else { return };
        let former = self.current.take().filter(|former| former.announced.id != announced.id);
        if let Some(former) = former {
            self.past.push_back(former.announced.id);
            let over = self.past.len().saturating_sub(limits::GENERATIONS_REMEMBERED);
            self.past.drain(..over);
        }
        if let Some(vm_id) = &announced.vm_id {
            self.vm_id = Some(vm_id.clone());
        }
        self.interrupted = None;
        self.unacked.clear();
        self.current = Some(Current { announced, complete });
    }

    /// What was done after the answer has failed: the same announcement again repeats it.
    pub fn failed_afterwards(&mut self) {
        if let Some(current) = &mut self.current {
            current.complete = false;
        }
    }

    /// There is a sign of a restore, so long after the last announcement was carried out. Whether it is news: right after an announcement it
    /// belongs to that, and in the midst of one too.
    pub fn sign(&mut self, sign: RestoreSign, after: Option<Duration>) -> bool {
        let late = after.is_some_and(|after| after < limits::RESTORE_SIGN_GRACE);
        if late || matches!(self.phase, Phase::Restoring { .. }) || self.unacked.len() >= limits::RESTORE_SIGNS {
            return false;
        }
        self.unacked.push(sign);
        true
    }
}

#[cfg(test)]
mod tests;
