//! A registry over TLS, with an authority of the test's own, made by openssl.

use std::{
    net::TcpListener,
    path::Path,
    time::{Duration, Instant},
};

use crate::{
    authority::Authority, config, fake::FakeRegistry, namespace::enter, support::TestAgent, until_health_says,
};

/// A registry with a certificate for this name.
fn registry(authority: &Authority, name: &str) -> FakeRegistry {
    FakeRegistry::start_tls(authority.server(name))
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
    let registry = registry(&authority, "DNS:localhost");
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
    let registry = registry(&authority, "DNS:localhost");
    let _agent = agent(&registry, "localhost", &authority.file());
    registry.wait_for("POST /registry/vms", 0);
}

#[test]
fn certificate_for_an_address_is_accepted_for_that_address() {
    enter();
    let authority = Authority::new("one");
    let registry = registry(&authority, "IP:127.0.0.1");
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
    let registry = registry(&Authority::new("one"), "DNS:localhost");
    refused(&registry, &Authority::new("another").file(), "invalid peer certificate: UnknownIssuer");
}

#[test]
fn certificate_for_another_name_is_refused() {
    enter();
    let authority = Authority::new("one");
    let registry = registry(&authority, "DNS:other.test");
    refused(&registry, &authority.file(), "certificate not valid for name \"localhost\"");
}

#[test]
fn without_trusted_certificates_nothing_is_sent() {
    enter();
    let registry = registry(&Authority::new("one"), "DNS:localhost");
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
