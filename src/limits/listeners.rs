//! Listeners: looking at them, attributing, telling and trying them.

use std::time::Duration;

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

/// From the follow of a listener that is older than the agent until nothing but that is to tell of its end: one that was on its way out already is
/// gone by then, unless the closing process is held up.
pub const LISTENER_FOLLOWED_TIME: Duration = Duration::from_secs(1);

/// For the kernel to close a socket of which it said that it would. It takes microseconds, unless the closing process is held up.
pub const LISTENER_CLOSING_TIME: Duration = Duration::from_secs(5);

/// The longest time between two looks at the listeners where there are no events, unless `listeners.poll_ms` is longer. Over a
/// second, so that an idle agent is not switched to more than once a second, preemptions on a busy machine included (measured at 1.5 s on a
/// slow one: 39 looks and 27 preemptions in some more than a minute).
pub const LISTENER_POLL_LONGEST: Duration = Duration::from_millis(2500);

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

/// Table of mounts, in bytes: some 20,000 mounts.
pub const MOUNT_TABLE_BYTES: u64 = 4 * 1024 * 1024;

/// What is read of a process's file in `/proc`, in bytes: more than is shown of a command line, and all of any other.
pub const PROC_FILE_BYTES: u64 = 8 * 1024;
