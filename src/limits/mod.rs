//! Every bound in one place: value, unit, reason. Reaching one is a typed answer that names it, never a hang.
//!
//! A room for each part; outside they have one name, `limits::NAME`.

mod bridge;
mod client;
mod exec;
mod files;
mod generation;
mod init;
mod install;
mod keys;
mod listeners;
mod names;
mod registry;
mod server;

pub use bridge::*;
pub use client::*;
pub use exec::*;
pub use files::*;
pub use generation::*;
pub use init::*;
pub use install::*;
pub use keys::*;
pub use listeners::*;
pub use names::*;
pub use registry::*;
pub use server::*;
