//! What this VM is: versions, identity, boot.

use serde::{Deserialize, Serialize};

use super::{AgentCrash, BootStep};

/// Answer of `GET /v1/info`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Info {
    /// guestd's version.
    pub version: String,
    /// Kernel release, as `uname -r` prints it.
    pub kernel: String,
    /// Machine architecture, as `uname -m` prints it.
    pub arch: String,
    /// PRETTY_NAME of os-release(5), if there is one.
    pub os: Option<String>,
    /// Name of process 1.
    pub init: String,
    /// Who this VM is.
    pub identity: Identity,
    /// How it started.
    pub boot: BootTimings,
    /// Ends of the agent that nobody had asked for since the boot, the latest last, where process 1 is `guestd init`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub agent_crashes: Vec<AgentCrash>,
    /// CPUs online.
    pub cpus: usize,
    /// Memory in bytes.
    pub memory_total_bytes: u64,
    /// Memory available without swapping (MemAvailable of proc(5)), in bytes.
    pub memory_available_bytes: u64,
    /// Root file system: size and free bytes.
    pub disk_total_bytes: u64,
    /// Root file system: bytes free for users.
    pub disk_available_bytes: u64,
    /// What this build and kernel offer: `vsock`, `cgroup2`, `ipv6`, `bridge`, … `listener_events` is that the kernel tells of
    /// listeners by itself.
    pub features: Vec<String>,
}

/// Who this VM is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// Id given by the platform, if known (`VERS_VM_ID`, `guestd.vm_id=`, configuration).
    pub vm_id: Option<String>,
    /// Host name of the kernel.
    pub hostname: String,
    /// Public name, `{vm_id}.{network.domain}`, if the id is known.
    pub public_name: Option<String>,
}

/// Seconds since the kernel's start (CLOCK_BOOTTIME).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct BootTimings {
    /// When the agent's process started.
    pub agent_started_secs: f64,
    /// When it was ready; null while it starts.
    pub ready_secs: Option<f64>,
    /// What was done before, step by step, where process 1 is `guestd init`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub steps: Vec<BootStep>,
}
