//! Generations: one life of a VM between two restores, and what the host and the agent say to each other around a commit.

use std::{collections::BTreeMap, fmt, net::IpAddr};

use serde::{Deserialize, Serialize};

use super::HostKeyPolicy;

/// Header of a stream's answer: the generation that its cursors are of.
pub const GENERATION_HEADER: &str = "guestd-generation";

/// What brought this generation about.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum GenerationKind {
    /// The kernel booted.
    Boot,
    /// The same VM goes on where it was paused.
    Resume,
    /// A commit of another VM goes on as this one.
    #[default]
    Branch,
    /// The same VM goes back to an earlier commit.
    Rollback,
}

/// Body of `POST /v1/generation`. What is absent stays as it is. Its `Debug` leaves out what is secret.
#[derive(Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GenerationRequest {
    /// Fresh for every restore: 1 to 128 characters of `A-Za-z0-9._-`. The same id again is the same announcement.
    pub generation_id: String,
    /// What happened.
    pub kind: GenerationKind,
    /// The VM's id from now on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vm_id: Option<String>,
    /// Of a branch: the VM that the commit was made of. Where the agent knows itself by another id, the call is refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent_vm_id: Option<String>,
    /// The commit that was restored.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub commit_id: Option<String>,
    /// Seconds since 1970 by the host's clock, taken for each attempt just before it is sent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wall_clock: Option<f64>,
    /// Random bytes for this VM alone, in standard base64; at least 32, fresh for each attempt.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub entropy: Option<String>,
    /// Host name; default for a branch with a `vm_id` is that id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hostname: Option<String>,
    /// Account variables: all that guestd manages in `/etc/environment`, in place of what it managed before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub env: Option<BTreeMap<String, String>>,
    /// Addresses.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub net: Option<GenerationNet>,
    /// SSH keys.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ssh: Option<GenerationSsh>,
    /// What becomes of `/etc/machine-id`.
    #[serde(default)]
    pub machine_id: IdentityPolicy,
}

impl fmt::Debug for GenerationRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GenerationRequest").field("generation_id", &self.generation_id).finish_non_exhaustive()
    }
}

/// The network of a generation.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GenerationNet {
    /// `ADDRESS/PREFIX` of the first interface; other IPv6 addresses of it but the link's own go.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ip6: Option<String>,
    /// The IPv6 default route's gateway.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gateway: Option<std::net::Ipv6Addr>,
    /// Name servers.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub dns: Vec<IpAddr>,
    /// MTU of the interface in bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mtu: Option<u32>,
}

/// SSH in a generation.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GenerationSsh {
    /// Public keys that may log in as root, in place of those that the host gave before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub authorized: Option<Vec<String>>,
    /// What becomes of the host keys where the VM has another id; without it, as `ssh.host_keys` is configured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host_key_policy: Option<HostKeyPolicy>,
}

/// What becomes of something that tells VMs apart.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum IdentityPolicy {
    /// It stays.
    #[default]
    Keep,
    /// It is made anew.
    New,
}

/// Body of `POST /v1/snapshot/prepare`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SnapshotPrepare {
    /// The commit is of the disk alone: the root file system is written out and frozen until the thaw.
    pub freeze: bool,
    /// Seconds after which the agent thaws by itself, of time that the VM sees; 1 to 300, 30 where it is left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub watchdog_secs: Option<u64>,
}

/// Body of `POST /v1/snapshot/thaw`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SnapshotThaw {
    /// Seconds since 1970 by the host's clock, taken just before it is sent: a VM that stood still for a commit is late.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub wall_clock: Option<f64>,
}

/// How far the agent is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum GenerationPhase {
    /// Execs are started.
    #[default]
    Running,
    /// Ready for a snapshot: new execs wait.
    Prepared,
    /// An announcement is carried out: new execs wait.
    Restoring,
}

/// Answer of `POST /v1/snapshot/prepare` and `thaw`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct SnapshotReport {
    /// Where the agent is now.
    pub phase: GenerationPhase,
    /// The generation that is committed.
    pub generation_id: Option<String>,
    /// Every step did what it should.
    pub complete: bool,
    /// What was done, in this order.
    pub steps: Vec<StepReport>,
    /// From the call to the answer, in milliseconds.
    pub took_ms: f64,
}

/// What a step did.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StepReport {
    /// Its name: `gate`, `entropy`, `clock`, `identity`, `env`, `network`, `ssh`, `execs`, `hooks`, `thaw`, `ready` …
    pub step: String,
    /// What came of it.
    pub outcome: StepOutcome,
    /// What was done, or why not.
    pub message: String,
    /// Time that it took, in milliseconds.
    pub took_ms: f64,
}

/// What came of a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StepOutcome {
    /// Done.
    Done,
    /// There was nothing to do.
    Skipped,
    /// It could not be done; the others were done all the same.
    Failed,
}

/// What came of an announcement. Answer of `POST /v1/generation`, and in that of `GET`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct GenerationReport {
    /// The generation.
    pub generation_id: String,
    /// What happened.
    pub kind: GenerationKind,
    /// Every step did what it should. The same announcement again repeats what has failed.
    pub complete: bool,
    /// This is the answer of an earlier call: nothing was done again.
    #[serde(default)]
    pub replayed: bool,
    /// What was done, in this order. Hooks of `post-restore.d` run after the answer, and are in that of `GET` when they have ended.
    pub steps: Vec<StepReport>,
    /// From the closing of the gate to its opening, in milliseconds.
    pub gate_ms: f64,
    /// Seconds since 1970 when it was done, by the clock that it set.
    pub at: f64,
}

/// Answer of `GET /v1/generation`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct GenerationState {
    /// The generation, once the host has announced one.
    pub generation_id: Option<String>,
    /// Where the agent is.
    pub phase: GenerationPhase,
    /// What brought this generation about.
    pub kind: Option<GenerationKind>,
    /// The VM's id.
    pub vm_id: Option<String>,
    /// The VM that this one was branched from.
    pub parent_vm_id: Option<String>,
    /// The commit that was restored.
    pub commit_id: Option<String>,
    /// An announcement that an agent before this one did not come to the end of: make it again.
    pub interrupted: Option<String>,
    /// Signs of a restore that the host has not announced.
    pub unacked: Vec<RestoreSign>,
    /// Pauses that nobody told of and that were mended: seconds that the clock was behind, and when.
    pub resumed: Vec<ClockMended>,
    /// Requests for a command that wait at the gate.
    #[serde(default)]
    pub waiting: usize,
    /// The last announcement's report.
    pub report: Option<GenerationReport>,
    /// The last prepare's or thaw's report.
    pub snapshot: Option<SnapshotReport>,
}

/// A sign that this VM was restored from memory.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RestoreSign {
    /// `vmclock`, `kernel_message`, `vsock_cid`.
    pub sign: String,
    /// What was seen.
    pub message: String,
    /// Seconds since 1970 when it was seen.
    pub at: f64,
}

/// A clock that was set right unasked.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ClockMended {
    /// By so many seconds it was behind.
    pub behind_secs: f64,
    /// By whose time: `ptp0`, `rtc0`.
    pub by: String,
    /// Seconds since 1970, by the clock after that.
    pub at: f64,
}
