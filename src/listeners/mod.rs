//! Which TCP sockets listen in this VM, who owns them, and can the platform's IPv6-only proxy reach them?
//!
//! `watch` looks (a thread of its own) and publishes a [`ListenerTable`]; `sources` tells it when there is cause to, `pace` how
//! often; [`assess`] judges the table, as a pure function of it, the policy and the state of the bridge. It
//! holds the own network namespace's sockets, and those of the VM's other ones apart. Nothing here acts on a socket.

mod container;
mod diff;
mod exposure;
mod hints;
mod look;
mod namespaces;
mod own;
mod owners;
mod pace;
mod publications;
mod publish;
mod ration;
mod runtimes;
mod sources;
mod table;
#[cfg(test)]
pub(crate) use table::tests;
mod udp;
mod watch;

pub use diff::{Difference, Snapshot, Step};
pub use exposure::{Policy, assess};
pub use look::{Observation, Source};
pub use own::OwnSockets;
pub use sources::Events;
pub use table::{Bind, ListenerTable};
pub use udp::unconnected_udp;
pub use watch::{LookNow, WatchSettings, Watcher};
