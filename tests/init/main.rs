//! `guestd init -- PROGRAM`, the entry point of a container: what tini's and dumb-init's users rely on.
//!
//! Real processes and real signals, as an ordinary process, as process 1 of a namespace, and on a terminal.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking, its helpers too")]

mod orphans;
mod program;
mod signals;
mod status;
mod terminal;
