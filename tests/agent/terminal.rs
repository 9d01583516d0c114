//! Execs on terminals, over HTTP and WebSocket.

use std::fs;
use std::io::Write;

use serde_json::{Value, json};

use crate::socket::{Got, Socket};
use crate::support::{TestAgent, eventually};

/// Starts a command on a terminal and attaches to it; the socket has told its beginning.
async fn start(agent: &TestAgent, id: &str, command: &Value) -> Screen {
    let request = json!({
        "command": command, "exec_id": id, "tty": {"rows": 24, "cols": 80}, "stdin_open": true, "detach": true,
        "env": {"PS1": "$ ", "ENV": ""},
    });
    let (status, body) = agent.call("POST", "/v1/exec", &request.to_string());
    assert_eq!((status, &body["tty"]), (202, &json!(true)), "{body}");
    let mut socket =
        Socket::open(agent.socket(), &format!("/v1/exec/{id}/ws")).await.unwrap_or_else(|e| panic!("{e:?}"));
    assert_eq!(socket.status().await, json!({"attached": 0, "exec_id": id}));
    Screen { socket, unread: String::new() }
}

/// A terminal, as somebody who sits before it.
struct Screen {
    socket: Socket,
    /// What was shown after what was waited for.
    unread: String,
}

impl Screen {
    async fn send(&mut self, channel: u8, payload: &[u8]) {
        self.socket.send(channel, payload).await;
    }

    /// Reads until the terminal shows this.
    async fn until(&mut self, shown: &str) {
        loop {
            if let Some(at) = self.unread.find(shown) {
                self.unread.drain(..at + shown.len());
                return;
            }
            match self.socket.next().await {
                Got::Message(1, bytes) => self.unread += &String::from_utf8_lossy(&bytes),
                other => panic!("{other:?} before {shown:?}; the screen shows {:?}", self.unread),
            }
        }
    }

    /// Reads to the end: what was shown, and the exit.
    async fn until_exit(mut self) -> (String, Value) {
        loop {
            match self.socket.next().await {
                Got::Message(1, bytes) => self.unread += &String::from_utf8_lossy(&bytes),
                Got::Message(3, json) => {
                    assert_eq!(self.socket.next().await, Got::Close(1000));
                    return (self.unread, serde_json::from_slice(&json).unwrap());
                }
                other => panic!("{other:?}; the screen shows {:?}", self.unread),
            }
        }
    }
}

fn run(agent: &TestAgent, script: &str) -> Value {
    let request = json!({"command": ["sh", "-c", script], "tty": {"rows": 30, "cols": 100}});
    let (status, result) = agent.call("POST", "/v1/exec", &request.to_string());
    assert_eq!(status, 200, "{result}");
    result
}

#[test]
fn command_on_a_terminal_has_its_size_its_name_and_one_stream_of_output() {
    let agent = TestAgent::start();
    let result = run(&agent, "stty size; tty; echo $TERM; echo err >&2; exit 4");
    let lines: Vec<_> = result["stdout"].as_str().unwrap().split("\r\n").collect();
    assert_eq!((lines[0], lines[2], lines[3]), ("30 100", "xterm-256color", "err"), "{result}");
    assert!(lines[1].starts_with("/dev/pts/"), "{result}");
    assert_eq!((&result["stderr"], &result["exit_code"]), (&json!(""), &json!(4)));
}

#[test]
fn term_of_the_request_is_kept() {
    let agent = TestAgent::start();
    let request = json!({"command": ["printenv", "TERM"], "tty": {"rows": 1, "cols": 1}, "env": {"TERM": "vt100"}});
    let (_, result) = agent.call("POST", "/v1/exec", &request.to_string());
    assert_eq!(result["stdout"], "vt100\r\n");
}

#[test]
fn terminal_belongs_to_the_user_who_runs_on_it() {
    let agent = TestAgent::start();
    let request = json!({
        "command": ["sh", "-c", "stat -c '%U %a' $(tty); : < /dev/tty && echo opened"],
        "tty": {"rows": 24, "cols": 80}, "user": "nobody",
    });
    let (_, result) = agent.call("POST", "/v1/exec", &request.to_string());
    assert_eq!(result["stdout"], "nobody 620\r\nopened\r\n", "{result}");
}

#[test]
fn terminal_without_input_is_at_its_end_of_input() {
    let agent = TestAgent::start();
    assert_eq!(run(&agent, "cat; echo over")["stdout"], "over\r\n");
    let request = json!({"command": ["sh", "-c", "stty -echo; echo ready; cat"], "tty": {"rows": 1, "cols": 1}, "stdin": "no newline"});
    let (_, result) = agent.call("POST", "/v1/exec", &request.to_string());
    assert!(result["stdout"].as_str().unwrap().contains("no newline"), "{result}");
}

