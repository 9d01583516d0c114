//! How commands are run.

use std::path::PathBuf;
use std::time::Duration;

use super::output::Patience;
use crate::limits;
use crate::sys::cgroup::CgroupParent;

/// How commands are run. The default is what an image needs, but for the cgroup.
#[derive(Debug, Clone)]
pub struct ExecConfig {
    /// Commands at once.
    pub max_running: usize,
    /// Variables for every command, over those of a login and under `/etc/environment`: the VM's identity.
    pub base_env: Vec<(String, String)>,
    /// The account's variables, read anew for each command. May be missing.
    pub environment_file: PathBuf,
    /// Users. May be missing where only root is used.
    pub passwd: PathBuf,
    /// Groups. May be missing.
    pub group: PathBuf,
    /// Where each command gets a cgroup of its own, from [`CgroupParent::detect`]; none: process groups and sessions.
    pub cgroup: Option<CgroupParent>,
    /// From SIGTERM to SIGKILL.
    pub kill_grace: Duration,
    /// Silence after the exit that ends waiting for more output of processes that the command left behind.
    pub drain_silence: Duration,
    /// The longest such wait.
    pub drain_time: Duration,
    /// Output of one exec that can be read again, in bytes.
    pub replay_bytes: usize,
    /// The same for all execs together.
    pub replay_total_bytes: usize,
    /// Where output goes that leaves the replay ring of an exec with `spill`. Made when it is needed.
    pub spill_dir: PathBuf,
    /// Bytes there, of all execs together.
    pub spill_bytes: u64,
}

impl Default for ExecConfig {
    fn default() -> Self {
        Self {
            max_running: limits::EXECS_RUNNING,
            base_env: Vec::new(),
            environment_file: "/etc/environment".into(),
            passwd: "/etc/passwd".into(),
            group: "/etc/group".into(),
            cgroup: None,
            kill_grace: limits::EXEC_KILL_GRACE,
            drain_silence: limits::EXEC_DRAIN_SILENCE,
            drain_time: limits::EXEC_DRAIN_TIME,
            replay_bytes: limits::EXEC_REPLAY_BYTES,
            replay_total_bytes: limits::EXEC_REPLAY_TOTAL_BYTES,
            spill_dir: limits::EXEC_SPILL_DIR.into(),
            spill_bytes: limits::EXEC_SPILL_BYTES,
        }
    }
}

impl ExecConfig {
    pub(super) fn patience(&self) -> Patience {
        Patience { silence: self.drain_silence, limit: self.drain_time }
    }
}
