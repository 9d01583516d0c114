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

/// How long a request for a command waits at the gate while the VM is committed or restored. Gates are open again after milliseconds; shorter
/// than what clients wait for an answer.
pub const EXEC_GATE_TIME: Duration = Duration::from_secs(10);

/// Generations before the present one whose ids are remembered, so that a late announcement of one is known for what it is. A VM is
/// seldom restored more often than that within the time that a host repeats its calls.
pub const GENERATIONS_REMEMBERED: usize = 64;

/// Signs of a restore that are kept until it is announced.
pub const RESTORE_SIGNS: usize = 16;

/// After an announcement was carried out, how long a sign of a restore is taken to be of that one: the kernel's word of it can
/// come after the host's.
pub const RESTORE_SIGN_GRACE: Duration = Duration::from_secs(2);

/// From `prepare` to the thaw that nobody asked for, unless the host says otherwise: a commit takes a second or so. Counted in time
/// that the VM sees, so that a copy that is restored a week later still has it before it.
pub const SNAPSHOT_WATCHDOG: Duration = Duration::from_secs(30);

/// The longest that a host may set that time to.
pub const SNAPSHOT_WATCHDOG_MOST: Duration = Duration::from_secs(300);

/// Ids of generations, VMs and commits, in bytes.
pub const GENERATION_ID_BYTES: usize = 128;

/// Random bytes of an announcement: what the kernel's generator needs, and what some hosts like to give.
pub const GENERATION_ENTROPY_BYTES: (usize, usize) = (32, 1024);

/// Keys of an announcement that may log in, and the length of each in bytes; RSA with 16,384 bits fits.
pub const GENERATION_KEYS: (usize, usize) = (64, 8192);

/// `/run/guestd/state.json`, in bytes: two reports of some dozens of steps.
pub const GENERATION_STATE_BYTES: u64 = 1024 * 1024;

/// One step after a restore, hooks apart. They take microseconds to milliseconds; one that hangs, on a disk or in the kernel, must not keep the VM
/// closed.
pub const GENERATION_STEP_TIME: Duration = Duration::from_secs(5);

/// The same for SSH keys: they are made, written through to the disk, and sshd is asked whether it would start with them, which an emulated VM
/// on a busy machine takes seconds for.
pub const GENERATION_KEYS_TIME: Duration = Duration::from_secs(20);

/// A clock that differs by less from the host's is left alone: so long a request may have been under way.
pub const CLOCK_STEP: Duration = Duration::from_millis(20);

/// By more than this, a clock that differs from the host's by a device is set unasked. Real-time clocks know whole seconds.
pub const CLOCK_SKEW: Duration = Duration::from_secs(2);

/// Between two looks at the host's clock where nothing happens. A look when a host connects comes sooner; a VM that idles is not woken up
/// more often than this.
pub const CLOCK_LOOK: Duration = Duration::from_secs(180);

/// Hooks of one stage.
pub const HOOKS: usize = 32;

/// One hook before a commit, and one before the thaw: the VM stands still for it.
pub const HOOK_TIME: Duration = Duration::from_secs(5);

/// One hook after a restore.
pub const POST_RESTORE_HOOK_TIME: Duration = Duration::from_secs(30);

/// For a file system to grow. It takes milliseconds for each GB; while it is frozen, for ever.
pub const DISK_GROW_TIME: Duration = Duration::from_secs(20);

/// Connections through the bridge at once, over all ports. Two descriptors each, so it is fewer where the limit of open files is low;
/// it is 20,000 in small images.
pub const BRIDGE_CONNECTIONS: usize = 20_480;

/// Descriptors of the bridge's data plane that are not for connections: its own, those that listen, and pipes. Where there are not twice as
/// many it is half of them.
pub const BRIDGE_SPARE_DESCRIPTORS: u64 = 1024;

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

/// Pause of an accept loop that ran out of descriptors or memory.
pub const ACCEPT_PAUSE: Duration = Duration::from_millis(75);

/// Listeners in the table, over all network namespaces: some 20 MB while an answer is made of them. A VM with more is broken or hostile; the
/// report says that it is cut.
pub const LISTENERS: usize = 32 * 1024;

/// Events of listening sockets that wait for the agent, in bytes of a BPF ring buffer, 32 each. The 2,000 or so of a storm that come
/// while a look is under way; more are not lost, but not told one by one.
pub const LISTENER_RING_BYTES: usize = 64 * 1024;

