//! What the API takes and holds, whoever asks.

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

/// Entries in one answer of `GET /v1/logs`.
pub const LOG_ENTRIES: usize = 1000;

/// Output in one answer of `GET /v1/logs`, in bytes; one entry is always given.
pub const LOG_BYTES: usize = 4 * 1024 * 1024;

/// Threads for what blocks: starts, files, trees, spills. They come as they are needed and go after ten idle seconds; so many that a
/// few starts that a hostile user holds up leave enough for the rest.
pub const BLOCKING_THREADS: usize = 32;

/// What is smaller, in bytes, comes from a heap that keeps what it has: all that an exec needs but its output. What is not is
/// given back to the kernel.
pub const SMALL_ALLOCATION_BYTES: usize = 12 * 1024;

/// Pause of an accept loop that ran out of descriptors or memory.
pub const ACCEPT_PAUSE: Duration = Duration::from_millis(75);

/// URL of a service of the platform, in bytes.
pub const URL_BYTES: usize = 2048;

/// Silence of a peer whose connection is passed on, after which the kernel asks whether it is still there. One that vanished is noticed 2
/// minutes after its last word, or, with bytes on their way to it, when the kernel gives up on these, as directly (tcp_retries2 of ip-sysctl,
/// some 15 minutes). There is no TCP_USER_TIMEOUT: it would also cut a reader that lives and has stopped reading (measured on
/// Linux 6.18: 3.5 s after it with one of 3 s), and a connection that is passed on may stand still for as long as a direct one.
pub const KEEPALIVE_IDLE: Duration = Duration::from_secs(60);

/// Between two such questions.
pub const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(15);

/// Questions without an answer, after which the connection is broken.
pub const KEEPALIVE_COUNT: u32 = 4;

/// Configuration file, in bytes.
pub const CONFIG_FILE_BYTES: u64 = 256 * 1024;

/// From SIGTERM to the end of the agent: running responses are completed within it.
pub const DRAIN_TIME: Duration = Duration::from_secs(8);

/// From when an agent is ready until the code of its start is let go of: by then it has done what it does unasked.
pub const START_CODE_TIME: Duration = Duration::from_secs(1);

/// From an agent's start to what nobody waits for: the bridge's process, growth. Begun at once, it takes the processors from the answer that the VM is
/// ready, by some milliseconds where there are two.
pub const UPKEEP_DELAY: Duration = Duration::from_millis(10);

/// After that, for the agent's own tasks to end: the bridge resets its connections and lets its ports go. With the time that
/// execs take to end, all is below the unit's TimeoutStopSec of 20 s.
pub const STOP_TIME: Duration = Duration::from_secs(1);

/// Bearer token, in bytes: a signed token fits, and it leaves room in the request's headers.
pub const TOKEN_BYTES: usize = 8 * 1024;

/// A message that a WebSocket's client may send, in bytes. Clients send what they read at once, which is at most 64 KiB.
pub const WEBSOCKET_MESSAGE_BYTES: usize = 256 * 1024;

/// Pings of a client that reads nothing, before it is closed; their answers wait in memory, 150 bytes each.
pub const WEBSOCKET_PINGS: usize = 64;

/// From our close of a WebSocket to the client's.
pub const WEBSOCKET_CLOSE_TIME: Duration = Duration::from_secs(5);

/// Tunnels at once. Two descriptors each.
pub const TUNNELS: usize = 128;

/// Read at once from a tunnel's service and sent as one message, in bytes.
pub const TUNNEL_CHUNK_BYTES: usize = 64 * 1024;

/// For a service of this VM to accept a tunnel. One that does not has a full queue and is stuck.
pub const TUNNEL_CONNECT_TIME: Duration = Duration::from_secs(5);

/// Time for which the rest of a body is still read when its request was answered before its end, so that the answer is not lost.
pub const REQUEST_DISCARD_TIME: Duration = Duration::from_secs(2);
