//! The client against a guest that says every byte, and says it wrongly.
#![cfg(test)]

mod fake_guest;

use std::io::ErrorKind;
use std::path::Path;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use fake_guest::FakeGuest;
use guestd::api::{AddKeys, BridgeUpdate, ErrorCode, ExecRequest, SnapshotThaw, Status, StreamFrame};
use guestd::client::{Client, ClientError, ConnectFailure, ExecStream, ReadFrom, Timeouts, Token};
use guestd::limits;
use tokio::sync::oneshot;

const READY: &str = r#"{"status":"ready","version":"0.1.0","uptime_secs":2.5,"ready_after_boot_secs":2.0,"checks":[]}"#;
const DEGRADED: &str = r#"{"status":"degraded","version":"0.1.0","uptime_secs":2.5,"ready_after_boot_secs":2.0}"#;
const STARTING: &str = r#"{"status":"starting","version":"0.1.0","uptime_secs":2.5,"ready_after_boot_secs":null}"#;
const REFUSED: &str = r#"{"error":"a token is needed","code":"unauthorized","success":false}"#;
const CHUNK: &str = r#"{"type":"chunk","stream":"stdout","data_b64":"aGkK","cursor":3,"exec_id":"e1"}"#;
const EXIT: &str =
    r#"{"type":"exit","exit_code":7,"signal":null,"timed_out":false,"duration_ms":1,"cursor":3,"exec_id":"e1"}"#;

/// A client whose silences are short.
fn client(endpoint: &str) -> Client {
    let short = Duration::from_millis(100);
    client_with(endpoint, Timeouts { connect: short, answer: short })
}

/// A client that waits for long enough, where silence is not what is tested.
fn patient(endpoint: &str) -> Client {
    client_with(endpoint, Timeouts::default())
}

fn client_with(endpoint: &str, timeouts: Timeouts) -> Client {
    Client::new(endpoint.parse().unwrap()).with_timeouts(timeouts)
}

fn command(argv: &[&str]) -> ExecRequest {
    let command = argv.iter().map(|argument| (*argument).to_owned()).collect();
    ExecRequest { command, ..ExecRequest::default() }
}

async fn stream_from(guest: &FakeGuest) -> ExecStream {
    patient(&guest.unix()).exec_stream(&command(&["true"])).await.unwrap()
}

async fn all_frames(stream: &mut ExecStream) -> Result<Vec<StreamFrame>, ClientError> {
    let mut frames = Vec::new();
    while let Some(event) = stream.next().await? {
        frames.push(event.frame("e1"));
    }
    Ok(frames)
}

fn frames_of(lines: &[&str]) -> Vec<StreamFrame> {
    lines.iter().map(|line| serde_json::from_str(line).unwrap()).collect()
}

// One call.

