//! The task that owns the protocol: it carries out one call after the other, watches over a VM that was prepared, and tells everybody
//! where it is.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until, timeout};
use tokio_util::sync::CancellationToken;

use super::effects::{Effect, Effects};
use super::handle::{Call, GenerationHandle};
use super::hooks::HookStage;
use super::identity::Identity;
use super::machine::{Refusal, Verdict};
use super::order::Order;
use super::saved::Saved;
use super::steps::{Step, Steps, millis};
use crate::api::{
    GenerationPhase, GenerationReport, GenerationState, SnapshotPrepare, SnapshotReport, StepOutcome, StepReport,
};
use crate::limits;

/// The watchdog's tick, and the most that one counts for: where the clock jumps, the host has not had that time.
const TICK: Duration = Duration::from_secs(1);

/// Calls that wait for the task.
const QUEUED_CALLS: usize = 16;

/// The task, before it runs.
#[derive(Debug)]
pub struct Generations<E: Effects> {
    effects: Arc<E>,
    domain: String,
    saved: Saved,
    calls: mpsc::Receiver<Call>,
    state: watch::Sender<Arc<GenerationState>>,
    identity: watch::Sender<Arc<Identity>>,
    watchdog: Option<Watchdog>,
    /// When the last announcement was carried out, if nothing was committed since.
    acked: Option<Instant>,
    /// Hooks that run after an answer.
    after: JoinSet<(String, Vec<StepReport>)>,
}

/// Time until a VM that was prepared thaws by itself.
#[derive(Debug)]
struct Watchdog {
    left: Duration,
    tick: Instant,
}

/// Whatever comes, panics among it, the VM does not stay closed.
struct Closed<E: Effects>(Option<Arc<E>>);

impl<E: Effects> Closed<E> {
    fn new(effects: &Arc<E>) -> Self {
        effects.gate(false);
        Self(Some(Arc::clone(effects)))
    }

    /// It is to stay closed.
    fn keep(mut self) {
        self.0.take();
    }
}

impl<E: Effects> Drop for Closed<E> {
    fn drop(&mut self) {
        if let Some(effects) = self.0.take() {
            effects.release();
            effects.gate(true);
            // It may have to wait for the disk. Without a thread to be had, the freezer's own does it, at the end of its time.
            let _ = std::thread::Builder::new().spawn(move || effects.thaw());
        }
    }
}

/// What may wait for a disk.
type Deed<E> = Box<dyn FnOnce(&E) -> Effect + Send>;

/// Does it on a thread for that: the time of whoever waits here goes on.
async fn aside<E: Effects>(effects: &Arc<E>, deed: Deed<E>) -> Effect {
    let effects = Arc::clone(effects);
    let done = tokio::task::spawn_blocking(move || deed(&effects)).await;
    done.unwrap_or_else(|error| Effect::failed(format!("it ended by a fault of guestd's: {error}")))
}

impl<E: Effects> Generations<E> {
    /// Goes on from what an agent before this one has left, if there was one in this boot.
    pub fn new(effects: E, saved: Saved, domain: &str) -> (Self, GenerationHandle) {
        let (send, calls) = mpsc::channel(QUEUED_CALLS);
        let saved = Saved { machine: saved.machine.recovered(), ..saved };
        let (state, states) = watch::channel(Arc::new(told(&saved)));
        let (identity, identities) = watch::channel(Arc::new(saved.identity.clone()));
        let handle = GenerationHandle { calls: send, state: states, identity: identities };
        let domain = domain.to_owned();
        let effects = Arc::new(effects);
        let after = JoinSet::new();
        (Self { effects, domain, saved, calls, state, identity, watchdog: None, acked: None, after }, handle)
    }

