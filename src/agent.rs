//! The service: configuration in, endpoints up, everything down again in order.
//!
//! ```text
//! build ──> serve: vsock, Unix socket, bridge, listeners, ──SIGTERM──> drain: no new connections, running responses
//!           registry                                                   completed, execs ended at the deadline
//! ```

use std::{
    io,
    path::Path,
    sync::{Arc, OnceLock},
    time::Duration,
};

use anyhow::Context;
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::watch,
    task::JoinHandle,
    time::Instant,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    account_env::EnvStore,
    bridge::{Bridge, PlaneSettings, Settings, SettingsFile},
    config::{BridgeTier, Config, GenerationEffects, GuestAddress, Problem},
    exec::{CGROUP_PREFIX, CgroupParent, ExecConfig, Execs},
    files::Trees,
    generation::{self, Detector, Generations, Identity, Machine, Parts, Reach, Saved, Vm},
    growth::{Disks, Growth},
    health::Part,
    keys::KeysTask,
    limits,
    listeners::{LookNow, Observation, OwnSockets, WatchSettings, Watcher},
    names::{self, Names, Told},
    registry::{Registry, Sources},
    server::{self, Agent, Init, Phase, Sockets, UnixEndpoint, Views, VsockEndpoint},
    sys::{code, root_dir::RootDir, rtnl},
};

/// First and longest time between two tries at what can come later: the vsock module, the network interface. A VM that never
/// gets it is hardly woken up.
const RETRY: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));

/// From the wish to end an exec to its last frame.
const EXEC_END_TIME: Duration =
    Duration::from_secs(limits::EXEC_KILL_GRACE.as_secs() + limits::EXEC_DRAIN_TIME.as_secs() + 1);

