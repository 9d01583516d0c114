//! The IPv6-to-IPv4 bridge: the platform's proxy connects over IPv6, legacy services listen on IPv4.
//!
//! ```text
//! observation ──> plan (pure) ──> Bridge task ──orders──> data plane (a process of its own) ──> Engine: bytes,
//!                                     │                                    from 240.x.y.z to the service's IPv4 address
//!                                     └─> BridgeState, for the API and for the listeners' verdict
//! ```
//!
//! What it refuses: loopback listeners without an explicit rule; ports that a service serves over IPv6; connecting from
//! 127.0.0.0/8, because a service that trusts localhost would let the whole internet in; `::1` for automatic bridges, so
//! that a client inside the VM that falls back from `::1` to 127.0.0.1 sees what it saw without guestd.
//!
//! Where it takes its ports by binding them, it cannot be free of races with the service's own binds: it waits for
//! [`crate::limits::BRIDGE_SETTLE_TIME`] before it binds, and lets go at the first look that finds the service gone.

mod denylist;
pub mod engine;
mod handle;
pub mod http;
mod link;
mod name_lock;
mod orders;
mod plan;
pub mod plane;
mod planes;
pub mod proxy_header;
mod pseudo_ipv4;
mod retired;
mod runner;
mod settings_file;
mod settle;
mod state;
mod tally;

pub use denylist::DENYLIST;
pub use handle::{BridgeHandle, UpdateError};
pub use link::PlaneSettings;
pub use orders::Tier;
pub use plan::{BridgePlan, Planned, Reach, Settings, left_out, plan};
pub use pseudo_ipv4::{PSEUDO_IPV4, PSEUDO_IPV4_BITS, PSEUDO_IPV4_SERVICE, pseudo_ipv4};
pub use runner::Bridge;
pub use settings_file::SettingsFile;
pub use state::{BridgeState, PlaneState, PortCounters, PortState, PseudoIpv4State};