    /// Carries out calls until `stop`. At its beginning and its end the VM is open.
    pub async fn run(mut self, stop: CancellationToken) {
        // Whatever an agent before this one has left frozen, and whatever is known of that.
        let thawed = timeout(limits::GENERATION_STEP_TIME, aside(&self.effects, Box::new(E::thaw))).await;
        match thawed {
            Ok(Effect { outcome: StepOutcome::Skipped, .. }) => {}
            Ok(effect) => tracing::warn!(outcome = ?effect.outcome, message = effect.message, "thawed what was left"),
            Err(_) => tracing::warn!("thawing what may have been left takes longer than a step may"),
        }
        if let Some(id) = self.saved.machine.interrupted() {
            tracing::warn!(id, "an agent before this one was ended in the midst of an announcement");
        }
        self.effects.release_left(&std::mem::take(&mut self.saved.held));
        if self.saved.hooks_due.is_some() {
            let (effects, identity) = (Arc::clone(&self.effects), self.saved.identity.clone());
            self.after.spawn(post_restore(effects, identity));
        }
        self.keep();
        loop {
            let tick = self.watchdog.as_ref().map(|watchdog| watchdog.tick);
            tokio::select! {
                call = self.calls.recv() => match call {
                    Some(call) => self.carry_out(call).await,
                    None => break,
                },
                () = sleep_until(tick.unwrap_or_else(Instant::now)), if tick.is_some() => self.tick().await,
                Some(done) = self.after.join_next() => self.hooks_are_over(done.unwrap_or_default()),
                () = stop.cancelled() => break,
            }
        }
        if !self.saved.machine.is_open() {
            self.thaw(None).await;
        }
        // They are due still, and a successor begins them anew.
        self.after.shutdown().await;
    }

    async fn carry_out(&mut self, call: Call) {
        // Whoever asked may have gone; what was done stands.
        match call {
            Call::Prepare(order, answer) => {
                let report = self.prepare(order).await;
                let _ = answer.send(report);
            }
            Call::Thaw(clock, answer) => {
                let report = self.thaw(clock).await;
                let _ = answer.send(report);
            }
            Call::Announce(order, answer) => {
                let (order, received) = *order;
                let report = self.announce(Arc::new(order), received).await;
                let _ = answer.send(report);
            }
            Call::Sign(sign, seen) => {
                let text = sign.message.clone();
                // One that was seen before the announcement was carried out may be heard of after that.
                let after = self.acked.map(|acked| seen.saturating_duration_since(acked));
                if self.saved.machine.sign(sign, after) {
                    tracing::warn!(sign = text, "the VM was restored, and the host has not announced it");
                    self.keep();
                }
            }
            Call::Mended(mended) => {
                self.saved.resumed.push(mended);
                let over = self.saved.resumed.len().saturating_sub(limits::RESTORE_SIGNS);
                self.saved.resumed.drain(..over);
                self.keep();
            }
        }
    }

    async fn prepare(&mut self, order: SnapshotPrepare) -> SnapshotReport {
        let begun = Instant::now();
        let time = order.watchdog_secs.map_or(limits::SNAPSHOT_WATCHDOG, Duration::from_secs);
        let is_again = self.saved.machine.phase() == GenerationPhase::Prepared;
        if self.saved.machine.is_frozen() && !self.effects.stay_frozen(time) {
            self.saved.machine.is_not_frozen();
        }
        let freeze = self.saved.machine.prepare(order.freeze);
        if let Some(report) = self.saved.snapshot.clone().filter(|_| is_again && !freeze) {
            // Its answer was lost, or more time is wanted.
            self.watch_over(time);
            return report;
        }
        // What comes after a commit is told by its own announcement.
        self.acked = None;
        let effects = Arc::clone(&self.effects);
        let closed = Closed::new(&effects);
        self.show();
        let mut steps = Steps::default();
        steps.take("gate", async { self.save("new execs wait") }).await;
        self.run_hooks(&mut steps, HookStage::PreSnapshot).await;
        self.saved.held = effects.to_hold().await;
        super::fault::point("hold");
        let written = self.save("");
        steps.take("execs", effects.hold()).await;
        if written.outcome == StepOutcome::Failed {
            steps.note("execs", written, begun.elapsed());
        }
        if freeze {
            steps.take("freeze", effects.freeze(time)).await;
            if !steps.has_done("freeze") {
                self.saved.machine.is_not_frozen();
            }
        }
        super::fault::point("prepared");
        self.watch_over(time);
        let report = self.snapshot(steps, begun);
        closed.keep();
        report
    }

    fn watch_over(&mut self, left: Duration) {
        self.watchdog = Some(Watchdog { left, tick: Instant::now() + TICK });
    }

    async fn tick(&mut self) {
        let Some(watchdog) = &mut self.watchdog else { return };
        watchdog.left = watchdog.left.saturating_sub(TICK);
        watchdog.tick = Instant::now() + TICK;
        if watchdog.left.is_zero() {
            tracing::warn!("prepared for a commit, and no word of the host since: thawing");
            self.thaw(None).await;
        }
    }

