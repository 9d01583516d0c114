//! The errors of the API as they are on the wire, one test for each status.
//!
//! Whatever the status, the body is `{"error": sentence, "code": snake_case, "success": false}` in JSON and nothing else; 429 and 503
//! come with Retry-After. What makes an error in one call only is tested with that call; here is what holds for all of them.

use std::{
    fs,
    io::{Read, Write},
    net::TcpListener,
    os::unix::net::UnixStream,
};

use guestd::limits;
use serde_json::{Value, json};

use crate::{
    socket::HANDSHAKE,
    support::{DEADLINE, TestAgent, eventually},
};

/// Every path with its methods; what is in braces stands for one of its kind.
const ROUTES: [(&str, &[&str]); 30] = [
    ("/v1/health", &["GET"]),
    ("/v1/info", &["GET"]),
    ("/v1/exec", &["GET", "POST"]),
    ("/v1/exec/stream", &["POST"]),
    ("/v1/exec/stream/attach", &["POST"]),
    ("/v1/exec/{id}", &["GET", "DELETE"]),
    ("/v1/exec/{id}/signal", &["POST"]),
    ("/v1/exec/{id}/stdin", &["POST"]),
    ("/v1/exec/{id}/resize", &["POST"]),
    ("/v1/exec/{id}/ws", &["GET"]),
    ("/v1/logs", &["GET"]),
    ("/v1/files", &["GET", "PUT", "DELETE"]),
    ("/v1/tree", &["GET", "PUT"]),
    ("/v1/listeners", &["GET"]),
    ("/v1/listeners/watch", &["GET"]),
    ("/v1/listeners/udp", &["GET"]),
    ("/v1/bridge", &["GET", "PUT"]),
    ("/v1/bridge/cut", &["POST"]),
    ("/v1/env", &["GET", "PUT", "DELETE"]),
    ("/v1/snapshot/prepare", &["POST"]),
    ("/v1/snapshot/thaw", &["POST"]),
    ("/v1/generation", &["GET", "POST"]),
    ("/v1/disk/grow", &["POST"]),
    ("/v1/keys", &["GET", "POST", "DELETE"]),
    ("/v1/tunnel/{port}", &["GET"]),
    ("/v1/services", &["GET"]),
    ("/v1/services/{name}/{action}", &["POST"]),
    ("/v1/power", &["POST"]),
    ("/metrics", &["GET"]),
    ("/health", &["GET"]),
];

/// The calls that take JSON; an exec `here` runs for them.
const JSON_CALLS: [(&str, &str); 11] = [
    ("POST", "/v1/exec"),
    ("POST", "/v1/exec/stream"),
    ("POST", "/v1/exec/stream/attach"),
    ("POST", "/v1/exec/here/signal"),
    ("POST", "/v1/exec/here/resize"),
    ("PUT", "/v1/files"),
    ("PUT", "/v1/bridge"),
    ("POST", "/v1/bridge/cut"),
    ("PUT", "/v1/env"),
    ("POST", "/v1/keys"),
    ("POST", "/v1/power"),
];

/// An answer as it came.
#[derive(Debug)]
struct Wire {
    status: u16,
    head: String,
    body: Value,
}

impl Wire {
    /// Reads one answer; its connection stays open.
    fn read(stream: &mut UnixStream) -> Self {
        let mut head = Vec::new();
        let mut byte = [0];
        while !head.ends_with(b"\r\n\r\n") {
            stream.read_exact(&mut byte).unwrap();
            head.push(byte[0]);
        }
        let head = String::from_utf8(head).unwrap().to_ascii_lowercase();
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
        let mut body = vec![0; length.map_or(0, |length| length.parse().unwrap())];
        stream.read_exact(&mut body).unwrap();
        Self { status, body: serde_json::from_slice(&body).unwrap_or(Value::Null), head }
    }

