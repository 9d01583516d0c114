//! What to say to the registry, and when. Pure: the runner brings the time, the randomness and the answers.
//!
//! ```text
//!             ┌───────────── 404 ──────────────┐
//!             ▼                                │
//!  unregistered ── POST: 201 ────────────> registered ── heartbeats, PATCH when something changed
//!             └─── POST: 409 ── PATCH ─────────┘
//! ```
//!
//! Whatever fails is tried again: soon and then ever later if it may come right by itself, slowly if somebody has to set it right. A
//! heartbeat does not wait for a change that the registry refuses, so that the entry stays fresh.

use std::time::Duration;

use tokio::time::Instant;

use super::{
    answer::{Call, Outcome},
    content::Content,
};
use crate::limits;

/// What is to be done now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Next {
    /// This call.
    Send(Call),
    /// Nothing until then.
    Wait(Instant),
}

/// How far it is with the entry of one VM id.
#[derive(Debug)]
pub(super) struct Course {
    heartbeat: Duration,
    registered: bool,
    /// The registry may have an entry that this agent has made or changed.
    may_be_known: bool,
    /// A call is under way.
    under_way: bool,
    /// What the registry has taken.
    told: Option<Content>,
    /// Nothing is sent before.
    not_before: Instant,
    /// No change is sent before.
    update_not_before: Instant,
    heartbeat_due: Instant,
    /// Calls in a row that have come to nothing.
    failures: u32,
    trouble: Option<Trouble>,
    last_heartbeat: Option<Instant>,
}

/// What went wrong last.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Trouble {
    pub(super) call: Call,
    pub(super) why: String,
}

impl Course {
    pub(super) fn new(heartbeat: Duration, now: Instant) -> Self {
        Self {
            heartbeat,
            registered: false,
            may_be_known: false,
            under_way: false,
            told: None,
            not_before: now,
            update_not_before: now,
            heartbeat_due: now,
            failures: 0,
            trouble: None,
            last_heartbeat: None,
        }
    }

    /// What is to be done, if `wanted` is to be known.
    pub(super) fn next(&self, wanted: &Content, now: Instant) -> Next {
        if now < self.not_before {
            return Next::Wait(self.not_before);
        }
        if !self.registered {
            return Next::Send(Call::Register);
        }
        let update = self.told.as_ref() != Some(wanted);
        let failed_update = self.trouble.as_ref().is_some_and(|trouble| trouble.call == Call::Update);
        match &self.told {
            // An entry that somebody else has made: it is set right before it is kept fresh, unless that fails.
            None if now >= self.update_not_before && !failed_update => Next::Send(Call::Update),
            _ if now >= self.heartbeat_due => Next::Send(Call::Heartbeat),
            _ if update && now >= self.update_not_before => Next::Send(Call::Update),
            _ if update => Next::Wait(self.update_not_before.min(self.heartbeat_due)),
            _ => Next::Wait(self.heartbeat_due),
        }
    }

    /// A call is about to be made whose answer may get lost.
    pub(super) fn sending(&mut self) {
        self.under_way = true;
    }

    /// What `call`, which told `content`, has come to. `random` spreads the next one.
    pub(super) fn answered(&mut self, call: Call, content: &Content, outcome: Outcome, now: Instant, random: u32) {
        self.under_way = false;
        match outcome {
            Outcome::Done => self.done(call, content, now, random),
            Outcome::Known => {
                (self.registered, self.told, self.may_be_known) = (true, None, true);
                self.trouble = None;
                (self.update_not_before, self.heartbeat_due) = (now, now);
            }
            Outcome::Unknown => {
                (self.registered, self.told, self.may_be_known) = (false, None, false);
                self.failures = self.failures.saturating_add(1);
                if self.failures > 1 {
                    let why = "it answered 404, though it says that it has this VM".to_owned();
                    self.trouble = Some(Trouble { call, why });
                }
                // Once at once; a registry that forgets at every turn is not asked at every turn.
                self.not_before = if self.failures == 1 { now } else { now + pause(self.failures, random) };
            }
            Outcome::Refused { why, content } => {
                self.trouble = Some(Trouble { call, why });
                let until = now + limits::REGISTRY_REFUSED_PAUSE - part(limits::REGISTRY_REFUSED_PAUSE / 2, random);
                if content && call == Call::Update {
                    self.update_not_before = until;
                } else {
                    self.not_before = until;
                }
            }
            Outcome::Again { why, sent, after } => {
                self.trouble = Some(Trouble { call, why });
                self.failures = self.failures.saturating_add(1);
                self.not_before = now + after.unwrap_or_default() + pause(self.failures, random);
                self.may_be_known |= sent;
                if sent && call == Call::Update {
                    // Which of the two it has is not known.
                    self.told = None;
                }
            }
        }
    }

    fn done(&mut self, call: Call, content: &Content, now: Instant, random: u32) {
        self.may_be_known = true;
        // A change that is taken says nothing of the heartbeat after it, which may find no entry again.
        if call != Call::Update {
            self.failures = 0;
        }
        // A heartbeat that is answered says nothing of a change that was refused.
        if call != Call::Heartbeat || self.trouble.as_ref().is_some_and(|trouble| trouble.call != Call::Update) {
            self.trouble = None;
        }
        if call == Call::Heartbeat {
            self.last_heartbeat = Some(now);
        } else {
            self.told = Some(content.clone());
        }
        if call != Call::Update {
            self.registered = true;
            // Never later than it was asked for, and clones that began together drift apart.
            self.heartbeat_due = now + self.heartbeat - part(self.heartbeat / 10, random);
        }
    }

    /// Has the registry an entry of this VM, as far as this agent knows?
    pub(super) fn registered(&self) -> bool {
        self.registered
    }

    /// Is there something to be taken out of the registry at the end?
    pub(super) fn may_be_known(&self) -> bool {
        self.may_be_known || self.under_way
    }

    /// What went wrong last and has not come right since. A change that is not wanted any more is none.
    pub(super) fn trouble(&self, wanted: &Content) -> Option<&Trouble> {
        self.trouble.as_ref().filter(|trouble| trouble.call != Call::Update || self.told.as_ref() != Some(wanted))
    }

    /// When the last heartbeat was answered.
    pub(super) fn last_heartbeat(&self) -> Option<Instant> {
        self.last_heartbeat
    }
}

/// Twice as long after each failure, up to a minute; of it half is left to chance.
fn pause(failures: u32, random: u32) -> Duration {
    let (first, longest) = limits::REGISTRY_RETRY;
    let doubled = 1_u32.checked_shl(failures.saturating_sub(1)).unwrap_or(u32::MAX);
    let whole = first.saturating_mul(doubled).min(longest);
    whole / 2 + part(whole / 2, random)
}

/// A part of `whole`, from nothing to nearly all.
fn part(whole: Duration, random: u32) -> Duration {
    whole.mul_f64(f64::from(random) / (f64::from(u32::MAX) + 1.0))
}

#[cfg(test)]
mod tests;