    async fn thaw(&mut self, clock: Option<(Duration, Instant)>) -> SnapshotReport {
        let begun = Instant::now();
        let mut steps = Steps::default();
        let held = self.saved.machine.thaw();
        self.watchdog = None;
        steps.take("thaw", aside(&self.effects, Box::new(E::thaw))).await;
        if let Some((clock, received)) = clock {
            let (effects, to) = (&self.effects, clock + received.elapsed());
            steps.take("clock", async { effects.clock(to) }).await;
        }
        self.effects.release();
        self.saved.held.clear();
        let gate = if held { Effect::done("execs start") } else { Effect::skipped("it was open") };
        self.effects.gate(true);
        steps.note("gate", gate, begun.elapsed());
        self.snapshot(steps, begun)
    }

    fn snapshot(&mut self, steps: Steps, begun: Instant) -> SnapshotReport {
        let report = SnapshotReport {
            phase: self.saved.machine.phase(),
            generation_id: self.saved.machine.id().map(str::to_owned),
            complete: steps.complete(),
            steps: steps.0,
            took_ms: millis(begun.elapsed()),
        };
        self.saved.snapshot = Some(report.clone());
        self.keep();
        report
    }

    async fn announce(&mut self, order: Arc<Order>, received: Instant) -> Result<GenerationReport, Refusal> {
        match self.saved.machine.announce(order.announced.clone())? {
            Verdict::Replay => {
                let report = self.saved.report.clone().unwrap_or_default();
                return Ok(GenerationReport { replayed: true, ..report });
            }
            Verdict::Run => {}
        }
        let begun = Instant::now();
        self.watchdog = None;
        let effects = Arc::clone(&self.effects);
        let closed = Closed::new(&effects);
        self.show();
        // What still runs of the hooks of before belongs to what was before.
        self.after.shutdown().await;
        let is_again = self.saved.machine.id() == Some(&order.announced.id);
        // Who it is about to be is written down before anything is changed: a successor of an agent that is killed in the midst must take it for
        // no other.
        let former = self.saved.former.take().unwrap_or_else(|| self.saved.identity.clone());
        let identity = former.after(&order, &self.domain);
        self.saved.former = Some(former.clone());
        self.saved.identity = identity.clone();
        // Whoever speaks of this VM to others is to do so by its own name from here on.
        self.tell_identity();
        let vm_id = identity.vm_id.clone();
        let mut steps = Steps::default();
        for step in Step::ORDER {
            let name = step.name();
            match step {
                Step::Gate => {
                    steps.take(name, async { self.save("new execs wait") }).await;
                    // What follows writes to the disk, and would wait for it, whoever has frozen it.
                    steps.take_unless_skipped("disk", aside(&effects, Box::new(E::thaw))).await;
                }
                Step::Entropy => steps.take(name, async { effects.entropy(&order.entropy) }).await,
                Step::Clock => {
                    // By what has passed since it was said, it is later.
                    let to = order.wall_clock.map(|clock| clock + received.elapsed());
                    let none = || Effect::skipped("no `wall_clock` was given");
                    steps.take(name, async { to.map_or_else(none, |to| effects.clock(to)) }).await;
                }
                Step::Identity => {
                    let (former, identity, order) = (former.clone(), identity.clone(), Arc::clone(&order));
                    let deed = move |to: &E| to.identity(&former, &identity, &order, is_again);
                    steps.take(name, aside(&effects, Box::new(deed))).await;
                }
                Step::Env => {
                    let (vm_id, order) = (vm_id.clone(), Arc::clone(&order));
                    let deed = move |to: &E| to.environment(order.env.as_ref(), vm_id.as_deref());
                    steps.take(name, aside(&effects, Box::new(deed))).await;
                }
                Step::Network => steps.take(name, effects.network(&order, is_again)).await,
                Step::Ssh => {
                    let deed = effects.ssh(&order, vm_id.as_deref());
                    steps.take_within(limits::GENERATION_KEYS_TIME, name, deed).await;
                }
                Step::Execs => {
                    steps.take(name, async { effects.inherit(order.announced.kind, &order.announced.id) }).await;
                }
                Step::Hooks => {
                    super::fault::point(name);
                    self.run_hooks(&mut steps, HookStage::PreThaw).await;
                }
                Step::Thaw => {
                    steps.take(name, aside(&effects, Box::new(E::thaw))).await;
                    effects.release();
                    self.saved.held.clear();
                }
                Step::Ready => {
                    let complete = steps.complete();
                    steps.take(name, async { effects.announce(&identity) }).await;
                    self.saved.machine.finish(complete && steps.complete());
                    self.saved.former = None;
                }
            }
        }
        effects.gate(true);
        closed.keep();
        self.acked = Some(Instant::now());
        let report = GenerationReport {
            generation_id: order.announced.id.clone(),
            kind: order.announced.kind,
            complete: steps.complete(),
            replayed: false,
            steps: steps.0,
            gate_ms: millis(begun.elapsed()),
            at: effects.now().as_secs_f64(),
        };
        self.saved.report = Some(report.clone());
        self.saved.hooks_due = Some(report.generation_id.clone());
        self.keep();
        super::fault::point("answer");
        tracing::info!(id = report.generation_id, kind = ?report.kind, complete = report.complete, ms = report.gate_ms, "generation");
        self.after.spawn(post_restore(effects, identity));
        Ok(report)
    }

