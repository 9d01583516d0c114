//! Listeners and the bridge in a network namespace of the test's own: real sockets, real routes, no effect on the machine.
//! Needs root.

#![expect(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking, its helpers too")]

mod addresses;
mod agreement;
mod bridge;
mod containers;
mod events;
mod flood;
mod hostile;
mod namespace;
mod owners;
mod probe;
mod queue;
mod relay;
mod restart;
#[path = "../support/mod.rs"]
mod support;
mod udp;
mod watch;
