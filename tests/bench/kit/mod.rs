//! What benches and the soak share: a real agent under watch, HTTP/1.1 by hand, and numbers.
//!
//! The HTTP is written here, on a blocking socket, rather than taken from the client: it adds nothing to what is measured, and it
//! sees the wire as it is.

pub(crate) mod agent;
pub(crate) mod http;
pub(crate) mod numbers;
pub(crate) mod watch;
