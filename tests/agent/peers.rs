//! Who may use the socket, and with which token.

use std::{
    io::Write,
    os::unix::fs::{MetadataExt, PermissionsExt},
    process::{Command, Stdio},
};

use crate::support::{TestAgent, answer, request};

#[test]
fn socket_is_for_its_owner_alone() {
    let agent = TestAgent::start();
    let metadata = std::fs::metadata(agent.socket()).unwrap();
    assert_eq!(metadata.permissions().mode() & 0o777, 0o600);
    assert_eq!(metadata.uid(), nix::unistd::geteuid().as_raw());
}

/// Even where the file's mode lets it in. (Needs root, as all of this suite's changes of user do.)
#[test]
fn peer_with_another_uid_is_refused() {
    let agent = TestAgent::start();
    std::fs::set_permissions(agent.socket(), PermissionsExt::from_mode(0o666)).unwrap();
    std::fs::set_permissions(agent.socket().parent().unwrap(), PermissionsExt::from_mode(0o755)).unwrap();
    let mut curl = Command::new("setpriv")
        .args(["--reuid", "65534", "--clear-groups", "curl", "-sS", "-w", "\n%{http_code}", "--unix-socket"])
        .arg(agent.socket())
        .arg("http://guestd/v1/info")
        .stdout(Stdio::piped())
        .spawn()
        .expect("setpriv and curl are installed");
    let mut text = String::new();
    std::io::Read::read_to_string(curl.stdout.as_mut().unwrap(), &mut text).unwrap();
    assert!(curl.wait().unwrap().success());
    assert!(text.contains("peer_forbidden") && text.contains("uid 65534") && text.ends_with("403"), "{text}");
    assert!(agent.get("/v1/info")["version"].is_string());
}

#[test]
fn with_a_token_everything_but_health_needs_it() {
    let agent = TestAgent::start_with("bridge.auto = false\nauth_token = \"s3cret\"\n", &[]);
    assert_eq!(agent.call("GET", "/health", "").0, 200);
    for path in ["/v1/health", "/v1/info", "/v1/listeners", "/v1/bridge", "/metrics", "/nope"] {
        let (status, body) = agent.call("GET", path, "");
        assert_eq!((status, body["code"].as_str()), (401, Some("unauthorized")), "{path}");
    }
    let with = |token: &str| {
        let mut stream = agent.connect();
        let plain = request("GET", "/v1/info", "");
        stream.write_all(plain.replace("\r\n\r\n", &format!("\r\nAuthorization: {token}\r\n\r\n")).as_bytes()).unwrap();
        answer(&mut stream).0
    };
    assert_eq!(with("Bearer s3cret"), 200);
    assert_eq!(with("bearer s3cret"), 200);
    assert_eq!(with("Bearer s3cres"), 401);
    assert_eq!(with("Basic s3cret"), 401);
}

#[test]
fn health_without_a_token_tells_no_details() {
    let agent = TestAgent::start();
    let health = agent.get("/health");
    assert!(health["status"].is_string() && health.get("checks").is_none(), "{health}");
    assert!(agent.get("/v1/health")["checks"].as_array().unwrap().len() >= 8);
}
