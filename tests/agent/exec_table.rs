//! The exec table over the wire: what is started by one connection and used by others.

use std::{
    io::{BufRead, BufReader, Read, Write},
    os::unix::net::UnixStream,
};

use serde_json::{Value, json};

use crate::support::{TestAgent, answer, eventually, request};

/// Starts an exec and leaves; returns its status.
fn detached(agent: &TestAgent, mut body: Value) -> Value {
    body["detach"] = true.into();
    let (status, body) = agent.call("POST", "/v1/exec", &body.to_string());
    assert_eq!(status, 202, "{body}");
    body
}

fn expect(answer: (u16, Value), status: u16, code: &str, says: &str) {
    let (got, body) = answer;
    assert_eq!((got, body["code"].as_str()), (status, Some(code)), "{body}");
    assert!(body["error"].as_str().unwrap().contains(says), "{body} does not say `{says}`");
}

/// Sends a request as HTTP/1.0, so that the body comes without chunks, and leaves the connection at the body.
fn open(agent: &TestAgent, path: &str, accept: &str, body: &Value) -> BufReader<UnixStream> {
    let mut stream = agent.connect();
    let text =
        request("POST", path, &body.to_string()).replace("HTTP/1.1\r\n", &format!("HTTP/1.0\r\nAccept: {accept}\r\n"));
    stream.write_all(text.as_bytes()).unwrap();
    let mut stream = BufReader::new(stream);
    let mut line = String::new();
    while line != "\r\n" {
        line.clear();
        assert!(stream.read_line(&mut line).unwrap() > 0);
    }
    stream
}

fn attached(agent: &TestAgent, body: &Value) -> Vec<Value> {
    let lines = open(agent, "/v1/exec/stream/attach", "*/*", body).lines();
    lines.map(|line| serde_json::from_str(&line.unwrap()).unwrap()).collect()
}

#[test]
fn detached_exec_is_waited_for_attached_to_listed_and_removed() {
    let agent = TestAgent::start();
    let body =
        json!({"command": ["sh", "-c", "echo out; read x; echo $x; exit 5"], "stdin_open": true, "exec_id": "d"});
    let status = detached(&agent, body.clone());
    assert_eq!((&status["exec_id"], &status["state"]), (&"d".into(), &"running".into()));
    assert_eq!(detached(&agent, body)["pid"], status["pid"]);
    assert_eq!(agent.get("/v1/exec/d?wait_secs=0")["state"], "running");
    let accepted = agent.call("POST", "/v1/exec/d/stdin?eof=true&offset=0", "in\n");
    assert_eq!(accepted, (200, json!({"accepted": 3})));
    let status = agent.get("/v1/exec/d?wait_secs=60");
    assert_eq!((&status["state"], &status["exit"]["exit_code"]), (&"exited".into(), &5.into()), "{status}");
    assert_eq!(agent.get("/v1/exec").as_array().unwrap().len(), 1);

    let frames = attached(&agent, &json!({"exec_id": "d", "cursor": 2}));
    assert_eq!(frames[0]["data_b64"], "dAo=");
    let last = frames.last().unwrap();
    assert_eq!((&last["type"], &last["exit_code"], &last["cursor"]), (&"exit".into(), &5.into(), &7.into()));
    let frames = attached(&agent, &json!({"exec_id": "d", "from_latest": true}));
    assert_eq!((frames.len(), &frames[0]["type"]), (1, &"exit".into()));
    let logs = agent.get("/v1/logs?exec_id=d&max_entries=1");
    assert_eq!((&logs["entries"][0]["data_b64"], &logs["eof"]), (&"b3V0Cg==".into(), &false.into()), "{logs}");
    let rest = agent.get(&format!("/v1/logs?exec_id=d&offset={}", logs["next_offset"]));
    assert_eq!((rest["entries"].as_array().unwrap().len(), &rest["eof"]), (1, &true.into()));

    assert_eq!(agent.call("DELETE", "/v1/exec/d", "").1["exit"]["exit_code"], 5);
    expect(agent.call("GET", "/v1/exec/d", ""), 404, "not_found", "no exec \"d\"");
}

#[test]
fn delete_ends_an_exec_with_all_that_it_started() {
    let agent = TestAgent::start();
    let status =
        detached(&agent, json!({"command": ["sh", "-c", "setsid sleep 600 & exec sleep 600"], "exec_id": "x"}));
    let (code, ended) = agent.call("DELETE", "/v1/exec/x", "");
    assert_eq!((code, &ended["state"], &ended["exit"]["signal"]), (200, &"exited".into(), &15.into()), "{ended}");
    assert!(!std::path::Path::new(&format!("/proc/{}", status["pid"])).exists());
    assert_eq!(agent.get("/v1/exec/x")["state"], "exited");
}

#[test]
fn binary_frames_carry_the_bytes_and_end_with_the_exit() {
    let agent = TestAgent::start();
    let size = 3_000_000;
    let script = format!("head -c {size} /dev/zero; sleep 0.05; printf err >&2; exit 3");
    let body = json!({"command": ["sh", "-c", script], "exec_id": "b", "lossless": true});
    let mut stream = open(&agent, "/v1/exec/stream", "application/octet-stream", &body);
    let (mut bytes, mut statuses) = ([0, 0], Vec::new());
    let mut head = [0; 8];
    while stream.read_exact(&mut head).is_ok() {
        assert_eq!(head[1..4], [0, 0, 0]);
        let mut payload = vec![0; u32::from_be_bytes(head[4..].try_into().unwrap()) as usize];
        stream.read_exact(&mut payload).unwrap();
        match head[0] {
            channel @ 1..=2 => bytes[usize::from(channel) - 1] += payload.len(),
            3 => statuses.push(serde_json::from_slice::<Value>(&payload).unwrap()),
            other => panic!("channel {other}"),
        }
    }
    assert_eq!(bytes, [size, 3]);
    assert_eq!(statuses[0], json!({"attached": 0, "exec_id": "b"}));
    assert_eq!((statuses.len(), &statuses[1]["type"], &statuses[1]["exit_code"]), (2, &"exit".into(), &3.into()));
    assert_eq!(statuses[1]["cursor"], size + 3);
}

