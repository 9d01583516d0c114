//! The deeds on a real VM.
//!
//! Files go below a root of its own, which is `/` but for tests. What is no file (clock, random numbers, host name, network, disk) belongs to
//! the whole machine and is left alone unless this agent is the VM's: see [`Reach`].

mod freezer;
mod machine_id;
mod network;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::timeout;

use self::freezer::Freezer;
use super::effects::{Effect, Effects};
use super::hooks::{self, Hook, HookStage};
use super::identity::Identity;
use super::order::Order;
use super::saved::{Saved, boot_id};
use crate::account_env::EnvStore;
use crate::api::{DEFAULT_KEY_USER, ExecRequest, GenerationKind, HostKeyPolicy, IdentityPolicy};
use crate::bridge::BridgeHandle;
use crate::exec::{Exec, Execs, Held, Inherited};
use crate::keys::{HOST_SOURCE, KeysHandle, NewKey};
use crate::limits;
use crate::listeners::LookNow;
use crate::names::{HostName, KernelHostName, Names, Outcome, Settled, Told};
use crate::sys::cgroup::thaw_left;
use crate::sys::filesystem::Mounted;
use crate::sys::process::effective_ids;
use crate::sys::root_dir::RootDir;
use crate::sys::{clock, random};

/// Files for the VM's workloads and for a successor: gone with the boot.
const RUN: &str = "/run/guestd";
const STATE: &str = "/run/guestd/state.json";
const IDENTITY: &str = "/run/guestd/identity.json";
const GENERATION: &str = "/run/guestd/generation";
const MACHINE_ID: &str = "/etc/machine-id";

/// The target that is started for each generation, for units that want to be.
const TARGET: &str = "guestd-restored.target";

/// How far this agent's deeds go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reach {
    /// The VM is this agent's.
    All,
    /// Files alone: the machine is somebody else's, as in a container.
    Files,
    /// Nothing is done or written down.
    Nothing,
}

/// What the deeds need.
#[derive(Debug)]
pub struct Parts {
    /// Where files are.
    pub root: PathBuf,
    /// How far they go.
    pub reach: Reach,
    /// Commands.
    pub execs: Execs,
    /// The bridge, for connections of the VM that this was a copy of.
    pub bridge: BridgeHandle,
    /// To be told of new addresses.
    pub looker: LookNow,
    /// Account variables.
    pub env: Arc<EnvStore>,
    /// What the VM is called, and whom it asks for names.
    pub names: Arc<Names>,
    /// SSH keys.
    pub keys: KeysHandle,
    /// What becomes of host keys where an announcement does not say it.
    pub host_keys: HostKeyPolicy,
}

/// A VM.
#[derive(Debug)]
pub struct Vm {
    parts: Parts,
    freezer: Mutex<Option<Freezer>>,
}

impl Vm {
    /// With these parts.
    pub fn new(parts: Parts) -> Self {
        Self { parts, freezer: Mutex::default() }
    }

    fn is_all(&self) -> bool {
        self.parts.reach == Reach::All
    }

    fn root(&self) -> Result<RootDir, String> {
        RootDir::open(&self.parts.root).map_err(|error| error.to_string())
    }

    fn place(&self, path: &str, content: &[u8], mode: u32) -> Result<(), String> {
        let root = self.root()?;
        let owner = is_root().then(|| (nix::unistd::Uid::from_raw(0), nix::unistd::Gid::from_raw(0)));
        root.make_directories(RUN, 0o755, owner).map_err(|error| error.to_string())?;
        root.place(path, content, mode, owner).map_err(|error| error.to_string())
    }

    /// Host name, `/etc/hosts`, name servers.
    fn settle_names(&self, former: &Identity, identity: &Identity) -> Result<Settled, String> {
        let root = self.root()?;
        let before = [&former.vm_id, &former.hostname, &identity.parent_vm_id].map(Option::as_deref);
        let before: Vec<&str> = before.into_iter().flatten().collect();
        let (vm_id, given) = (identity.vm_id.as_deref(), identity.hostname.as_deref());
        let told = Told { vm_id, given, former: &before, dns: &identity.dns };
        if self.is_all() {
            return Ok(self.parts.names.announced(&root, &told, &mut KernelHostName));
        }
        let mut settled = self.parts.names.announced(&root, &told, &mut NotOurs);
        settled.hostname = Outcome::Left("it is not this agent's".to_owned());
        Ok(settled)
    }

