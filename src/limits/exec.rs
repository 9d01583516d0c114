//! Commands, their output and what they leave.

use std::time::Duration;

/// Execs running at once.
pub const EXECS_RUNNING: usize = 64;

/// Output kept for the answer of `POST /v1/exec`, each stream, in bytes. More is what `exec/stream` is for.
pub const EXEC_BUFFERED_OUTPUT_BYTES: usize = 8 * 1024 * 1024;

/// Output read at once from an exec's pipe and sent as one chunk, in bytes: what a pipe holds.
pub const EXEC_CHUNK_BYTES: usize = 64 * 1024;

/// Output taken from one exec before all else gets a turn, in bytes: a part of what can be read again.
pub const EXEC_TURN_BYTES: usize = 4 * EXEC_CHUNK_BYTES;

/// Output of one exec that can be read again, in bytes (`exec.replay_bytes`). Some ten thousand lines, and longer than a
/// connection needs to come back.
pub const EXEC_REPLAY_BYTES: usize = 1024 * 1024;

/// The same for all execs together, in bytes (`exec.replay_total_bytes`): one full ring for each exec that may run. Over it the
/// oldest output goes, and readers are told.
pub const EXEC_REPLAY_TOTAL_BYTES: usize = 64 * 1024 * 1024;

/// What a piece of output costs beside its bytes, so that output that comes byte by byte cannot take a hundred times its size.
pub const EXEC_PIECE_OVERHEAD: usize = 128;

/// Where output on disk goes, unless configured (`exec.spill_dir`).
pub const EXEC_SPILL_DIR: &str = "/var/lib/guestd/spill";

/// Output on disk of all execs with `spill` together, in bytes (`exec.spill_bytes`).
pub const EXEC_SPILL_BYTES: u64 = 1024 * 1024 * 1024;

/// Free space that spilling leaves on the file system, in bytes: a full disk breaks more than a log.
pub const EXEC_SPILL_RESERVE_BYTES: u64 = 64 * 1024 * 1024;

/// Output written to disk, and read back, at once, in bytes. A reader of spilled output holds this much.
pub const EXEC_SPILL_BATCH_BYTES: usize = 256 * 1024;

/// Readers attached to one exec. Each costs little; hundreds are a client that forgets to close.
pub const EXEC_READERS: usize = 64;

/// Ended execs whose records are kept. The oldest goes first.
pub const EXEC_RECORDS: usize = 1024;

/// How long the record of an ended exec is kept.
pub const EXEC_RECORD_AGE: Duration = Duration::from_secs(60 * 60);

/// Argv that a record keeps for showing, in bytes; what is longer is cut.
pub const EXEC_RECORD_COMMAND_BYTES: usize = 4 * 1024;

/// Pieces of standard input, of at most a chunk each, that wait for the command to read; then the sender waits.
pub const EXEC_STDIN_QUEUE: usize = 4;

/// The longest that `GET /v1/exec/{id}?wait_secs=` waits: shorter than what proxies and clients take for a dead connection.
pub const EXEC_WAIT_TIME: Duration = Duration::from_secs(60);

/// Output kept for all running `POST /v1/exec` together, in bytes, so that many of them do not fill a small VM's memory. An
/// exec that finds nothing left of it is cut like one over its own limit.
pub const EXEC_BUFFERED_TOTAL_BYTES: usize = 64 * 1024 * 1024;

/// Arguments of an exec, in bytes with their ends. Linux allows 128 KiB for one and 2 MiB for all (execve(2)).
pub const EXEC_ARGV_BYTES: usize = 1024 * 1024;

/// One argument of an exec, in bytes with its end: Linux's own limit (MAX_ARG_STRLEN).
pub const EXEC_ARGUMENT_BYTES: usize = 128 * 1024;

/// Length of an exec id, in bytes.
pub const EXEC_ID_BYTES: usize = 128;

/// Silence on a pipe after the exit of its command, after which a grandchild's hold on it no longer delays the result.
pub const EXEC_DRAIN_SILENCE: Duration = Duration::from_millis(250);

/// The longest that draining delays the result after the exit.
pub const EXEC_DRAIN_TIME: Duration = Duration::from_secs(2);

/// From the making of a command's process to its program running, at the longest. Milliseconds, unless a file system does not answer or the
/// user has the process stopped; a thread waits meanwhile, and there are few.
pub const EXEC_START_TIME: Duration = Duration::from_secs(20);

/// From SIGTERM to SIGKILL after a time-out.
pub const EXEC_KILL_GRACE: Duration = Duration::from_secs(2);

/// From SIGKILL until a command that is still there is reported as stuck in the kernel. Ending takes milliseconds; a disk
/// under load can hold a process for seconds.
pub const EXEC_KILL_TIME: Duration = Duration::from_secs(10);

/// Processes of one exec that are waited for one by one after SIGTERM, with a descriptor each. SIGKILL reaches all the same.
pub const EXEC_TREE_HANDLES: usize = 256;

/// Execs that have ended and left a process that holds their output open: it is read and thrown away, so that a daemon is
/// not ended by SIGPIPE. Two descriptors each; those above the limit are closed.
pub const EXEC_LEFTOVERS: usize = 256;

/// `/etc/passwd` and `/etc/group`, in bytes. Tens of thousands of accounts.
pub const ACCOUNT_FILE_BYTES: u64 = 4 * 1024 * 1024;

/// From the end of an exec to the removal of its cgroup and all else that it leaves.
pub const EXEC_CLEANUP_DELAY: Duration = Duration::from_millis(5);

/// Of an account or environment file, how much is kept between two commands, in bytes; a larger one is read each time.
pub const KEPT_FILE_BYTES: usize = 64 * 1024;

/// How long such a file must not have changed to be kept, in seconds: much longer than a tick of the kernel's clock.
pub const KEPT_FILE_SETTLED_SECS: i64 = 2;

/// `/etc/environment`, in bytes. Dozens of values of the greatest length.
pub const ENVIRONMENT_FILE_BYTES: u64 = 1024 * 1024;

/// Key of an environment variable, in bytes (the platform's limit).
pub const ENV_KEY_BYTES: usize = 256;

/// Value of an environment variable, in bytes (the platform's limit).
pub const ENV_VALUE_BYTES: usize = 8192;

/// How long a request for a command waits at the gate while the VM is committed or restored. Gates are open again after milliseconds; shorter
/// than what clients wait for an answer.
pub const EXEC_GATE_TIME: Duration = Duration::from_secs(10);

/// Standard input that `exec` carries in its request, in bytes; in base64 and with an argv it fits the request's body.
pub const EXEC_STDIN_BYTES: usize = 2 * 1024 * 1024;

/// Places for the agent's own commands (hooks, one after the other in each stage; word to the init) beyond those for others': a VM that is full must
/// still be committed and restored.
pub const EXEC_OWN_PLACES: usize = 4;

/// WebSockets on execs at once.
pub const EXEC_SOCKETS: usize = 128;

/// Messages of an exec's WebSocket that wait for the command to read its input, so that a resize behind them is seen.
pub const EXEC_SOCKET_QUEUED_INPUT: usize = 8;
