//! Every bound in one place: value, unit, reason. Reaching one is a typed answer that names it, never a hang.

use std::time::Duration;

/// Body of a JSON request, in bytes. An exec with its environment and stdin fits; files have calls of their own.
pub const REQUEST_BODY_BYTES: usize = 4 * 1024 * 1024;

/// Time for a request's headers to arrive, from the connection's beginning or the first byte of a later request. Long enough for a
/// VM under emulation, short enough for a slow-loris.
pub const REQUEST_HEADER_TIME: Duration = Duration::from_secs(10);

/// For a connection to be kept open after an answer without another request. Longer than what clients keep theirs for in their
/// pools, which is 90 s in most, so that it is they who close it and none is lost with a request on its way; and short
/// enough that those of a client that vanished do not come to the limit of connections.
pub const IDLE_TIME: Duration = Duration::from_secs(5 * 60);

/// Time for a request's body to arrive.
pub const REQUEST_BODY_TIME: Duration = Duration::from_secs(30);

/// Request headers, in bytes. Ours are under 1 KiB.
pub const REQUEST_HEADER_BYTES: usize = 16 * 1024;

/// Connections served at once on one endpoint. A host keeps a few; each costs about 20 KiB.
pub const CONNECTIONS: usize = 256;

/// Connections of refused peers that are being told so at once, apart from those that are served.
pub const REFUSED_CONNECTIONS: usize = 8;

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

/// Entries in one answer of `GET /v1/logs`.
pub const LOG_ENTRIES: usize = 1000;

/// Output in one answer of `GET /v1/logs`, in bytes; one entry is always given.
pub const LOG_BYTES: usize = 4 * 1024 * 1024;

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

/// Threads for what blocks: starts, files, trees, spills. They come as they are needed and go after ten idle seconds; so many that a
/// few starts that a hostile user holds up leave enough for the rest.
pub const BLOCKING_THREADS: usize = 32;

/// What is smaller, in bytes, comes from a heap that keeps what it has: all that an exec needs but its output. What is not is
/// given back to the kernel.
pub const SMALL_ALLOCATION_BYTES: usize = 12 * 1024;

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

/// Connections through the bridge at once, over all ports. Two descriptors each, of a limit of 20,000 in small images.
pub const BRIDGE_CONNECTIONS: usize = 4096;

/// Threads that move the bridge's bytes. One would make bulk wait for bulk; more take cores from the services that they serve.
pub const BRIDGE_THREADS: usize = 2;

/// Connections that one port of the bridge may have at once. Half of all, so that a port that is flooded leaves room for the others.
pub const BRIDGE_CONNECTIONS_OF_PORT: usize = BRIDGE_CONNECTIONS / 2;

/// What the bridge reads at once by copying, in bytes, and so the most that it holds in memory for a reader that is slow.
pub const BRIDGE_COPY_BYTES: usize = 16 * 1024;

/// A pipe that bulk goes through by reference, in bytes: it has room for as many pages, each of which can be part of a larger piece.
/// The most that an unprivileged user may have (fs.pipe-max-size). With a quarter of it, 0.24 CPU seconds for each GB instead of 0.20.
pub const BRIDGE_PIPE_BYTES: usize = 1024 * 1024;

/// Pipes of each of the bridge's threads, two descriptors each. Held by connections whose reader is slow; beyond, bytes are copied.
pub const BRIDGE_PIPES: usize = 64;

/// Of those, how many are kept when nobody holds them. A thread fills one at a time.
pub const BRIDGE_IDLE_PIPES: usize = 4;

/// What is written to a service before a client's first byte, in bytes. A PROXY header has at most 536 (version 2, Unix addresses
/// left out, with room for some TLVs).
pub const BRIDGE_PREFACE_BYTES: usize = 2048;

/// Tries to reach a service after the first (TCP_SYNCNT), 15 s in all. One in the same VM that does not accept within that has a
/// full queue and is stuck.
pub const BRIDGE_CONNECT_RETRIES: u32 = 3;

/// Ports bridged at once.
pub const BRIDGE_PORTS: usize = 256;

/// From the sight of an IPv4 listener to the bind of its IPv6 side. A service that binds IPv4 and then IPv6 lost 60 of 60
/// races against a bridge without this and 0 of 1,360 with it.
pub const BRIDGE_SETTLE_TIME: Duration = Duration::from_millis(250);