    /// It is this error, by the form of all errors, and its sentence has the word.
    fn expect(&self, status: u16, code: &str, says: &str) {
        let body = self.body.as_object().unwrap_or_else(|| panic!("no JSON object: {self:?}"));
        assert_eq!((self.status, body["code"].as_str()), (status, Some(code)), "{self:?}");
        assert_eq!((body.len(), &body["success"]), (3, &json!(false)), "{self:?}");
        assert!(self.head.contains("\r\ncontent-type: application/json\r\n"), "{self:?}");
        let sentence = body["error"].as_str().unwrap_or_else(|| panic!("no sentence: {self:?}"));
        assert!(sentence.contains(says), "it does not say `{says}`: {self:?}");
        assert_eq!(self.head.contains("\r\nretry-after: "), [429, 503].contains(&status), "{self:?}");
    }
}

/// A request with further headers, on a connection that is kept for what follows.
fn send(stream: &mut UnixStream, method: &str, path: &str, headers: &str, body: &[u8]) {
    let length = if body.is_empty() { String::new() } else { format!("Content-Length: {}\r\n", body.len()) };
    stream.write_all(format!("{method} {path} HTTP/1.1\r\nHost: guestd\r\n{length}{headers}\r\n").as_bytes()).unwrap();
    // The answer may come, and the connection end, before all of it is read.
    let _ = stream.write_all(body);
}

fn ask(agent: &TestAgent, method: &str, path: &str, headers: &str, body: &[u8]) -> Wire {
    let mut stream = agent.connect();
    send(&mut stream, method, path, headers, body);
    Wire::read(&mut stream)
}

fn post(agent: &TestAgent, path: &str, body: &Value) -> Wire {
    ask(agent, "POST", path, "", body.to_string().as_bytes())
}

/// Starts an exec and leaves.
fn detached(agent: &TestAgent, id: &str, command: Value) {
    let status = post(agent, "/v1/exec", &json!({"command": command, "exec_id": id, "detach": true})).status;
    assert_eq!(status, 202);
}

/// An agent on which the exec `here` runs.
fn agent_with_exec() -> TestAgent {
    let agent = TestAgent::start();
    detached(&agent, "here", json!(["sleep", "1000"]));
    agent
}

/// The route as a path that can be asked for.
fn path_of(route: &str) -> String {
    route.replace("{id}", "here").replace("{port}", "1").replace("{name}", "none").replace("{action}", "start")
}

#[test]
fn every_route_is_in_the_table_of_this_file() {
    let source = include_str!("../../src/server/routes/mod.rs");
    let served: Vec<&str> = source.split(".route(\"").skip(1).map(|rest| rest.split('"').next().unwrap()).collect();
    assert_eq!(served, ROUTES.map(|(path, _)| path));
}

#[test]
fn status_400_is_for_a_body_that_is_no_json_and_a_query_that_cannot_be_read() {
    let agent = agent_with_exec();
    for (method, path) in JSON_CALLS {
        for body in ["", "{", "no JSON", "\u{0}"] {
            ask(&agent, method, path, "Content-Type: application/json\r\n", body.as_bytes()).expect(
                400,
                "bad_request",
                "no JSON",
            );
        }
    }
    // JSON of the right shape, and then something.
    for body in [r#"{"command": ["true"]} x"#, r#"{"command": ["true"]}{}"#] {
        ask(&agent, "POST", "/v1/exec", "", body.as_bytes()).expect(400, "bad_request", "no JSON");
    }
    for (method, path) in [
        ("GET", "/v1/exec/here?wait=1"),
        ("POST", "/v1/exec/here/stdin?oef=true"),
        ("GET", "/v1/exec/here/ws?cursro=1"),
        ("GET", "/v1/logs?stream=stdin"),
        ("GET", "/v1/files?path=/etc&lsit=true"),
        ("PUT", "/v1/files?path=/etc&mode=rw"),
        ("DELETE", "/v1/files?path=/etc&recursive=perhaps"),
        ("GET", "/v1/tree?path=/etc&x=1"),
        ("PUT", "/v1/tree?path=/etc&x=1"),
    ] {
        ask(&agent, method, path, HANDSHAKE, b"").expect(400, "bad_request", "query");
    }
    for path in ["/v1/files", "/v1/tree"] {
        ask(&agent, "GET", path, "", b"").expect(400, "bad_request", "no `path`");
    }
    ask(&agent, "GET", "/v1/tunnel/65536", HANDSHAKE, b"").expect(400, "bad_request", "65536");
    ask(&agent, "GET", "/v1/exec/here/ws", "", b"").expect(400, "bad_request", "WebSocket");
}

