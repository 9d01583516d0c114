//! Exec: one command run for the host.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Body of `POST /v1/exec` and `POST /v1/exec/stream`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ExecRequest {
    /// Program and arguments: an argv, no shell. The program is looked up in the exec's PATH.
    pub command: Vec<String>,
    /// Added to the environment, over `/etc/environment`. Keys are shell identifiers of at most 256 bytes, values at most 8192.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub env: BTreeMap<String, String>,
    /// Given to the command as standard input, then end of file. None: `/dev/null`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stdin: Option<String>,
    /// The same in standard base64, for bytes that are no UTF-8. Not together with `stdin`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stdin_b64: Option<String>,
    /// Directory to run in, absolute; default the user's home, or `/` where there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub working_dir: Option<String>,
    /// User name or number; default root.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// Seconds until the command and all that it started get SIGTERM, then SIGKILL. None or 0: no limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout_secs: Option<u64>,
    /// Id of the exec, 1 to 128 characters of `A-Za-z0-9._-`; one is made when absent. An id that is known stands for the same
    /// exec when the rest of the request is the same, and is answered 409 when it is not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exec_id: Option<String>,
    /// `POST /v1/exec` answers at once, with an [`ExecStatus`]; the output waits in the replay ring.
    #[serde(default, skip_serializing_if = "is_false")]
    pub detach: bool,
    /// Output that no reader has taken makes the command wait, instead of being overwritten.
    #[serde(default, skip_serializing_if = "is_false")]
    pub lossless: bool,
    /// Output that leaves the replay ring is kept on disk, up to a limit, and can still be read.
    #[serde(default, skip_serializing_if = "is_false")]
    pub spill: bool,
    /// Standard input stays open, after `stdin` if that is given, for `POST /v1/exec/{id}/stdin` and the WebSocket.
    #[serde(default, skip_serializing_if = "is_false")]
    pub stdin_open: bool,
    /// Runs on a terminal of this size; all output is then `stdout`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tty: Option<TtySize>,
    /// What becomes of it in a branch of this VM.
    #[serde(default, skip_serializing_if = "OnBranch::is_keep")]
    pub on_branch: OnBranch,
    /// Bounds on the command and all that it starts; needs cgroup2 controllers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limits: Option<ExecLimits>,
}

/// What becomes of an exec in a branch of the VM that it was started in. In that VM itself it goes on.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnBranch {
    /// It runs on in both.
    #[default]
    Keep,
    /// It stands still from the commit on, until it gets SIGCONT.
    Freeze,
    /// It is killed before it runs on.
    Kill,
}

impl OnBranch {
    fn is_keep(&self) -> bool {
        *self == Self::Keep
    }
}

fn is_false(value: &bool) -> bool {
    !value
}

/// Size of a terminal, in characters. Body of `POST /v1/exec/{id}/resize`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TtySize {
    /// Lines.
    pub rows: u16,
    /// Columns.
    pub cols: u16,
}

/// Bounds on a command and all that it starts.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ExecLimits {
    /// Memory in bytes (memory.max of cgroup-v2).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_bytes: Option<u64>,
    /// Processes and threads (pids.max).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pids: Option<u64>,
    /// Share of the CPU when it is scarce, 1 to 10000, 100 being usual (cpu.weight).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu_weight: Option<u64>,
}

/// What it took, from the exec's cgroup; absent where there is none, or no such controller.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExecUsage {
    /// CPU time of the command and all that it started, in microseconds (cpu.stat).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu_time_us: Option<u64>,
    /// Most memory that they held at once, in bytes (memory.peak).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_peak_bytes: Option<u64>,
}

/// Answer of `POST /v1/exec`: the command ran, however it ended.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExecResult {
    /// Id of the exec.
    pub exec_id: String,
    /// Exit status; 128+n after signal n; 124 after a time-out.
    pub exit_code: i32,
    /// Standard output; invalid UTF-8 is replaced, and then `stdout_b64` holds the bytes.
    pub stdout: String,
    /// Standard error, in the same way.
    pub stderr: String,
    /// The exact bytes in base64; only where `stdout` could not hold them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stdout_b64: Option<String>,
    /// The exact bytes in base64; only where `stderr` could not hold them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stderr_b64: Option<String>,
    /// Output went over the limit of this call, and what came after it is not here.
    pub truncated: bool,
    /// Number of the signal that ended the command, if one did.
    pub signal: Option<i32>,
    /// The time-out ended it.
    pub timed_out: bool,
    /// The kernel killed a process of it for want of memory (memory.events).
    #[serde(default)]
    pub oom_killed: bool,
    /// From start to exit, in milliseconds.
    pub duration_ms: u64,
    /// What it took.
    #[serde(flatten)]
    pub usage: ExecUsage,
}

