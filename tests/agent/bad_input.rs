//! Whatever is sent, the answer is a typed error, and the agent goes on. Each status by itself is in `wire_errors`.

use std::io::Write;

use guestd::limits;
use serde_json::{Value, json};

use crate::support::{TestAgent, answer, eventually, request};

/// Every error body has a sentence, a code and `success: false`.
fn expect(answer: (u16, Value), status: u16, code: &str, says: &str) {
    let (got, body) = answer;
    assert_eq!((got, body["code"].as_str()), (status, Some(code)), "{body}");
    assert_eq!(body["success"], false);
    assert!(body["error"].as_str().unwrap().contains(says), "{body} does not say `{says}`");
}

#[test]
fn exec_that_cannot_start_is_answered_with_the_reason() {
    let agent = TestAgent::start();
    let exec = |body: Value| agent.call("POST", "/v1/exec", &body.to_string());
    let dir = tempfile::tempdir().unwrap();
    let plain = dir.path().join("plain");
    std::fs::write(&plain, "no program").unwrap();

    expect(exec(json!({"command": ["no-such-program"]})), 422, "program_not_found", "no-such-program");
    expect(exec(json!({"command": ["/no/such/program"]})), 422, "program_not_found", "/no/such/program");
    expect(exec(json!({"command": ["/etc"]})), 422, "not_executable", "directory");
    expect(exec(json!({"command": [plain]})), 422, "not_executable", "plain");
    expect(exec(json!({"command": []})), 422, "empty_command", "command");
    expect(exec(json!({"command": ["true", "a\0b"]})), 422, "nul_byte", "NUL");
    expect(exec(json!({"command": ["true"], "env": {"1X": "y"}})), 422, "bad_env", "1X");
    expect(
        exec(json!({"command": ["true"], "env": {"X": "y".repeat(limits::ENV_VALUE_BYTES + 1)}})),
        422,
        "bad_env",
        "8192",
    );
    expect(exec(json!({"command": ["true"], "working_dir": "/no/such/dir"})), 422, "bad_working_dir", "/no/such/dir");
    expect(exec(json!({"command": ["true"], "user": "no-such-user"})), 422, "user_not_found", "no-such-user");
    expect(exec(json!({"command": ["true"], "exec_id": "a/b"})), 422, "invalid_field", "exec_id");
    let streamed = agent.call("POST", "/v1/exec/stream", r#"{"command": ["no-such-program"]}"#);
    expect(streamed, 422, "program_not_found", "no-such-program");
    assert_eq!(exec(json!({"command": ["true"]})).1["exit_code"], 0);
}

#[test]
fn path_whose_parts_cannot_be_read_is_answered_like_any_error() {
    let agent = TestAgent::start();
    for (method, path) in [
        ("GET", "/v1/exec/%FF"),
        ("DELETE", "/v1/exec/a%C3"),
        ("POST", "/v1/exec/%FF/signal"),
        ("POST", "/v1/exec/%FF/stdin"),
        ("POST", "/v1/exec/%FF/resize"),
        ("GET", "/v1/exec/%FF/ws"),
        ("GET", "/v1/tunnel/%FF"),
        ("GET", "/v1/tunnel/http"),
        ("GET", "/v1/tunnel/65536"),
    ] {
        expect(agent.call(method, path, ""), 400, "bad_request", path);
    }
    // What decodes to text is an id that there is not.
    expect(agent.call("GET", "/v1/exec/%E2%82%AC", ""), 404, "not_found", "€");
}

#[test]
fn chunked_body_that_never_ends_is_answered_413_at_the_limit() {
    let agent = TestAgent::start();
    let mut stream = agent.connect();
    stream.write_all(b"POST /v1/exec HTTP/1.1\r\nHost: guestd\r\nTransfer-Encoding: chunked\r\n\r\n").unwrap();
    let chunk = format!("10000\r\n{}\r\n", "x".repeat(0x10000));
    // The agent stops to read, and closes, somewhere after the limit.
    while stream.write_all(chunk.as_bytes()).is_ok() {}
    expect(answer(&mut stream), 413, "payload_too_large", "limit");
}

#[test]
fn headers_that_do_not_arrive_in_time_close_the_connection() {
    let agent = TestAgent::start();
    let mut stream = agent.connect();
    stream.write_all(b"GET /v1/health HTTP/1.1\r\nHost: ").unwrap();
    let mut rest = Vec::new();
    let began = std::time::Instant::now();
    std::io::Read::read_to_end(&mut stream, &mut rest).unwrap();
    assert!(began.elapsed() < limits::REQUEST_HEADER_TIME * 2, "{:?}", began.elapsed());
    assert!(!String::from_utf8_lossy(&rest).contains("200 OK"));
    assert!(agent.get("/health")["status"].is_string());
}

#[test]
fn headers_over_the_limit_are_answered_431() {
    let agent = TestAgent::start();
    let mut stream = agent.connect();
    let header = "x".repeat(limits::REQUEST_HEADER_BYTES * 2);
    // The agent may close before it has read all.
    let _ = stream.write_all(format!("GET /health HTTP/1.1\r\nHost: guestd\r\nX: {header}\r\n\r\n").as_bytes());
    assert_eq!(answer(&mut stream).0, 431);
}

#[test]
fn garbage_instead_of_http_ends_that_connection_only() {
    let agent = TestAgent::start();
    let mut stream = agent.connect();
    stream.write_all(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n").unwrap();
    assert_eq!(answer(&mut stream).0, 400);
    assert!(agent.get("/health")["version"].is_string());
}

#[test]
fn bad_configuration_degrades_health_and_names_the_key() {
    let agent = TestAgent::start_with("bridge.atuo = true\nbridge.auto = false\nvsock.port = \"x\"\n", &[]);
    let check = agent.check("config");
    assert_eq!(check["state"], "degraded");
    let message = check["message"].as_str().unwrap();
    assert!(message.contains("unknown key `bridge.atuo`; did you mean `bridge.auto`?"), "{message}");
    assert!(message.contains("`vsock.port` is \"x\""), "{message}");
    assert_eq!(agent.get("/health")["status"], "degraded");
}

#[test]
fn configuration_that_is_no_toml_degrades_health_and_names_the_line() {
    let agent = TestAgent::start_with("bridge.auto = false\n[bridge\n", &[]);
    assert!(agent.check("config")["message"].as_str().unwrap().contains("line 2"));
}

#[test]
fn bridge_update_with_a_bad_rule_is_refused_and_changes_nothing() {
    let agent = TestAgent::start();
    let put = |body: Value| agent.call("PUT", "/v1/bridge", &body.to_string());
    let rule = |listen: u16, to: &str| json!({"rules": [{"listen": listen, "to": to}]});
    expect(put(rule(8080, "[fe80::1]:80")), 422, "invalid_field", "link-local");
    expect(put(rule(8080, "[fd00::1]:8080")), 422, "invalid_field", "go round for ever");
    expect(put(rule(0, "127.0.0.1:80")), 422, "invalid_field", "port 0");
    expect(put(rule(8080, "somewhere")), 422, "invalid_field", "rules[0].to");
    expect(put(json!({"rules": vec![json!({"listen": 1, "to": "127.0.0.1:1"}); 300]})), 429, "limit_reached", "256");
    assert_eq!(agent.get("/v1/bridge")["rules"], json!([]));
}

#[test]
fn second_agent_on_the_same_socket_is_refused_and_the_first_lives_on() {
    let agent = TestAgent::start();
    let output = std::process::Command::new(env!("CARGO_BIN_EXE_guestd"))
        .args(["agent", "--no-vsock", "--socket"])
        .arg(agent.socket())
        .output()
        .unwrap();
    assert!(!output.status.success());
    assert!(String::from_utf8(output.stderr).unwrap().contains("another agent answers there"));
    assert!(agent.get("/health")["version"].is_string());
}

#[test]
fn requests_follow_each_other_on_one_connection() {
    let agent = TestAgent::start();
    let mut stream = agent.connect();
    let keep = "GET /health HTTP/1.1\r\nHost: guestd\r\n\r\n";
    stream.write_all(format!("{keep}{keep}{}", request("GET", "/nope", "")).as_bytes()).unwrap();
    let mut all = String::new();
    std::io::Read::read_to_string(&mut stream, &mut all).unwrap();
    assert_eq!((all.matches("200 OK").count(), all.matches("404 Not Found").count()), (2, 1));
}

#[test]
fn connections_over_the_limit_are_closed_until_there_is_a_place() {
    let agent = TestAgent::start();
    let held: Vec<_> = (0..limits::CONNECTIONS).map(|_| agent.connect()).collect();
    let mut one_more = agent.connect();
    assert_eq!(std::io::Read::read(&mut one_more, &mut [0]).unwrap(), 0);
    drop(held);
    eventually("there is a place", || {
        let mut stream = agent.connect();
        // A connection that is closed at the limit may be gone before it is written to.
        let _ = stream.write_all(request("GET", "/health", "").as_bytes());
        let mut answer = String::new();
        let _ = std::io::Read::read_to_string(&mut stream, &mut answer);
        answer.starts_with("HTTP/1.1 200").then_some(())
    });
}

#[test]
fn agent_that_ran_out_of_descriptors_goes_on_when_there_are_some() {
    let agent = TestAgent::start_with("bridge.auto = false\n", &["prlimit", "--nofile=40:40"]);
    let held: Vec<_> = (0..60).map(|_| agent.connect()).collect();
    drop(held);
    assert!(agent.get("/health")["version"].is_string());
    assert_eq!(agent.call("POST", "/v1/exec", r#"{"command": ["true"]}"#).1["exit_code"], 0);
}