/// Runs the agent until SIGTERM or SIGINT, and drains.
///
/// # Errors
/// The Unix socket cannot be bound. Everything else that fails is a named state in the health report.
pub async fn run(config: Config, problems: Vec<Problem>) -> anyhow::Result<()> {
    let phase = Phase::starting();
    let mut terminate = signal(SignalKind::terminate()).context("waiting for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("waiting for SIGINT")?;
    for problem in &problems {
        tracing::warn!(%problem, "configuration");
    }

    // Before anything is touched: it fails where another agent has it.
    let unix = UnixEndpoint::bind(&config.socket)?;
    // What takes its time goes on while all else is put together.
    let reach = reach(&config);
    let saved = saved_generation(&config, reach);
    let seen = Arc::new(OnceLock::<watch::Receiver<Arc<Observation>>>::new());
    let sshd = {
        let seen = Arc::clone(&seen);
        move || seen.get().map(|seen| named(&seen.borrow(), "sshd")).unwrap_or_default()
    };
    let (mut keys_task, keys) = KeysTask::new(Path::new("/"), Box::new(sshd)).context("opening the root directory")?;
    // By the configuration it may still be the VM that it was branched from.
    let own_keys = keys_task.begin(config.host_keys, saved.identity.vm_id.clone());

    let own = OwnSockets::default();
    let settings = Settings {
        auto: config.bridge_auto,
        rules: config.bridge_rules.clone(),
        routable_ports: config.routable_ports.clone(),
    };
    let (bridge_settings, settings) = SettingsFile::open(&config.socket, settings);
    let (mut bridge, bridge_handle) = Bridge::new(settings, own.clone(), plane_settings(&config));
    bridge.find_planes().await;
    let watch = WatchSettings { events: config.listener_events, poll_interval: config.poll_interval };
    let watcher = tokio::task::spawn_blocking(move || Watcher::spawn(watch, own));
    let (cgroup_parent, cgroup) = exec_cgroups();
    let (vsock_state, vsock) = watch::channel(Part::Off("`vsock.enabled` is false".to_owned()));
    let (address_state, guest_address) = watch::channel(Part::Off("`ip6` is not set".to_owned()));
    let (names_state, names_report) = watch::channel(Part::Off("not looked at yet".to_owned()));
    let exec_config = ExecConfig {
        max_running: config.exec_max_running,
        cgroup: cgroup_parent,
        replay_bytes: config.exec_replay_bytes,
        replay_total_bytes: config.exec_replay_total_bytes,
        spill_dir: config.exec_spill_dir.clone(),
        spill_bytes: config.exec_spill_bytes,
        environment_file: config.generation_root.join("etc/environment"),
        ..ExecConfig::default()
    };
    let env = Arc::new(EnvStore::new(&config.generation_root));
    let execs = Execs::new(exec_config);
    execs.set_vm_id(saved.identity.vm_id.clone());
    // Execs of this agent belong to what was being announced, if one before it was ended in the midst of that.
    execs.restore_generation(saved.machine.interrupted().or(saved.machine.id()));
    let names = Arc::new(Names::new(&config));
    let watcher = watcher.await.map_err(io::Error::other).flatten().context("starting the listeners' thread")?;
    // The first time.
    let _ = seen.set(watcher.observations());
    let parts = Parts {
        root: config.generation_root.clone(),
        reach,
        execs: execs.clone(),
        bridge: bridge_handle.clone(),
        looker: watcher.looker(),
        env: Arc::clone(&env),
        names: Arc::clone(&names),
        keys: keys.clone(),
        host_keys: config.host_keys,
    };
    let (generations, generation) = Generations::new(Vm::new(parts), saved, &config.domain);
    let disks = Arc::new(Disks::new(generation.states()));
    let (detector, look_for_restore) = Detector::new(generation.clone());
    let (vm_id_changes, vm_id) = watch::channel(generation.identity().vm_id.clone());
    let sources = Sources { vm_id, observations: watcher.observations(), bridge: bridge_handle.clone() };
    let (registry, registry_report) = Registry::new(&config, sources);
    let (drain, stop) = (CancellationToken::new(), CancellationToken::new());
    let connections = TaskTracker::new();
    let agent = Arc::new(Agent {
        execs,
        trees: Trees::default(),
        cgroup,
        observations: watcher.observations(),
        looker: watcher.looker(),
        listener_events: watcher.events().clone(),
        bridge: bridge_handle,
        bridge_settings,
        keys,
        vsock,
        guest_address,
        names: names_report,
        views: Views::default(),
        registry: registry_report,
        init: Init::of_environment(),
        env,
        generation,
        disks,
        sockets: Sockets::new(connections.clone(), drain.clone()),
        phase,
        config,
        problems,
    });

    let tasks = TaskTracker::new();
    tasks.spawn(keys_task.run(stop.clone()));
    let router = server::router(Arc::clone(&agent));
    tasks.spawn(server::serve(unix, router.clone(), connections.clone(), drain.clone(), || {}));
    if agent.config.vsock_enabled {
        let (port, connections, drain) = (agent.config.vsock_port, connections.clone(), drain.clone());
        let noticed = move || look_for_restore.look();
        match VsockEndpoint::bind(port) {
            Ok(endpoint) => {
                vsock_state.send_replace(Part::Ok(String::new()));
                tasks.spawn(server::serve(endpoint, router, connections, drain, noticed));
            }
            Err(error) => {
                report_vsock_failure(&vsock_state, port, &error);
                tasks.spawn(async move {
                    let Some(endpoint) = bind_vsock_later(port, &vsock_state, &drain).await else { return };
                    server::serve(endpoint, router, connections, drain, noticed).await;
                });
            }
        }
    }
    // By the configuration it may still have the address of the VM that it was branched from.
    if let Some(announced) = agent.generation.identity().ip6 {
        address_state.send_replace(Part::Ok(format!("{announced}, as announced")));
    } else if let Some(address) = agent.config.ip6.clone() {
        address_state.send_replace(Part::Failed("the address of `ip6` is not set yet".to_owned()));
        let stop = stop.clone();
        let (looker, mut identities) = (watcher.looker(), agent.generation.identities());
        let setting = async move {
            tokio::select! {
                () = set_guest_address(address, &address_state, looker) => {}
                // One that was announced meanwhile is the VM's now, and that of the configuration may be another's.
                Ok(identity) = identities.wait_for(|identity| identity.ip6.is_some()) => {
                    let announced = identity.ip6.map(|address| format!("{address}, as announced"));
                    address_state.send_replace(Part::Ok(announced.unwrap_or_default()));
                }
            }
        };
        tasks.spawn(async move { stop.run_until_cancelled(setting).await });
    }
    let named = agent.generation.identity();
    tasks.spawn_blocking(move || names_state.send_replace(settle_names(&names, &named)));
    tasks.spawn(soon_after_start(stop.clone(), bridge.run(watcher.observations(), stop.clone())));
    tasks.spawn(generations.run(stop.clone()));
    tasks.spawn(follow_vm_id(agent.generation.identities(), vm_id_changes, stop.clone()));
    if reach == Reach::All {
        tasks.spawn(detector.run(stop.clone()));
        let growth = Growth::new(Arc::clone(&agent.disks)).run(stop.clone());
        tasks.spawn(soon_after_start(stop.clone(), growth));
    }
    let registry = registry.map(|registry| tokio::spawn(registry.run(drain.clone())));

    // Before whoever waits for this agent starts sshd. What fails is told in health, and does not hold the VM up.
    let applied = own_keys.await.inspect_err(|error| tracing::warn!(%error, "the VM's own keys"));
    let has_new_host_key = applied.is_ok_and(|applied| applied.host_keys_made && applied.sshd_told == 0);

    let ready = agent.phase.ready();
    tracing::info!(version = env!("CARGO_PKG_VERSION"), seconds_since_boot = ready, "ready");
    notify_init(sd_notify::NotifyState::Ready);
    tasks.spawn(let_go_of_the_start(stop.clone()));

    if has_new_host_key {
        // One that listens already, of a VM whose id was changed.
        let (looker, keys, ends) = (agent.looker.clone(), agent.keys.clone(), stop.clone());
        let telling = async move {
            looker.fresh().await;
            // An agent that ends at this moment tells nobody.
            let _ = keys.tell_sshd().await;
        };
        tasks.spawn(soon_after_start(stop.clone(), async move { ends.run_until_cancelled(telling).await }));
    }

    let is_interrupted = tokio::select! {
        _ = terminate.recv() => false,
        _ = interrupt.recv() => true,
    };
    tracing::info!("draining");
    notify_init(sd_notify::NotifyState::Stopping);
    agent.phase.drain();
    // What stands still cannot end, and a frozen disk ends nothing.
    let thawed = tokio::time::timeout(limits::GENERATION_STEP_TIME, agent.generation.end_prepared()).await;
    if thawed.is_err() {
        tracing::warn!("the VM is prepared for a commit still: its hooks take their time");
    }
    let left_by = Instant::now() + limits::REGISTRY_LEAVE_TIME;
    drain.cancel();
    complete_responses(&agent, &connections).await;
    end_execs(&agent).await;
    leave_registry(registry, left_by).await;
    if is_interrupted {
        // A person at a terminal means the end; SIGTERM may be a restart, over which bridged connections live.
        agent.bridge.end().await;
    }
    stop.cancel();
    tasks.close();
    if tokio::time::timeout(limits::STOP_TIME, tasks.wait()).await.is_err() {
        tracing::warn!(tasks = tasks.len(), "tasks are left behind");
    }
    tracing::info!("stopped");
    Ok(())
}

/// Lets the agent tell that it is ready before it does what nobody waits for. One that ends by then does not begin.
async fn soon_after_start(stop: CancellationToken, work: impl Future) {
    if stop.run_until_cancelled(tokio::time::sleep(limits::UPKEEP_DELAY)).await.is_some() {
        work.await;
    }
}

/// Gives back what was mapped of code that only a start runs.
async fn let_go_of_the_start(stop: CancellationToken) {
    if stop.run_until_cancelled(tokio::time::sleep(limits::START_CODE_TIME)).await.is_some() {
        // It is only memory.
        let _ = code::let_go().inspect_err(|error| tracing::debug!(%error, "the code of the start stays mapped"));
    }
}

/// The machine is this agent's to set right where its socket is the VM's.
fn reach(config: &Config) -> Reach {
    match config.generation_effects {
        GenerationEffects::All => Reach::All,
        GenerationEffects::Files => Reach::Files,
        GenerationEffects::None => Reach::Nothing,
        GenerationEffects::Auto if config.socket == Config::default().socket => Reach::All,
        GenerationEffects::Auto => Reach::Nothing,
    }
}

/// What an agent before this one has left in this boot, or what the configuration says of a VM that has just booted.
fn saved_generation(config: &Config, reach: Reach) -> Saved {
    let booted = || Saved {
        machine: Machine::new(config.vm_id.clone()),
        identity: Identity { vm_id: config.vm_id.clone(), public_name: config.public_name(), ..Identity::default() },
        ..Saved::default()
    };
    if reach == Reach::Nothing {
        return booted();
    }
    match generation::load(&config.generation_root) {
        Ok(Some(saved)) => Saved { machine: saved.machine.recovered(), ..saved },
        Ok(None) => booted(),
        Err(why) => {
            tracing::warn!(why, "what an agent before this one has left of commits and restores is lost");
            booted()
        }
    }
}

/// Tells the registry when the VM becomes another one.
async fn follow_vm_id(
    mut identities: watch::Receiver<Arc<Identity>>,
    vm_ids: watch::Sender<Option<String>>,
    stop: CancellationToken,
) {
    let follow = async {
        while identities.changed().await.is_ok() {
            let vm_id = identities.borrow_and_update().vm_id.clone();
            vm_ids.send_if_modified(|known| std::mem::replace(known, vm_id.clone()) != vm_id);
        }
    };
    stop.run_until_cancelled(follow).await;
}

/// Processes of this name that listen in the VM's own network namespace.
fn named(observation: &Observation, name: &str) -> Vec<i32> {
    let table = &observation.table;
    let owners = table.sockets.iter().filter_map(|socket| table.processes.get(&socket.inode));
    let mut pids: Vec<_> = owners.filter(|owner| owner.process.name == name).map(|owner| owner.process.pid).collect();
    pids.sort_unstable();
    pids.dedup();
    pids
}

/// The bridge's data plane belongs to the agent of this socket.
fn plane_settings(config: &Config) -> PlaneSettings {
    let mut socket = config.socket.clone().into_os_string();
    socket.push(".bridge");
    PlaneSettings {
        socket: socket.into(),
        bind: config.bridge_tier == BridgeTier::Bind,
        grace: config.bridge_grace,
        log_level: config.log_level.name(),
    }
}

/// Where execs get their cgroups, with which controllers, and what is to be said of it. Controllers that are missing are no fault:
/// only limits on execs need them, and say so.
fn exec_cgroups() -> (Option<CgroupParent>, Part) {
    let mut parent = match CgroupParent::detect() {
        Ok(parent) => parent,
        Err(why) => {
            return (None, Part::Failed(format!("{why}; execs are killed by process group, which setsid escapes")));
        }
    };
    let removed = parent.remove_leftovers(CGROUP_PREFIX);
    if removed > 0 {
        tracing::info!(removed, "empty cgroups of execs that an agent before this one left");
    }
    let missing = parent.enable_controllers().err().map(|why| format!("; no limits beyond these: {why}"));
    let have = match parent.controllers() {
        none if none.is_empty() => "no controllers".to_owned(),
        some => format!("controllers {some}"),
    };
    let path = parent.path().display();
    let found = format!("one for each exec under {path}, with {have}{}", missing.unwrap_or_default());
    (Some(parent), Part::Ok(found))
}

/// Waits for running responses; at the deadline the execs that they wait for are ended, so that each still gets its exit.
async fn complete_responses(agent: &Agent, connections: &TaskTracker) {
    connections.close();
    let deadline = Instant::now() + limits::DRAIN_TIME;
    if tokio::time::timeout_at(deadline, connections.wait()).await.is_ok() {
        return;
    }
    tracing::warn!(execs = agent.execs.running(), "execs are ended at the drain's deadline");
    agent.execs.terminate_all();
    if tokio::time::timeout(EXEC_END_TIME, connections.wait()).await.is_err() {
        tracing::warn!(connections = connections.len(), "connections are cut at the drain's deadline");
    }
}

/// Ends what runs on without a client, such as detached execs: TERM, grace, KILL. Their records go with the agent.
async fn end_execs(agent: &Agent) {
    if tokio::time::timeout(EXEC_END_TIME, agent.execs.shutdown()).await.is_err() {
        tracing::warn!(execs = agent.execs.running(), "execs are left behind");
    }
}

/// Waits until the VM's entry is out of the registry, which began with the drain.
async fn leave_registry(registry: Option<JoinHandle<()>>, by: Instant) {
    let Some(registry) = registry else { return };
    if tokio::time::timeout_at(by, registry).await.is_err() {
        tracing::warn!("the registry's task is left behind");
    }
}

fn report_vsock_failure(state: &watch::Sender<Part>, port: u32, error: &std::io::Error) {
    let why = format!(
        "binding vsock port {port} failed: {error}; the kernel needs VSOCKETS and a transport (module \
         vmw_vsock_virtio_transport), the VM a vsock device"
    );
    state.send_if_modified(|state| {
        let next = Part::Failed(why);
        let changed = *state != next;
        *state = next;
        changed
    });
}

/// Tries until the module is there. None when the agent drains.
async fn bind_vsock_later(port: u32, state: &watch::Sender<Part>, drain: &CancellationToken) -> Option<VsockEndpoint> {
    tracing::warn!(port, "vsock cannot be bound yet");
    let mut pause = RETRY.0;
    loop {
        drain.run_until_cancelled(tokio::time::sleep(pause)).await?;
        pause = (pause * 2).min(RETRY.1);
        match VsockEndpoint::bind(port) {
            Ok(endpoint) => {
                state.send_replace(Part::Ok(String::new()));
                return Some(endpoint);
            }
            Err(error) => report_vsock_failure(state, port, &error),
        }
    }
}

/// Gives the first interface its address, as soon as there is an interface.
async fn set_guest_address(address: GuestAddress, state: &watch::Sender<Part>, looker: LookNow) {
    let mut pause = RETRY.0;
    loop {
        match apply_guest_address(&address) {
            Ok(()) => {
                looker.look_now();
                state.send_replace(Part::Ok(format!("{}/{}", address.address, address.prefix_len)));
                return;
            }
            Err(error) => {
                state.send_replace(Part::Failed(format!("setting the address of `ip6`: {error:#}")));
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(RETRY.1);
            }
        }
    }
}

fn apply_guest_address(address: &GuestAddress) -> anyhow::Result<()> {
    let interface = rtnl::first_interface()?.context("the VM has no network interface beside loopback")?;
    rtnl::set_link_up(interface, address.mtu).context("setting the interface up")?;
    rtnl::add_ipv6_address(interface, address.address, address.prefix_len)
        .with_context(|| format!("adding {}/{}", address.address, address.prefix_len))?;
    if let Some(gateway) = address.gateway {
        rtnl::add_ipv6_default_route(interface, gateway)
            .with_context(|| format!("adding the default route by {gateway}"))?;
    }
    Ok(())
}

/// Sets the VM's host name and name servers, where they are guestd's to set. By the configuration it may still be the VM that it was
/// branched from.
fn settle_names(names: &Names, identity: &Identity) -> Part {
    let root = match RootDir::open(Path::new("/")) {
        Ok(root) => root,
        Err(error) => return Part::Failed(error.to_string()),
    };
    if !names::is_installed(&root) {
        return Part::Off("guestd is not installed here (`guestd install`)".to_owned());
    }
    let (vm_id, given) = (identity.vm_id.as_deref(), identity.hostname.as_deref());
    match names.start(&root, &Told { vm_id, given, former: &[], dns: &identity.dns }) {
        Some(settled) if settled.has_failed() => Part::Failed(settled.to_string()),
        Some(settled) => Part::Ok(settled.to_string()),
        None => Part::Ok("as announced".to_owned()),
    }
}

/// Tells systemd, if it is there to be told.
fn notify_init(state: sd_notify::NotifyState<'_>) {
    if let Err(error) = sd_notify::notify(&[state]) {
        tracing::warn!(%error, "NOTIFY_SOCKET");
    }
}