#[test]
fn input_of_any_length_is_streamed_to_the_command() {
    let agent = TestAgent::start();
    detached(&agent, json!({"command": ["sh", "-c", "wc -c"], "stdin_open": true, "exec_id": "in"}));
    // More than a request's body may be.
    let mut stream = agent.connect();
    let size = 20_000_000;
    let head = format!(
        "POST /v1/exec/in/stdin?eof=true HTTP/1.1\r\nHost: guestd\r\nConnection: close\r\nContent-Length: {size}\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).unwrap();
    stream.write_all(&vec![b'x'; size]).unwrap();
    assert_eq!(answer(&mut stream), (200, json!({"accepted": size})));
    agent.get("/v1/exec/in?wait_secs=60");
    let logs = agent.get("/v1/logs?exec_id=in");
    assert_eq!(logs["entries"][0]["data_b64"], "MjAwMDAwMDAK");
    expect(agent.call("POST", "/v1/exec/in/stdin", "x"), 409, "conflict", "ended");
}

#[test]
fn input_that_comes_while_the_exec_ends_is_answered() {
    let agent = TestAgent::start();
    detached(&agent, json!({"command": ["sleep", "600"], "stdin_open": true, "exec_id": "s"}));
    let mut stream = agent.connect();
    let head = "POST /v1/exec/s/stdin HTTP/1.1\r\nHost: guestd\r\nConnection: close\r\nContent-Length: 100\r\n\r\nsome";
    stream.write_all(head.as_bytes()).unwrap();
    agent.call("DELETE", "/v1/exec/s", "");
    expect(answer(&mut stream), 409, "conflict", "ended");
}

#[test]
fn what_cannot_be_done_to_an_exec_is_told() {
    let agent = TestAgent::start();
    let call = |method: &str, path: &str, body: &Value| agent.call(method, path, &body.to_string());
    detached(&agent, json!({"command": ["sleep", "600"], "exec_id": "r"}));
    let none = json!({});
    for (method, path, body) in [
        ("GET", "/v1/exec/none", &none),
        ("DELETE", "/v1/exec/none", &none),
        ("POST", "/v1/exec/none/signal", &json!({"signal": "TERM"})),
        ("POST", "/v1/exec/none/stdin", &none),
        ("POST", "/v1/exec/none/resize", &json!({"rows": 1, "cols": 1})),
        ("POST", "/v1/exec/stream/attach", &json!({"exec_id": "none"})),
        ("GET", "/v1/logs?exec_id=none", &none),
    ] {
        expect(call(method, path, body), 404, "not_found", "none");
    }
    let signal = |name: &str| call("POST", "/v1/exec/r/signal", &json!({"signal": name}));
    expect(signal("FOO"), 422, "invalid_field", "FOO");
    expect(call("POST", "/v1/exec/r/signal", &json!({"signal": "TERM", "to": "all"})), 422, "invalid_field", "`to`");
    expect(call("POST", "/v1/exec/r/stdin", &none), 409, "conflict", "stdin_open");
    expect(call("POST", "/v1/exec/r/resize", &json!({"rows": 1, "cols": 1})), 409, "conflict", "terminal");
    expect(call("GET", "/v1/exec/r?wait_secs=61", &none), 422, "invalid_field", "60");
    expect(call("GET", "/v1/exec/r?wait=1", &none), 400, "bad_request", "wait");
    expect(call("GET", "/v1/logs?stream=stdin", &none), 400, "bad_request", "stream");
    let both = json!({"exec_id": "r", "cursor": 0, "from_latest": true});
    expect(call("POST", "/v1/exec/stream/attach", &both), 422, "invalid_field", "from_latest");
    let past = json!({"exec_id": "r", "cursor": 1});
    expect(call("POST", "/v1/exec/stream/attach", &past), 422, "invalid_field", "past the end");
    let other = json!({"command": ["sleep", "601"], "exec_id": "r"});
    expect(call("POST", "/v1/exec", &other), 409, "conflict", "another");
    assert_eq!(signal("KILL").0, 204);
    assert_eq!(agent.get("/v1/exec/r?wait_secs=60")["exit"]["signal"], 9);
    expect(signal("KILL"), 409, "conflict", "ended");
}

#[test]
fn reader_that_goes_away_is_forgotten_and_the_exec_runs_on() {
    let agent = TestAgent::start();
    detached(&agent, json!({"command": ["sh", "-c", "while :; do echo; sleep 0.01; done"], "exec_id": "t"}));
    let mut reader = open(&agent, "/v1/exec/stream/attach", "*/*", &json!({"exec_id": "t"}));
    reader.read_line(&mut String::new()).unwrap();
    assert_eq!(agent.get("/v1/exec/t")["readers"], 1);
    drop(reader);
    eventually("the reader is forgotten", || (agent.get("/v1/exec/t")["readers"] == 0).then_some(()));
    assert_eq!(agent.get("/v1/exec/t")["state"], "running");
}

#[test]
fn detached_exec_is_ended_with_the_agent() {
    let agent = TestAgent::start();
    let pid = detached(&agent, json!({"command": ["sleep", "600"]}))["pid"].clone();
    assert!(agent.terminate().success());
    assert!(!std::path::Path::new(&format!("/proc/{pid}")).exists());
}
