//! The service: configuration in, endpoints up, everything down again in order.
//!
//! ```text
//! build ──> serve: vsock, Unix socket, bridge, listeners, ──SIGTERM──> drain: no new connections, running responses
//!           registry                                                   completed, execs ended at the deadline
//! ```

use std::{sync::Arc, time::Duration};

use anyhow::Context;
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::watch,
    task::JoinHandle,
    time::Instant,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    bridge::{Bridge, Settings},
    config::{Config, GuestAddress, Problem},
    exec::{CGROUP_PREFIX, CgroupParent, ExecConfig, Execs},
    files::Trees,
    health::Part,
    limits,
    listeners::{LookNow, OwnSockets, WatchSettings, Watcher},
    registry::{Registry, Sources},
    server::{self, Agent, Phase, Sockets, UnixEndpoint, Views, VsockEndpoint},
    sys::rtnl,
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

    let unix = UnixEndpoint::bind(&config.socket)?;
    let own = OwnSockets::default();
    let watch = WatchSettings { events: config.listener_events, poll_interval: config.poll_interval };
    let watcher = Watcher::spawn(watch, own.clone()).context("starting the listeners' thread")?;
    let settings = Settings {
        auto: config.bridge_auto,
        rules: config.bridge_rules.clone(),
        routable_ports: config.routable_ports.clone(),
    };
    let (bridge, bridge_handle) = Bridge::new(settings, own);
    let (cgroup_parent, cgroup) = exec_cgroups();
    let (vsock_state, vsock) = watch::channel(Part::Off("`vsock.enabled` is false".to_owned()));
    let (address_state, guest_address) = watch::channel(Part::Off("`ip6` is not set".to_owned()));
    let mut exec_config = ExecConfig {
        max_running: config.exec_max_running,
        cgroup: cgroup_parent,
        replay_bytes: config.exec_replay_bytes,
        replay_total_bytes: config.exec_replay_total_bytes,
        spill_dir: config.exec_spill_dir.clone(),
        spill_bytes: config.exec_spill_bytes,
        ..ExecConfig::default()
    };
    exec_config.base_env.extend(config.vm_id.clone().map(|id| ("VERS_VM_ID".to_owned(), id)));
    // Nothing changes it yet.
    let (_vm_id, vm_id) = watch::channel(config.vm_id.clone());
    let sources = Sources { vm_id, observations: watcher.observations(), bridge: bridge_handle.clone() };
    let (registry, registry_report) = Registry::new(&config, sources);
    let (drain, stop) = (CancellationToken::new(), CancellationToken::new());
    let connections = TaskTracker::new();
    let agent = Arc::new(Agent {
        execs: Execs::new(exec_config),
        trees: Trees::default(),
        cgroup,
        observations: watcher.observations(),
        looker: watcher.looker(),
        listener_events: watcher.events().clone(),
        bridge: bridge_handle,
        vsock,
        guest_address,
        views: Views::default(),
        registry: registry_report,
        sockets: Sockets::new(connections.clone(), drain.clone()),
        phase,
        config,
        problems,
    });

    let tasks = TaskTracker::new();
    let router = server::router(Arc::clone(&agent));
    tasks.spawn(server::serve(unix, router.clone(), connections.clone(), drain.clone()));
    if agent.config.vsock_enabled {
        let (port, connections, drain) = (agent.config.vsock_port, connections.clone(), drain.clone());
        match VsockEndpoint::bind(port) {
            Ok(endpoint) => {
                vsock_state.send_replace(Part::Ok(String::new()));
                tasks.spawn(server::serve(endpoint, router, connections, drain));
            }
            Err(error) => {
                report_vsock_failure(&vsock_state, port, &error);
                tasks.spawn(async move {
                    let Some(endpoint) = bind_vsock_later(port, &vsock_state, &drain).await else { return };
                    server::serve(endpoint, router, connections, drain).await;
                });
            }
        }
    }
    if let Some(address) = agent.config.ip6.clone() {
        address_state.send_replace(Part::Failed("the address of `ip6` is not set yet".to_owned()));
        let stop = stop.clone();
        let setting = set_guest_address(address, address_state, watcher.looker());
        tasks.spawn(async move { stop.run_until_cancelled(setting).await });
    }
    tasks.spawn(bridge.run(watcher.observations(), stop.clone()));
    let registry = registry.map(|registry| tokio::spawn(registry.run(drain.clone())));

    let ready = agent.phase.ready();
    tracing::info!(version = env!("CARGO_PKG_VERSION"), seconds_since_boot = ready, "ready");
    notify_init(sd_notify::NotifyState::Ready);

    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    tracing::info!("draining");
    notify_init(sd_notify::NotifyState::Stopping);
    agent.phase.drain();
    let left_by = Instant::now() + limits::REGISTRY_LEAVE_TIME;
    drain.cancel();
    complete_responses(&agent, &connections).await;
    end_execs(&agent).await;
    leave_registry(registry, left_by).await;
    stop.cancel();
    tasks.close();
    if tokio::time::timeout(limits::STOP_TIME, tasks.wait()).await.is_err() {
        tracing::warn!(tasks = tasks.len(), "tasks are left behind");
    }
    tracing::info!("stopped");
    Ok(())
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
async fn set_guest_address(address: GuestAddress, state: watch::Sender<Part>, looker: LookNow) {
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

/// Tells systemd, if it is there to be told.
fn notify_init(state: sd_notify::NotifyState<'_>) {
    if let Err(error) = sd_notify::notify(&[state]) {
        tracing::warn!(%error, "NOTIFY_SOCKET");
    }
}
