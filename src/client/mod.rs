//! How a host or an orchestrator talks to guestd: endpoints, one connection per call, typed answers and typed errors.
//!
//! Owns the way to a VM (Unix socket, vsock, Firecracker's hybrid socket), the HTTP/1.1 calls on it and the reading of
//! streams. Every wait has an end and every buffer a bound. Refuses to guess: a stream that stops before its last frame
//! is an error, and so is an answer that is not guestd's. It never half-closes a connection, since Firecracker turns that
//! into a close of both directions. Depends on [`api`](crate::api) and [`limits`](crate::limits) alone.
//!
//! ```no_run
//! # async fn demo() -> Result<(), guestd::client::ClientError> {
//! use guestd::{api::ExecRequest, client::{Client, Endpoint}};
//!
//! let endpoint: Endpoint = "fc:/run/vm7/vsock.sock".parse().expect("an endpoint");
//! let vm = Client::new(endpoint);
//! let command = ["uname", "-a"].map(String::from).to_vec();
//! let result = vm.exec(&ExecRequest { command, ..ExecRequest::default() }).await?;
//! println!("{}", result.stdout);
//! # Ok(()) }
//! ```

mod calls;
mod connect;
mod endpoint;
mod error;
mod event;
mod execs;
mod files;
mod follow;
mod frames;
mod generation;
mod http;
mod lines;
mod ready;
mod services;
mod session;
mod stdin;
mod stream;
mod token;
mod tunnel;
mod upload;
mod watch;
mod websocket;

pub use calls::{Client, Timeouts};
pub use endpoint::{DEFAULT_PORT, Endpoint, EndpointError};
pub use error::{Call, ClientError, ConnectFailure, advice_for};
pub use event::ExecEvent;
pub use execs::{LogQuery, ReadFrom};
pub use follow::{ExecFollow, new_exec_id};
pub use session::{ExecSession, SessionReader, SessionWriter};
pub use stdin::Fed;
pub use stream::ExecStream;
pub use token::{Token, TokenError};
pub use tunnel::Tunnel;

#[cfg(feature = "agent")]
pub(crate) use connect::Duplex;
pub use files::{Download, PutFile};
pub(crate) use follow::Retry;
#[cfg(feature = "agent")]
pub(crate) use http::{Body, Connection, excerpt};
pub use upload::{Upload, UploadChunk};
pub use watch::ListenerWatch;