#[tokio::test]
async fn a_request_is_plain_http_with_one_host_and_no_token() {
    let guest = FakeGuest::answering("200 OK", READY);
    let health = patient(&guest.unix()).health().await.unwrap();
    assert_eq!((health.status, health.uptime_secs), (Status::Ready, 2.5));
    insta::assert_snapshot!(guest.next_request().head.replace('\r', ""), @r"
    GET /v1/health HTTP/1.1
    host: guestd
    ");
}

#[tokio::test]
async fn keys_go_as_json_and_one_that_is_removed_is_named_in_the_query() {
    let guest = FakeGuest::answering("200 OK", r#"{"keys":[],"note":"sshd does not read them"}"#);
    let client = patient(&guest.unix());
    let keys = AddKeys { keys: vec!["ssh-ed25519 A".into()], user: "ada".into(), source: "host".into(), expires: None };
    assert_eq!(client.add_keys(&keys).await.unwrap().note.as_deref(), Some("sshd does not read them"));
    let request = guest.next_request();
    assert!(request.head.starts_with("POST /v1/keys HTTP/1.1\r\n"), "{}", request.head);
    assert_eq!(request.body, r#"{"keys":["ssh-ed25519 A"],"user":"ada","source":"host"}"#);
    client.remove_key("a b&c").await.unwrap();
    let head = guest.next_request().head;
    assert!(head.starts_with("DELETE /v1/keys?id=a%20b%26c HTTP/1.1\r\n"), "{head}");
}

#[tokio::test]
async fn a_token_goes_with_every_request() {
    let guest = FakeGuest::answering("200 OK", READY);
    let client = patient(&guest.unix()).with_token(Token::new("s3cret").unwrap());
    client.health().await.unwrap();
    assert!(guest.next_request().head.contains("\r\nauthorization: Bearer s3cret\r\n"));
}

#[tokio::test]
async fn without_a_token_health_falls_back_to_the_path_that_needs_none() {
    let guest = FakeGuest::new(|number, connection| {
        connection.request();
        match number {
            0 => connection.answer("401 Unauthorized", REFUSED),
            _ => connection.answer("200 OK", READY),
        }
    });
    assert_eq!(patient(&guest.unix()).health().await.unwrap().status, Status::Ready);
    assert!(guest.next_request().head.starts_with("GET /v1/health "));
    assert!(guest.next_request().head.starts_with("GET /health "));
}

#[tokio::test]
async fn a_report_that_comes_with_503_is_a_report() {
    let guest = FakeGuest::answering("503 Service Unavailable", STARTING);
    assert_eq!(patient(&guest.unix()).health().await.unwrap().status, Status::Starting);
}

#[tokio::test]
async fn an_update_says_only_what_changes() {
    let guest = FakeGuest::answering("200 OK", r#"{"auto":false,"tier":"bind","rules":[],"ports":[],"later":1}"#);
    let update = BridgeUpdate { auto: Some(false), rules: None };
    let bridge = patient(&guest.unix()).set_bridge(&update).await.unwrap();
    assert!(!bridge.auto);
    let request = guest.next_request();
    assert!(request.head.starts_with("PUT /v1/bridge "));
    assert!(request.head.contains("content-type: application/json\r\n"));
    assert_eq!(request.body, r#"{"auto":false}"#);
}

#[tokio::test]
async fn metrics_are_text_and_listeners_a_list() {
    let guest = FakeGuest::answering("200 OK", "# HELP x\nx 1\n");
    assert_eq!(patient(&guest.unix()).metrics().await.unwrap(), "# HELP x\nx 1\n");
    let guest = FakeGuest::answering("200 OK", "[]");
    assert_eq!(patient(&guest.unix()).listeners().await.unwrap(), []);
}

#[tokio::test]
async fn a_buffered_exec_gives_its_result() {
    let guest = FakeGuest::answering(
        "200 OK",
        r#"{"exec_id":"e1","exit_code":7,"stdout":"hi\n","stderr":"","truncated":false,"signal":null,
            "timed_out":false,"duration_ms":3}"#,
    );
    let result = patient(&guest.unix()).exec(&command(&["sh", "-c", "exit 7"])).await.unwrap();
    assert_eq!((result.exit_code, result.stdout.as_str()), (7, "hi\n"));
    assert_eq!(guest.next_request().body, r#"{"command":["sh","-c","exit 7"]}"#);
}

// What answers is wrong.

#[tokio::test]
async fn an_error_of_guestd_keeps_its_code_and_its_words() {
    let guest = FakeGuest::answering(
        "429 Too Many Requests",
        r#"{"error":"64 execs run already","code":"limit_reached","success":false}"#,
    );
    let error = patient(&guest.unix()).exec(&command(&["true"])).await.unwrap_err();
    match error {
        ClientError::Api { status: 429, body, .. } => {
            assert_eq!((body.code, body.error.as_str()), (ErrorCode::LimitReached, "64 execs run already"));
        }
        other => panic!("{other}"),
    }
}

#[tokio::test]
async fn a_code_of_a_newer_guestd_is_an_error_all_the_same() {
    let guest = FakeGuest::answering("409 Conflict", r#"{"error":"x","code":"brand_new","success":false}"#);
    let error = patient(&guest.unix()).info().await.unwrap_err();
    assert!(matches!(error, ClientError::Api { status: 409, body, .. } if body.code == ErrorCode::Unknown));
}

#[tokio::test]
async fn an_answer_of_something_else_is_shown() {
    let guest = FakeGuest::answering("502 Bad Gateway", "<html>\u{1b}[2J");
    let error = patient(&guest.unix()).info().await.unwrap_err();
    insta::assert_snapshot!(without_path(&error, &guest), @r#"the answer to GET /v1/info from unix:PATH is not guestd's: status 502 Bad Gateway with "<html>\u{1b}[2J"; check the endpoint, and that guestd in the VM and this client are of one version"#);
    let guest = FakeGuest::answering("200 OK", "[1,2]");
    let error = patient(&guest.unix()).info().await.unwrap_err();
    assert!(matches!(error, ClientError::Protocol { .. }), "{error}");
    let guest = FakeGuest::new(|_, connection| {
        connection.request();
        connection.raw(b"SSH-2.0-OpenSSH_9.2p1\r\n\r\n");
        connection.until_closed();
    });
    let error = patient(&guest.unix()).info().await.unwrap_err();
    assert!(matches!(error, ClientError::Protocol { .. }), "{error}");
}

#[tokio::test]
async fn an_error_body_without_end_is_not_read_to_its_end() {
    let guest = FakeGuest::new(|_, connection| {
        connection.request();
        connection.raw(b"HTTP/1.1 500 Oops\r\ntransfer-encoding: chunked\r\n\r\n");
        while connection.packet(&[b'x'; 4096]) {}
    });
    let error = patient(&guest.unix()).info().await.unwrap_err();
    assert!(matches!(&error, ClientError::Protocol { why, .. } if why == "it is longer than 65536 bytes"), "{error}");
}

#[tokio::test]
async fn a_connection_that_ends_before_its_answer_is_told_from_one_that_never_was() {
    let guest = FakeGuest::new(|_, connection| connection.request());
    let error = patient(&guest.unix()).info().await.unwrap_err();
    assert!(matches!(error, ClientError::Disconnected { .. }), "{error}");
    let guest = FakeGuest::new(|_, connection| {
        connection.request();
        connection.raw(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n{");
    });
    let error = patient(&guest.unix()).info().await.unwrap_err();
    assert!(matches!(error, ClientError::Disconnected { .. }), "{error}");
}

#[tokio::test]
async fn silence_ends_by_a_time_out() {
    let guest = FakeGuest::new(|_, connection| {
        connection.request();
        connection.until_closed();
    });
    let error = client(&guest.unix()).info().await.unwrap_err();
    insta::assert_snapshot!(without_path(&error, &guest), @"no answer to GET /v1/info from unix:PATH within 100ms; the VM may be paused or overloaded: look at its console, then try again");
    let guest = FakeGuest::new(|_, connection| {
        connection.request();
        connection.raw(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n{");
        connection.until_closed();
    });
    let error = client(&guest.unix()).info().await.unwrap_err();
    assert!(matches!(error, ClientError::Timeout { .. }), "{error}");
}

#[tokio::test]
async fn what_guestd_would_refuse_for_its_size_is_not_sent() {
    let nowhere = patient("unix:/nowhere/guestd.sock");
    let request = ExecRequest { stdin: Some("x".repeat(limits::REQUEST_BODY_BYTES)), ..command(&["cat"]) };
    let error = nowhere.exec(&request).await.unwrap_err();
    assert!(matches!(error, ClientError::RequestTooLarge { .. }), "{error}");
}

fn without_path(error: &ClientError, guest: &FakeGuest) -> String {
    error.to_string().replace(guest.unix().trim_start_matches("unix:"), "PATH")
}

// Streams.

#[tokio::test]
async fn frames_are_the_same_wherever_packets_are_split() {
    let split_at = |size: usize| {
        FakeGuest::new(move |_, connection| {
            connection.request();
            connection.stream_head();
            let lines = format!("{CHUNK}\n\n{CHUNK}\r\n{EXIT}\n");
            for packet in lines.as_bytes().chunks(size) {
                connection.packet(packet);
            }
            connection.stream_end();
        })
    };
    for size in [1, 7, 64, 100_000] {
        let guest = split_at(size);
        let frames = all_frames(&mut stream_from(&guest).await).await.unwrap();
        assert_eq!(frames, frames_of(&[CHUNK, CHUNK, EXIT]), "packets of {size} bytes");
    }
}

#[tokio::test]
async fn the_exit_frame_is_the_last_whatever_follows() {
    let guest = FakeGuest::streaming(&[EXIT, CHUNK]);
    let mut stream = stream_from(&guest).await;
    assert_eq!(all_frames(&mut stream).await.unwrap(), frames_of(&[EXIT]));
    assert_eq!(stream.next().await.unwrap(), None);
}

#[tokio::test]
async fn an_exit_frame_without_line_feed_is_whole() {
    let guest = FakeGuest::new(|_, connection| {
        connection.request();
        connection.stream_head();
        connection.packet(EXIT.as_bytes());
        connection.stream_end();
    });
    assert_eq!(all_frames(&mut stream_from(&guest).await).await.unwrap(), frames_of(&[EXIT]));
}

#[tokio::test]
async fn a_stream_that_stops_before_its_last_frame_was_cut_off() {
    let guest = FakeGuest::streaming(&[CHUNK]);
    let mut stream = stream_from(&guest).await;
    let error = all_frames(&mut stream).await.unwrap_err();
    insta::assert_snapshot!(without_path(&error, &guest), @"the output of exec e1 on unix:PATH was cut off after 3 bytes, before its exit was known: it ended without an exit frame; the command may still run in the VM: see it with `guestctl attach e1`");
    assert_eq!(stream.next().await.unwrap(), None, "after an error there is no more");
}

#[tokio::test]
async fn a_connection_that_breaks_within_a_stream_cuts_it_off() {
    let broken_after = |bytes: &'static [u8]| {
        FakeGuest::new(move |_, connection| {
            connection.request();
            connection.stream_head();
            connection.raw(bytes);
        })
    };
    for bytes in [&b""[..], b"ff\r\n{\"type\":\"chu", b"5\r\n{\"typ\r\n"] {
        let guest = broken_after(bytes);
        let error = all_frames(&mut stream_from(&guest).await).await.unwrap_err();
        assert!(matches!(error, ClientError::StreamCutOff { exec_id: None, cursor: 0, .. }), "{error}");
    }
}

#[tokio::test]
async fn a_line_without_end_is_refused_at_the_limit() {
    let guest = FakeGuest::new(|_, connection| {
        connection.request();
        connection.stream_head();
        while connection.packet(&[b'x'; 4096]) {}
    });
    let error = all_frames(&mut stream_from(&guest).await).await.unwrap_err();
    assert!(matches!(&error, ClientError::Protocol { why, .. } if why.contains("262144 bytes")), "{error}");
}

#[tokio::test]
async fn what_is_no_frame_is_shown() {
    let guest = FakeGuest::streaming(&[CHUNK, r#"{"type":"gap","from":1}"#, EXIT]);
    let error = all_frames(&mut stream_from(&guest).await).await.unwrap_err();
    match &error {
        ClientError::Protocol { why, .. } => assert!(why.contains("gap"), "{why}"),
        other => panic!("{other}"),
    }
}

#[tokio::test]
async fn a_refused_exec_has_no_stream() {
    let guest = FakeGuest::answering(
        "422 Unprocessable Entity",
        r#"{"error":"no program nope in PATH","code":"program_not_found","success":false}"#,
    );
    let error = patient(&guest.unix()).exec_stream(&command(&["nope"])).await.unwrap_err();
    assert!(matches!(error, ClientError::Api { body, .. } if body.code == ErrorCode::ProgramNotFound));
}

#[tokio::test]
async fn reading_a_frame_may_be_given_up_and_taken_up_again() {
    let guest = FakeGuest::new(|_, connection| {
        connection.request();
        connection.stream_head();
        for packet in format!("{CHUNK}\n{EXIT}\n").as_bytes().chunks(3) {
            connection.packet(packet);
        }
        connection.stream_end();
    });
    let mut stream = stream_from(&guest).await;
    let mut frames = Vec::new();
    loop {
        // Polled once, then dropped.
        tokio::select! {
            biased;
            frame = stream.next() => match frame.unwrap() {
                Some(event) => frames.push(event.frame("e1")),
                None => break,
            },
            () = tokio::task::yield_now() => {}
        }
    }
    assert_eq!(frames, frames_of(&[CHUNK, EXIT]));
}

#[tokio::test]
async fn the_connection_is_never_closed_in_one_direction_alone() {
    let (seen, frame_was_seen) = std::sync::mpsc::channel::<()>();
    let frame_was_seen = std::sync::Mutex::new(frame_was_seen);
    let guest = FakeGuest::new(move |_, connection| {
        connection.request();
        connection.stream_head();
        connection.packet(format!("{CHUNK}\n").as_bytes());
        frame_was_seen.lock().unwrap().recv().unwrap();
        connection.stream.set_nonblocking(true).unwrap();
        let read = std::io::Read::read(&mut connection.stream, &mut [0]);
        assert_eq!(read.map_err(|error| error.kind()), Err(ErrorKind::WouldBlock), "end of file or more bytes");
        connection.stream.set_nonblocking(false).unwrap();
        connection.packet(format!("{EXIT}\n").as_bytes());
        connection.stream_end();
    });
    let mut stream = stream_from(&guest).await;
    assert_eq!(stream.next().await.unwrap().unwrap().frame("e1"), frames_of(&[CHUNK]).remove(0));
    seen.send(()).unwrap();
    assert_eq!(all_frames(&mut stream).await.unwrap(), frames_of(&[EXIT]));
}

#[tokio::test]
async fn dropping_a_stream_closes_its_connection() {
    let (closed, was_closed) = oneshot::channel();
    let closed = std::sync::Mutex::new(Some(closed));
    let guest = FakeGuest::new(move |_, connection| {
        connection.request();
        connection.stream_head();
        connection.packet(format!("{CHUNK}\n").as_bytes());
        connection.until_closed();
        closed.lock().unwrap().take().unwrap().send(()).unwrap();
    });
    let mut stream = stream_from(&guest).await;
    stream.next().await.unwrap();
    drop(stream);
    was_closed.await.unwrap();
}

#[tokio::test]
async fn a_websocket_whose_accept_is_not_the_answer_to_our_key_is_refused() {
    // Another key's, in another case, and none.
    for accept in [
        "sec-websocket-accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n",
        "sec-websocket-accept: S3PPLMBITXAQ9KYGZZHZRBK+XOO=\r\n",
        "",
    ] {
        let guest = FakeGuest::new(move |_, connection| {
            connection.request();
            let rest = "connection: Upgrade\r\nupgrade: websocket\r\nsec-websocket-protocol: v5.channel.k8s.io\r\n";
            connection.raw(format!("HTTP/1.1 101 Switching Protocols\r\n{rest}{accept}\r\n").as_bytes());
            connection.until_closed();
        });
        let error = patient(&guest.unix()).exec_session("e1", ReadFrom::Cursor(0)).await.unwrap_err();
        assert!(matches!(&error, ClientError::Protocol { why, .. } if why.contains("Sec-WebSocket-Accept")), "{error}");
    }
}

// Firecracker's hybrid socket.

/// The failure of a client whose `CONNECT` is answered by `script`.
async fn handshake(script: impl Fn(&mut fake_guest::Connection) + Send + 'static) -> ConnectFailure {
    let guest = FakeGuest::new(move |_, connection| {
        assert_eq!(connection.read_to("\n"), "CONNECT 1024\n");
        script(connection);
    });
    match client(&guest.hybrid()).info().await.unwrap_err() {
        ClientError::Unreachable { why, .. } => why,
        other => panic!("{other}"),
    }
}

#[tokio::test]
async fn a_hybrid_socket_is_asked_for_the_port_and_then_speaks_http() {
    let guest = FakeGuest::new(|_, connection| {
        assert_eq!(connection.read_to("\n"), "CONNECT 52\n");
        // In two packets, with the port that the host side was given.
        connection.raw(b"OK 10737");
        connection.raw(b"41824\n");
        connection.request();
        connection.answer("200 OK", READY);
    });
    let health = patient(&format!("{}:52", guest.hybrid())).health().await.unwrap();
    assert_eq!(health.status, Status::Ready);
}

#[tokio::test]
async fn an_end_of_file_instead_of_ok_means_that_nobody_listens() {
    let why = handshake(|_| {}).await;
    assert!(matches!(why, ConnectFailure::NobodyListens { port: 1024 }), "{why}");
    let why = handshake(|connection| assert!(connection.raw(b"OK 10"))).await;
    assert!(matches!(why, ConnectFailure::NobodyListens { port: 1024 }), "{why}");
}

/// The guest remembers the ports of connections that a restore has cut, and the host's side counts its own anew.
#[tokio::test]
async fn ports_that_the_guest_has_not_forgotten_yet_are_passed_over() {
    let guest = FakeGuest::new(|number, connection| {
        assert_eq!(connection.read_to("\n"), "CONNECT 1024\n");
        if number < 7 {
            return;
        }
        connection.raw(b"OK 1073741831\n");
        connection.request();
        connection.answer("200 OK", READY);
    });
    let health = patient(&guest.hybrid()).health().await.unwrap();
    assert_eq!(health.status, Status::Ready);
}

#[tokio::test]
async fn a_time_is_said_when_the_guest_asks_for_it() {
    let guest = FakeGuest::new(|_, connection| {
        let head = connection.read_to("\r\n\r\n");
        assert!(head.contains("\r\nexpect: 100-continue\r\n"), "{head}");
        let asked = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs_f64();
        connection.raw(b"HTTP/1.1 100 Continue\r\n\r\n");
        let body = connection.read_to("}");
        let said = body.rsplit_once("\"wall_clock\":").unwrap().1.trim_end_matches(['}', '\r', '\n']);
        assert!(said.parse::<f64>().unwrap() >= asked, "{said} was said before {asked}");
        connection.answer("200 OK", r#"{"phase": "running", "complete": true, "steps": [], "took_ms": 1}"#);
    });
    let report = patient(&guest.unix()).snapshot_thaw(&SnapshotThaw { wall_clock: Some(0.0) }).await.unwrap();
    assert!(report.complete);
}

#[tokio::test]
async fn what_is_no_ok_is_no_hybrid_socket() {
    for wrong in ["HTTP/1.1 400 Bad Request\r\n", "OK\n", "OK \n", "OK x\n", "ok 1\n", "\n"] {
        let why = handshake(move |connection| assert!(connection.raw(wrong.as_bytes()))).await;
        assert!(matches!(&why, ConnectFailure::NotHybrid { .. }), "{wrong:?}: {why}");
    }
}

#[tokio::test]
async fn an_answer_without_end_is_not_waited_for() {
    let why = handshake(|connection| while connection.raw(&[b'1'; 4096]) {}).await;
    assert!(matches!(&why, ConnectFailure::NotHybrid { answer } if answer.len() == 64), "{why}");
}

#[tokio::test]
async fn silence_after_connect_ends_by_a_time_out() {
    let why = handshake(fake_guest::Connection::until_closed).await;
    assert!(matches!(why, ConnectFailure::NoOk { port: 1024, .. }), "{why}");
}

// Sockets that are not there, and waiting for them.

#[tokio::test]
async fn a_missing_socket_and_one_that_nobody_serves_are_unreachable() {
    let directory = tempfile::tempdir().unwrap();
    let kind = async |path: &Path| match client(&format!("unix:{}", path.display())).info().await.unwrap_err() {
        ClientError::Unreachable { why: ConnectFailure::Io(error), .. } => error.kind(),
        other => panic!("{other}"),
    };
    let path = directory.path().join("guest.sock");
    assert_eq!(kind(&path).await, ErrorKind::NotFound);
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    assert_eq!(kind(&path).await, ErrorKind::ConnectionRefused);
}

#[tokio::test]
async fn waiting_goes_on_through_everything_that_a_boot_shows() {
    let guest = FakeGuest::new(|number, connection| {
        assert_eq!(connection.read_to("\n"), "CONNECT 1024\n");
        if number == 0 {
            return; // Nobody listens yet.
        }
        connection.raw(b"OK 1\n");
        connection.request();
        match number {
            1 => {} // The agent goes away without an answer.
            2 => connection.answer("503 Service Unavailable", STARTING),
            3 => connection.answer("200 OK", DEGRADED),
            _ => connection.answer("200 OK", READY),
        }
    });
    let deadline = Instant::now() + Duration::from_secs(60);
    let health = patient(&guest.hybrid()).wait_ready(deadline).await.unwrap();
    assert_eq!(health.status, Status::Ready);
    let requests = std::iter::repeat_with(|| guest.next_request()).take(4);
    assert!(requests.into_iter().all(|request| request.head.starts_with("GET /v1/health ")));
}

#[tokio::test]
async fn a_deadline_gives_the_last_report_that_came() {
    let guest = FakeGuest::answering("200 OK", DEGRADED);
    let health = patient(&guest.unix()).wait_ready(Instant::now()).await.unwrap();
    assert_eq!(health.status, Status::Degraded);
    let deadline = Instant::now() + Duration::from_millis(300);
    let health = patient(&guest.unix()).wait_ready(deadline).await.unwrap();
    assert_eq!(health.status, Status::Degraded);
    assert!(Instant::now() >= deadline);
}

#[tokio::test]
async fn waiting_ends_at_once_where_it_cannot_help() {
    let guest = FakeGuest::answering("401 Unauthorized", REFUSED);
    let client = patient(&guest.unix()).with_token(Token::new("wrong").unwrap());
    let hours = Instant::now() + Duration::from_secs(36_000);
    let error = client.wait_ready(hours).await.unwrap_err();
    assert!(matches!(error, ClientError::Api { status: 401, .. }), "{error}");
}

#[tokio::test]
async fn a_guest_that_hangs_does_not_outlast_the_deadline() {
    let guest = FakeGuest::new(|_, connection| connection.until_closed());
    let deadline = Instant::now() + Duration::from_millis(300);
    let error = patient(&guest.hybrid()).wait_ready(deadline).await.unwrap_err();
    assert!(matches!(error, ClientError::Unreachable { why: ConnectFailure::NoOk { .. }, .. }), "{error}");
}
