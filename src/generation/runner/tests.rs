//! The task against a record of deeds: what is done, in which order, and that the VM is open again whatever goes wrong.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::time::advance;

use super::super::handle::GenerationError;
use super::super::hooks::Hook;
use super::*;
use crate::api::{ErrorCode, GenerationKind, GenerationRequest, RestoreSign, SnapshotThaw, StepOutcome};

/// A VM that does as it is told.
#[derive(Debug, Default)]
struct Fake {
    deeds: Mutex<Vec<String>>,
    saved: Mutex<Saved>,
    closed: AtomicBool,
    frozen: AtomicBool,
    fails: Option<&'static str>,
    hangs: Option<&'static str>,
    panics: Option<&'static str>,
    /// Waits, as for a disk, until that is over.
    blocks: Option<&'static str>,
    unblocked: AtomicBool,
    hooks: Vec<&'static str>,
}

impl Fake {
    fn did(&self, deed: &str) -> Effect {
        self.deeds.lock().unwrap().push(deed.to_owned());
        assert_ne!(self.panics, Some(deed), "as the test wants it");
        while self.blocks == Some(deed) && !self.unblocked.load(Ordering::Relaxed) {
            std::thread::sleep(Duration::from_millis(1));
        }
        if self.fails == Some(deed) { Effect::failed("as the test wants it") } else { Effect::done(deed) }
    }

    async fn did_later(&self, deed: &str) -> Effect {
        let effect = self.did(deed);
        if self.hangs == Some(deed) {
            std::future::pending::<()>().await;
        }
        effect
    }

    fn deeds(&self) -> Vec<String> {
        std::mem::take(&mut *self.deeds.lock().unwrap())
    }

    fn is_open(&self) -> bool {
        !self.closed.load(Ordering::Relaxed) && !self.frozen.load(Ordering::Relaxed)
    }
}

impl Effects for Arc<Fake> {
    fn now(&self) -> Duration {
        Duration::from_secs(1_800_000_000)
    }

    fn save(&self, saved: &Saved) -> Result<(), String> {
        *self.saved.lock().unwrap() = saved.clone();
        Ok(())
    }

    fn gate(&self, open: bool) {
        self.closed.store(!open, Ordering::Relaxed);
        self.did(if open { "open" } else { "close" });
    }

    async fn hold(&self) -> Effect {
        self.did_later("hold").await
    }

    async fn to_hold(&self) -> Vec<PathBuf> {
        vec!["/exec-a".into()]
    }

    fn release_left(&self, held: &[PathBuf]) {
        self.did(&format!("release {held:?}"));
    }

    fn release(&self) {
        self.did("release");
    }

    async fn freeze(&self, _watchdog: Duration) -> Effect {
        self.frozen.store(true, Ordering::Relaxed);
        self.did_later("freeze").await
    }

    fn stay_frozen(&self, _time: Duration) -> bool {
        self.frozen.load(Ordering::Relaxed)
    }

    fn thaw(&self) -> Effect {
        let was_frozen = self.frozen.swap(false, Ordering::Relaxed);
        let effect = self.did("thaw");
        if was_frozen || effect.outcome == StepOutcome::Failed { effect } else { Effect::skipped("it was not frozen") }
    }

    fn entropy(&self, _bytes: &[u8]) -> Effect {
        self.did("entropy")
    }

    fn clock(&self, to: Duration) -> Effect {
        self.did(&format!("clock {}", to.as_secs()));
        self.did("clock")
    }

    fn identity(&self, _former: &Identity, _identity: &Identity, _order: &Order, _again: bool) -> Effect {
        self.did("identity")
    }

    fn environment(&self, _env: Option<&BTreeMap<String, String>>, vm_id: Option<&str>) -> Effect {
        self.did(&format!("env {}", vm_id.unwrap_or("-")));
        self.did("env")
    }

    async fn network(&self, _order: &Order, again: bool) -> Effect {
        self.did_later(if again { "network again" } else { "network" }).await
    }

    async fn ssh(&self, _order: &Order, _vm_id: Option<&str>) -> Effect {
        self.did_later("ssh").await
    }

    fn inherit(&self, _kind: GenerationKind, _id: &str) -> Effect {
        self.did("execs")
    }

