//! TCP to a host by its name: its addresses one after the other, each for a bounded time, until one accepts.
//!
//! Their order is getaddrinfo(3)'s, which knows what of IPv6 and IPv4 this machine can reach (RFC 6724). Refuses to wait without an
//! end, and to ask a proxy of the environment.

use std::{fmt, io, net::SocketAddr, time::Duration};

use tokio::{
    net::{TcpStream, lookup_host},
    time::timeout,
};

/// How much is tried.
#[derive(Debug, Clone, Copy)]
pub struct Patience {
    /// For the addresses of the name to be found.
    pub lookup: Duration,
    /// For one address to accept.
    pub address: Duration,
    /// Addresses that are tried, of those that there are.
    pub addresses: usize,
}

/// Why there is no connection.
#[derive(Debug)]
pub enum DialError {
    /// The name has no address that could be found; why.
    Lookup(String),
    /// No address accepted; each that was tried, with the reason.
    Connect(Vec<(SocketAddr, io::Error)>),
}

impl fmt::Display for DialError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Lookup(why) => f.write_str(why),
            Self::Connect(tried) => {
                for (number, (address, why)) in tried.iter().enumerate() {
                    let separator = if number > 0 { "; " } else { "" };
                    write!(f, "{separator}connecting to {address} failed: {why}")?;
                }
                Ok(())
            }
        }
    }
}

impl std::error::Error for DialError {}

/// Connects to the first address of `host` that accepts. The look-up of a name cannot be given up: after its time its thread is left
/// behind.
///
/// # Errors
/// See [`DialError`].
pub async fn dial(host: &str, port: u16, patience: Patience) -> Result<TcpStream, DialError> {
    let unknown = |why: &dyn fmt::Display| DialError::Lookup(format!("looking up {host} failed: {why}"));
    let addresses = within(patience.lookup, lookup_host((host, port))).await.map_err(|error| unknown(&error))?;
    let mut tried = Vec::new();
    for address in addresses.take(patience.addresses) {
        match within(patience.address, TcpStream::connect(address)).await {
            Ok(stream) => return Ok(stream),
            Err(error) => tried.push((address, error)),
        }
    }
    if tried.is_empty() { Err(unknown(&"it has no address")) } else { Err(DialError::Connect(tried)) }
}

async fn within<T>(patience: Duration, trying: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    let late = |_| io::Error::other(format!("no answer within {} s", patience.as_secs_f32()));
    timeout(patience, trying).await.map_err(late)?
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATIENCE: Patience =
        Patience { lookup: Duration::from_secs(10), address: Duration::from_secs(10), addresses: 4 };

    #[tokio::test]
    async fn every_address_that_was_tried_is_named_with_its_reason() {
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let error = dial("127.0.0.1", port, PATIENCE).await.unwrap_err().to_string();
        assert_eq!(error, format!("connecting to 127.0.0.1:{port} failed: Connection refused (os error 111)"));
        let refused = || io::Error::from(io::ErrorKind::ConnectionRefused);
        let two = ["[::1]:1", "127.0.0.1:1"].map(|address| (address.parse().unwrap(), refused()));
        let two = DialError::Connect(two.into()).to_string();
        assert_eq!(
            two,
            "connecting to [::1]:1 failed: connection refused; connecting to 127.0.0.1:1 failed: connection refused"
        );
    }

    #[tokio::test]
    async fn an_address_is_waited_for_no_longer_than_its_time() {
        let late = within(Duration::from_millis(1500), std::future::pending::<io::Result<()>>());
        tokio::time::pause();
        assert_eq!(late.await.unwrap_err().to_string(), "no answer within 1.5 s");
    }

    #[tokio::test]
    async fn a_name_without_addresses_is_named() {
        // A label of 64 letters is none (RFC 1035), so that no name server is asked.
        let name = "a".repeat(64);
        let error = dial(&name, 1, PATIENCE).await.unwrap_err().to_string();
        assert!(error.starts_with(&format!("looking up {name} failed: ")), "{error}");
    }
}
