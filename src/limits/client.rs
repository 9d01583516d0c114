//! What a client of the agent waits for and holds, guestctl too.

use std::time::Duration;

/// For `guestctl proxy` to find the addresses of its host. A resolver asks a name server that does not answer two or three times, for 5 s
/// each.
pub const PROXY_LOOKUP_TIME: Duration = Duration::from_secs(15);

/// For one of these addresses to accept; then the next is tried. A lost SYN is sent again after 1 and 3 s.
pub const PROXY_ADDRESS_TIME: Duration = Duration::from_secs(5);

/// Addresses that are tried.
pub const PROXY_ADDRESSES: usize = 8;

/// For the platform's proxy to have shaken hands: milliseconds, some hundred of them in a VM under emulation.
pub const PROXY_HANDSHAKE_TIME: Duration = Duration::from_secs(15);

/// File with the certificates of the authorities that are trusted, in bytes. Debian's has 220 KB.
pub const CA_BUNDLE_BYTES: u64 = 4 * 1024 * 1024;

/// Listeners that a client keeps of a VM that it watches, about 1 KiB each; twice as many as a VM tells of.
pub const CLIENT_LISTENERS: usize = 65_536;

/// First and longest pause of a client that watches a VM before it connects to it again. A branched VM is back at once.
pub const CLIENT_WATCH_PAUSE: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(5));

/// Response body that the client reads into memory, in bytes; above two exec outputs at their largest, which is all control
/// characters (6 bytes each in JSON) and base64 beside it (a third more): 117 MiB.
pub const CLIENT_BODY_BYTES: usize = 128 * 1024 * 1024;

/// One NDJSON line that the client accepts, in bytes; a chunk of 64 KiB takes 86 KiB in base64.
pub const CLIENT_LINE_BYTES: usize = 256 * 1024;

/// From the start of a connection to its being ready for a request, a hybrid socket's `OK` included. A VM under
/// emulation needs tens of milliseconds, Firecracker itself gives up after 2 s.
pub const CLIENT_CONNECT_TIME: Duration = Duration::from_secs(5);

/// From a request to its answer, for what does not wait for a command. A VM under emulation, busy with its boot, takes seconds.
pub const CLIENT_ANSWER_TIME: Duration = Duration::from_secs(30);

/// One try of a client that waits for a VM to be ready: a try that was lost in a boot must not hold up the next.
pub const CLIENT_PROBE_TIME: Duration = Duration::from_secs(5);

/// Pause between two such tries.
pub const CLIENT_PROBE_PAUSE: Duration = Duration::from_millis(100);

/// Tries at a hybrid vsock socket where nobody seems to listen. Each takes the next port of the host's side; the guest remembers the two ports
/// of a connection that was cut for 8 s (VSOCK_CLOSE_TIMEOUT), and before a commit a host has hardly more of them than this.
pub const HYBRID_TRIES: usize = 8;

/// Answer of a hybrid vsock socket to `CONNECT`, in bytes. `OK 4294967295` has 13.
pub const HYBRID_ANSWER_BYTES: usize = 64;

/// A body with a time in it waits so long for the guest to ask for it (`100 Continue`), and is sent all the same then (RFC 9110, 10.1.1).
pub const CLIENT_CONTINUE_TIME: Duration = Duration::from_secs(1);

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