/// Pause of an accept loop that ran out of descriptors or memory.
pub const ACCEPT_PAUSE: Duration = Duration::from_millis(75);

/// Listeners in the table. A VM with more is broken or hostile; the report says that it is cut.
pub const LISTENERS: usize = 4096;

/// Command line shown for a process, in bytes.
pub const PROCESS_COMMAND_BYTES: usize = 512;

/// Configuration file, in bytes.
pub const CONFIG_FILE_BYTES: u64 = 256 * 1024;

/// From SIGTERM to the end of the agent: running responses are completed within it.
pub const DRAIN_TIME: Duration = Duration::from_secs(8);

/// After that, for the agent's own tasks to end: the bridge resets its connections and lets its ports go. With the time that
/// execs take to end, all is below the unit's TimeoutStopSec of 20 s.
pub const STOP_TIME: Duration = Duration::from_secs(1);

/// Response body that the client reads into memory, in bytes; above two exec outputs at their largest, which is all control
/// characters (6 bytes each in JSON) and base64 beside it (a third more): 117 MiB.
pub const CLIENT_BODY_BYTES: usize = 128 * 1024 * 1024;

/// One NDJSON line that the client accepts, in bytes; a chunk of 64 KiB takes 86 KiB in base64.
pub const CLIENT_LINE_BYTES: usize = 256 * 1024;

/// One half of an SSH key pair, in bytes; an ed25519 one takes 400.
pub const KEY_FILE_BYTES: u64 = 16 * 1024;

/// A managed authorized_keys file, in bytes: some 2,000 keys.
pub const AUTHORIZED_KEYS_BYTES: u64 = 256 * 1024;

/// Users with managed authorized keys that the health check looks at.
pub const AUTHORIZED_KEYS_USERS: usize = 256;

/// The record of what `guestd install` put into a root file system, in bytes; a line takes 100.
pub const INSTALL_MANIFEST_BYTES: u64 = 64 * 1024;

/// A configuration file of the image that `guestd install` reads to see whether it includes guestd's part, in bytes.
pub const INSTALL_FOREIGN_FILE_BYTES: u64 = 1024 * 1024;

/// Standard input that `exec` carries in its request, in bytes; in base64 and with an argv it fits the request's body.
pub const EXEC_STDIN_BYTES: usize = 2 * 1024 * 1024;

/// From the start of a connection to its being ready for a request, a hybrid socket's `OK` included. A VM under
/// emulation needs tens of milliseconds, Firecracker itself gives up after 2 s.
pub const CLIENT_CONNECT_TIME: Duration = Duration::from_secs(5);

/// From a request to its answer, for what does not wait for a command. A VM under emulation, busy with its boot, takes seconds.
pub const CLIENT_ANSWER_TIME: Duration = Duration::from_secs(30);

/// One try of a client that waits for a VM to be ready: a try that was lost in a boot must not hold up the next.
pub const CLIENT_PROBE_TIME: Duration = Duration::from_secs(5);

/// Pause between two such tries.
pub const CLIENT_PROBE_PAUSE: Duration = Duration::from_millis(100);

/// Answer of a hybrid vsock socket to `CONNECT`, in bytes. `OK 4294967295` has 13.
pub const HYBRID_ANSWER_BYTES: usize = 64;

/// Bearer token, in bytes: a signed token fits, and it leaves room in the request's headers.
pub const TOKEN_BYTES: usize = 8 * 1024;

/// Body of an answer that is no success, in bytes: a sentence and a code.
pub const CLIENT_ERROR_BODY_BYTES: usize = 64 * 1024;

/// For how long a client that lost an exec's connection tries to attach again. A restart of the agent or a resume of the VM takes
/// less; longer, and whoever waits should be told.
pub const CLIENT_REATTACH_TIME: Duration = Duration::from_secs(5);

/// One wait for the end of an exec; then it is asked again, so that a connection that died silently is noticed.
pub const CLIENT_WAIT_TIME: Duration = Duration::from_secs(30);

/// Standard input that a client keeps, in bytes, to send it again should the connection be lost.
pub const CLIENT_STDIN_KEPT_BYTES: usize = 1024 * 1024;

/// Bytes that a client reads from its standard input, or a tunnel's socket, and sends at once.
pub const CLIENT_READ_BYTES: usize = 32 * 1024;

/// WebSocket message that a client accepts, in bytes; the agent's are `EXEC_CHUNK_BYTES` and a byte of channel.
pub const CLIENT_MESSAGE_BYTES: usize = 1024 * 1024;

