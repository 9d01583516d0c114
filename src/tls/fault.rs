//! What it is that makes a handshake fail, for those who have to say what to do about it.

use std::io;

use tokio_rustls::rustls::{AlertDescription, CertificateError, Error, InvalidMessage};

use super::TlsError;

/// The kind of a [`TlsError`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// There is nothing to verify by.
    NoAuthorities,
    /// The certificate is by an authority that is not trusted here, or by none.
    Untrusted,
    /// It is for other names.
    WrongName,
    /// It is not valid yet, or not any more, by this machine's clock.
    WrongTime,
    /// Something else is wrong with it.
    BadCertificate,
    /// Server and client have no version of TLS in common, or no cipher.
    NothingInCommon,
    /// What answers does not speak TLS.
    NotTls,
    /// The server closed the connection.
    Closed,
    /// Anything else.
    Other,
}

impl TlsError {
    /// What it is.
    pub fn fault(&self) -> Fault {
        match self {
            Self::NoAuthorities(_) => Fault::NoAuthorities,
            Self::Name(_) => Fault::WrongName,
            Self::Handshake(error) => fault(error),
        }
    }
}

fn fault(error: &io::Error) -> Fault {
    let Some(tls) = error.get_ref().and_then(|inner| inner.downcast_ref()) else {
        return match error.kind() {
            io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe => Fault::Closed,
            _ => Fault::Other,
        };
    };
    match tls {
        Error::InvalidCertificate(wrong) => match wrong {
            CertificateError::UnknownIssuer => Fault::Untrusted,
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => Fault::WrongName,
            CertificateError::Expired
            | CertificateError::ExpiredContext { .. }
            | CertificateError::NotValidYet
            | CertificateError::NotValidYetContext { .. } => Fault::WrongTime,
            _ => Fault::BadCertificate,
        },
        Error::AlertReceived(AlertDescription::ProtocolVersion | AlertDescription::HandshakeFailure)
        | Error::PeerIncompatible(_) => Fault::NothingInCommon,
        Error::InvalidMessage(InvalidMessage::InvalidContentType | InvalidMessage::UnknownProtocolVersion) => {
            Fault::NotTls
        }
        _ => Fault::Other,
    }
}