/// The least time between two looks at the listeners, those apart that somebody waits for.
pub const LISTENER_LOOK_GAP: Duration = Duration::from_millis(1);

/// One part in so many of a CPU is what looks at the listeners may take in the long run, however many sockets come and go.
pub const LISTENER_LOOK_SHARE: u32 = 4;

/// CPU time that each look counts for at least: with the share, no more than 100 a second in the long run.
pub const LISTENER_LOOK_COST: Duration = Duration::from_micros(2500);

/// CPU time that looks at the listeners may take beyond their share before they are held back: 40 looks at once.
pub const LISTENER_LOOK_BURST: Duration = Duration::from_millis(100);

/// First and longest wait before the listeners are looked at again because a look failed, or showed a socket that the kernel is
/// about to close.
pub const LISTENER_LOOK_AGAIN: (Duration, Duration) = (Duration::from_millis(1), Duration::from_secs(1));

/// For the kernel to close a socket of which it said that it would. It takes microseconds, unless the closing process is held up.
pub const LISTENER_CLOSING_TIME: Duration = Duration::from_secs(5);

/// The longest time between two looks at the listeners where there are no events, unless `listeners.poll_ms` is longer. Over a
/// second, so that an idle agent is not switched to more than once a second, preemptions on a busy machine included (measured at 1.1 s:
/// 54 looks and 7 preemptions a minute).
pub const LISTENER_POLL_LONGEST: Duration = Duration::from_millis(1500);

/// For a fresh look at the listeners on somebody's behalf; then he gets the last one. With thousands of sockets and processes one takes some
/// 100 ms.
pub const LISTENER_FRESH_TIME: Duration = Duration::from_secs(2);

/// Cgroups in which the owners of new listeners are looked for, and processes of each, before all processes are walked over.
pub const NEAR_CGROUPS: usize = 8;
/// See [`NEAR_CGROUPS`].
pub const NEAR_PROCESSES: usize = 16;
/// Descriptors of these that are looked at (measured in a debug build: 6 to 8 us each): what listens is told only afterwards.
pub const NEAR_DESCRIPTORS: usize = 4096;

/// Descriptors that a walk over all processes looks at, some seconds' work at the worst. Any user can have millions.
pub const WALK_DESCRIPTORS: usize = 1024 * 1024;

/// For the command lines of all processes that are described at one time; a look does so a few times at most. A process can hold up
/// who reads its own for as long as it likes, and is then shown without.
pub const PROCESS_READ_TIME: Duration = Duration::from_secs(1);

/// Threads that read a command line, at once: those that are held up stay until the process lets go or ends.
pub const HELD_UP_READS: usize = 16;

/// Stack of such a thread, in bytes.
pub const READ_STACK_BYTES: usize = 64 * 1024;

/// Listeners that are counted for steering, some 100 bytes of the kernel's memory each while they are there. With more nothing is
/// steered: one that is not counted might be stolen from.
pub const STEERING_LISTENERS: usize = LISTENERS_READ;

/// The VM's own IPv6 addresses by which it is known what comes from inside; with more nothing is steered.
pub const STEERING_ADDRESSES: usize = 4096;

/// Programs of one kind at one cgroup: the kernel's own limit (BPF_CGROUP_MAX_PROGS).
pub const BPF_PROGRAMS: usize = 64;

/// What the BPF verifier says of a program that it refuses, in bytes; only the end is shown.
pub const BPF_LOG_BYTES: usize = 64 * 1024;

/// Listening sockets that a look reads of the own network namespace, each family: beyond it, it is not sorted by port which of them
/// are in the table.
pub const LISTENERS_READ: usize = 65_536;

/// Addresses that a look keeps of a network namespace besides guestd's own.
pub const NAMESPACE_ADDRESSES: usize = 1024;

/// Network namespaces besides guestd's own that are looked at. A look at one takes some 0.1 ms; a host of a hundred containers is a large
/// one. Health says when there are more.
pub const NETWORK_NAMESPACES: usize = 256;

/// Bind addresses on no interface that the kernel is asked about in one look, 20 us each. Services have one or two of the kind;
/// of further ones it is not said that they are missing.
pub const ADDRESS_LOOKUPS: usize = 64;

/// What is read of a process's file in `/proc`, in bytes: more than is shown of a command line, and all of any other.
pub const PROC_FILE_BYTES: u64 = 8 * 1024;