/// An exec that runs, or one whose record is kept. `GET /v1/exec` lists these, oldest first.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ExecStatus {
    /// Id of the exec.
    pub exec_id: String,
    /// Where it is in its life.
    pub state: ExecState,
    /// Program and arguments.
    pub command: Vec<String>,
    /// User name or number that it was asked to run as; null for root.
    pub user: Option<String>,
    /// Process id of the command, while it runs.
    pub pid: Option<i32>,
    /// It runs on a terminal.
    pub tty: bool,
    /// Seconds since 1970 (CLOCK_REALTIME) when it was started.
    pub started_at: f64,
    /// Seconds since 1970 when it ended; null while it runs.
    pub finished_at: Option<f64>,
    /// How it ended; null while it runs.
    pub exit: Option<ExecExit>,
    /// Offset of the first byte of output that can still be read.
    pub cursor_start: u64,
    /// Offset of the end of the output so far.
    pub cursor: u64,
    /// Readers attached now.
    pub readers: usize,
    /// Generation in which it was started; null before the first that was announced.
    #[serde(default)]
    pub generation_id: Option<String>,
    /// It came along when the VM was restored: up to here its output is that of the VM that was committed.
    #[serde(default)]
    pub fork_cursor: Option<u64>,
    /// It stands still, as it was asked to in a branch; SIGCONT has it go on.
    #[serde(default)]
    pub frozen: bool,
}

/// Where an exec is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ExecState {
    /// It runs.
    Running,
    /// It ended; its output and exit are kept for a while.
    Exited,
}

/// How an exec ended.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExecExit {
    /// Exit status; 128+n after signal n; 124 after a time-out.
    pub exit_code: i32,
    /// Number of the signal that ended it, if one did.
    pub signal: Option<i32>,
    /// The time-out ended it.
    pub timed_out: bool,
    /// The kernel killed a process of it for want of memory.
    #[serde(default)]
    pub oom_killed: bool,
    /// From start to exit, in milliseconds.
    pub duration_ms: u64,
    /// What it took.
    #[serde(flatten)]
    pub usage: ExecUsage,
}

/// Body of `POST /v1/exec/stream/attach`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AttachRequest {
    /// Id of the exec.
    pub exec_id: String,
    /// Offset of the first byte that is wanted; default 0. What is not kept any more is told by a gap.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cursor: Option<u64>,
    /// Only what comes from now on; not together with `cursor`.
    #[serde(default, skip_serializing_if = "is_false")]
    pub from_latest: bool,
    /// Generation that the cursor is of, as the header `guestd-generation` of the stream said that it came from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub generation_id: Option<String>,
}

/// Answer of `POST /v1/exec/{id}/stdin`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct StdinAccepted {
    /// Bytes that calls like this one have given to the exec so far; the `offset` of what follows.
    pub accepted: u64,
}

/// Body of `POST /v1/exec/{id}/signal`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SignalRequest {
    /// Name without SIG (`TERM`) or number.
    pub signal: String,
    /// Who gets it; default the command alone.
    #[serde(default)]
    pub to: SignalTarget,
}

/// Who gets a signal.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SignalTarget {
    /// The command's own process.
    #[default]
    Process,
    /// Its process group; on a terminal, the one in the foreground.
    Group,
    /// All that it started.
    Tree,
}

/// Answer of `GET /v1/logs`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Logs {
    /// In the order in which the output was read.
    pub entries: Vec<LogEntry>,
    /// Give this as `offset` for what comes after.
    pub next_offset: u64,
    /// There is nothing more at present, and, with `exec_id`, the exec has ended.
    pub eof: bool,
}

/// A piece of output of some exec.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LogEntry {
    /// Seconds since 1970 when it was read.
    pub timestamp: f64,
    /// Where it came from.
    pub stream: OutputStream,
    /// The bytes, in standard base64.
    pub data_b64: String,
    /// Whose it is; empty where it is a service's.
    pub exec_id: String,
    /// The service of `guestd init` that printed it, where it was none of the execs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service: Option<String>,
}

/// Which output a chunk came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OutputStream {
    /// File descriptor 1.
    Stdout,
    /// File descriptor 2.
    Stderr,
}

/// One line of the NDJSON that `POST /v1/exec/stream` answers. The last one is `exit` or `error`; a stream without
/// either was cut off.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum StreamFrame {
    /// Output.
    Chunk {
        /// Where it came from.
        stream: OutputStream,
        /// The bytes, in standard base64.
        data_b64: String,
        /// Offset of the first byte after this chunk in the exec's output, both streams counted together.
        cursor: u64,
        /// Id of the exec.
        exec_id: String,
    },
    /// Output that this reader cannot have any more: it was overwritten before it was read.
    Gap {
        /// Offset of the first byte that is missing.
        from: u64,
        /// Offset of the first byte that follows.
        to: u64,
        /// Id of the exec.
        exec_id: String,
    },
    /// The command ended.
    Exit {
        /// Exit status; 128+n after signal n; 124 after a time-out.
        exit_code: i32,
        /// Number of the signal that ended it, if one did.
        signal: Option<i32>,
        /// The time-out ended it.
        timed_out: bool,
        /// The kernel killed a process of it for want of memory.
        #[serde(default)]
        oom_killed: bool,
        /// From start to exit, in milliseconds.
        duration_ms: u64,
        /// What it took.
        #[serde(flatten)]
        usage: ExecUsage,
        /// Offset of the end of the output.
        cursor: u64,
        /// Id of the exec.
        exec_id: String,
    },
    /// The exec could not be followed to its end.
    Error {
        /// As in an error body.
        code: super::ErrorCode,
        /// As in an error body.
        message: String,
    },
}