#[test]
fn status_401_is_for_a_token_that_is_missing_or_wrong_on_every_route_but_health() {
    let agent = TestAgent::start_with("bridge.auto = false\nauth_token = \"s3cret\"\n", &[]);
    for (route, methods) in ROUTES.into_iter().filter(|(route, _)| *route != "/health") {
        for method in methods {
            let with = |headers: &str| ask(&agent, method, &path_of(route), headers, b"");
            with("").expect(401, "unauthorized", "Authorization: Bearer");
            let wrong = with("Authorization: Bearer s3cres\r\n");
            wrong.expect(401, "unauthorized", "wrong");
            assert!(wrong.head.contains("\r\nwww-authenticate: bearer\r\n"), "{wrong:?}");
            assert_ne!(with("Authorization: Bearer s3cret\r\n").status, 401, "{method} {route}");
        }
    }
    ask(&agent, "GET", "/v1/none", "", b"").expect(401, "unauthorized", "token");
    assert_eq!(ask(&agent, "GET", "/health", "", b"").status, 200);
}

#[test]
fn status_403_is_for_a_peer_that_is_neither_the_host_nor_root() {
    use std::os::unix::fs::PermissionsExt;
    let agent = TestAgent::start();
    // The mode of the socket would keep it out too; here it must be the agent.
    fs::set_permissions(agent.socket(), PermissionsExt::from_mode(0o666)).unwrap();
    fs::set_permissions(agent.socket().parent().unwrap(), PermissionsExt::from_mode(0o755)).unwrap();
    let curl = std::process::Command::new("setpriv")
        .args(["--reuid", "65534", "--clear-groups", "curl", "-sS", "-i", "--unix-socket"])
        .arg(agent.socket())
        .arg("http://guestd/health")
        .output()
        .expect("setpriv and curl are installed");
    let text = String::from_utf8(curl.stdout).unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    let head = format!("{}\r\n", head.to_ascii_lowercase());
    Wire { status, head, body: serde_json::from_str(body).unwrap() }.expect(403, "peer_forbidden", "uid 65534");
}

#[test]
fn status_404_is_for_an_unknown_path_exec_or_file() {
    let agent = TestAgent::start();
    for path in ["/", "/v1", "/v2/health", "/v1/exec/none/more/of/it", "/openapi"] {
        ask(&agent, "GET", path, "", b"").expect(404, "not_found", path);
    }
    for (route, methods) in ROUTES.into_iter().filter(|(route, _)| route.contains("{id}")) {
        for method in methods {
            let path = route.replace("{id}", "none");
            ask(&agent, method, &path, HANDSHAKE, b"").expect(404, "not_found", "no exec \"none\"");
        }
    }
    post(&agent, "/v1/exec/stream/attach", &json!({"exec_id": "none"})).expect(404, "not_found", "no exec \"none\"");
    ask(&agent, "GET", "/v1/logs?exec_id=none", "", b"").expect(404, "not_found", "no exec \"none\"");
    for (method, path) in
        [("GET", "/v1/files"), ("DELETE", "/v1/files"), ("PUT", "/v1/files"), ("GET", "/v1/tree"), ("PUT", "/v1/tree")]
    {
        let raw = "Content-Type: application/octet-stream\r\n";
        let body: &[u8] = if method == "PUT" { b"x" } else { b"" };
        let path = format!("{path}?path=/no/such/file");
        ask(&agent, method, &path, raw, body).expect(404, "not_found", "/no/such/");
    }
}

