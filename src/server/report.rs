//! What the routes know of the agent, and the reports that they make of it.

use std::{
    path::Path,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
};

use nix::time::{ClockId, clock_gettime};
use tokio::sync::watch;

use super::{Init, Sockets, Views, init::Known};
use crate::{
    account_env::EnvStore,
    api::{BootTimings, Check, CheckState, Health, Identity, Info, Status},
    bridge::{BridgeHandle, SettingsFile},
    config::{Config, Problem},
    exec::Execs,
    files::Trees,
    generation::GenerationHandle,
    growth::Disks,
    health::{self, Part},
    keys::{self, KeysHandle},
    listeners::{Events, LookNow, Observation},
    registry,
    sys::memory,
};

/// Everything that the routes use. Shared by all connections.
#[derive(Debug)]
pub struct Agent {
    /// Settings.
    pub config: Config,
    /// What could not be used of the configuration.
    pub problems: Vec<Problem>,
    /// Execs.
    pub execs: Execs,
    /// Places for transfers of trees.
    pub trees: Trees,
    /// Where execs get their cgroups, or why they get none.
    pub cgroup: Part,
    /// Latest look at the listeners.
    pub observations: watch::Receiver<Arc<Observation>>,
    /// A way to a newer one.
    pub looker: LookNow,
    /// How it is known when to look.
    pub listener_events: Events,
    /// The bridge.
    pub bridge: BridgeHandle,
    /// Where its settings are kept.
    pub bridge_settings: SettingsFile,
    /// SSH keys.
    pub keys: KeysHandle,
    /// The host's way in, if its port could be bound.
    pub vsock: watch::Receiver<Part>,
    /// The configured address, once it is set.
    pub guest_address: watch::Receiver<Part>,
    /// Host name and name servers.
    pub names: watch::Receiver<Part>,
    /// The listeners as they are told.
    pub views: Views,
    /// How it stands with the registry.
    pub registry: watch::Receiver<registry::Report>,
    /// Process 1.
    pub init: Init,
    /// Account variables.
    pub env: Arc<EnvStore>,
    /// Commits and restores.
    pub generation: GenerationHandle,
    /// Disks that grow.
    pub disks: Arc<Disks>,
    /// WebSockets that are open.
    pub sockets: Sockets,
    /// How far the agent is.
    pub phase: Phase,
}

/// How far the agent is.
#[derive(Debug)]
pub struct Phase {
    started_secs: f64,
    ready_secs: OnceLock<f64>,
    draining: AtomicBool,
}

impl Phase {
    /// The process has started.
    pub fn starting() -> Self {
        Self { started_secs: since_boot(), ready_secs: OnceLock::new(), draining: AtomicBool::new(false) }
    }

    /// Every endpoint accepts. Returns the seconds since the kernel's start.
    pub fn ready(&self) -> f64 {
        *self.ready_secs.get_or_init(since_boot)
    }

    /// The agent shuts down.
    pub fn drain(&self) {
        self.draining.store(true, Relaxed);
    }

    /// None between start and shutdown.
    fn other_than_work(&self) -> Option<Status> {
        if self.draining.load(Relaxed) {
            return Some(Status::Draining);
        }
        self.ready_secs().is_none().then_some(Status::Starting)
    }

    fn ready_secs(&self) -> Option<f64> {
        self.ready_secs.get().copied()
    }
}

/// CLOCK_BOOTTIME in seconds, to the millisecond.
fn since_boot() -> f64 {
    // The clock exists on every kernel that guestd runs on; 0 would be an honest "unknown".
    let now = clock_gettime(ClockId::CLOCK_BOOTTIME).map(std::time::Duration::from).unwrap_or_default();
    (now.as_secs_f64() * 1000.0).round() / 1000.0
}

