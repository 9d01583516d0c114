//! Execs on WebSockets.

use serde_json::{Value, json};

use crate::socket::{Got, HANDSHAKE, Socket, within};
use crate::support::{TestAgent, eventually};

fn start(agent: &TestAgent, id: &str, more: Value) {
    let mut request = json!({"command": ["cat"], "exec_id": id, "detach": true, "stdin_open": true});
    for (key, value) in more.as_object().unwrap() {
        request[key] = value.clone();
    }
    let (status, body) = agent.call("POST", "/v1/exec", &request.to_string());
    assert_eq!(status, 202, "{body}");
}

async fn open(agent: &TestAgent, path: &str) -> Socket {
    Socket::open(agent.socket(), path).await.unwrap_or_else(|refusal| panic!("{refusal:?}"))
}

/// Reads to the close: output of each channel, and the statuses between.
async fn rest(socket: &mut Socket) -> ([Vec<u8>; 2], Vec<Value>) {
    let (mut output, mut statuses) = ([Vec::new(), Vec::new()], Vec::new());
    loop {
        match socket.next().await {
            Got::Message(channel @ (1 | 2), bytes) => output[usize::from(channel) - 1].extend_from_slice(&bytes),
            Got::Message(3, json) => statuses.push(serde_json::from_slice(&json).unwrap()),
            Got::Close(1000) => return (output, statuses),
            other => panic!("{other:?} after {statuses:?}"),
        }
    }
}

#[tokio::test]
async fn output_comes_apart_and_the_exit_is_the_last_status() {
    let agent = TestAgent::start();
    start(&agent, "a", json!({"command": ["sh", "-c", "cat; echo err >&2; exit 5"]}));
    let mut socket = open(&agent, "/v1/exec/a/ws").await;
    assert_eq!(socket.status().await, json!({"attached": 0, "exec_id": "a"}));
    socket.send(0, b"in").await;
    socket.ping().await;
    socket.send(255, &[0]).await;
    let (output, statuses) = rest(&mut socket).await;
    // The echo of `in` may have come before the answer to the ping.
    assert!([&b""[..], b"in"].contains(&&output[0][..]));
    assert_eq!(output[1], b"err\n");
    let [exit] = &statuses[..] else { panic!("{statuses:?}") };
    assert_eq!((&exit["type"], &exit["exit_code"], &exit["cursor"]), (&json!("exit"), &json!(5), &json!(6)));
}

#[tokio::test]
async fn reader_that_comes_later_begins_where_it_says() {
    let agent = TestAgent::start();
    start(&agent, "a", json!({"command": ["sh", "-c", "printf 0123456789; read x; printf more"]}));
    eventually("it has printed", || (agent.get("/v1/exec/a")["cursor"] == 10).then_some(()));
    let mut middle = open(&agent, "/v1/exec/a/ws?cursor=4").await;
    assert_eq!(middle.status().await["attached"], 4);
    let mut latest = open(&agent, "/v1/exec/a/ws?from_latest=true").await;
    assert_eq!(latest.status().await["attached"], 10);
    latest.send(0, b"go\n").await;
    assert_eq!(rest(&mut middle).await.0[0], b"456789more");
    assert_eq!(rest(&mut latest).await.0[0], b"more");
    // And after the end, from the record.
    let mut late = open(&agent, "/v1/exec/a/ws?cursor=8").await;
    late.status().await;
    assert_eq!(rest(&mut late).await.0[0], b"89more");
}

#[tokio::test]
async fn client_that_vanishes_ends_neither_the_exec_nor_its_input() {
    let agent = TestAgent::start();
    start(&agent, "a", json!({}));
    let mut socket = open(&agent, "/v1/exec/a/ws").await;
    socket.status().await;
    socket.send(0, b"one ").await;
    assert_eq!(socket.next().await, Got::Message(1, "one ".into()));
    drop(socket);
    eventually("the reader is gone", || (agent.get("/v1/exec/a")["readers"] == 0).then_some(()));
    let mut again = open(&agent, "/v1/exec/a/ws?cursor=4").await;
    again.status().await;
    again.send(0, b"two").await;
    assert_eq!(again.next().await, Got::Message(1, "two".into()));
    again.send(255, &[0]).await;
    assert_eq!(rest(&mut again).await.1[0]["exit_code"], 0);
}

#[tokio::test]
async fn reader_that_stops_is_told_its_gap_and_does_not_stall_the_command() {
    let agent = TestAgent::start();
    // More than the replay ring and a socket's buffers hold.
    start(&agent, "a", json!({"command": ["sh", "-c", "yes | head -c 8000000"]}));
    let mut socket = open(&agent, "/v1/exec/a/ws").await;
    eventually("the command ends although nobody reads", || {
        (agent.get("/v1/exec/a")["state"] == "exited").then_some(())
    });
    assert_eq!(socket.status().await["attached"], 0);
    let ([stdout, _], statuses) = rest(&mut socket).await;
    let missing: u64 = statuses
        .iter()
        .filter(|status| status["type"] == "gap")
        .map(|gap| gap["to"].as_u64().unwrap() - gap["from"].as_u64().unwrap())
        .sum();
    assert!(missing > 0);
    assert_eq!(stdout.len() as u64 + missing, 8_000_000);
    assert_eq!(statuses.last().unwrap()["cursor"], 8_000_000);
}