/// Table of mounts, in bytes: some 20,000 mounts.
pub const MOUNT_TABLE_BYTES: u64 = 4 * 1024 * 1024;

/// Readers of `GET /v1/listeners/watch` at once. They share what is told; each costs a connection.
pub const LISTENER_WATCHERS: usize = 64;

/// Listeners that are judged and told on the agent's one thread, in a few milliseconds; more are judged on a thread of their own and
/// told piece by piece.
pub const LISTENERS_AT_ONCE: usize = 1024;

/// Part of an answer with many listeners, in bytes, after which others get a turn: less than a millisecond's work.
pub const LISTENERS_CHUNK_BYTES: usize = 32 * 1024;

/// For each time that it takes to judge the listeners for their watchers, this many times as long until it is done again: listeners
/// that change all the time take a fifth of a processor at most, and the first change after a pause is told at once.
pub const LISTENER_WATCH_PAUSE: u32 = 4;

/// Probes of all listeners at once (`GET /v1/listeners?probe=true`). Each connects to every service.
pub const PROBES: usize = 2;

/// Connections that one probe makes at once.
pub const PROBE_CONNECTIONS: usize = 64;

/// For one of these to be accepted or refused. It does not leave the VM, so that one that takes longer waits for a full accept queue
/// or a firewall.
pub const PROBE_CONNECT_TIME: Duration = Duration::from_secs(2);

/// After that, for the service to speak first, or to close.
pub const PROBE_LISTEN_TIME: Duration = Duration::from_millis(250);

/// For all connections of a probe together; below the time that a client waits for an answer. Ports that are not reached in it
/// are said to be not tried.
pub const PROBE_TIME: Duration = Duration::from_secs(20);

/// Of what a service says first to a probe, in bytes.
pub const PROBE_BANNER_BYTES: usize = 128;

/// UDP sockets in one answer. As with listeners, a VM with more is broken or hostile.
pub const UDP_SOCKETS: usize = 4096;

/// Command line shown for a process, in bytes.
pub const PROCESS_COMMAND_BYTES: usize = 512;

/// URL of a service of the platform, in bytes.
pub const URL_BYTES: usize = 2048;

/// Time between two heartbeats to the registry (`registry.heartbeat_secs`). An entry is stale after five minutes without one, so
/// that four can be lost.
pub const REGISTRY_HEARTBEAT: Duration = Duration::from_secs(60);

/// From a change of the listeners to its way to the registry, so that services that come together are told together.
pub const REGISTRY_COALESCE_TIME: Duration = Duration::from_secs(1);

/// One call to the registry, from the look-up of its name to the end of its answer.
pub const REGISTRY_CALL_TIME: Duration = Duration::from_secs(10);

/// For one address of the registry to accept a connection; then the next is tried.
pub const REGISTRY_ADDRESS_TIME: Duration = Duration::from_secs(3);

/// Addresses of the registry that are tried in one call.
pub const REGISTRY_ADDRESSES: usize = 4;

/// Body of an answer of the registry that is read, in bytes: a refusal's reason.
pub const REGISTRY_ANSWER_BYTES: usize = 16 * 1024;

/// First and longest pause after a call that failed, before its jitter. The longest is far below the five minutes after which an
/// entry is stale.
pub const REGISTRY_RETRY: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));

/// Pause after a call that the registry refused: the same will be refused again, until somebody has set it right.
pub const REGISTRY_REFUSED_PAUSE: Duration = Duration::from_secs(120);

/// The longest pause that the registry may ask for (Retry-After). With a heartbeat's time it is within the five minutes.
pub const REGISTRY_RETRY_AFTER: Duration = Duration::from_secs(180);

/// From the wish to end the agent to the end of its try to take its entry out of the registry, beside the drain of all else.
pub const REGISTRY_LEAVE_TIME: Duration = Duration::from_secs(3);

/// Services in the registry's entry. As many as are bridged; a VM with more is told of in health.
pub const REGISTRY_SERVICES: usize = 256;

/// Name of a VM or of a service in the registry, in bytes.
pub const REGISTRY_NAME_BYTES: usize = 64;