    fn hooks(&self, stage: HookStage) -> Vec<Result<Hook, String>> {
        self.hooks.iter().map(|name| Ok(Hook { stage, name: (*name).to_owned(), path: name.into() })).collect()
    }

    async fn run_hook(&self, hook: &Hook, _identity: &Identity) -> Effect {
        self.did_later(&format!("{} {}", hook.stage.name(), hook.name)).await
    }

    async fn tell_init(&self) -> Effect {
        self.did("init")
    }

    fn announce(&self, _identity: &Identity) -> Effect {
        self.did("announce")
    }
}

/// A task that runs, and its VM.
struct Rig {
    vm: Arc<Fake>,
    handle: GenerationHandle,
    stop: CancellationToken,
    task: tokio::task::JoinHandle<()>,
}

impl Rig {
    fn new(vm: Fake, saved: Saved) -> Self {
        let vm = Arc::new(vm);
        let (task, handle) = Generations::new(Arc::clone(&vm), saved, "vm.example");
        let stop = CancellationToken::new();
        let task = tokio::spawn(task.run(stop.clone()));
        Self { vm, handle, stop, task }
    }

    async fn announce(&self, id: &str) -> Result<GenerationReport, GenerationError> {
        self.handle.announce(request(id), Instant::now()).await
    }

    async fn prepare(&self, freeze: bool) -> SnapshotReport {
        self.handle.prepare(SnapshotPrepare { freeze, watchdog_secs: None }).await.unwrap()
    }
}

fn request(id: &str) -> GenerationRequest {
    GenerationRequest {
        generation_id: id.to_owned(),
        vm_id: Some(format!("vm-{id}")),
        wall_clock: Some(1.7e9),
        ..GenerationRequest::default()
    }
}

#[tokio::test(start_paused = true)]
async fn the_steps_are_done_in_their_order_and_each_is_reported_with_its_time() {
    let rig = Rig::new(Fake { hooks: vec!["10-a"], ..Fake::default() }, Saved::default());
    let report = rig.announce("one").await.unwrap();
    assert!(report.complete && !report.replayed, "{report:#?}");
    let steps: Vec<_> = report.steps.iter().map(|step| step.step.as_str()).collect();
    let expected = [
        "gate",
        "entropy",
        "clock",
        "identity",
        "env",
        "network",
        "ssh",
        "execs",
        "hook pre-thaw/10-a",
        "thaw",
        "ready",
    ];
    assert_eq!(steps, expected);
    let deeds = rig.vm.deeds();
    let first = deeds.iter().position(|deed| deed == "close").unwrap();
    let order: Vec<_> = deeds[first..].iter().map(String::as_str).take_while(|deed| *deed != "init").collect();
    let expected = [
        "close",
        "thaw",
        "entropy",
        "clock 1700000000",
        "clock",
        "identity",
        "env vm-one",
        "env",
        "network",
        "ssh",
        "execs",
        "pre-thaw 10-a",
        "thaw",
        "release",
        "announce",
        "open",
    ];
    assert_eq!(order, expected);
    assert_eq!(rig.handle.identity().public_name.as_deref(), Some("vm-one.vm.example"));
}

#[tokio::test(start_paused = true)]
async fn hooks_that_nobody_waits_for_are_in_the_report_afterwards() {
    let rig =
        Rig::new(Fake { hooks: vec!["10-a"], fails: Some("post-restore 10-a"), ..Fake::default() }, Saved::default());
    assert!(rig.announce("one").await.unwrap().complete);
    let mut states = rig.handle.state.clone();
    let is_there = |state: &Arc<GenerationState>| {
        state
            .report
            .as_ref()
            .is_some_and(|report| report.steps.iter().any(|step| step.step == "hook post-restore/10-a"))
    };
    let state = Arc::clone(&*states.wait_for(is_there).await.unwrap());
    assert!(!state.report.as_ref().unwrap().complete);
    assert!(!rig.announce("one").await.unwrap().replayed, "what failed is repeated");
}