    /// Runs a program as root to its end, or to the end of its time.
    async fn run(&self, argv: Vec<String>, env: BTreeMap<String, String>, time: Duration) -> Effect {
        let request = ExecRequest {
            command: argv,
            env,
            working_dir: Some("/".to_owned()),
            timeout_secs: Some(time.as_secs().max(1)),
            ..ExecRequest::default()
        };
        let Ok(started) = timeout(limits::GENERATION_STEP_TIME, self.parts.execs.start_now(request)).await else {
            return Effect::failed(format!("it has not started within {} s", limits::GENERATION_STEP_TIME.as_secs()));
        };
        let exec = match started {
            Ok(exec) => Ended(exec),
            Err(error) => return Effect::failed(error.to_string()),
        };
        let most = time + limits::EXEC_KILL_GRACE + Duration::from_secs(1);
        if timeout(most, exec.0.exited()).await.is_err() {
            return Effect::failed(format!("it is still there after SIGKILL (exec {})", exec.0.id()));
        }
        let exec = &exec.0;
        match exec.status().exit {
            Some(exit) if exit.timed_out => {
                Effect::failed(format!("it was ended after {} s, with all that it had started", time.as_secs()))
            }
            Some(exit) if exit.exit_code == 0 => Effect::done("exit 0"),
            Some(exit) => Effect::failed(format!(
                "exit {}; `guestctl logs --exec {}` has what it said",
                exit.exit_code,
                exec.id()
            )),
            None => Effect::failed("its end was lost"),
        }
    }
}

/// A program that nobody waits for any more is ended.
struct Ended(Arc<Exec>);

impl Drop for Ended {
    fn drop(&mut self) {
        self.0.terminate();
    }
}

/// The host name of a machine that is not this agent's: nobody has given it one, and none is set.
struct NotOurs;

impl HostName for NotOurs {
    fn get(&self) -> std::io::Result<String> {
        Ok(String::new())
    }

    fn set(&mut self, _name: &str) -> std::io::Result<()> {
        Ok(())
    }
}

fn is_root() -> bool {
    effective_ids().0 == 0
}

/// What a predecessor in this boot has left.
///
/// # Errors
/// What is wrong with it; a VM begins anew then.
pub fn load(root: &Path) -> Result<Option<Saved>, String> {
    let root = RootDir::open(root).map_err(|error| error.to_string())?;
    let found = match root.look(STATE).map_err(|error| error.to_string())? {
        crate::sys::root_dir::Entry::File(file) if file.uid == effective_ids().0 && file.mode & 0o022 == 0 => file,
        crate::sys::root_dir::Entry::Absent => return Ok(None),
        _ => return Err(format!("{STATE} is not a file of the agent's own")),
    };
    let text = found.read(limits::GENERATION_STATE_BYTES).map_err(|error| error.to_string())?;
    Saved::of_json(&text, boot_id().as_deref()).map_err(|error| format!("{STATE} cannot be read: {error}"))
}

impl Vm {
    /// Would what is saved while the disk is frozen wait for that disk?
    fn writes_to_the_disk_meanwhile(&self) -> bool {
        let device = |path: &Path| std::fs::metadata(path).map(|found| std::os::unix::fs::MetadataExt::dev(&found));
        let (root, run) = (device(&self.parts.root), device(&self.parts.root.join("run")));
        root.is_ok_and(|root| run.is_ok_and(|run| root == run))
    }
}

impl Effects for Vm {
    fn now(&self) -> Duration {
        clock::now()
    }

    fn save(&self, saved: &Saved) -> Result<(), String> {
        if self.parts.reach == Reach::Nothing {
            return Ok(());
        }
        let text = saved.to_json(boot_id().as_deref()).map_err(|error| error.to_string())?;
        self.place(STATE, &text, 0o600)
    }

    fn gate(&self, open: bool) {
        if open { self.parts.execs.open_gate() } else { self.parts.execs.close_gate() }
    }

    async fn hold(&self) -> Effect {
        match self.parts.execs.hold().await {
            Held { asked: 0, .. } => Effect::skipped("none that must not run in a branch"),
            Held { asked, still } if still < asked => Effect::failed(format!(
                "{still} of {asked} that must not run in a branch stand still; the others may be waiting for a device"
            )),
            Held { still, .. } => Effect::done(format!("{still} stand still until the thaw")),
        }
    }

    async fn to_hold(&self) -> Vec<PathBuf> {
        self.parts.execs.to_hold().await
    }

    fn release_left(&self, held: &[PathBuf]) {
        for path in held {
            if let Err(error) = thaw_left(path) {
                tracing::warn!(%error, ?path, "execs that an agent before this one held may stand still");
            }
        }
    }

    fn release(&self) {
        self.parts.execs.release();
    }