#[test]
fn status_405_is_for_a_method_that_a_path_does_not_take() {
    let agent = agent_with_exec();
    for (route, methods) in ROUTES {
        let path = path_of(route);
        let wrong = ["GET", "POST", "PUT", "DELETE", "PATCH"].into_iter().filter(|method| !methods.contains(method));
        for method in wrong {
            let answer = ask(&agent, method, &path, "", b"");
            answer.expect(405, "method_not_allowed", &path);
            let allowed = answer.head.lines().find_map(|line| line.strip_prefix("allow: ")).unwrap_or_default();
            assert!(methods.iter().all(|method| allowed.contains(&method.to_ascii_lowercase())), "{answer:?}");
        }
    }
}

#[test]
fn status_408_is_for_a_body_that_does_not_arrive_in_time() {
    let agent = agent_with_exec();
    // All at once: each waits for the whole time.
    let waiting: Vec<_> = JSON_CALLS
        .map(|(method, path)| {
            let mut stream = agent.connect();
            stream.set_read_timeout(Some(limits::REQUEST_BODY_TIME + DEADLINE)).unwrap();
            send(&mut stream, method, path, "Content-Length: 100\r\n", b"");
            stream.write_all(b"{").unwrap();
            stream
        })
        .into();
    for mut stream in waiting {
        let seconds = format!("{} s", limits::REQUEST_BODY_TIME.as_secs());
        Wire::read(&mut stream).expect(408, "request_timeout", &seconds);
    }
}

#[test]
fn status_409_is_for_what_is_at_odds_with_what_is_there() {
    let agent = agent_with_exec();
    let to_here = |what: &str, body: Value| post(&agent, &format!("/v1/exec/here{what}"), &body);
    for path in ["/v1/exec", "/v1/exec/stream"] {
        let other = json!({"command": ["sleep", "1001"], "exec_id": "here"});
        post(&agent, path, &other).expect(409, "conflict", "here");
    }
    to_here("/resize", json!({"rows": 1, "cols": 1})).expect(409, "conflict", "terminal");
    ask(&agent, "POST", "/v1/exec/here/stdin", "", b"x").expect(409, "conflict", "stdin_open");
    assert_eq!(to_here("/signal", json!({"signal": "KILL"})).status, 204);
    assert_eq!(agent.get("/v1/exec/here?wait_secs=60")["exit"]["signal"], 9);
    to_here("/signal", json!({"signal": "KILL"})).expect(409, "conflict", "ended");
    // An offset that is not the next one: bytes would be lost or come twice.
    let open = json!({"command": ["sleep", "1000"], "exec_id": "in", "detach": true, "stdin_open": true});
    assert_eq!(post(&agent, "/v1/exec", &open).status, 202);
    ask(&agent, "POST", "/v1/exec/in/stdin?offset=7", "", b"x").expect(409, "conflict", "offset 0");

    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join("full")).unwrap();
    fs::write(dir.path().join("full/file"), "x").unwrap();
    let full = format!("/v1/files?path={}/full", dir.path().display());
    ask(&agent, "DELETE", &full, "", b"").expect(409, "not_empty", "recursive");
    ask(&agent, "PUT", &format!("{full}&type=directory"), "", b"").expect(409, "exists", "full");
}

#[test]
fn status_413_is_for_a_body_over_the_limit() {
    let agent = agent_with_exec();
    let (limit, too_long) = (limits::REQUEST_BODY_BYTES.to_string(), vec![b' '; limits::REQUEST_BODY_BYTES + 1]);
    for (method, path) in JSON_CALLS {
        ask(&agent, method, path, "", &too_long).expect(413, "payload_too_large", &limit);
    }
    let argument = json!({"command": ["true", "x".repeat(limits::EXEC_ARGUMENT_BYTES)]});
    let limit = (limits::EXEC_ARGUMENT_BYTES - 1).to_string();
    let refused = post(&agent, "/v1/exec", &argument);
    refused.expect(413, "payload_too_large", "argument 1");
    let sentence = refused.body["error"].as_str().unwrap();
    assert!(sentence.contains(&limit) || sentence.contains(&limits::EXEC_ARGUMENT_BYTES.to_string()), "{sentence}");
    let large = tempfile::NamedTempFile::new().unwrap();
    large.as_file().set_len(limits::FILE_JSON_BYTES as u64 + 1).unwrap();
    let path = format!("/v1/files?path={}", large.path().display());
    ask(&agent, "GET", &path, "", b"").expect(413, "payload_too_large", &limits::FILE_JSON_BYTES.to_string());
}

