//! What ends `guestctl proxy` without success, on the side of the connection.

use std::io;

use crate::cli::failure::exit;
use crate::dial::DialError;
use crate::limits;
use crate::tls::{Fault, TlsError};

/// Why bytes were not passed on, or not to their end.
#[derive(Debug, thiserror::Error)]
#[error("{}; {}", self.cause(), self.advice())]
pub(crate) struct ProxyFailure {
    pub(super) host: String,
    pub(super) port: u16,
    pub(super) why: Why,
}

/// How far it came.
#[derive(Debug)]
pub(super) enum Why {
    /// No address was found, or none accepted.
    NoConnection(DialError),
    /// The server was silent.
    NoHandshake,
    /// The handshake failed, or the certificate is not good.
    NotSecure(TlsError),
    /// The connection ended as none should: what was received may not be all.
    Broken(io::Error),
    /// The peer has ended, and did not take all that was to be sent.
    Unsent(io::Error),
}

impl ProxyFailure {
    pub(crate) fn exit_code(&self) -> u8 {
        match &self.why {
            Why::NotSecure(error) if error.fault() == Fault::NoAuthorities => exit::FAILURE,
            Why::NoConnection(_) | Why::NoHandshake | Why::NotSecure(_) => exit::UNREACHABLE,
            Why::Broken(_) | Why::Unsent(_) => exit::FAILURE,
        }
    }

    pub(crate) fn cause(&self) -> String {
        let Self { host, port, why } = self;
        match why {
            Why::NoConnection(error) => format!("cannot reach {host} port {port}: {error}"),
            Why::NoHandshake => format!(
                "cannot reach {host} port {port}: it accepted a connection and did not answer in TLS within {} s",
                limits::PROXY_HANDSHAKE_TIME.as_secs()
            ),
            Why::NotSecure(error) => format!("cannot reach {host} port {port}: {error}"),
            Why::Broken(error) => format!(
                "the connection to {host} port {port} ended without an end of TLS, so that what came may not be all: {error}"
            ),
            Why::Unsent(error) => {
                format!("{host} port {port} has ended the connection and not taken all that was sent: {error}")
            }
        }
    }

    pub(crate) fn advice(&self) -> &'static str {
        match &self.why {
            Why::NoConnection(DialError::Lookup(_)) => {
                "check the VM's name, and this system's name servers in /etc/resolv.conf"
            }
            Why::NoConnection(DialError::Connect(_)) => "check the port, and this system's routes: ip -6 route",
            Why::NoHandshake => {
                "the platform's proxy may be busy, or the port may have no TLS: try again, or another port"
            }
            Why::NotSecure(error) => advice_for(error.fault()),
            Why::Broken(_) => "see whether the VM still runs, then connect again",
            Why::Unsent(_) => "see whether the service in the VM still runs, then connect again",
        }
    }
}

fn advice_for(fault: Fault) -> &'static str {
    match fault {
        Fault::NoAuthorities => {
            "install the package ca-certificates, or name a file of certificates by --ca or SSL_CERT_FILE"
        }
        Fault::Untrusted => {
            "if its authority is your own, name that one's certificate by --ca or SSL_CERT_FILE; if not, somebody may be in between"
        }
        Fault::WrongName => "check the VM's name: what answers there is not it",
        Fault::WrongTime => "check this system's clock: date",
        Fault::BadCertificate => "have the server's certificate made anew, or see whether somebody is in between",
        Fault::NothingInCommon => "guestctl speaks TLS 1.3 alone; for an older server use openssl s_client",
        Fault::NotTls => "check the port: what answers there does not speak TLS",
        Fault::Closed => "check the VM's name and port: the platform's proxy hangs up on those that it does not know",
        Fault::Other => "try again; if it stays, see what answers there: openssl s_client -connect HOST:PORT",
    }
}