    async fn freeze(&self, watchdog: Duration) -> Effect {
        if !self.is_all() {
            return beyond();
        }
        if self.writes_to_the_disk_meanwhile() {
            return Effect::failed(
                "freezing the root file system: /run is on it, where guestd writes meanwhile; mount a tmpfs there",
            );
        }
        match Freezer::start(&self.parts.root, watchdog) {
            Ok((freezer, frozen)) => {
                // Before it is waited for: a thaw must find it however long the writing out takes.
                *self.freezer.lock().unwrap_or_else(PoisonError::into_inner) = Some(freezer);
                match frozen.await {
                    Ok(Ok(())) => Effect::done("the root file system is written out and frozen"),
                    Ok(Err(error)) => Effect::failed(format!("freezing the root file system: {error}")),
                    Err(_) => Effect::failed("freezing the root file system: its thread has ended"),
                }
            }
            Err(error) => Effect::failed(format!("freezing the root file system: {error}")),
        }
    }

    fn stay_frozen(&self, time: Duration) -> bool {
        let freezer = self.freezer.lock().unwrap_or_else(PoisonError::into_inner);
        freezer.as_ref().is_some_and(|freezer| freezer.stay(time))
    }

    fn thaw(&self) -> Effect {
        if !self.is_all() {
            return beyond();
        }
        let freezer = self.freezer.lock().unwrap_or_else(PoisonError::into_inner).take();
        let ours = freezer.map(Freezer::end);
        // Somebody else may have frozen it, too, or an agent before this one.
        let failed = |error| Effect::failed(format!("thawing the root file system: {error}; try `fsfreeze -u /`"));
        match (ours, Mounted::open(&self.parts.root).and_then(|root| root.thaw())) {
            (_, Err(error)) | (Some(Err(error)), Ok(false)) => failed(error),
            (None, Ok(false)) => Effect::skipped("it was not frozen"),
            (_, Ok(_)) => Effect::done("the root file system is thawed"),
        }
    }

    fn entropy(&self, bytes: &[u8]) -> Effect {
        if !self.is_all() {
            return beyond();
        }
        let reseeded = if bytes.is_empty() { super::local::reseed() } else { random::reseed(bytes, true) };
        match reseeded {
            Ok(()) if bytes.is_empty() => {
                Effect::done("reseeded from what the VM has itself; give `entropy` to be sure")
            }
            Ok(()) => Effect::done(format!("reseeded from {} bytes of the host", bytes.len())),
            Err(error) => Effect::failed(format!("reseeding the random number generator: {error}")),
        }
    }

    fn clock(&self, to: Duration) -> Effect {
        let ahead = to.as_secs_f64() - clock::now().as_secs_f64();
        if ahead.abs() < limits::CLOCK_STEP.as_secs_f64() {
            return Effect::skipped(format!("it is right to {:.1} ms", ahead * 1e3));
        }
        if !self.is_all() {
            return beyond();
        }
        match clock::set(to) {
            Ok(()) => Effect::done(format!("set by {ahead:+.3} s")),
            Err(error) => Effect::failed(format!("setting the clock by {ahead:+.3} s: {error}")),
        }
    }

    fn identity(&self, former: &Identity, identity: &Identity, order: &Order, again: bool) -> Effect {
        if self.parts.reach == Reach::Nothing {
            return beyond();
        }
        let (mut done, mut failed) = (Vec::new(), Vec::new());
        match self.settle_names(former, identity) {
            Ok(settled) if settled.has_failed() => failed.push(settled.to_string()),
            Ok(settled) => done.push(settled.to_string()),
            Err(why) => failed.push(why),
        }
        let mut note = |what: &str, result: Result<(), String>| match result {
            Ok(()) => done.push(what.to_owned()),
            Err(why) => failed.push(format!("{what}: {why}")),
        };
        if order.machine_id == IdentityPolicy::New && !again {
            note("machine id", machine_id::renew(&self.parts.root.join(MACHINE_ID.trim_start_matches('/'))));
        }
        let text = serde_json::to_vec(identity).map_err(|error| error.to_string());
        note(IDENTITY, text.and_then(|text| self.place(IDENTITY, &text, 0o644)));
        if failed.is_empty() { Effect::done(done.join("; ")) } else { Effect::failed(failed.join("; ")) }
    }

    fn environment(&self, env: Option<&BTreeMap<String, String>>, vm_id: Option<&str>) -> Effect {
        self.parts.execs.set_vm_id(vm_id.map(str::to_owned));
        if env.is_none() && vm_id.is_none() {
            return Effect::skipped("none were given");
        }
        if self.parts.reach == Reach::Nothing {
            return beyond();
        }
        let changed = self.parts.env.change(false, |managed| {
            if let Some(env) = env {
                managed.clone_from(env);
            }
            // Over what the image may have there of the VM that it was made from.
            managed.extend(vm_id.map(|id| ("VERS_VM_ID".to_owned(), id.to_owned())));
        });
        match changed {
            Ok(managed) => Effect::done(format!("{} variables in /etc/environment", managed.env.len())),
            Err(error) => Effect::failed(error.to_string()),
        }
    }

