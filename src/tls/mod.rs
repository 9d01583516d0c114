//! TLS to services of the platform, by rustls.
//!
//! Certificates are always verified, against the authorities that the system trusts or those that were named: one file of them, read for
//! each connection, so that nothing of it stays in memory and a renewed one counts at once. There is no way to switch that off.

mod fault;
mod provider;

use std::{
    fmt,
    fs::File,
    io::{self, Read as _},
    path::{Path, PathBuf},
    sync::Arc,
};

use tokio::net::TcpStream;
use tokio_rustls::{
    TlsConnector,
    client::TlsStream,
    rustls::{
        ClientConfig, RootCertStore,
        client::Resumption,
        pki_types::{CertificateDer, InvalidDnsNameError, pem::PemObject as _},
    },
};

pub use fault::Fault;
pub use tokio_rustls::rustls::pki_types::ServerName;

use crate::limits;

/// Where distributions keep their file of authorities: Debian and Alpine, Fedora, openSUSE, older Red Hat, OpenSSL's own.
const BUNDLES: [&str; 5] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
    "/etc/ssl/cert.pem",
];

/// Names another file in place of these, as it does for OpenSSL.
pub const BUNDLE_VARIABLE: &str = "SSL_CERT_FILE";

/// Whose certificates are good.
#[derive(Debug, Clone)]
pub enum Trust {
    /// Those by the authorities of the system, or of the file that [`BUNDLE_VARIABLE`] names.
    System,
    /// Those by the authorities of this file, and by no others.
    File(PathBuf),
}

/// Why there is no TLS connection.
#[derive(Debug)]
pub enum TlsError {
    /// There are no authorities to verify by; why.
    NoAuthorities(String),
    /// The host's name is none that a certificate can have.
    Name(InvalidDnsNameError),
    /// The handshake failed, or the certificate is not good.
    Handshake(io::Error),
}

impl fmt::Display for TlsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoAuthorities(why) => f.write_str(why),
            Self::Name(error) => error.fmt(f),
            Self::Handshake(error) => write!(f, "TLS failed: {error}"),
        }
    }
}

impl std::error::Error for TlsError {}

/// A name or an address that a certificate can be for.
///
/// # Errors
/// [`TlsError::Name`].
pub fn server_name(host: &str) -> Result<ServerName<'static>, TlsError> {
    ServerName::try_from(host.to_owned()).map_err(TlsError::Name)
}

/// Shakes hands with the host of this name, which is told to it (SNI), and which must show a certificate for it by an authority that is
/// trusted.
///
/// # Errors
/// See [`TlsError`].
pub async fn connect(
    name: ServerName<'static>,
    stream: TcpStream,
    trust: Trust,
) -> Result<TlsStream<TcpStream>, TlsError> {
    // Reads a file and takes its hundred certificates apart: milliseconds.
    let config = tokio::task::spawn_blocking(|| config(trust));
    let config = config.await.map_err(|error| TlsError::NoAuthorities(error.to_string()))??;
    TlsConnector::from(Arc::new(config)).connect(name, stream).await.map_err(TlsError::Handshake)
}

fn config(trust: Trust) -> Result<ClientConfig, TlsError> {
    let bundle = match trust {
        Trust::System => system_bundle(),
        Trust::File(path) => Some(path),
    };
    let roots = authorities(bundle.as_deref()).map_err(TlsError::NoAuthorities)?;
    let builder = ClientConfig::builder_with_provider(Arc::new(provider::provider()));
    let builder =
        builder.with_safe_default_protocol_versions().map_err(|error| TlsError::NoAuthorities(error.to_string()))?;
    let mut config = builder.with_root_certificates(roots).with_no_client_auth();
    // It lives for one connection.
    config.resumption = Resumption::disabled();
    Ok(config)
}

/// The system's file of authorities.
fn system_bundle() -> Option<PathBuf> {
    match std::env::var_os(BUNDLE_VARIABLE).filter(|path| !path.is_empty()) {
        Some(path) => Some(PathBuf::from(path)),
        None => BUNDLES.iter().map(PathBuf::from).find(|path| path.exists()),
    }
}

/// Reads it. A certificate in it that cannot be used is left out, as there are such in the systems' own; a file without any is an error.
fn authorities(bundle: Option<&Path>) -> Result<RootCertStore, String> {
    let Some(path) = bundle else {
        return Err(format!("there is no file of trusted certificates (looked for {})", BUNDLES.join(", ")));
    };
    let failed = |why: String| format!("reading the trusted certificates of {} failed: {why}", path.display());
    let mut pem = Vec::new();
    let file = File::open(path).map_err(|error| failed(error.to_string()))?;
    file.take(limits::CA_BUNDLE_BYTES + 1).read_to_end(&mut pem).map_err(|error| failed(error.to_string()))?;
    if pem.len() as u64 > limits::CA_BUNDLE_BYTES {
        return Err(failed(format!("it is larger than {} bytes", limits::CA_BUNDLE_BYTES)));
    }
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(CertificateDer::pem_slice_iter(&pem).flatten());
    if roots.is_empty() {
        return Err(failed("there is no certificate in it".to_owned()));
    }
    Ok(roots)
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    #[test]
    fn a_bundle_that_cannot_be_used_is_named_with_the_reason() {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n").unwrap();
        let none = authorities(Some(file.path())).unwrap_err();
        assert!(
            none.contains(file.path().to_str().unwrap()) && none.ends_with("there is no certificate in it"),
            "{none}"
        );
        assert!(
            authorities(Some(Path::new("/nonexistent.pem")))
                .unwrap_err()
                .contains("/nonexistent.pem failed: No such file")
        );
        assert!(authorities(Some(Path::new("/dev/zero"))).unwrap_err().contains("it is larger than"));
        let nowhere = authorities(None).unwrap_err();
        assert!(nowhere.contains("/etc/ssl/certs/ca-certificates.crt"), "{nowhere}");
    }
}
