//! What a proxy would see: connections from the VM to its own IPv6 address, one for each public port.
//!
//! ```text
//! listeners, addresses, bridged ports ──> Plan (pure) ──> targets ──> connect ──> Seen ──> Plan::judge ──> listeners with probes
//! ```
//! Refuses to connect to anywhere else: the targets are ports that listen, on addresses of the VM, and nobody who asks can name
//! another. How a connection is made is told by the caller; [`dial_own`] is the way that there is.

mod connect;
mod plan;

pub use connect::{Seen, connect, dial_own};
pub use plan::Plan;
