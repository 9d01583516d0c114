//! What `guestd init` runs in a VM that has no other init, how it booted, and how it is ended.

use serde::{Deserialize, Serialize};

/// A service of `guestd init`; the agent is one of them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Service {
    /// Name of its file in `/etc/guestd/services`, without `.toml`.
    pub name: String,
    /// How far it is.
    pub state: ServiceState,
    /// Its main process, while there is one.
    pub pid: Option<i32>,
    /// When that was started, in seconds since the kernel's start.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started_secs: Option<f64>,
    /// Its command line.
    pub command: Vec<String>,
    /// When it came into this state, in seconds since the kernel's start.
    pub since_secs: f64,
    /// How often it was started again without being asked for.
    pub restarts: u32,
    /// How its last process ended: `exit status 1`, `SIGKILL`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_exit: Option<String>,
    /// When that was, in seconds since the kernel's start.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exited_secs: Option<f64>,
    /// What is the matter with it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
}

/// How far a service is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ServiceState {
    /// To be started when those that it comes after are ready.
    Waiting,
    /// Its process runs and has not said that it is ready.
    Starting,
    /// It runs and is ready.
    Running,
    /// It has ended, and is started again after a pause.
    Pausing,
    /// It was told to end.
    Stopping,
    /// It was stopped, or is switched off.
    Stopped,
    /// It has done its work and exited with 0.
    Done,
    /// It has ended and is not started again; `problem` says why.
    Failed,
}

/// What is to be done with a service.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ServiceAction {
    /// Start it, if it does not run.
    Start,
    /// Stop it, and do not start it again.
    Stop,
    /// Stop it if it runs, and start it.
    Restart,
}

/// Body of `POST /v1/power`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PowerRequest {
    /// What is to become of the VM.
    pub action: PowerAction,
}

/// What is to become of the VM.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PowerAction {
    /// It ends: services are stopped, the disk is made clean.
    Off,
    /// The same, and it boots again, where the machine monitor lets it.
    Reboot,
}

/// Answer of `POST /v1/power`, before anything has ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PowerAccepted {
    /// As it was asked for.
    pub action: PowerAction,
    /// Who carries it out: the name of process 1.
    pub by: String,
}

/// A step of the boot by `guestd init`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct BootStep {
    /// What was done: `mounts`, `modules`, …
    pub name: String,
    /// When it began, in seconds since the kernel's start.
    pub at_secs: f64,
    /// How long it took, in milliseconds.
    pub took_ms: f64,
    /// What went wrong, and what to do.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub problems: Vec<String>,
}

/// An end of the agent that nobody had asked for.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct AgentCrash {
    /// Its process.
    pub pid: i32,
    /// When, in seconds since the kernel's start.
    pub at_secs: f64,
    /// How it ended: `SIGSEGV`, `exit status 1`.
    pub exit: String,
    /// The last that it wrote to standard error: the panic's message or the signal, with a backtrace.
    pub report: String,
}