impl Agent {
    /// The health report. `checks` are for those who have the token.
    pub async fn health(&self, with_checks: bool) -> Health {
        match self.phase.other_than_work() {
            // Who waits for a VM asks again and again, and what is looked at for an answer is what the start itself needs.
            Some(Status::Starting) => self.health_of(Status::Starting, Vec::new()),
            _ => self.health_with(&self.init.known().await, with_checks),
        }
    }

    fn health_with(&self, init: &Known, with_checks: bool) -> Health {
        let vsock = self.vsock.borrow().clone();
        let guest_address = self.guest_address.borrow().clone();
        let names = self.names.borrow().clone();
        let observation = self.observations.borrow().clone();
        let mut keys = keys::status(Path::new("/"));
        keys.problems.extend(self.keys.trouble().sentences().map(str::to_owned));
        let (sum, checks) = health::assess(&health::Inputs {
            vsock: &match vsock {
                Part::Ok(_) => super::vsock_state(self.config.vsock_port),
                other => other,
            },
            cgroup: &self.cgroup,
            keys: &keys,
            guest_address: &guest_address,
            names: &names,
            config: &self.problems,
            observation: &observation,
            listener_events: &self.listener_events,
            bridge: &self.bridge.state(),
            registry: &self.registry.borrow().part(tokio::time::Instant::now()),
            init: &init.part(),
            generation: &self.generation.state(),
            generation_is_over: self.generation.is_over(),
            memory: &memory::look(),
            ipv6_in_kernel: has_ipv6(),
        });
        let status = self.phase.other_than_work().unwrap_or(sum);
        self.health_of(status, if with_checks { checks } else { Vec::new() })
    }

    fn health_of(&self, status: Status, checks: Vec<Check>) -> Health {
        Health {
            status,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            uptime_secs: since_boot(),
            ready_after_boot_secs: self.phase.ready_secs(),
            checks,
        }
    }

    /// What this VM is.
    pub async fn info(&self) -> Info {
        let known = self.init.known().await;
        let memory = sysinfo::System::new().ok().map(|mut system| {
            system.refresh_memory();
            (system.total_memory(), system.available_memory())
        });
        let (memory_total_bytes, memory_available_bytes) = memory.unwrap_or_default();
        let root = nix::sys::statvfs::statvfs("/").ok();
        let works = |check: &Check| check.state == CheckState::Ok;
        Info {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            kernel: sysinfo::System::kernel_version().unwrap_or_default(),
            arch: sysinfo::System::cpu_arch(),
            os: sysinfo::System::long_os_version().ok(),
            init: match &known {
                Known::Other => std::fs::read_to_string("/proc/1/comm").unwrap_or_default().trim().to_owned(),
                Known::Ours(_) | Known::Silent(_) => "guestd init".to_owned(),
            },
            identity: Identity {
                vm_id: self.generation.identity().vm_id.clone(),
                hostname: sysinfo::System::host_name().unwrap_or_default(),
                public_name: self.generation.identity().public_name.clone(),
            },
            boot: BootTimings {
                agent_started_secs: self.phase.started_secs,
                ready_secs: self.phase.ready_secs(),
                steps: if let Known::Ours(state) = &known { state.steps.clone() } else { Vec::new() },
            },
            agent_crashes: if let Known::Ours(state) = &known { state.crashes.clone() } else { Vec::new() },
            cpus: std::thread::available_parallelism().map_or(1, usize::from),
            memory_total_bytes,
            memory_available_bytes,
            disk_total_bytes: root.as_ref().map_or(0, |root| root.blocks() * root.fragment_size()),
            disk_available_bytes: root.as_ref().map_or(0, |root| root.blocks_available() * root.fragment_size()),
            features: self
                .health_with(&known, true)
                .checks
                .iter()
                .filter(|check| works(check))
                .map(|check| check.name.clone())
                .chain((self.listener_events == Events::Bpf).then(|| "listener_events".to_owned()))
                .collect(),
        }
    }
}

/// `ipv6.disable=1` and kernels without IPv6 have no such directory.
fn has_ipv6() -> bool {
    Path::new("/proc/sys/net/ipv6").exists()
}
