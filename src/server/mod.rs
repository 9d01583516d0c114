//! The HTTP API: axum routes, accept loops, and the translation between domain and wire. Nothing depends on this module.
//!
//! The same routes are served on every endpoint. Who may connect is decided in `accept`, by the peer's vsock CID or uid;
//! `auth` asks for the token where one is configured.

mod accept;
mod auth;
mod body;
mod error;
mod init;
mod listen;
mod path;
mod patience;
mod query;
mod report;
mod routes;
mod views;
mod websocket;

pub use accept::{Peer, serve};
pub use init::Init;
pub use listen::{UnixEndpoint, VsockEndpoint, vsock_state};
pub use report::{Agent, Phase};
pub use routes::router;
pub use views::Views;
pub use websocket::Sockets;