#[tokio::test]
async fn lossless_exec_waits_for_its_reader_and_loses_nothing() {
    let agent = TestAgent::start();
    start(&agent, "a", json!({"command": ["sh", "-c", "yes | head -c 8000000"], "lossless": true}));
    let mut socket = open(&agent, "/v1/exec/a/ws").await;
    assert_eq!(socket.status().await["attached"], 0);
    let ([stdout, _], statuses) = rest(&mut socket).await;
    assert_eq!((stdout.len(), statuses.len()), (8_000_000, 1));
}

#[tokio::test]
async fn resize_is_seen_behind_input_that_the_command_does_not_read() {
    let agent = TestAgent::start();
    let script = "trap 'stty size; exit' WINCH; stty raw; echo ready; while :; do sleep 0.01; done";
    start(&agent, "a", json!({"command": ["bash", "-c", script], "tty": {"rows": 1, "cols": 1}}));
    let mut socket = open(&agent, "/v1/exec/a/ws").await;
    socket.status().await;
    assert!(matches!(socket.next().await, Got::Message(1, _)));
    for _ in 0..3 {
        socket.send(0, &[b'x'; 100 * 1024]).await;
    }
    socket.send(4, br#"{"rows": 7, "cols": 9}"#).await;
    let ([screen, _], _) = rest(&mut socket).await;
    assert!(String::from_utf8_lossy(&screen).contains("7 9"));
}

#[tokio::test]
async fn upgrade_that_is_not_in_order_is_answered_in_json() {
    let agent = TestAgent::start();
    start(&agent, "a", json!({}));
    let refused = async |path: &str, headers: &str| {
        let (status, body) = Socket::open_with(agent.socket(), path, headers).await.err().expect("it is refused");
        assert_eq!(body["success"], false);
        (status, body["code"].as_str().unwrap().to_owned())
    };
    let bad = |status: u16, code: &str| (status, code.to_owned());
    assert_eq!(refused("/v1/exec/none/ws", HANDSHAKE).await, bad(404, "not_found"));
    assert_eq!(refused("/v1/exec/a/ws", "Connection: close\r\n").await, bad(400, "bad_request"));
    assert_eq!(refused("/v1/exec/a/ws", &HANDSHAKE.replace("13", "12")).await, bad(400, "bad_request"));
    assert_eq!(refused("/v1/exec/a/ws?cursor=x", HANDSHAKE).await, bad(400, "bad_request"));
    assert_eq!(refused("/v1/exec/a/ws?cursor=1&from_latest=true", HANDSHAKE).await, bad(400, "bad_request"));
    assert_eq!(refused("/v1/exec/a/ws?cursor=99", HANDSHAKE).await, bad(422, "invalid_field"));
    assert_eq!(agent.get("/v1/exec/a")["readers"], 0);
}

#[tokio::test]
async fn what_the_exec_does_not_take_is_told_and_closes_the_socket_only() {
    let agent = TestAgent::start();
    start(&agent, "a", json!({"command": ["sleep", "1000"], "stdin_open": false}));
    for (channel, payload, code) in [
        (0, &b"input"[..], "conflict"),
        (4, br#"{"rows": 1, "cols": 1}"#, "conflict"),
        (4, b"wide", "bad_request"),
        (1, b"", "bad_request"),
        (255, &[1], "bad_request"),
        (9, b"", "bad_request"),
    ] {
        let mut socket = open(&agent, "/v1/exec/a/ws").await;
        socket.status().await;
        socket.send(channel, payload).await;
        let status = socket.status().await;
        assert_eq!((&status["type"], &status["code"]), (&json!("error"), &json!(code)), "channel {channel}: {status}");
        assert!(matches!(socket.next().await, Got::Close(_)));
    }
    assert_eq!(agent.get("/v1/exec/a")["state"], "running");
}

#[tokio::test]
async fn agent_that_ends_gives_its_sockets_the_exit_of_their_execs() {
    let agent = TestAgent::start();
    start(&agent, "a", json!({}));
    let mut socket = open(&agent, "/v1/exec/a/ws").await;
    socket.status().await;
    let ended = tokio::task::spawn_blocking(move || agent.terminate());
    // Completed like any response that runs, by the end that its client asks for.
    socket.send(255, &[0]).await;
    assert_eq!(rest(&mut socket).await.1[0]["exit_code"], 0);
    assert!(within(ended).await.unwrap().success());
}