    async fn network(&self, order: &Order, again: bool) -> Effect {
        network::apply(self, order, again).await
    }

    async fn ssh(&self, order: &Order, vm_id: Option<&str>) -> Effect {
        if !self.is_all() {
            return beyond();
        }
        let (mut done, mut failed) = (Vec::new(), Vec::new());
        if let Some(lines) = &order.authorized {
            let key = |line: &String| NewKey { user: DEFAULT_KEY_USER.to_owned(), line: line.clone(), expires: None };
            match self.parts.keys.replace_source(HOST_SOURCE, lines.iter().map(key).collect()).await {
                Ok(()) => done.push(format!("{} keys of the host", lines.len())),
                Err(error) => failed.push(error.to_string()),
            }
        }
        let policy = order.host_keys.unwrap_or(self.parts.host_keys);
        match self.parts.keys.apply(policy, vm_id.map(str::to_owned)).await {
            Ok(applied) => {
                done.extend(applied.host_keys_made.then(|| "host key made anew".to_owned()));
                done.extend(applied.vm_key_made.then(|| "identity made anew".to_owned()));
                failed.extend(applied.note);
            }
            Err(error) => failed.push(error.to_string()),
        }
        match (failed.is_empty(), done.is_empty()) {
            (false, _) => Effect::failed(failed.join("; ")),
            (true, true) => Effect::skipped("keys stay as they are"),
            (true, false) => Effect::done(done.join(", ")),
        }
    }

    fn inherit(&self, kind: GenerationKind, id: &str) -> Effect {
        let inherited = self.parts.execs.inherit(kind, id);
        let Inherited { kept, frozen, unstopped, killed, records, again } = inherited;
        if again {
            return Effect::skipped("those that came along are marked, and the others are this VM's own");
        }
        let said = format!("{kept} run on, {frozen} stand still, {killed} were ended; {records} records");
        match unstopped {
            0 => Effect::done(said),
            some => Effect::failed(format!("{said}; {some} could not be stopped and run on")),
        }
    }

    fn hooks(&self, stage: HookStage) -> Vec<Result<Hook, String>> {
        match self.root() {
            Ok(_) if self.parts.reach == Reach::Nothing => Vec::new(),
            Ok(root) => hooks::find(&root, stage, effective_ids().0),
            Err(why) => vec![Err(why)],
        }
    }

    async fn run_hook(&self, hook: &Hook, identity: &Identity) -> Effect {
        let variable = |key: &str, value: &Option<String>| Some((key.to_owned(), value.clone()?));
        let kind = identity
            .kind
            .and_then(|kind| serde_json::to_value(kind).ok())
            .and_then(|kind| kind.as_str().map(str::to_owned));
        let env = [
            variable("GUESTD_GENERATION_ID", &identity.generation_id),
            variable("GUESTD_GENERATION_KIND", &kind),
            variable("GUESTD_COMMIT_ID", &identity.commit_id),
            variable("GUESTD_PARENT_VM_ID", &identity.parent_vm_id),
            variable("GUESTD_HOOK", &Some(hook.stage.name().to_owned())),
        ];
        let argv = vec![hook.path.to_string_lossy().into_owned()];
        self.run(argv, env.into_iter().flatten().collect(), hook.stage.time()).await
    }

    async fn tell_init(&self) -> Effect {
        if !self.is_all() || !Path::new("/run/systemd/system").is_dir() {
            return Effect::skipped("no systemd to be told");
        }
        let argv = ["systemctl", "--no-block", "restart", TARGET].map(str::to_owned).to_vec();
        self.run(argv, BTreeMap::new(), limits::HOOK_TIME).await
    }

    fn announce(&self, identity: &Identity) -> Effect {
        self.parts.looker.look_now();
        if self.parts.reach == Reach::Nothing {
            return beyond();
        }
        let id = identity.generation_id.as_deref().unwrap_or_default();
        match self.place(GENERATION, format!("{id}\n").as_bytes(), 0o644) {
            Ok(()) => Effect::done("execs start"),
            Err(why) => Effect::failed(format!("execs start, and {GENERATION} was not written: {why}")),
        }
    }
}

fn beyond() -> Effect {
    Effect::skipped("`generation.effects` leaves it alone")
}
