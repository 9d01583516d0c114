//! Which TCP sockets listen in this VM, who owns them, and can the platform's IPv6-only proxy reach them?
//!
//! `watch` looks (a thread of its own) and publishes a [`ListenerTable`]; [`assess`] judges it, as a pure function of the
//! table, the policy and the state of the bridge. Nothing here acts on a socket.

mod diff;
mod exposure;
mod look;
mod own;
mod owners;
mod runtimes;
mod table;
#[cfg(test)]
pub(crate) use table::tests;
mod udp;
mod watch;

pub use diff::{Difference, Snapshot, Step};
pub use exposure::{Policy, assess};
pub use look::{Observation, Source};
pub use own::OwnSockets;
pub use table::{Bind, ListenerTable};
pub use udp::unconnected_udp;
pub use watch::{LookNow, Watcher};
