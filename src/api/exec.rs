//! Exec: one command run for the host.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Body of `POST /v1/exec` and `POST /v1/exec/stream`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
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
    /// Id of the exec, 1 to 128 characters of `A-Za-z0-9._-`; one is made when absent. An id in use is answered 409.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exec_id: Option<String>,
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
    /// From start to exit, in milliseconds.
    pub duration_ms: u64,
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
    /// The command ended.
    Exit {
        /// Exit status; 128+n after signal n; 124 after a time-out.
        exit_code: i32,
        /// Number of the signal that ended it, if one did.
        signal: Option<i32>,
        /// The time-out ended it.
        timed_out: bool,
        /// From start to exit, in milliseconds.
        duration_ms: u64,
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
