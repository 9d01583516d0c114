//! `guestctl proxy` against TLS servers on loopback: whom it trusts, and how each end is handed on.

#![expect(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking, its helpers too")]

#[path = "../authority/mod.rs"]
mod authority;
mod edge;
mod ends;
mod hosts;
mod rig;
mod trust;