#[tokio::test(start_paused = true)]
async fn whatever_fails_the_others_are_done_and_the_vm_is_open() {
    for deed in ["entropy", "clock", "identity", "env", "network", "ssh", "execs", "pre-thaw 10-a", "thaw", "announce"]
    {
        let rig = Rig::new(Fake { hooks: vec!["10-a"], fails: Some(deed), ..Fake::default() }, Saved::default());
        let report = rig.announce("one").await.unwrap();
        assert!(!report.complete && rig.vm.is_open(), "{deed}: {report:#?}");
        // What may be frozen is thawed at the beginning, too.
        let twice = usize::from(deed == "thaw");
        assert_eq!(report.steps.len(), 11 + twice, "{deed}");
        let failed = report.steps.iter().filter(|step| step.outcome == StepOutcome::Failed).count();
        assert_eq!(failed, 1 + twice, "{deed}");
        // Asked again, it tries again.
        assert!(!rig.announce("one").await.unwrap().replayed, "{deed}");
    }
}

#[tokio::test(start_paused = true)]
async fn whatever_hangs_the_vm_is_open_after_a_bounded_time() {
    for deed in ["network", "ssh"] {
        let rig = Rig::new(Fake { hangs: Some(deed), ..Fake::default() }, Saved::default());
        let begun = Instant::now();
        let report = rig.announce("one").await.unwrap();
        assert!(!report.complete && rig.vm.is_open(), "{deed}");
        assert!(begun.elapsed() < limits::GENERATION_KEYS_TIME * 2, "{deed}");
    }
    for deed in ["hold", "freeze"] {
        let rig = Rig::new(Fake { hangs: Some(deed), ..Fake::default() }, Saved::default());
        assert!(!rig.prepare(true).await.complete, "{deed}");
        rig.handle.thaw(SnapshotThaw::default(), Instant::now()).await.unwrap();
        assert!(rig.vm.is_open(), "{deed}");
    }
}

