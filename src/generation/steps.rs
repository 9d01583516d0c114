//! What is done, in which order, and the report of it.

use std::time::{Duration, Instant};

use tokio::time::timeout;

use super::effects::Effect;
use super::fault;
use crate::api::{StepOutcome, StepReport};
use crate::limits;

/// The steps of an announcement, in order. Random numbers first: all that is made anew afterwards is made of them. The gate opens last, and
/// what makes it open does not depend on what the others did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// New commands wait.
    Gate,
    /// Random numbers.
    Entropy,
    /// Wall clock.
    Clock,
    /// Host name, name servers, machine id, identity file.
    Identity,
    /// Account variables.
    Env,
    /// Addresses and connections.
    Network,
    /// SSH keys.
    Ssh,
    /// Commands that came along.
    Execs,
    /// Hooks, before anything new runs.
    Hooks,
    /// Disk and held commands.
    Thaw,
    /// New commands start.
    Ready,
}

impl Step {
    /// All of them, in order.
    pub const ORDER: [Self; 11] = [
        Self::Gate,
        Self::Entropy,
        Self::Clock,
        Self::Identity,
        Self::Env,
        Self::Network,
        Self::Ssh,
        Self::Execs,
        Self::Hooks,
        Self::Thaw,
        Self::Ready,
    ];

    /// Its name in reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::Gate => "gate",
            Self::Entropy => "entropy",
            Self::Clock => "clock",
            Self::Identity => "identity",
            Self::Env => "env",
            Self::Network => "network",
            Self::Ssh => "ssh",
            Self::Execs => "execs",
            Self::Hooks => "hooks",
            Self::Thaw => "thaw",
            Self::Ready => "ready",
        }
    }
}

/// The report, as it comes about.
#[derive(Debug, Default)]
pub(super) struct Steps(pub(super) Vec<StepReport>);

impl Steps {
    /// Does a step, for no longer than any may take, and notes what came of it.
    pub(super) async fn take(&mut self, name: &str, deed: impl Future<Output = Effect>) {
        self.take_within(limits::GENERATION_STEP_TIME, name, deed).await;
    }

    /// The same, of which nothing is said where there was nothing to do.
    pub(super) async fn take_unless_skipped(&mut self, name: &str, deed: impl Future<Output = Effect>) {
        self.take(name, deed).await;
        self.0.pop_if(|step| step.outcome == StepOutcome::Skipped);
    }

    /// The same for no longer than this.
    pub(super) async fn take_within(&mut self, time: Duration, name: &str, deed: impl Future<Output = Effect>) {
        let begun = Instant::now();
        fault::point(name);
        let secs = time.as_secs();
        let late = |_| Effect::failed(format!("it was not done within {secs} s, and the rest did not wait for it"));
        let effect = timeout(time, deed).await.unwrap_or_else(late);
        self.note(name, effect, begun.elapsed());
    }

    /// Notes one that was done.
    pub(super) fn note(&mut self, name: &str, effect: Effect, took: Duration) {
        let Effect { outcome, message } = effect;
        if outcome == StepOutcome::Failed {
            tracing::warn!(step = name, why = message, "a step around a restore failed");
        }
        self.0.push(StepReport { step: name.to_owned(), outcome, message, took_ms: millis(took) });
    }

    /// Whether the step of this name was done.
    pub(super) fn has_done(&self, name: &str) -> bool {
        self.0.iter().any(|step| step.step == name && step.outcome == StepOutcome::Done)
    }

    /// Whether none has failed.
    pub(super) fn complete(&self) -> bool {
        self.0.iter().all(|step| step.outcome != StepOutcome::Failed)
    }
}

/// In milliseconds, to the microsecond.
pub(super) fn millis(time: Duration) -> f64 {
    (time.as_secs_f64() * 1e6).round() / 1e3
}
