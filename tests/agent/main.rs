//! The public API over a Unix socket, against a real agent.

#![expect(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking, its helpers too")]

mod bad_input;
mod bridge_settings;
mod drain;
mod exec;
mod exec_table;
mod generation;
mod peers;
mod reports;
mod resources;
mod socket;
#[path = "../support/mod.rs"]
mod support;
mod terminal;
mod traps;
mod tunnel;
mod wire_errors;
mod ws;
