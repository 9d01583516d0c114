//! The bridge between real clients and real servers: programs that people run, the whole way through a network of its own.
//!
//! ```text
//!   outside's namespace             the VM's namespace
//!   client ──────────── veth ────── [fd00:9::2]:P  guestd  ──> service on 0.0.0.0:P      bridged
//!      └─────────────── veth ─────────────────────────────────> 10.9.0.2:P               direct, what it is compared with
//! ```
//!
//! Needs root and the programs that `./dev test` installs; one that is missing fails its test by name.

#![expect(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking, its helpers too")]

mod databases;
mod http;
mod messages;
mod postgres;
mod program;
mod shells;
mod streams;
#[expect(dead_code, reason = "other tests use the rest")]
#[path = "../support/mod.rs"]
mod support;
mod trust;
mod world;