/// Silence of a peer whose connection is passed on, after which the kernel asks whether it is still there. One that vanished is noticed 2
/// minutes after its last word, or, with bytes on their way to it, when the kernel gives up on these, as directly (tcp_retries2 of ip-sysctl,
/// some 15 minutes). There is no TCP_USER_TIMEOUT: it would also cut a reader that lives and has stopped reading (measured on
/// Linux 6.18: 3.5 s after it with one of 3 s), and a connection that is passed on may stand still for as long as a direct one.
pub const KEEPALIVE_IDLE: Duration = Duration::from_secs(60);

/// Between two such questions.
pub const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(15);

/// Questions without an answer, after which the connection is broken.
pub const KEEPALIVE_COUNT: u32 = 4;

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

/// Configuration file, in bytes.
pub const CONFIG_FILE_BYTES: u64 = 256 * 1024;

/// From SIGTERM to the end of the agent: running responses are completed within it.
pub const DRAIN_TIME: Duration = Duration::from_secs(8);

/// After that, for the agent's own tasks to end: the bridge resets its connections and lets its ports go. With the time that
/// execs take to end, all is below the unit's TimeoutStopSec of 20 s.
pub const STOP_TIME: Duration = Duration::from_secs(1);

/// Listeners that a client keeps of a VM that it watches, about 1 KiB each; twice as many as a VM tells of.
pub const CLIENT_LISTENERS: usize = 65_536;

/// First and longest pause of a client that watches a VM before it connects to it again. A branched VM is back at once.
pub const CLIENT_WATCH_PAUSE: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(5));

/// Response body that the client reads into memory, in bytes; above two exec outputs at their largest, which is all control
/// characters (6 bytes each in JSON) and base64 beside it (a third more): 117 MiB.
pub const CLIENT_BODY_BYTES: usize = 128 * 1024 * 1024;

/// One NDJSON line that the client accepts, in bytes; a chunk of 64 KiB takes 86 KiB in base64.
pub const CLIENT_LINE_BYTES: usize = 256 * 1024;

/// One half of an SSH key pair, in bytes; an ed25519 one takes 400.
pub const KEY_FILE_BYTES: u64 = 16 * 1024;

/// A managed authorized_keys file, in bytes: some 2,000 keys.
pub const AUTHORIZED_KEYS_BYTES: u64 = 256 * 1024;

/// Users with managed authorized keys.
pub const AUTHORIZED_KEYS_USERS: usize = 256;

/// Names in their directory that are looked at: a file for each user, versions beside those, and what killed writers have left.
pub const AUTHORIZED_KEYS_NAMES: usize = 4 * AUTHORIZED_KEYS_USERS;

/// A line with a key and its options that somebody adds, in bytes, as much as every sshd reads. An RSA key of 16,384 bits takes 2,800.
pub const KEY_LINE_BYTES: usize = 8 * 1024;

/// Pause after expired keys could not be taken out, until it is tried again. sshd refuses them all the same.
pub const KEYS_RETRY: Duration = Duration::from_secs(60);

/// Names in the directories of host keys that are looked at. There are a dozen.
pub const HOST_KEY_NAMES: usize = 1024;

/// Read of a program of OpenSSH, in bytes, whose version is looked for in it. Debian's sshd has 1.3 MB.
pub const OPENSSH_PROGRAM_BYTES: u64 = 16 * 1024 * 1024;

/// For an sshd to say what its configuration comes to. It takes some milliseconds, under emulation some tenths of a second.
pub const SSHD_RUN_TIME: Duration = Duration::from_secs(5);

/// What an sshd says of its configuration, on each of two pipes, in bytes: what a pipe holds. It has 7 KB.
pub const SSHD_OUTPUT_BYTES: u64 = 64 * 1024;

/// The record of what `guestd install` put into a root file system, in bytes; a line takes 100.
pub const INSTALL_MANIFEST_BYTES: u64 = 64 * 1024;

/// A file of the image that `guestd install` reads for what it says, or puts lines of guestd's own into, in bytes.
pub const INSTALL_FOREIGN_FILE_BYTES: u64 = 1024 * 1024;

/// Entries of a directory that `guestd install` and `uninstall` look at: whether it is empty, and what a run that was killed has left.
pub const INSTALL_DIRECTORY_ENTRIES: usize = 4096;

/// Name servers, configured or announced: more are passed over by every resolver (MAXNS of resolv.h).
pub const NAME_SERVERS: usize = 3;

/// `/etc/hosts`, `/etc/hostname` and `/etc/resolv.conf`, in bytes. Larger ones, lists of blocked names, are left alone.
pub const NAMES_FILE_BYTES: u64 = 1024 * 1024;

