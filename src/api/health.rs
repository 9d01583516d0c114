//! Health: is this VM usable, and if not wholly, what is missing.

use serde::{Deserialize, Serialize};

/// Answer of `GET /health` and `GET /v1/health`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Health {
    /// The sum of the checks.
    pub status: Status,
    /// guestd's version.
    pub version: String,
    /// Seconds since the kernel started (CLOCK_BOOTTIME), at the time of the answer.
    pub uptime_secs: f64,
    /// Seconds from the kernel's start until the agent first answered; null while it starts.
    pub ready_after_boot_secs: Option<f64>,
    /// Every check, the good ones too. Empty while the agent starts, and in the answer of `/health`, which needs no token.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub checks: Vec<Check>,
}

/// State of the agent as a whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// Every check is ok.
    Ready,
    /// Usable, with the failures that the checks name.
    Degraded,
    /// Not serving yet.
    Starting,
    /// Shutting down: running responses are completed, new ones refused.
    Draining,
}

/// One thing that was looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Check {
    /// Stable name: `vsock`, `ipv6`, `cgroup2`, `listeners`, `bridge`, `pseudo_ipv4`, `keys`, `registry`, `init`, `config`.
    pub name: String,
    /// Verdict.
    pub state: CheckState,
    /// What is the matter and what to do about it; for an ok check, what was found.
    pub message: String,
}

/// Verdict of one check.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CheckState {
    /// As it should be.
    Ok,
    /// Missing or failing; makes the whole `degraded`.
    Degraded,
    /// Switched off by configuration; no fault.
    Off,
}
