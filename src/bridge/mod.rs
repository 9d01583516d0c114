//! The IPv6-to-IPv4 bridge: the platform's proxy connects over IPv6, legacy services listen on IPv4.
//!
//! ```text
//! observation ──> plan (pure) ──> Bridge task ──> one accept task a port and address ──> one relay task a connection
//!                                     │                                    from 240.x.y.z to the service's IPv4 address
//!                                     └─> BridgeState, for the API and for the listeners' verdict
//! ```
//!
//! What it refuses: loopback listeners without an explicit rule; ports that a service serves over IPv6; connecting from
//! 127.0.0.0/8, because a service that trusts localhost would let the whole internet in; `::1` for automatic bridges, so
//! that a client inside the VM that falls back from `::1` to 127.0.0.1 sees what it saw without guestd.
//!
//! It takes its ports by binding them, so it cannot be free of races with the service's own binds: it waits for
//! [`crate::limits::BRIDGE_SETTLE_TIME`] before it binds, and lets go at the first look that finds the service gone.

mod accept;
pub mod engine;
mod plan;
mod pseudo_ipv4;
mod relay;
mod route;
mod runner;
mod state;

pub use plan::{BridgePlan, Planned, Reach, Settings, plan};
pub use pseudo_ipv4::{PSEUDO_IPV4, PSEUDO_IPV4_BITS, PSEUDO_IPV4_SERVICE, pseudo_ipv4};
pub use runner::{Bridge, BridgeHandle, UpdateError};
pub use state::{BridgeState, PortCounters, PortState, PseudoIpv4State};
