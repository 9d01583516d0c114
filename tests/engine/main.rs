//! The bridge's engine by its public face: real sockets on loopback, no root.
//!
//! Some tests look at all descriptors and threads of their process: each runs in one of its own, as cargo nextest does it.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking, its helpers too")]

mod bounds;
mod bytes;
mod ends;
mod orders;
mod rig;
mod schedules;