#[test]
fn status_422_names_the_field_that_has_the_wrong_shape() {
    let agent = agent_with_exec();
    for (method, path, body, field) in [
        ("POST", "/v1/exec", json!({"command": "true"}), "`command`"),
        ("POST", "/v1/exec", json!({"command": ["true", 1]}), "`command[1]`"),
        ("POST", "/v1/exec", json!({"command": ["true"], "limits": {"pids": "x"}}), "`limits.pids`"),
        ("POST", "/v1/exec", json!({"command": ["true"], "limits": {"pids": 0}}), "`limits.pids`"),
        ("POST", "/v1/exec", json!({"command": ["true"], "tiemout_secs": 1}), "tiemout_secs"),
        ("POST", "/v1/exec", json!({}), "`command`"),
        ("POST", "/v1/exec", json!("true"), "shape"),
        ("POST", "/v1/exec/stream", json!({"command": ["true"], "env": {"A": 1}}), "`env.A`"),
        ("POST", "/v1/exec/stream/attach", json!({"exec_id": "here", "cursor": -1}), "`cursor`"),
        ("POST", "/v1/exec/stream/attach", json!({}), "`exec_id`"),
        ("POST", "/v1/exec/here/signal", json!({"signal": {}}), "`signal`"),
        ("POST", "/v1/exec/here/signal", json!({"signal": "TERM", "to": "all"}), "`to`"),
        ("POST", "/v1/exec/here/resize", json!({"rows": 1}), "`cols`"),
        ("POST", "/v1/exec/here/resize", json!({"rows": 70_000, "cols": 1}), "`rows`"),
        ("PUT", "/v1/files", json!({"path": 1}), "`path`"),
        ("PUT", "/v1/files", json!({"path": "/tmp/x", "content_b64": "?"}), "`content_b64`"),
        ("PUT", "/v1/files", json!({"path": "/tmp/x", "mode": "rw"}), "`mode`"),
        ("PUT", "/v1/bridge", json!({"auto": "on"}), "`auto`"),
        ("PUT", "/v1/bridge", json!({"rules": [{"listen": 1, "to": "x"}]}), "rules[0].to"),
    ] {
        ask(&agent, method, path, "", body.to_string().as_bytes()).expect(422, "invalid_field", field);
    }
    ask(&agent, "GET", "/v1/tunnel/0", HANDSHAKE, b"").expect(422, "invalid_field", "port 0");
    ask(&agent, "GET", "/v1/exec/here?wait_secs=61", "", b"").expect(422, "invalid_field", "`wait_secs`");
    // What is in the right shape and cannot be done has a code of its own.
    let exec = |body: Value| post(&agent, "/v1/exec", &body);
    exec(json!({"command": []})).expect(422, "empty_command", "`command`");
    exec(json!({"command": ["/no/such/program"]})).expect(422, "program_not_found", "/no/such/program");
    exec(json!({"command": ["/etc"]})).expect(422, "not_executable", "directory");
    exec(json!({"command": ["true", "a\0b"]})).expect(422, "nul_byte", "NUL");
    exec(json!({"command": ["true"], "env": {"1X": ""}})).expect(422, "bad_env", "1X");
    exec(json!({"command": ["true"], "working_dir": "/no/such"})).expect(422, "bad_working_dir", "/no/such");
    exec(json!({"command": ["true"], "user": "no-such-user"})).expect(422, "user_not_found", "no-such-user");
}

