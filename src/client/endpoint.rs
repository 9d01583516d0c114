//! How a client reaches guestd, parsed once.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

/// vsock port of guestd, unless configured otherwise.
pub const DEFAULT_PORT: u32 = 1024;

/// Longest path that fits a Unix socket address with its NUL (unix(7)), in bytes.
const SOCKET_PATH_BYTES: usize = 107;

/// VMADDR_CID_ANY and VMADDR_PORT_ANY of vsock(7): for binding, never for connecting.
const ANY: u32 = u32::MAX;

/// Where a VM's guestd listens.
///
/// Its text is `unix:PATH`, `vsock:CID[:PORT]` or `fc:UDS_PATH[:PORT]`; printing always gives the port, so that what is
/// printed parses to the same endpoint again.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Endpoint {
    /// A Unix socket of this machine: guestd's own, inside the guest.
    Unix {
        /// Path of the socket.
        path: PathBuf,
    },
    /// AF_VSOCK, from a host whose kernel has the VM's vsock device.
    Vsock {
        /// Context id of the VM.
        cid: u32,
        /// vsock port.
        port: u32,
    },
    /// Firecracker's hybrid vsock: a Unix socket of the host (`uds_path` of the vsock device) that takes `CONNECT PORT`.
    Firecracker {
        /// Path of the socket.
        path: PathBuf,
        /// vsock port in the guest.
        port: u32,
    },
}

/// A text that is no endpoint.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum EndpointError {
    /// No known scheme before the colon.
    #[error("`{0}` is no endpoint: it must be unix:PATH, vsock:CID[:PORT] or fc:UDS_PATH[:PORT]")]
    Scheme(String),
    /// The path is absent.
    #[error("endpoint `{0}` has no path: write unix:PATH or fc:UDS_PATH[:PORT]")]
    NoPath(String),
    /// The path does not fit a socket address.
    #[error(
        "the path of endpoint `{text}` has {bytes} bytes and a Unix socket's has at most {SOCKET_PATH_BYTES}: \
         use a shorter path or a symbolic link"
    )]
    LongPath {
        /// The endpoint.
        text: String,
        /// Length of its path.
        bytes: usize,
    },
    /// A NUL byte in the path.
    #[error("the path of endpoint `{}` holds a NUL byte, which no path can: leave it out", .0.escape_default())]
    NulInPath(String),
    /// The context id is no number that a VM can have.
    #[error("`{cid}` in endpoint `{text}` is no vsock CID: give the VM's, a number from 0 to 4294967294")]
    Cid {
        /// The endpoint.
        text: String,
        /// What stood for the CID.
        cid: String,
    },
    /// The port is no number that can be connected to.
    #[error("`{port}` in endpoint `{text}` is no vsock port: give a number from 0 to 4294967294, or none for 1024")]
    Port {
        /// The endpoint.
        text: String,
        /// What stood for the port.
        port: String,
    },
}

impl FromStr for Endpoint {
    type Err = EndpointError;

