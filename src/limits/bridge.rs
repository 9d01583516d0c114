//! The bridge and its data plane.

use std::time::Duration;

/// Connections through the bridge at once, over all ports. Two descriptors each, so it is fewer where the limit of open files is low;
/// it is 20,000 in small images.
pub const BRIDGE_CONNECTIONS: usize = 20_480;

/// Descriptors of the bridge's data plane that are not for connections: its own, those that listen, and pipes. Where there are not twice as
/// many it is half of them.
pub const BRIDGE_SPARE_DESCRIPTORS: u64 = 1024;

/// Until rules are ordered again that could not be carried out, where the kernel steers: out of threads or descriptors, or without a way to
/// services.
pub const BRIDGE_RETRY_TIME: Duration = Duration::from_secs(5);

/// How long the data plane of the bridge goes on without an agent: a restart takes a second, the watchdog of an init system some more.
pub const BRIDGE_GRACE: Duration = Duration::from_secs(30);

/// For the data plane to answer an order, and for the agent to take the answer. It takes a millisecond.
pub const BRIDGE_ANSWER_TIME: Duration = Duration::from_secs(2);

/// A data plane that has not answered for so long is stuck, and is ended with all its connections: it holds what its successor needs. Long
/// enough for a VM that swaps or was paused for a while.
pub const BRIDGE_STUCK_TIME: Duration = Duration::from_secs(10);

/// Data planes that made room for one of another build and still have connections, each up to [`BRIDGE_CONNECTIONS`]; of more the oldest
/// is ended.
pub const BRIDGE_RETIRED_PLANES: usize = 4;

/// With room for fewer connections than this, health says that the limit of open files is low.
pub const BRIDGE_FEW_CONNECTIONS: u64 = 1000;

/// For a data plane that has closed its line to be gone. One that was killed closes some thousand sockets.
pub const BRIDGE_REAP_TIME: Duration = Duration::from_millis(500);

/// For the agent, at its start, to be told by a data plane that runs what it holds. One that takes longer is heard of later.
pub const BRIDGE_RESUME_TIME: Duration = Duration::from_millis(200);

/// A line between the agent and the data plane, in bytes. 65,536 ports are about 400,000.
pub const BRIDGE_LINE_BYTES: usize = 8 * 1024 * 1024;

/// From the sight that an address is not the VM's any more to the reset of its connections: an interface that is set down and up takes
/// its addresses away for a moment.
pub const BRIDGE_ADDRESS_GRACE: Duration = Duration::from_secs(1);

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

/// Ports bridged at once.
pub const BRIDGE_PORTS: usize = 256;

/// Head of a request or an answer through a bridge of mode `http`, and its trailers, in bytes: what the strictest common servers take
/// several times over (nginx 32 KiB, Node 16 KiB), so that it is the service that sets the bound.
pub const BRIDGE_HTTP_HEAD_BYTES: usize = 64 * 1024;

/// After the last answer on a connection that guestd ends itself, how much of what the client still sends is thrown away, and for how
/// long. Closed at once, its kernel would be told of a reset and might drop the answer unread.
pub const BRIDGE_HTTP_LINGER_BYTES: usize = 1024 * 1024;

/// See [`BRIDGE_HTTP_LINGER_BYTES`].
pub const BRIDGE_HTTP_LINGER_TIME: Duration = Duration::from_secs(1);

/// For connections of mode `http` to be gone when they are cut: a thousand take 0.1 s. What is left goes after it. Shorter than
/// [`BRIDGE_ANSWER_TIME`], or the agent would take the data plane for stuck.
pub const BRIDGE_CUT_TIME: Duration = Duration::from_secs(1);

/// The file of the bridge's settings, in bytes: as many rules as may be, twice, each with some 110 bytes.
pub const BRIDGE_SETTINGS_BYTES: u64 = 128 * 1024;

/// Ports that the bridge's state names as left out by a range or `*`: as many as may be bridged.
pub const BRIDGE_LEFT_OUT: usize = BRIDGE_PORTS;

/// Clients that the bridge's state names, about 100 bytes of JSON each. Beyond, the number of the others is given.
pub const BRIDGE_CLIENTS: usize = 1024;

/// From the sight of an IPv4 listener to the bind of its IPv6 side. A service that binds IPv4 and then IPv6 lost 60 of 60
/// races against a bridge without this and 0 of 1,360 with it.
pub const BRIDGE_SETTLE_TIME: Duration = Duration::from_millis(250);

/// Listeners that are counted for steering, some 100 bytes of the kernel's memory each while they are there. With more nothing is
/// steered: one that is not counted might be stolen from.
pub const STEERING_LISTENERS: usize = super::LISTENERS_READ;

/// The VM's own IPv6 addresses by which it is known what comes from inside; with more nothing is steered.
pub const STEERING_ADDRESSES: usize = 4096;