/// Files and trees at once have their own limits and tests (tests/files.rs).
#[test]
fn status_429_names_the_limit_that_was_reached() {
    let agent = TestAgent::start();
    let rules = vec![json!({"listen": 1, "to": "127.0.0.1:1"}); limits::BRIDGE_PORTS + 1];
    let rules = json!({ "rules": rules }).to_string();
    ask(&agent, "PUT", "/v1/bridge", "", rules.as_bytes()).expect(
        429,
        "limit_reached",
        &limits::BRIDGE_PORTS.to_string(),
    );

    let execs: Vec<String> = (0..limits::EXECS_RUNNING).map(|number| format!("e{number}")).collect();
    for id in &execs {
        detached(&agent, id, json!(["sleep", "1000"]));
    }
    let running = limits::EXECS_RUNNING.to_string();
    for path in ["/v1/exec", "/v1/exec/stream"] {
        post(&agent, path, &json!({"command": ["true"]})).expect(429, "limit_reached", &running);
    }

    // Readers of one exec, by both ways that there are.
    let attach = |id: &str| {
        let mut stream = agent.connect();
        send(&mut stream, "POST", "/v1/exec/stream/attach", "", json!({ "exec_id": id }).to_string().as_bytes());
        stream
    };
    let readers: Vec<_> = (0..limits::EXEC_READERS).map(|_| attach("e0")).collect();
    eventually("all of them read", || (agent.get("/v1/exec/e0")["readers"] == limits::EXEC_READERS).then_some(()));
    let of_one = limits::EXEC_READERS.to_string();
    Wire::read(&mut attach("e0")).expect(429, "limit_reached", &of_one);
    ask(&agent, "GET", "/v1/exec/e0/ws", HANDSHAKE, b"").expect(429, "limit_reached", &of_one);
    drop(readers);

    // WebSockets on execs.
    let mut sockets = Vec::new();
    for number in 0..limits::EXEC_SOCKETS {
        let mut stream = agent.connect();
        send(&mut stream, "GET", &format!("/v1/exec/e{}/ws", 1 + number % 8), HANDSHAKE, b"");
        assert_eq!(Wire::read(&mut stream).status, 101);
        sockets.push(stream);
    }
    let of_all = limits::EXEC_SOCKETS.to_string();
    ask(&agent, "GET", "/v1/exec/e9/ws", HANDSHAKE, b"").expect(429, "limit_reached", &of_all);
    drop(sockets);

    // Tunnels.
    let service = TcpListener::bind("127.0.0.1:0").unwrap();
    let path = format!("/v1/tunnel/{}", service.local_addr().unwrap().port());
    let mut tunnels = Vec::new();
    for _ in 0..limits::TUNNELS {
        let mut stream = agent.connect();
        send(&mut stream, "GET", &path, HANDSHAKE, b"");
        assert_eq!(Wire::read(&mut stream).status, 101);
        tunnels.push((stream, service.accept().unwrap()));
    }
    ask(&agent, "GET", &path, HANDSHAKE, b"").expect(429, "limit_reached", &limits::TUNNELS.to_string());
}

#[test]
fn status_503_is_for_what_cannot_be_done_now() {
    let agent = TestAgent::start();
    // Bound and not listening: nobody else gets this port.
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    socket.bind(&std::net::SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
    let port = socket.local_addr().unwrap().as_socket().unwrap().port();
    ask(&agent, "GET", &format!("/v1/tunnel/{port}"), HANDSHAKE, b"").expect(503, "unavailable", "refused");
}

#[test]
fn status_503_is_for_an_exec_that_finds_no_descriptor_left() {
    const DESCRIPTORS: usize = 40;
    let limit = format!("--nofile={DESCRIPTORS}:{DESCRIPTORS}");
    let agent = TestAgent::start_with("bridge.auto = false\n", &["prlimit", &limit]);
    let mut first = agent.connect();
    send(&mut first, "GET", "/health", "", b"");
    assert_eq!(Wire::read(&mut first).status, 200);
    let _held: Vec<_> = (0..DESCRIPTORS).map(|_| agent.connect()).collect();
    // Until the agent has taken so many of them that nothing is left for a command.
    let answer = eventually("an exec finds none", || {
        send(&mut first, "POST", "/v1/exec", "", br#"{"command": ["true"]}"#);
        let answer = Wire::read(&mut first);
        (answer.status != 200).then_some(answer)
    });
    answer.expect(503, "unavailable", "Too many open files");
}