#[tokio::test]
async fn a_disk_that_is_waited_for_holds_nobody_up_for_longer_than_a_step() {
    for deed in ["identity", "env"] {
        let rig = Rig::new(Fake { blocks: Some(deed), ..Fake::default() }, Saved::default());
        let report = rig.announce("one").await.unwrap();
        rig.vm.unblocked.store(true, Ordering::Relaxed);
        let late = report.steps.iter().find(|step| step.step == deed).unwrap();
        assert!(late.message.starts_with("it was not done within 5 s"), "{report:#?}");
        assert!(!report.complete && rig.vm.is_open(), "{report:#?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_task_that_panics_leaves_the_vm_open() {
    for deed in ["entropy", "network", "announce"] {
        let rig = Rig::new(Fake { panics: Some(deed), ..Fake::default() }, Saved::default());
        assert!(matches!(rig.announce("one").await, Err(GenerationError::Stopped)), "{deed}");
        assert!(rig.task.await.unwrap_err().is_panic(), "{deed}");
        // Its disk, on a thread.
        let begun = std::time::Instant::now();
        while !rig.vm.is_open() {
            assert!(begun.elapsed() < Duration::from_secs(30), "{deed}");
            std::thread::yield_now();
        }
    }
}

#[tokio::test(start_paused = true)]
async fn prepare_closes_and_thaw_opens_and_both_can_be_repeated() {
    let rig = Rig::new(Fake { hooks: vec!["10-a"], ..Fake::default() }, Saved::default());
    let prepared = rig.prepare(true).await;
    assert!(prepared.complete && prepared.phase == GenerationPhase::Prepared && !rig.vm.is_open());
    let steps: Vec<_> = prepared.steps.iter().map(|step| step.step.as_str()).collect();
    assert_eq!(steps, ["gate", "hook pre-snapshot/10-a", "execs", "freeze"]);
    rig.vm.deeds();
    assert_eq!(rig.prepare(true).await, prepared);
    assert_eq!(rig.vm.deeds(), Vec::<String>::new(), "a repeated call does nothing again");
    for outcome in [StepOutcome::Done, StepOutcome::Skipped] {
        let thawed = rig.handle.thaw(SnapshotThaw::default(), Instant::now()).await.unwrap();
        assert!(rig.vm.is_open() && thawed.phase == GenerationPhase::Running);
        assert_eq!(thawed.steps.last().unwrap().outcome, outcome);
    }
}

#[tokio::test(start_paused = true)]
async fn a_host_that_falls_silent_is_waited_for_by_the_vms_own_time() {
    let rig = Rig::new(Fake::default(), Saved::default());
    rig.handle.prepare(SnapshotPrepare { freeze: false, watchdog_secs: Some(5) }).await.unwrap();
    // The VM was paused, and its clock jumped.
    advance(Duration::from_secs(3600)).await;
    tokio::task::yield_now().await;
    assert!(!rig.vm.is_open(), "a jump counts for a second");
    tokio::time::sleep(Duration::from_secs(6)).await;
    assert!(rig.vm.is_open());
    assert_eq!(rig.handle.state().phase, GenerationPhase::Running);
}

#[tokio::test(start_paused = true)]
async fn an_announcement_in_a_copy_thaws_it_and_the_watchdog_is_off() {
    let rig = Rig::new(Fake::default(), Saved::default());
    rig.prepare(true).await;
    rig.vm.deeds();
    assert!(rig.announce("one").await.unwrap().complete && rig.vm.is_open());
    let deeds = rig.vm.deeds();
    let at = |deed: &str| deeds.iter().position(|done| done == deed);
    assert!(at("thaw") < at("identity"), "a frozen disk would be waited for: {deeds:?}");
    tokio::time::sleep(Duration::from_secs(600)).await;
    assert!(!rig.vm.deeds().iter().any(|deed| deed == "thaw"));
}

#[tokio::test(start_paused = true)]
async fn a_successor_thaws_what_was_left_and_answers_a_repeated_announcement() {
    let rig = Rig::new(Fake::default(), Saved::default());
    rig.announce("one").await.unwrap();
    rig.prepare(true).await;
    let left = rig.vm.saved.lock().unwrap().clone();
    assert!(left.machine.is_frozen());
    rig.task.abort();

    let successor = Rig::new(Fake { closed: true.into(), frozen: true.into(), ..Fake::default() }, left);
    let report = successor.announce("one").await.unwrap();
    assert!(report.replayed, "{report:#?}");
    let deeds = successor.vm.deeds();
    assert!(deeds.contains(&"thaw".to_owned()) && deeds.contains(&r#"release ["/exec-a"]"#.to_owned()), "{deeds:?}");
    assert_eq!(successor.handle.identity().vm_id.as_deref(), Some("vm-one"));
}

#[tokio::test(start_paused = true)]
async fn a_successor_of_one_that_was_killed_in_an_announcement_says_so_until_it_is_made_again() {
    let rig = Rig::new(Fake { hangs: Some("network"), ..Fake::default() }, Saved::default());
    let announced = tokio::spawn({
        let handle = rig.handle.clone();
        async move { handle.announce(request("one"), Instant::now()).await }
    });
    while !rig.vm.deeds.lock().unwrap().contains(&"network".to_owned()) {
        tokio::task::yield_now().await;
    }
    assert_eq!(rig.handle.state().phase, GenerationPhase::Restoring);
    let left = rig.vm.saved.lock().unwrap().clone();
    announced.abort();
    rig.task.abort();
    let successor = Rig::new(Fake::default(), left);
    assert_eq!(successor.handle.state().interrupted.as_deref(), Some("one"));
    let identity = successor.handle.identity();
    assert_eq!(identity.vm_id.as_deref(), Some("vm-one"), "the other one's keys and name are not to be made anew");
    assert!(!successor.announce("one").await.unwrap().replayed);
    assert_eq!(successor.handle.state().interrupted, None);
}

#[tokio::test(start_paused = true)]
async fn signs_of_a_restore_are_kept_until_an_announcement() {
    let rig = Rig::new(Fake::default(), Saved::default());
    let sign = RestoreSign { sign: "vsock_cid".to_owned(), message: "x".to_owned(), at: 0.0 };
    let seen = Instant::now();
    rig.handle.sign(sign.clone(), seen).await;
    let mut states = rig.handle.state.clone();
    states.wait_for(|state| state.unacked.len() == 1).await.unwrap();
    rig.announce("one").await.unwrap();
    assert_eq!(rig.handle.state().unacked, []);
    // Heard of late, and seen before that announcement.
    tokio::time::sleep(limits::RESTORE_SIGN_GRACE * 2).await;
    rig.handle.sign(sign, seen).await;
    rig.prepare(false).await;
    assert_eq!(rig.handle.state().unacked, []);
}

#[tokio::test(start_paused = true)]
async fn an_agent_that_ends_leaves_the_vm_open() {
    let rig = Rig::new(Fake::default(), Saved::default());
    rig.prepare(true).await;
    rig.stop.cancel();
    rig.task.await.unwrap();
    assert!(rig.vm.is_open());
    assert_eq!(rig.vm.saved.lock().unwrap().machine.phase(), GenerationPhase::Running);
}

#[tokio::test(start_paused = true)]
async fn a_watchdog_out_of_bounds_is_refused() {
    let rig = Rig::new(Fake::default(), Saved::default());
    for secs in [0, 301] {
        let order = SnapshotPrepare { freeze: false, watchdog_secs: Some(secs) };
        assert_eq!(rig.handle.prepare(order).await.unwrap_err().code(), ErrorCode::InvalidField);
    }
    assert!(rig.vm.is_open());
}

#[tokio::test(start_paused = true)]
async fn an_announcement_that_is_made_again_leaves_alone_what_belongs_to_the_vm_since() {
    let rig = Rig::new(Fake { hooks: vec!["10-a"], fails: Some("pre-thaw 10-a"), ..Fake::default() }, Saved::default());
    assert!(!rig.announce("one").await.unwrap().complete);
    let parent = rig.handle.identity();
    rig.vm.deeds();
    rig.announce("one").await.unwrap();
    assert!(rig.vm.deeds().contains(&"network again".to_owned()));
    assert_eq!(rig.handle.identity(), parent);
}

#[tokio::test(start_paused = true)]
async fn hooks_that_an_agent_did_not_come_to_are_run_by_its_successor() {
    let rig =
        Rig::new(Fake { hooks: vec!["10-a"], hangs: Some("post-restore 10-a"), ..Fake::default() }, Saved::default());
    assert!(rig.announce("one").await.unwrap().complete);
    let left = rig.vm.saved.lock().unwrap().clone();
    assert_eq!(left.hooks_due.as_deref(), Some("one"));
    rig.task.abort();
    let successor = Rig::new(Fake { hooks: vec!["10-a"], ..Fake::default() }, left);
    let mut states = successor.handle.state.clone();
    let is_told = |state: &Arc<GenerationState>| {
        state.report.iter().flat_map(|report| &report.steps).any(|step| step.step == "hook post-restore/10-a")
    };
    states.wait_for(is_told).await.unwrap();
    assert_eq!(successor.vm.saved.lock().unwrap().hooks_due, None);
}

#[tokio::test(start_paused = true)]
async fn what_has_thawed_by_itself_is_frozen_anew_for_the_same_call_again() {
    let rig = Rig::new(Fake::default(), Saved::default());
    assert!(rig.prepare(true).await.complete);
    rig.vm.frozen.store(false, Ordering::Relaxed);
    rig.vm.deeds();
    let again = rig.prepare(true).await;
    assert!(again.complete && rig.vm.deeds().contains(&"freeze".to_owned()), "{again:#?}");
    // And where it failed.
    let rig = Rig::new(Fake { fails: Some("freeze"), ..Fake::default() }, Saved::default());
    for _ in 0..2 {
        rig.vm.deeds();
        assert!(!rig.prepare(true).await.complete);
        assert!(rig.vm.deeds().contains(&"freeze".to_owned()));
    }
}

#[tokio::test(start_paused = true)]
async fn a_restore_from_a_commit_right_after_an_announcement_is_a_restore() {
    let rig = Rig::new(Fake::default(), Saved::default());
    rig.announce("one").await.unwrap();
    rig.prepare(false).await;
    let sign = RestoreSign { sign: "vmclock".to_owned(), message: "x".to_owned(), at: 0.0 };
    rig.handle.sign(sign, Instant::now()).await;
    let mut states = rig.handle.state.clone();
    states.wait_for(|state| state.unacked.len() == 1).await.unwrap();
}