/// Files, directories and others that `guestd lint` looks at, some 100 bytes each. A large image has 300,000; one with more is named.
pub const LINT_ENTRIES: usize = 1_000_000;

/// Directories inside each other that `guestd lint` goes down. The deepest of a distribution is 15, of nested node_modules 40.
pub const LINT_DEPTH: usize = 128;

/// One directory of an ext4 image, in bytes: more than all its entries take at `LINT_ENTRIES`. A crafted one could be without an end.
pub const LINT_DIRECTORY_BYTES: u64 = 64 * 1024 * 1024;

/// Block groups of an ext4 image: 16 TiB of them, in blocks of 4 KiB. The reader holds 16 bytes for each.
pub const LINT_BLOCK_GROUPS: u64 = 131_072;

/// A configuration file that `guestd lint` reads, in bytes; of a larger one it reads the start and says so.
pub const LINT_TEXT_BYTES: u64 = 1024 * 1024;

/// Read of each file that is searched for keys and tokens, in bytes: a bundle of certificates with its key fits.
pub const LINT_SCAN_BYTES: u64 = 256 * 1024;

/// Read of all of them together, in bytes, at which the rest is named as not searched: some seconds' work.
pub const LINT_SCAN_TOTAL_BYTES: u64 = 4 * 1024 * 1024 * 1024;

/// Findings of one rule that are listed; of more it is said how many.
pub const LINT_FINDINGS: usize = 100;

/// A file of waivers, in bytes.
pub const LINT_WAIVER_BYTES: u64 = 256 * 1024;

/// Files that an OpenSSH configuration includes, and how deep in each other (SERVCONF_MAX_DEPTH of OpenSSH).
pub const LINT_INCLUDES: (usize, usize) = (256, 16);

/// All of `guestd lint`. A large image takes seconds; a crafted file system could keep its reader busy for days.
pub const LINT_TIME: Duration = Duration::from_secs(600);

/// One program of the machine that `guestd lint --host-tools` asks. They take a second.
pub const LINT_TOOL_TIME: Duration = Duration::from_secs(60);

/// What such a program says that is read, in bytes; the rest is let go.
pub const LINT_TOOL_BYTES: u64 = 64 * 1024;

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

/// Tries at a hybrid vsock socket where nobody seems to listen. Each takes the next port of the host's side; the guest remembers the two ports
/// of a connection that was cut for 8 s (VSOCK_CLOSE_TIMEOUT), and before a commit a host has hardly more of them than this.
pub const HYBRID_TRIES: usize = 8;

/// Answer of a hybrid vsock socket to `CONNECT`, in bytes. `OK 4294967295` has 13.
pub const HYBRID_ANSWER_BYTES: usize = 64;

/// Places for the agent's own commands (hooks, one after the other in each stage; word to the init) beyond those for others': a VM that is full must
/// still be committed and restored.
pub const EXEC_OWN_PLACES: usize = 4;

/// Names in a directory of hooks that are read, to find the first by their order.
pub const HOOK_NAMES: usize = 1024;

/// A body with a time in it waits so long for the guest to ask for it (`100 Continue`), and is sent all the same then (RFC 9110, 10.1.1).
pub const CLIENT_CONTINUE_TIME: Duration = Duration::from_secs(1);

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

/// Name of a service of `guestd init`, in bytes. It is a part of the name of its cgroup and its socket.
pub const SERVICE_NAME_BYTES: usize = 64;

/// Services of `guestd init`. Each has six descriptors of process 1 and its ring.
pub const SERVICES: usize = 64;

/// A service's file, in bytes.
pub const SERVICE_FILE_BYTES: u64 = 64 * 1024;

/// Output of one service that can be read again, in bytes. Process 1 takes it when it starts and never more: 64 services at the most are 8 MiB.
pub const SERVICE_RING_BYTES: usize = 128 * 1024;

/// Output of a service that process 1 reads before all else gets a turn, in bytes.
pub const SERVICE_READ_BYTES: usize = 8 * 1024;

/// First and longest pause before a service is started again (`restart_delay_ms`, `restart_max_delay_ms`). One that crashes at once
/// comes to two starts a minute.
pub const SERVICE_RESTART: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(30));

/// The least of the first pause, so that a service that crashes at once cannot keep process 1 busy.
pub const SERVICE_RESTART_LEAST: Duration = Duration::from_millis(10);

