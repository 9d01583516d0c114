//! guestd: the guest side of a Firecracker microVM.
//!
//! Data flows one way: `sys` (system calls) makes `facts` (plain data), the models decide on them, the runners act, and
//! `server` tells the outside. `api` and `limits` depend on nothing, `client` on those two alone. `tests/arrows.rs` holds this.

#[cfg(feature = "agent")]
pub mod account_env;
pub mod accounts;
#[cfg(feature = "agent")]
pub mod agent;
pub mod api;
#[cfg(any(feature = "agent", feature = "cli"))]
pub mod archive;
#[cfg(feature = "agent")]
pub mod bridge;
#[cfg(any(feature = "agent", feature = "cli"))]
pub mod calendar;
#[cfg(feature = "cli")]
pub mod cli;
#[cfg(feature = "client")]
pub mod client;
#[cfg(feature = "agent")]
pub mod config;
#[cfg(feature = "agent")]
pub mod control;
#[cfg(any(feature = "agent", feature = "cli"))]
pub mod dial;
#[cfg(feature = "cli")]
mod display;
#[cfg(feature = "agent")]
pub mod exec;
#[cfg(feature = "agent")]
pub mod facts;
#[cfg(feature = "agent")]
pub mod files;
#[cfg(feature = "agent")]
pub mod generation;
#[cfg(feature = "agent")]
pub mod growth;
#[cfg(feature = "agent")]
pub mod health;
#[cfg(feature = "agent")]
pub mod init;
#[cfg(feature = "agent")]
pub mod install;
#[cfg(feature = "agent")]
pub mod keys;
pub mod limits;
#[cfg(all(feature = "agent", feature = "cli"))]
pub mod lint;
#[cfg(feature = "agent")]
pub mod listeners;
#[cfg(feature = "agent")]
pub mod marked;
#[cfg(feature = "agent")]
pub mod names;
#[cfg(feature = "agent")]
pub mod probe;
#[cfg(feature = "agent")]
pub mod registry;
#[cfg(feature = "agent")]
pub mod server;
#[cfg(feature = "agent")]
pub mod signals;
#[cfg(any(feature = "agent", feature = "cli"))]
pub mod sys;
#[cfg(feature = "agent")]
pub mod throttle;
#[cfg(any(feature = "agent", feature = "cli"))]
pub mod tls;
