//! What the protocol does to a VM, as small deeds: the task decides when, a real VM or a test's record of one does them.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use super::hooks::{Hook, HookStage};
use super::identity::Identity;
use super::order::Order;
use super::saved::Saved;
use crate::api::{GenerationKind, StepOutcome};

/// What came of a deed, in a sentence.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Effect {
    /// Done, nothing to do, or failed.
    pub outcome: StepOutcome,
    /// What was done, or why not.
    pub message: String,
}

impl Effect {
    /// Done.
    pub fn done(message: impl Into<String>) -> Self {
        Self { outcome: StepOutcome::Done, message: message.into() }
    }

    /// There was nothing to do.
    pub fn skipped(message: impl Into<String>) -> Self {
        Self { outcome: StepOutcome::Skipped, message: message.into() }
    }

    /// It could not be done.
    pub fn failed(message: impl Into<String>) -> Self {
        Self { outcome: StepOutcome::Failed, message: message.into() }
    }
}

/// The deeds. None of them is undone by being dropped. Those that are no futures and may wait for a disk (thaw, identity, environment, hooks)
/// are to be done on a thread for that.
pub trait Effects: Send + Sync + 'static {
    /// CLOCK_REALTIME since 1970.
    fn now(&self) -> Duration;

    /// Writes down where the protocol is, in memory.
    fn save(&self, saved: &Saved) -> Result<(), String>;

    /// Lets commands start, or has them wait.
    fn gate(&self, open: bool);

    /// Where those commands are that must not run in a copy, for a successor that has to let them go on.
    fn to_hold(&self) -> impl Future<Output = Vec<PathBuf>> + Send;

    /// Has them stand still.
    fn hold(&self) -> impl Future<Output = Effect> + Send;

    /// Lets them run on.
    fn release(&self);

    /// Lets those run on that a predecessor held.
    fn release_left(&self, held: &[PathBuf]);

    /// Writes the root file system out and freezes it; it thaws by itself after `watchdog`, whatever becomes of the task.
    fn freeze(&self, watchdog: Duration) -> impl Future<Output = Effect> + Send;

    /// It stays frozen for so long from now on; false where it is not frozen any more.
    fn stay_frozen(&self, time: Duration) -> bool;

    /// Thaws it. To be called whether it is frozen or not.
    fn thaw(&self) -> Effect;

    /// Fresh random numbers, from these bytes, or as well as the VM can by itself where there are none.
    fn entropy(&self, bytes: &[u8]) -> Effect;

    /// Sets the clock, unless it is right.
    fn clock(&self, to: Duration) -> Effect;

    /// Host name, name servers, machine id and the files that tell who this VM is, and who it was. `again`: the same announcement was carried out
    /// before, and what belongs to this VM since stays.
    fn identity(&self, former: &Identity, identity: &Identity, order: &Order, again: bool) -> Effect;

    /// The account's variables.
    fn environment(&self, env: Option<&BTreeMap<String, String>>, vm_id: Option<&str>) -> Effect;

    /// Addresses and routes; in a copy, connections of the VM that it was, unless it is `again`.
    fn network(&self, order: &Order, again: bool) -> impl Future<Output = Effect> + Send;

    /// SSH keys and host keys.
    fn ssh(&self, order: &Order, vm_id: Option<&str>) -> impl Future<Output = Effect> + Send;

    /// Commands that came along.
    fn inherit(&self, kind: GenerationKind, id: &str) -> Effect;

    /// The hooks of a stage, in their order; and what there is that is none.
    fn hooks(&self, stage: HookStage) -> Vec<Result<Hook, String>>;

    /// Runs one, for no longer than its stage allows.
    fn run_hook(&self, hook: &Hook, identity: &Identity) -> impl Future<Output = Effect> + Send;

    /// Tells the VM's init that there is a new generation.
    fn tell_init(&self) -> impl Future<Output = Effect> + Send;

    /// The last sign for those in the VM that wait for it: who this VM is holds now.
    fn announce(&self, identity: &Identity) -> Effect;
}
