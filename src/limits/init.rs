//! Process 1 and its services.

use std::time::Duration;

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

/// Starts of the agent without any pause, after lives that were ready: one that works and is killed is back at once, again and again.
/// They cost two seconds of a processor.
pub const AGENT_AT_ONCE: u32 = 200;

/// For one more of those. An agent that crashes whenever it is ready comes to a start every three seconds, 1% of a processor at most.
pub const SERVICE_AT_ONCE_EVERY: Duration = Duration::from_secs(6);

/// First and longest pause before the agent is started again where it has none of those.
pub const AGENT_RESTART: (Duration, Duration) = (Duration::ZERO, Duration::from_secs(5));

/// The second of these pauses in a row.
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

/// For all services to end when the VM does, beyond the graces of those that end one after the other; then whatever is left is killed.
pub const POWER_SERVICES_TIME: Duration = Duration::from_secs(5);

/// After that, for the agent, execs and what belongs to nobody: from SIGTERM to SIGKILL, and from there to the end of waiting.
pub const POWER_OTHERS_TIME: (Duration, Duration) = (Duration::from_millis(300), Duration::from_secs(2));

/// For the disk to be written back and made clean in the end: what a slow one takes for some GB. One that is frozen, or a server that is gone,
/// would be waited for for ever.
pub const POWER_DISK_TIME: Duration = Duration::from_secs(30);

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
