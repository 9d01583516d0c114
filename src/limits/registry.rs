//! The registry of VMs.

use std::time::Duration;

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