    fn from_str(text: &str) -> Result<Self, EndpointError> {
        let scheme = || EndpointError::Scheme(text.to_owned());
        match text.split_once(':').ok_or_else(scheme)? {
            ("unix", path) => Ok(Self::Unix { path: socket_path(text, path)? }),
            ("vsock", rest) => {
                let (cid, port) = match rest.split_once(':') {
                    Some((cid, port)) => (cid, port_number(text, port)?),
                    None => (rest, DEFAULT_PORT),
                };
                let bad_cid = || EndpointError::Cid { text: text.to_owned(), cid: cid.to_owned() };
                Ok(Self::Vsock { cid: number(cid).ok_or_else(bad_cid)?, port })
            }
            ("fc", rest) => {
                // A path may hold colons; only a last part of digits, or an empty one, is meant as a port.
                let (path, port) = match rest.rsplit_once(':') {
                    Some((path, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => {
                        (path, port_number(text, port)?)
                    }
                    _ => (rest, DEFAULT_PORT),
                };
                Ok(Self::Firecracker { path: socket_path(text, path)?, port })
            }
            _ => Err(scheme()),
        }
    }
}

fn socket_path(text: &str, path: &str) -> Result<PathBuf, EndpointError> {
    if path.is_empty() {
        return Err(EndpointError::NoPath(text.to_owned()));
    }
    if path.contains('\0') {
        return Err(EndpointError::NulInPath(text.to_owned()));
    }
    if path.len() > SOCKET_PATH_BYTES {
        return Err(EndpointError::LongPath { text: text.to_owned(), bytes: path.len() });
    }
    Ok(PathBuf::from(path))
}

fn port_number(text: &str, port: &str) -> Result<u32, EndpointError> {
    number(port).ok_or_else(|| EndpointError::Port { text: text.to_owned(), port: port.to_owned() })
}

/// Digits only: `u32::from_str` would take a sign, too.
fn number(text: &str) -> Option<u32> {
    let digits = text.bytes().all(|byte| byte.is_ascii_digit());
    let number = text.parse().ok().filter(|number| *number != ANY);
    number.filter(|_| digits)
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix { path } => write!(f, "unix:{}", path.display()),
            Self::Vsock { cid, port } => write!(f, "vsock:{cid}:{port}"),
            Self::Firecracker { path, port } => write!(f, "fc:{}:{port}", path.display()),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parse(text: &str) -> Endpoint {
        text.parse().unwrap()
    }

    fn error(text: &str) -> String {
        text.parse::<Endpoint>().unwrap_err().to_string()
    }

    #[test]
    fn every_form_parses_and_has_a_default_port() {
        let unix = Endpoint::Unix { path: "/run/guestd.sock".into() };
        assert_eq!(parse("unix:/run/guestd.sock"), unix);
        assert_eq!(parse("vsock:42"), Endpoint::Vsock { cid: 42, port: 1024 });
        assert_eq!(parse("vsock:42:7"), Endpoint::Vsock { cid: 42, port: 7 });
        let fc = |port| Endpoint::Firecracker { path: "v.sock".into(), port };
        assert_eq!(parse("fc:v.sock"), fc(1024));
        assert_eq!(parse("fc:v.sock:52"), fc(52));
    }

    #[test]
    fn a_colon_in_a_path_is_no_port() {
        let fc = |path: &str, port| Endpoint::Firecracker { path: path.into(), port };
        assert_eq!(parse("fc:/vm:7/v.sock"), fc("/vm:7/v.sock", 1024));
        assert_eq!(parse("fc:/vm:7:1024"), fc("/vm:7", 1024));
        let unix = Endpoint::Unix { path: "/a:1".into() };
        assert_eq!(parse("unix:/a:1"), unix);
    }

    #[test]
    fn what_is_no_endpoint_is_told_why() {
        insta::assert_snapshot!(error(""), @"`` is no endpoint: it must be unix:PATH, vsock:CID[:PORT] or fc:UDS_PATH[:PORT]");
        insta::assert_snapshot!(error("/run/guestd.sock"), @"`/run/guestd.sock` is no endpoint: it must be unix:PATH, vsock:CID[:PORT] or fc:UDS_PATH[:PORT]");
        insta::assert_snapshot!(error("tcp:1.2.3.4"), @"`tcp:1.2.3.4` is no endpoint: it must be unix:PATH, vsock:CID[:PORT] or fc:UDS_PATH[:PORT]");
        insta::assert_snapshot!(error("unix:"), @"endpoint `unix:` has no path: write unix:PATH or fc:UDS_PATH[:PORT]");
        insta::assert_snapshot!(error("fc::52"), @"endpoint `fc::52` has no path: write unix:PATH or fc:UDS_PATH[:PORT]");
        insta::assert_snapshot!(error("unix:a\0b"), @r"the path of endpoint `unix:a\u{0}b` holds a NUL byte, which no path can: leave it out");
        insta::assert_snapshot!(error("fc:/v.sock:"), @"`` in endpoint `fc:/v.sock:` is no vsock port: give a number from 0 to 4294967294, or none for 1024");
        insta::assert_snapshot!(error("fc:/v.sock:4294967295"), @"`4294967295` in endpoint `fc:/v.sock:4294967295` is no vsock port: give a number from 0 to 4294967294, or none for 1024");
        insta::assert_snapshot!(error("vsock:"), @"`` in endpoint `vsock:` is no vsock CID: give the VM's, a number from 0 to 4294967294");
        insta::assert_snapshot!(error("vsock:+3"), @"`+3` in endpoint `vsock:+3` is no vsock CID: give the VM's, a number from 0 to 4294967294");
        insta::assert_snapshot!(error("vsock:3:x"), @"`x` in endpoint `vsock:3:x` is no vsock port: give a number from 0 to 4294967294, or none for 1024");
    }

    #[test]
    fn a_path_that_no_socket_can_have_is_refused_before_it_is_tried() {
        let longest = format!("unix:{}", "a".repeat(107));
        assert!(longest.parse::<Endpoint>().is_ok());
        let error = format!("{longest}a").parse::<Endpoint>().unwrap_err();
        assert!(matches!(error, EndpointError::LongPath { bytes: 108, .. }));
    }

    fn endpoints() -> impl Strategy<Value = Endpoint> {
        // Slashes, colons, digits and blanks: what could be taken for something else.
        let path = || "[a-z0-9:/ .é]{1,50}".prop_map(PathBuf::from);
        let number = || 0..ANY;
        prop_oneof![
            path().prop_map(|path| Endpoint::Unix { path }),
            (number(), number()).prop_map(|(cid, port)| Endpoint::Vsock { cid, port }),
            (path(), number()).prop_map(|(path, port)| Endpoint::Firecracker { path, port }),
        ]
    }

    proptest! {
        #[test]
        fn what_is_printed_parses_to_the_same_endpoint(endpoint in endpoints()) {
            prop_assert_eq!(endpoint.to_string().parse(), Ok(endpoint));
        }

        #[test]
        fn no_text_makes_parsing_panic(text in "(unix|vsock|fc)?:?.{0,40}") {
            let _ = text.parse::<Endpoint>();
        }
    }
}
