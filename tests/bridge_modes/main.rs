//! What the bridge tells a service of its client: HTTP headers and PROXY headers, through real sockets on loopback and real servers.

#![expect(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking, its helpers too")]

mod messages;
mod proxy_header;
mod real_servers;
mod rig;
mod smuggling;
mod upgrades;
