//! Registries that are none, or mean no good: each is named, and none holds the agent up, fills it or gets more than its due.

use std::{
    io::{Read, Write},
    time::{Duration, Instant},
};

use serde_json::Value;

use crate::{
    agent, config,
    fake::{FakeRegistry, Reply},
    namespace::enter,
    support::{TestAgent, eventually},
    until_health_says,
};

/// The agent that has this registry says this of it, answers meanwhile, stays small and ends in time.
fn names(reply: Reply, words: &str) {
    enter();
    let registry = FakeRegistry::start();
    registry.answer_with(move |_| Some(reply.clone()));
    let agent = agent(&registry.url(), "");
    until_health_says(&agent, "degraded", words);
    let status = std::fs::read_to_string(format!("/proc/{}/status", agent.pid())).unwrap();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    let peak_kib: u64 = peak.trim().trim_end_matches(" kB").parse().unwrap();
    assert!(peak_kib < 64 * 1024, "the agent grew to {peak_kib} KiB");
    let began = Instant::now();
    assert!(agent.terminate().success());
    // Three seconds for the registry, beside which there is nothing to wait for.
    assert!(began.elapsed() < Duration::from_secs(8), "{:?}", began.elapsed());
}

#[test]
fn refusal_without_an_end_is_read_to_its_bound() {
    names(Reply::Endless(b"HTTP/1.1 400 X\r\n\r\n".to_vec()), "it answered 400: it does not take what guestd says");
}

#[test]
fn success_without_an_end_is_a_success() {
    enter();
    let registry = FakeRegistry::start();
    registry.answer_with(|_| Some(Reply::Endless(b"HTTP/1.1 200 X\r\n\r\n".to_vec())));
    let agent = agent(&registry.url(), "");
    until_health_says(&agent, "ok", "last heartbeat answered");
}

#[test]
fn headers_without_an_end_are_no_answer() {
    names(Reply::Endless(b"HTTP/1.1 200 X\r\nX: ".to_vec()), "the answer is no HTTP");
}

#[test]
fn garbage_is_no_answer() {
    names(Reply::Bytes(b"SSH-2.0-OpenSSH_9.2\r\n".to_vec()), "the answer is no HTTP");
}

#[test]
fn connection_that_is_closed_is_no_answer() {
    names(Reply::Bytes(Vec::new()), "the connection was lost");
}

#[test]
fn registry_that_never_answers_is_given_up() {
    names(Reply::Silence, "it did not answer within 10 s");
}

#[test]
fn drain_does_not_wait_long_for_a_registry_that_does_not_answer() {
    enter();
    let registry = FakeRegistry::start();
    registry.answer_with(|_| Some(Reply::Silence));
    let agent = agent(&registry.url(), "");
    registry.wait_for("POST /registry/vms", 0);
    until_health_says(&agent, "ok", "is being registered");
    let began = Instant::now();
    assert!(agent.terminate().success());
    assert!(began.elapsed() < Duration::from_secs(8), "{:?}", began.elapsed());
}

#[test]
fn redirect_is_not_followed_and_the_token_goes_nowhere_else() {
    enter();
    let (registry, elsewhere) = (FakeRegistry::start(), FakeRegistry::start());
    let location = format!("Location: {}/registry/vms\r\n", elsewhere.url());
    registry.answer_with(move |_| Some(Reply::Answer(307, location.clone(), String::new())));
    let agent = agent(&registry.url(), "");
    until_health_says(&agent, "degraded", "it answered 307: it leads elsewhere, which is not followed");
    assert!(agent.terminate().success());
    assert_eq!((registry.requests().len(), elsewhere.requests().len()), (1, 0));
}

#[test]
fn token_is_in_no_log_and_in_no_health_even_if_the_registry_repeats_it() {
    enter();
    let registry = FakeRegistry::start();
    registry.answer_with(|request| {
        let repeated = request.authorization.clone().unwrap_or_default();
        let refused = |body| Reply::Answer(400, String::new(), body);
        // A reason without the token is shown.
        Some(refused(if request.call.starts_with("POST") { "services are missing".to_owned() } else { repeated }))
    });
    let refused = |registry: &FakeRegistry, words: &str| {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("log");
        let to_log = format!("exec \"$@\" 2>{}", log.display());
        let config = config(&registry.url(), "auth_token = \"hidden-7f3a\"\nlog.level = \"trace\"");
        let agent = TestAgent::start_with(&config, &["sh", "-c", &to_log, "sh"]);
        let message = eventually("health says what is wrong", || {
            let health = health(&agent, "hidden-7f3a");
            assert!(!health.to_string().contains("hidden-7f3a"), "{health}");
            let checks = health["checks"].as_array().unwrap();
            let check = checks.iter().find(|check| check["name"] == "registry").unwrap();
            (check["state"] == "degraded").then(|| check["message"].as_str().unwrap().to_owned())
        });
        assert!(message.contains(words), "{message}");
        assert!(agent.terminate().success());
        let log = std::fs::read_to_string(log).unwrap();
        assert!(log.contains("it answered 400") && !log.contains("hidden-7f3a"), "{log}");
        message
    };
    refused(&registry, "it answered 400 (\"services are missing\")");
    registry.answer_with(|request| Some(Reply::Answer(400, String::new(), format!("no: {:?}", request.authorization))));
    refused(&registry, "it answered 400: it does not take");
    assert_eq!(registry.requests()[0].authorization.as_deref(), Some("Bearer hidden-7f3a"));
}

/// `GET /v1/health` with a token.
fn health(agent: &TestAgent, token: &str) -> Value {
    let mut stream = agent.connect();
    let request = format!(
        "GET /v1/health HTTP/1.1\r\nHost: guestd\r\nAuthorization: Bearer {token}\r\nConnection: close\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    serde_json::from_str(answer.split_once("\r\n\r\n").unwrap().1).unwrap()
}
