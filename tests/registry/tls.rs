//! A registry over TLS, with an authority of the test's own, made by openssl.

use std::{
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};

use tempfile::TempDir;
use tokio_rustls::rustls::{
    ServerConfig,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
};

use crate::{config, fake::FakeRegistry, namespace::enter, support::TestAgent, until_health_says};

/// An authority of this name.
struct Authority {
    name: &'static str,
    /// Kind of its key and of its servers', as openssl's `-newkey` has it.
    keys: &'static str,
    dir: TempDir,
}

impl Authority {
    fn new(name: &'static str) -> Self {
        Self::with_keys(name, "ec")
    }

    fn with_keys(name: &'static str, keys: &'static str) -> Self {
        let authority = Self { name, keys, dir: tempfile::tempdir().unwrap() };
        authority.make("ca", "basicConstraints = critical, CA:TRUE", &[]);
        authority
    }

    /// Its certificate.
    fn file(&self) -> PathBuf {
        self.dir.path().join("ca.pem")
    }

    /// A server with a certificate for this name.
    fn server(&self, name: &str) -> FakeRegistry {
        let (ca, key) = (self.file(), self.dir.path().join("ca.key"));
        let by = ["-CA", path(&ca), "-CAkey", path(&key)];
        self.make("server", &format!("basicConstraints = critical, CA:FALSE\nsubjectAltName = {name}"), &by);
        let chain = vec![CertificateDer::from_pem_file(self.dir.path().join("server.pem")).unwrap()];
        let key = PrivateKeyDer::from_pem_file(self.dir.path().join("server.key")).unwrap();
        let builder = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()));
        let builder = builder.with_safe_default_protocol_versions().unwrap().with_no_client_auth();
        FakeRegistry::start_tls(builder.with_single_cert(chain, key).unwrap())
    }

    /// `NAME.pem` and `NAME.key`.
    fn make(&self, name: &str, extensions: &str, by: &[&str]) {
        let file = |extension: &str| self.dir.path().join(format!("{name}.{extension}"));
        let sections = "[req]\ndistinguished_name = dn\nx509_extensions = ext\nprompt = no\n[dn]\nCN = ";
        std::fs::write(file("cnf"), format!("{sections}{}\n[ext]\n{extensions}\n", self.name)).unwrap();
        let mut openssl = Command::new("openssl");
        openssl.args(["req", "-x509", "-newkey", self.keys, "-nodes", "-days", "2"]);
        if self.keys == "ec" {
            openssl.args(["-pkeyopt", "ec_paramgen_curve:P-256"]);
        }
        openssl
            .args(["-config", path(&file("cnf")), "-keyout", path(&file("key")), "-out", path(&file("pem"))])
            .args(by);
        let done = openssl.stderr(Stdio::piped()).output().expect("openssl is installed");
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    }
}

fn path(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// An agent that trusts this file's certificates, and calls the registry by this host's name.
fn agent(registry: &FakeRegistry, host: &str, trusted: &Path) -> TestAgent {
    let url = format!("https://{host}:{}", registry.port());
    let trusted = format!("SSL_CERT_FILE={}", trusted.display());
    TestAgent::start_with(&config(&url, "auth_token = \"s3cret\""), &["env", &trusted])
}

#[test]
fn certificate_of_a_trusted_authority_is_accepted() {
    enter();
    let authority = Authority::new("one");
    let registry = authority.server("DNS:localhost");
    let agent = agent(&registry, "localhost", &authority.file());
    let first = registry.wait_for("POST /registry/vms", 0);
    assert_eq!(first.authorization.as_deref(), Some("Bearer s3cret"));
    registry.wait_for("POST /registry/vms/abc/heartbeat", 0);
    assert!(agent.terminate().success());
    assert_eq!(registry.requests().last().unwrap().call, "DELETE /registry/vms/abc");
}

#[test]
fn certificates_with_rsa_keys_are_accepted() {
    enter();
    let authority = Authority::with_keys("one", "rsa:2048");
    let registry = authority.server("DNS:localhost");
    let _agent = agent(&registry, "localhost", &authority.file());
    registry.wait_for("POST /registry/vms", 0);
}

#[test]
fn certificate_for_an_address_is_accepted_for_that_address() {
    enter();
    let authority = Authority::new("one");
    let registry = authority.server("IP:127.0.0.1");
    let _agent = agent(&registry, "127.0.0.1", &authority.file());
    registry.wait_for("POST /registry/vms", 0);
}

/// Nothing is sent to this registry, and health says why.
fn refused(registry: &FakeRegistry, trusted: &Path, words: &str) {
    let url = format!("https://localhost:{}", registry.port());
    let trusted = format!("SSL_CERT_FILE={}", trusted.display());
    let agent = TestAgent::start_with(&config(&url, ""), &["env", &trusted]);
    until_health_says(&agent, "degraded", words);
    assert!(agent.terminate().success());
    assert!(registry.requests().is_empty());
}

#[test]
fn certificate_of_an_unknown_authority_is_refused() {
    enter();
    let registry = Authority::new("one").server("DNS:localhost");
    refused(&registry, &Authority::new("another").file(), "invalid peer certificate: UnknownIssuer");
}

#[test]
fn certificate_for_another_name_is_refused() {
    enter();
    let authority = Authority::new("one");
    let registry = authority.server("DNS:other.test");
    refused(&registry, &authority.file(), "certificate not valid for name \"localhost\"");
}

#[test]
fn without_trusted_certificates_nothing_is_sent() {
    enter();
    let registry = Authority::new("one").server("DNS:localhost");
    refused(&registry, Path::new("/nonexistent.pem"), "/nonexistent.pem failed: No such file or directory");
}

#[test]
fn server_that_speaks_no_tls_is_named() {
    enter();
    let authority = Authority::new("one");
    let registry = FakeRegistry::start();
    refused(&registry, &authority.file(), "TLS failed");
}

#[test]
fn agent_ends_though_a_thread_of_it_blocks() {
    enter();
    // Nobody writes to it, so that opening it waits for ever; that is done once there is a connection.
    let dir = tempfile::tempdir().unwrap();
    let trusted = dir.path().join("fifo");
    rustix::fs::mknodat(rustix::fs::CWD, &trusted, rustix::fs::FileType::Fifo, rustix::fs::Mode::RWXU, 0).unwrap();
    let registry = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("https://{}", registry.local_addr().unwrap());
    let agent = TestAgent::start_with(&config(&url, ""), &["env", &format!("SSL_CERT_FILE={}", trusted.display())]);
    let _connection = registry.accept().unwrap();
    let began = Instant::now();
    assert!(agent.terminate().success());
    assert!(began.elapsed() < Duration::from_secs(8), "{:?}", began.elapsed());
}