#[tokio::test]
async fn resize_reaches_the_command_as_sigwinch_by_http_and_by_socket() {
    let agent = TestAgent::start();
    let script = "trap 'stty size' WINCH; trap 'exit 6' INT; sleep 1000 & echo ready; while :; do wait; done";
    let mut screen = start(&agent, "win", &json!(["sh", "-c", script])).await;
    screen.until("ready").await;
    screen.send(4, br#"{"rows": 50, "cols": 132}"#).await;
    screen.until("50 132").await;
    let (status, _) = agent.call("POST", "/v1/exec/win/resize", r#"{"rows": 10, "cols": 20}"#);
    assert_eq!(status, 204);
    screen.until("10 20").await;
    screen.send(0, b"\x03").await;
    assert_eq!(screen.until_exit().await.1["exit_code"], 6);
    let (status, body) = agent.call("POST", "/v1/exec/win/resize", r#"{"rows": 10, "cols": 20}"#);
    assert_eq!((status, &body["code"]), (409, &json!("conflict")));
}

#[test]
fn resize_of_what_has_no_terminal_or_is_no_size_is_answered_by_type() {
    let agent = TestAgent::start();
    agent.call("POST", "/v1/exec", r#"{"command": ["true"], "exec_id": "plain"}"#);
    let resize = |id: &str, body: &str| agent.call("POST", &format!("/v1/exec/{id}/resize"), body);
    for (id, body, status, code) in [
        ("plain", r#"{"rows": 1, "cols": 1}"#, 409, "conflict"),
        ("plain", r#"{"rows": 70000, "cols": 1}"#, 422, "invalid_field"),
        ("plain", r#"{"rows": 1}"#, 422, "invalid_field"),
        ("nobody", r#"{"rows": 1, "cols": 1}"#, 404, "not_found"),
    ] {
        let (got, answer) = resize(id, body);
        assert_eq!((got, &answer["code"]), (status, &json!(code)), "{answer}");
    }
}

#[tokio::test]
async fn control_c_interrupts_the_foreground_and_not_the_shell() {
    let agent = TestAgent::start();
    let mut screen = start(&agent, "int", &json!(["bash", "--norc", "-i"])).await;
    screen.until("$ ").await;
    screen.send(0, b"sleep 1000; echo status $?\n").await;
    screen.until("echo status $?\r\n").await;
    in_foreground(&agent, "int", "sleep");
    screen.send(0, b"\x03").await;
    screen.until("$ ").await;
    screen.send(0, b"echo status $?\n").await;
    screen.until("status 130\r\n").await;
    screen.send(0, b"exit 3\n").await;
    assert_eq!(screen.until_exit().await.1["exit_code"], 3);
}

#[tokio::test]
async fn job_control_stops_and_continues() {
    let agent = TestAgent::start();
    let mut screen = start(&agent, "job", &json!(["bash", "--norc", "-i"])).await;
    screen.until("$ ").await;
    screen.send(0, b"sleep 1000 &\n").await;
    screen.until("[1] ").await;
    screen.send(0, b"sleep 2000\n").await;
    in_foreground(&agent, "job", "sleep");
    screen.send(0, b"\x1a").await;
    screen.until("Stopped").await;
    screen.send(0, b"jobs | wc -l; fg\n").await;
    screen.until("2\r\n").await;
    screen.until("sleep 2000\r\n").await;
    in_foreground(&agent, "job", "sleep");
    screen.send(0, b"\x03").await;
    screen.until("$ ").await;
    screen.send(0, b"kill %1; wait; exit\n").await;
    screen.until_exit().await;
}

/// Waits until a process of this name is in the foreground of the exec's terminal.
fn in_foreground(agent: &TestAgent, id: &str, name: &str) {
    let leader = agent.get(&format!("/v1/exec/{id}"))["pid"].as_i64().unwrap();
    eventually("it is in the foreground", || {
        let stat = fs::read_to_string(format!("/proc/{leader}/stat")).ok()?;
        let group = stat.rsplit_once(") ")?.1.split(' ').nth(5)?.to_owned();
        let comm = fs::read_to_string(format!("/proc/{group}/comm")).ok()?;
        (comm.trim() == name).then_some(())
    });
}

#[tokio::test]
async fn end_of_input_ends_cat_in_the_middle_of_a_line_too() {
    let agent = TestAgent::start();
    let mut screen = start(&agent, "eof", &json!(["sh", "-c", "stty -echo; echo ready; cat; echo over"])).await;
    screen.until("ready\r\n").await;
    screen.send(0, b"line\nrest").await;
    screen.send(255, &[0]).await;
    let (shown, exit) = screen.until_exit().await;
    assert_eq!((shown.as_str(), &exit["exit_code"]), ("line\r\nrestover\r\n", &json!(0)));
}

#[tokio::test]
async fn end_of_input_is_the_character_that_the_terminal_has_for_it() {
    let agent = TestAgent::start();
    let mut screen =
        start(&agent, "veof", &json!(["sh", "-c", "stty -echo eof '^E'; echo ready; cat; echo over"])).await;
    screen.until("ready\r\n").await;
    screen.send(255, &[0]).await;
    assert_eq!(screen.until_exit().await.0, "over\r\n");
}

#[tokio::test]
async fn signal_to_the_group_reaches_the_foreground() {
    let agent = TestAgent::start();
    let mut screen = start(&agent, "sig", &json!(["bash", "--norc", "-i"])).await;
    screen.until("$ ").await;
    screen.send(0, b"sleep 1000\n").await;
    in_foreground(&agent, "sig", "sleep");
    let (status, _) = agent.call("POST", "/v1/exec/sig/signal", r#"{"signal": "KILL", "to": "group"}"#);
    assert_eq!(status, 204);
    screen.until("Killed").await;
    screen.send(0, b"exit\n").await;
    screen.until_exit().await;
}

#[test]
fn grandchild_that_holds_the_terminal_does_not_delay_the_exit() {
    let agent = TestAgent::start();
    let dir = tempfile::tempdir().unwrap();
    let gate = dir.path().join("gate");
    assert!(std::process::Command::new("mkfifo").arg(&gate).status().unwrap().success());
    let done = dir.path().join("done");
    // Opened both ways, which never waits for the other side.
    let mut opened = fs::OpenOptions::new().read(true).write(true).open(&gate).unwrap();
    // It outlives the hang-up at the end of the session's leader, and holds the terminal until the gate is opened.
    let holder = format!("read x < {}; echo late; touch {}", gate.display(), done.display());
    let result = run(&agent, &format!("trap '' HUP; sh -c '{holder}' & echo hi"));
    assert_eq!((&result["stdout"], &result["exit_code"]), (&json!("hi\r\n"), &json!(0)));
    opened.write_all(b"go\n").unwrap();
    // Somebody still reads what it prints, so it is not held up.
    eventually("it has come to its end", || done.exists().then_some(()));
}

#[test]
fn output_of_a_terminal_is_complete_before_its_exit() {
    let agent = TestAgent::start();
    let result = run(&agent, "seq 1 20000");
    let expected: String = (1..=20000).map(|n| format!("{n}\r\n")).collect();
    assert!(
        result["stdout"] == expected.as_str(),
        "{} bytes instead of {}",
        result["stdout"].as_str().unwrap().len(),
        expected.len()
    );
}

#[tokio::test]
async fn megabyte_typed_on_a_raw_terminal_arrives_at_the_pace_of_the_command() {
    let agent = TestAgent::start();
    let script = "stty raw -echo; echo ready; head -c 1048576 | sha256sum";
    let mut screen = start(&agent, "bulk", &json!(["sh", "-c", script])).await;
    screen.until("ready").await;
    for _ in 0..32 {
        screen.send(0, &[b'x'; 32 * 1024]).await;
    }
    let expected = std::process::Command::new("sh")
        .args(["-c", "head -c 1048576 /dev/zero | tr '\\0' x | sha256sum"])
        .output()
        .unwrap()
        .stdout;
    screen.until(std::str::from_utf8(&expected).unwrap().trim()).await;
}

#[test]
fn two_hundred_terminals_leave_no_terminal_and_no_descriptor() {
    let agent = TestAgent::start();
    let held = || {
        let fds = fs::read_dir(format!("/proc/{}/fd", agent.pid())).unwrap();
        let targets = fds.filter_map(|fd| fs::read_link(fd.unwrap().path()).ok());
        targets.filter(|target| target.starts_with("/dev/pts") || target.ends_with("ptmx")).count()
    };
    let descriptors = || fs::read_dir(format!("/proc/{}/fd", agent.pid())).unwrap().count();
    run(&agent, "true");
    eventually("the first one is let go", || (held() == 0).then_some(()));
    let before = descriptors();
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| (0..25).for_each(|_| assert_eq!(run(&agent, "echo x")["stdout"], "x\r\n")));
        }
    });
    // Connections that were answered are being closed by the agent still.
    eventually("all are let go", || (held() == 0 && descriptors() <= before).then_some(()));
}