    /// Runs the hooks of a stage one after the other. Those that the agent is not to run are failures, too: their owner means them to be.
    async fn run_hooks(&mut self, steps: &mut Steps, stage: HookStage) {
        run_hooks(&self.effects, steps, stage, &self.saved.identity).await;
    }

    fn hooks_are_over(&mut self, (id, steps): (String, Vec<StepReport>)) {
        if self.saved.hooks_due.as_ref() == Some(&id) {
            self.saved.hooks_due = None;
        }
        if let Some(report) = self.saved.report.as_mut().filter(|report| report.generation_id == id) {
            if !Steps(steps.clone()).complete() {
                report.complete = false;
                self.saved.machine.failed_afterwards();
            }
            report.steps.extend(steps);
        }
        self.keep();
    }

    fn save(&self, done: &str) -> Effect {
        match self.effects.save(&self.saved) {
            Ok(()) => Effect::done(done),
            Err(why) => {
                Effect::failed(format!("{done}, and where this is could not be written down for a successor: {why}"))
            }
        }
    }

    /// Tells everybody where it is.
    fn show(&self) {
        self.state.send_replace(Arc::new(told(&self.saved)));
    }

    /// Writes it down, and tells everybody.
    fn keep(&self) {
        if let Err(why) = self.effects.save(&self.saved) {
            tracing::warn!(why, "where commits and restores are could not be written down");
        }
        self.show();
        self.tell_identity();
    }

    fn tell_identity(&self) {
        self.identity.send_if_modified(|identity| {
            let changed = **identity != self.saved.identity;
            if changed {
                *identity = Arc::new(self.saved.identity.clone());
            }
            changed
        });
    }
}

async fn run_hooks<E: Effects>(effects: &Arc<E>, steps: &mut Steps, stage: HookStage, identity: &Identity) {
    let find = {
        let effects = Arc::clone(effects);
        tokio::task::spawn_blocking(move || effects.hooks(stage))
    };
    let late =
        || vec![Err(format!("its directory could not be read within {} s", limits::GENERATION_STEP_TIME.as_secs()))];
    let found = timeout(limits::GENERATION_STEP_TIME, find).await;
    for hook in found.map_or_else(|_| late(), Result::unwrap_or_default) {
        let begun = Instant::now();
        let (name, effect) = match hook {
            Ok(hook) => (format!("hook {}/{}", stage.name(), hook.name), effects.run_hook(&hook, identity).await),
            Err(why) => (format!("hook {}", stage.name()), Effect::failed(why)),
        };
        steps.note(&name, effect, begun.elapsed());
    }
}

/// What nobody waits for.
async fn post_restore<E: Effects>(effects: Arc<E>, identity: Identity) -> (String, Vec<StepReport>) {
    let mut steps = Steps::default();
    steps.take("init", effects.tell_init()).await;
    run_hooks(&effects, &mut steps, HookStage::PostRestore, &identity).await;
    (identity.generation_id.unwrap_or_default(), steps.0)
}

fn told(saved: &Saved) -> GenerationState {
    let machine = &saved.machine;
    GenerationState {
        generation_id: machine.id().map(str::to_owned),
        phase: machine.phase(),
        kind: machine.current().map(|current| current.announced.kind),
        vm_id: saved.identity.vm_id.clone(),
        parent_vm_id: saved.identity.parent_vm_id.clone(),
        commit_id: saved.identity.commit_id.clone(),
        interrupted: machine.interrupted().map(str::to_owned),
        unacked: machine.unacked().to_vec(),
        resumed: saved.resumed.clone(),
        waiting: 0,
        report: saved.report.clone(),
        snapshot: saved.snapshot.clone(),
    }
}

#[cfg(test)]
mod tests;