/// Chunks between the parts of guestctl: what was read and not yet sent, or received and not yet written.
pub const CLIENT_QUEUED_CHUNKS: usize = 8;

/// For a guestctl that was asked to go, to write the output that it has, and to pass a hang-up on. A reader that does not read
/// or a VM that stands still must not keep it; longer than any that moves takes.
pub const CLIENT_LEAVE_TIME: Duration = Duration::from_secs(2);

/// Connections through one `guestctl tunnel` at once; more wait to be accepted.
pub const CLIENT_TUNNEL_CONNECTIONS: usize = 128;

/// A message that a WebSocket's client may send, in bytes. Clients send what they read at once, which is at most 64 KiB.
pub const WEBSOCKET_MESSAGE_BYTES: usize = 256 * 1024;

/// Pings of a client that reads nothing, before it is closed; their answers wait in memory, 150 bytes each.
pub const WEBSOCKET_PINGS: usize = 64;

/// From our close of a WebSocket to the client's.
pub const WEBSOCKET_CLOSE_TIME: Duration = Duration::from_secs(5);

/// WebSockets on execs at once.
pub const EXEC_SOCKETS: usize = 128;

/// Messages of an exec's WebSocket that wait for the command to read its input, so that a resize behind them is seen.
pub const EXEC_SOCKET_QUEUED_INPUT: usize = 8;

/// Tunnels at once. Two descriptors each.
pub const TUNNELS: usize = 128;

/// Read at once from a tunnel's service and sent as one message, in bytes.
pub const TUNNEL_CHUNK_BYTES: usize = 64 * 1024;

/// For a service of this VM to accept a tunnel. One that does not has a full queue and is stuck.
pub const TUNNEL_CONNECT_TIME: Duration = Duration::from_secs(5);

/// Content that a JSON answer or request of `/v1/files` carries, in bytes: in base64 it fits a request's body. More goes as
/// `application/octet-stream`, which has no bound but the disk.
pub const FILE_JSON_BYTES: usize = 3 * 1024 * 1024 - 64 * 1024;

/// A piece of a file or of a tree on its way, in bytes. Larger ones gain nothing; a transfer holds a few of them.
pub const FILE_CHUNK_BYTES: usize = 256 * 1024;

/// Pieces of a tree between the disk and the connection; then the faster side waits.
pub const TREE_QUEUED_CHUNKS: usize = 4;

/// Trees packed or extracted at once. Each has a thread and about 2 MiB of pieces; the threads that are left serve all else.
pub const TREE_TRANSFERS: usize = 4;

/// Silence on a connection that carries a tree, after which the transfer ends: it holds one of few places. A file that is
/// uploaded holds none, and may come from somebody who types.
pub const TREE_STALL_TIME: Duration = Duration::from_secs(120);

/// Entries in one answer of a directory's listing; the next page begins `after` its last name.
pub const FILE_LIST_ENTRIES: usize = 1000;

/// A path, in bytes with its end (PATH_MAX of Linux).
pub const PATH_BYTES: usize = 4096;

/// Symbolic links in one path (MAXSYMLINKS of Linux).
pub const PATH_LINKS: usize = 40;

/// Directories inside each other in a tree that is packed, extracted or removed: a descriptor each, of 1024 that a process
/// usually has.
pub const TREE_DEPTH: usize = 512;

/// Names of files with several hard links that are kept while a tree is packed, about 100 bytes each. A file's name is
/// forgotten when its last link was seen.
pub const TREE_HARD_LINKS: usize = 262_144;

/// An extended attribute, or the names of all of a file, in bytes: Linux's own limit (XATTR_SIZE_MAX).
pub const XATTR_BYTES: usize = 64 * 1024;

/// Extended headers of a tar entry together (long names, extended attributes), in bytes.
pub const TAR_HEADER_BYTES: usize = 1024 * 1024;

/// Ranges of data of one sparse file in a tree, 16 bytes each. Beyond it, holes are sent as zeros.
pub const TAR_SEGMENTS: usize = 65_536;

/// Padding after the end of a tar stream that is read and thrown away, in bytes. GNU tar pads to 10 KiB, or as asked.
pub const TAR_PADDING_BYTES: u64 = 16 * 1024 * 1024;

/// Time for which the rest of a body is still read when its request was answered before its end, so that the answer is not lost.
pub const REQUEST_DISCARD_TIME: Duration = Duration::from_secs(2);