/// Ready for so long, a service counts as one that works, and its pause begins anew.
pub const SERVICE_STABLE: Duration = Duration::from_secs(10);

/// The same of the agent; shorter, so that an agent that is killed again and again is back at once each time.
pub const AGENT_STABLE: Duration = Duration::from_millis(50);

/// First and longest pause before the agent is started again.
pub const AGENT_RESTART: (Duration, Duration) = (Duration::ZERO, Duration::from_secs(5));

/// The agent's second pause in a row, where it was not stable between.
pub const AGENT_RESTART_SECOND: Duration = Duration::from_millis(50);

/// From a service's stop signal to SIGKILL (`stop_grace_ms`). Short, for a VM that is told to end should end; what needs longer, such as
/// a database, says so.
pub const SERVICE_STOP_GRACE: Duration = Duration::from_secs(1);

/// The longest that a service may ask for.
pub const SERVICE_STOP_GRACE_MOST: Duration = Duration::from_secs(600);

/// The same of the agent when it is restarted: its drain has deadlines of its own, all below this. When the VM ends it has what all
/// others have.
pub const AGENT_STOP_GRACE: Duration = Duration::from_secs(20);

/// For a service to become ready (`ready_timeout_ms`).
pub const SERVICE_READY_TIME: Duration = Duration::from_secs(60);

/// First and longest pause between two looks whether a service's port is listened on.
pub const SERVICE_PORT_LOOK: (Duration, Duration) = (Duration::from_millis(5), Duration::from_millis(250));

/// For all services to end when the VM does, beyond the longest grace; then whatever is left is killed.
pub const POWER_SERVICES_TIME: Duration = Duration::from_secs(5);

/// After that, for the agent, execs and what belongs to nobody: from SIGTERM to SIGKILL, and from there to the end of waiting.
pub const POWER_OTHERS_TIME: (Duration, Duration) = (Duration::from_millis(300), Duration::from_secs(2));

/// A request to process 1, in bytes.
pub const CONTROL_REQUEST_BYTES: usize = 4 * 1024;

/// An answer of process 1, in bytes: below what a Unix socket takes as one message (net.core.wmem_default).
pub const CONTROL_ANSWER_BYTES: usize = 128 * 1024;

/// Connections to process 1 at once. The agent is the one that connects, and has one at a time.
pub const CONTROL_CONNECTIONS: usize = 8;

/// For a connection to process 1 to bring its request; and for the agent to get its answer.
pub const CONTROL_TIME: Duration = Duration::from_secs(2);

/// For a service to come to the state that was asked for, beyond its own times; then the answer says how far it is.
pub const SERVICE_ACTION_TIME: Duration = Duration::from_secs(20);

/// Between two looks of the agent at a service that was told to change.
pub const SERVICE_ACTION_LOOK: Duration = Duration::from_millis(20);

/// Output of services in one answer of process 1, in bytes: in base64, in JSON, it fits an answer.
pub const SERVICE_LOG_BYTES: usize = 64 * 1024;

/// Ends of the agent that are remembered, and what is kept of what it said last, in bytes.
pub const AGENT_CRASHES: usize = 4;

/// See [`AGENT_CRASHES`].
pub const AGENT_CRASH_BYTES: usize = 4 * 1024;

/// Problems of the boot that process 1 keeps, and bytes of each.
pub const BOOT_PROBLEMS: usize = 32;

/// See [`BOOT_PROBLEMS`].
pub const BOOT_PROBLEM_BYTES: usize = 512;

/// A text that process 1 reads at boot, in bytes: `modules.dep` of a whole distribution has 700 KB.
pub const BOOT_FILE_BYTES: u64 = 4 * 1024 * 1024;

/// Random seed that is kept over a boot, in bytes: what the kernel's pool holds, twice.
pub const RANDOM_SEED_BYTES: usize = 64;

/// By how much the clock may differ from the machine's before it is set.
pub const CLOCK_STALE: Duration = Duration::from_secs(2);

/// Limit of open files that services may raise theirs to, as systemd has it.
pub const OPEN_FILES_HARD: u64 = 524_288;

/// How long the keys' directory is waited for, which an init's own call of `guestd host-key` and the agent lock for some milliseconds each. Any
/// user can lock it, too, and can delay the agent by no more than this.
pub const ROOT_LOCK_WAIT: Duration = Duration::from_secs(2);
