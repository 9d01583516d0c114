//! The real guestctl against guests that say every byte: what it prints, where, and its exit codes.
#![cfg(test)]

mod fake_guest;

use std::io::{PipeReader, Read, Write};
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::sync::mpsc::channel;

use fake_guest::FakeGuest;
use guestd::api::StreamFrame;
use serde_json::{Value, json};

const READY: &str = r#"{"status":"ready","version":"0.1.0","uptime_secs":2.5,"ready_after_boot_secs":2.0}"#;
const DEGRADED: &str = r#"{"status":"degraded","version":"0.1.0","uptime_secs":2.5,"ready_after_boot_secs":2.0,
    "checks":[{"name":"ipv6","state":"degraded","message":"the kernel has no IPv6"}]}"#;
const STARTING: &str = r#"{"status":"starting","version":"0.1.0","uptime_secs":2.5,"ready_after_boot_secs":null}"#;
/// `out\n` on standard output, then bytes that are no UTF-8.
const OUT: &str = r#"{"type":"chunk","stream":"stdout","data_b64":"b3V0Cv/+AA==","cursor":7,"exec_id":"e1"}"#;
/// `err\n` and an invalid byte on standard error.
const ERR: &str = r#"{"type":"chunk","stream":"stderr","data_b64":"ZXJyCoA=","cursor":12,"exec_id":"e1"}"#;
const EXIT_7: &str =
    r#"{"type":"exit","exit_code":7,"signal":null,"timed_out":false,"duration_ms":1,"cursor":12,"exec_id":"e1"}"#;
const KILLED: &str =
    r#"{"type":"exit","exit_code":137,"signal":9,"timed_out":false,"duration_ms":1,"cursor":0,"exec_id":"e1"}"#;
const TIMED_OUT: &str =
    r#"{"type":"exit","exit_code":124,"signal":15,"timed_out":true,"duration_ms":1,"cursor":0,"exec_id":"e1"}"#;
const LISTENERS: &str = r#"[
    {"port":22,"address":"::","family":"ipv6","v6only":false,"scope":"wildcard","exposure":"direct","cause":null,
     "hint":null,"url":"https://vm-7.vm.vers.sh:22","netns":1,"inode":10,"uid":0,"cgroup_id":1,"backlog":128,"accept_queue":2,
     "process":{"pid":300,"name":"sshd","command":"sshd -D","uid":0,"unit":"ssh.service"}},
    {"port":3000,"address":"0.0.0.0","family":"ipv4","v6only":false,"scope":"wildcard","exposure":"bridged",
     "cause":"ipv4_only_wildcard","hint":"bind [::] to do without","url":"https://vm-7.vm.vers.sh:3000","netns":1,
     "inode":11,"process":{"pid":412,"name":"httpd\u001b[2J","command":"httpd","uid":0,"unit":null}},
    {"port":80,"address":"::","family":"ipv6","v6only":false,"scope":"wildcard","exposure":"unreachable",
     "cause":"other_netns","hint":"publish it","url":null,"netns":2,"inode":12,"process":null}]"#;

/// What guestctl did.
struct Outcome {
    code: Option<i32>,
    stdout: Vec<u8>,
    stderr: Vec<u8>,
}

impl Outcome {
    fn stdout(&self) -> &str {
        str::from_utf8(&self.stdout).unwrap()
    }

    /// Standard error, with the path of the guest's socket left out.
    fn stderr(&self, guest: &FakeGuest) -> String {
        let path = guest.unix();
        str::from_utf8(&self.stderr).unwrap().replace(path.trim_start_matches("unix:"), "PATH")
    }

    fn json(&self) -> Value {
        serde_json::from_slice(&self.stdout).unwrap()
    }
}

/// guestctl with nothing of this machine's environment that it reads.
fn guestctl(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_guestctl"));
    command.args(args).stdin(Stdio::null()).env_remove("GUESTD_VM").env_remove("NO_COLOR");
    command
}

fn outcome(mut command: Command) -> Outcome {
    let output = command.output().unwrap();
    Outcome { code: output.status.code(), stdout: output.stdout, stderr: output.stderr }
}

fn run(guest: &FakeGuest, args: &[&str]) -> Outcome {
    let vm = guest.unix();
    let args: Vec<&str> = ["--vm", &vm].iter().chain(args).copied().collect();
    outcome(guestctl(&args))
}

fn exec(lines: &'static [&'static str]) -> (FakeGuest, Outcome) {
    let guest = FakeGuest::streaming(lines);
    let outcome = run(&guest, &["exec", "--timeout", "3", "--", "sh", "-c", "true"]);
    (guest, outcome)
}

// exec

#[test]
fn output_passes_byte_by_byte_and_its_streams_stay_apart() {
    let (_guest, outcome) = exec(&[OUT, ERR, OUT, EXIT_7]);
    assert_eq!(outcome.stdout, b"out\n\xff\xfe\0out\n\xff\xfe\0");
    assert_eq!(outcome.stderr, b"err\n\x80");
    assert_eq!(outcome.code, Some(7));
}

#[test]
fn the_exit_code_tells_signal_and_time_out_apart() {
    let (_guest, killed) = exec(&[KILLED]);
    assert_eq!((killed.code, killed.stderr.as_slice()), (Some(137), &b""[..]));
    let (guest, timed_out) = exec(&[OUT, TIMED_OUT]);
    assert_eq!(timed_out.code, Some(124));
    insta::assert_snapshot!(timed_out.stderr(&guest), @r"
    guestctl: sh was ended by its time-out of 3 s
    advice: give it longer with --timeout, or leave --timeout out
    ");
}

#[test]
fn a_program_that_cannot_run_has_the_exit_code_of_a_shell() {
    let missing = FakeGuest::answering(
        "422 Unprocessable Entity",
        r#"{"error":"there is no program `nope` in PATH\u001b[2J","code":"program_not_found","success":false}"#,
    );
    let outcome = run(&missing, &["exec", "--", "nope"]);
    assert_eq!(outcome.code, Some(127));
    insta::assert_snapshot!(outcome.stderr(&missing), @r"
    guestctl: POST /v1/exec/stream on unix:PATH was answered 422: there is no program `nope` in PATH\u{1b}[2J
    advice: check the name and that it is installed in the VM, or give its full path; a shell line is run by sh -c 'LINE'
    ");
    let forbidden = FakeGuest::answering(
        "422 Unprocessable Entity",
        r#"{"error":"/etc is a directory","code":"not_executable","success":false}"#,
    );
    assert_eq!(run(&forbidden, &["exec", "--", "/etc"]).code, Some(126));
}

#[test]
fn a_failure_of_guestd_is_no_exit_code_of_the_command() {
    let (guest, outcome) = exec(&[OUT, r#"{"type":"error","code":"internal","message":"the pidfd is gone"}"#]);
    assert_eq!(outcome.code, Some(125));
    insta::assert_snapshot!(outcome.stderr(&guest), @r"
    guestctl: the command could not be followed to its end: the pidfd is gone
    advice: see guestd's log in the VM: journalctl -u guestd
    ");
    let busy = FakeGuest::answering(
        "429 Too Many Requests",
        r#"{"error":"64 execs run already","code":"limit_reached","success":false}"#,
    );
    assert_eq!(run(&busy, &["exec", "true"]).code, Some(125));
}

#[test]
fn a_stream_that_cannot_be_taken_up_again_is_never_a_success() {
    let guest = FakeGuest::new(|number, connection| {
        connection.request();
        match number {
            0 => {
                connection.stream_head();
                connection.packet(format!("{OUT}\n").as_bytes());
                connection.stream_end();
            }
            _ => connection
                .answer("404 Not Found", r#"{"error":"there is no exec e1","code":"not_found","success":false}"#),
        }
    });
    let outcome = run(&guest, &["exec", "--id", "e1", "true"]);
    assert_eq!((outcome.code, outcome.stdout.as_slice()), (Some(125), &b"out\n\xff\xfe\0"[..]));
    insta::assert_snapshot!(outcome.stderr(&guest), @r"
    guestctl: the output of exec e1 on unix:PATH was cut off after 7 bytes, before its exit was known: it ended without an exit frame, and it could not be taken up again: POST /v1/exec/stream/attach on unix:PATH was answered 404: there is no exec e1
    advice: the command may still run in the VM: see it with `guestctl attach e1`
    ");
    let (_guest, outcome) = exec(&[r#"{"type":"chunk","stream":"stdout","data_b64":"*","cursor":1,"exec_id":"e1"}"#]);
    assert_eq!(outcome.code, Some(125), "what is no base64 is not passed over");
}

#[test]
fn output_that_came_before_a_failure_is_written_to_a_reader_that_is_not_there_yet() {
    // More than a pipe holds, so that guestctl still has some of it when it learns that there will be no more.
    const CHUNKS: usize = 6;
    const CHUNK: usize = 24 * 1024;
    let (closed, was_closed) = channel();
    let guest = FakeGuest::new(move |number, connection| {
        connection.request();
        if number > 0 {
            connection.answer("404 Not Found", r#"{"error":"there is no exec e1","code":"not_found","success":false}"#);
            connection.until_closed();
            return closed.send(()).unwrap();
        }
        connection.stream_head();
        for chunk in 1..=CHUNKS {
            let data = "A".repeat(CHUNK / 3 * 4);
            let cursor = chunk * CHUNK;
            let line =
                json!({"type": "chunk", "stream": "stdout", "data_b64": data, "cursor": cursor, "exec_id": "e1"});
            connection.packet(format!("{line}\n").as_bytes());
        }
        connection.stream_end();
    });
    let mut command = guestctl(&["--vm", &guest.unix(), "exec", "--id", "e1", "true"]);
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    // The answer that it fails on has been read, and its connection closed: only now is there a reader.
    was_closed.recv().unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!((output.status.code(), output.stdout.len()), (Some(125), CHUNKS * CHUNK));
    assert!(String::from_utf8(output.stderr).unwrap().contains("there is no exec e1"));
}

#[test]
fn a_signal_ends_it_although_nobody_reads_its_output() {
    let (closed, was_closed) = channel();
    let guest = FakeGuest::new(move |_, connection| {
        connection.request();
        connection.stream_head();
        let data = "A".repeat(128 * 1024);
        let line = json!({"type": "chunk", "stream": "stdout", "data_b64": data, "cursor": 98304, "exec_id": "e1"});
        connection.packet(format!("{line}\n{EXIT_7}\n").as_bytes());
        connection.stream_end();
        connection.until_closed();
        closed.send(()).unwrap();
    });
    let mut command = guestctl(&["--vm", &guest.unix(), "exec", "--id", "e1", "true"]);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    // It has the exit, and has closed the connection.
    was_closed.recv().unwrap();
    let pid = nix::unistd::Pid::from_raw(child.id().try_into().unwrap());
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).unwrap();
    // Its output is not read before it has ended.
    assert_eq!(child.wait().unwrap().code(), Some(143));
    let mut words = String::new();
    child.stderr.take().unwrap().read_to_string(&mut words).unwrap();
    insta::assert_snapshot!(words, @r"
    guestctl: ended by signal 15 before all output was written
    advice: see that whatever standard output is connected to reads it
    ");
}

#[test]
fn a_stream_that_is_lost_is_taken_up_where_it_was() {
    let guest = FakeGuest::new(|number, connection| {
        connection.request();
        connection.stream_head();
        match number {
            0 => drop(connection.packet(format!("{OUT}\n").as_bytes())),
            _ => {
                connection.packet(format!("{ERR}\n{EXIT_7}\n").as_bytes());
                connection.stream_end();
            }
        }
    });
    let outcome = run(&guest, &["exec", "--id", "e1", "true"]);
    assert_eq!((outcome.code, outcome.stdout.as_slice()), (Some(7), &b"out\n\xff\xfe\0"[..]));
    assert_eq!(outcome.stderr, b"err\n\x80");
    guest.next_request();
    let again = guest.next_request();
    assert!(again.head.starts_with("POST /v1/exec/stream/attach "));
    assert_eq!(again.body, r#"{"exec_id":"e1","cursor":7}"#);
}

#[test]
fn a_request_whose_answer_was_lost_is_the_same_request_again() {
    let guest = FakeGuest::new(|number, connection| {
        connection.request();
        if number > 0 {
            connection.stream_head();
            connection.packet(format!("{EXIT_7}\n").as_bytes());
            connection.stream_end();
        }
    });
    assert_eq!(run(&guest, &["exec", "true"]).code, Some(7));
    let (first, second) = (guest.next_request(), guest.next_request());
    assert_eq!(first, second);
    let request: Value = serde_json::from_str(&first.body).unwrap();
    assert_eq!((request["lossless"].clone(), request["exec_id"].as_str().unwrap().len()), (json!(true), 32));
}

#[test]
fn output_is_shown_when_it_comes_and_not_at_the_end() {
    let (seen, was_seen) = channel::<()>();
    let was_seen = Mutex::new(was_seen);
    let guest = FakeGuest::new(move |_, connection| {
        connection.request();
        connection.stream_head();
        connection.packet(format!("{OUT}\n").as_bytes());
        was_seen.lock().unwrap().recv().unwrap();
        connection.packet(format!("{EXIT_7}\n").as_bytes());
        connection.stream_end();
    });
    let mut child = guestctl(&["--vm", &guest.unix(), "exec", "cat"]).stdout(Stdio::piped()).spawn().unwrap();
    let mut first = [0; 7];
    child.stdout.as_mut().unwrap().read_exact(&mut first).unwrap();
    assert_eq!(&first, b"out\n\xff\xfe\0");
    seen.send(()).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(7));
}

#[test]
fn the_request_says_what_the_command_line_says() {
    let guest = FakeGuest::streaming(&[EXIT_7]);
    let line = "exec --id e-1 -e A=1 -e B=x=y -e A=2 -w /srv -u nobody --timeout 9 -- sh -c true --json";
    let line: Vec<&str> = line.split(' ').collect();
    assert_eq!(run(&guest, &line).code, Some(7));
    let request = guest.next_request();
    assert!(request.head.starts_with("POST /v1/exec/stream "));
    let expected = json!({"command": ["sh", "-c", "true", "--json"], "env": {"A": "2", "B": "x=y"}, "exec_id": "e-1",
        "working_dir": "/srv", "user": "nobody", "timeout_secs": 9, "lossless": true});
    assert_eq!(serde_json::from_str::<Value>(&request.body).unwrap(), expected);
}

#[test]
fn frames_are_printed_as_they_come_for_programs() {
    let guest = FakeGuest::streaming(&[OUT, ERR, EXIT_7]);
    let outcome = run(&guest, &["--json", "exec", "--id", "e1", "true"]);
    assert_eq!((outcome.code, outcome.stderr.as_slice()), (Some(7), &b""[..]));
    let frames =
        |text: &str| text.lines().map(|line| serde_json::from_str(line).unwrap()).collect::<Vec<StreamFrame>>();
    assert_eq!(frames(outcome.stdout()), frames(&[OUT, ERR, EXIT_7].join("\n")));
}

// The way to the VM.

#[test]
fn a_vm_that_cannot_be_reached_is_69() {
    let outcome = outcome(guestctl(&["--vm", "unix:/nowhere/guestd.sock", "info"]));
    assert_eq!((outcome.code, outcome.stdout()), (Some(69), ""));
    insta::assert_snapshot!(String::from_utf8(outcome.stderr).unwrap(), @r"
    guestctl: cannot reach the VM at unix:/nowhere/guestd.sock: No such file or directory (os error 2)
    advice: in the VM, see `systemctl status guestd`; from the host, name the VM with --vm or GUESTD_VM
    ");
    let guest = FakeGuest::new(|_, connection| assert_eq!(connection.read_to("\n"), "CONNECT 1024\n"));
    let outcome = self::outcome(guestctl(&["--vm", &guest.hybrid(), "exec", "true"]));
    assert_eq!(outcome.code, Some(69));
    insta::assert_snapshot!(outcome.stderr(&guest), @r"
    guestctl: cannot reach the VM at fc:PATH:1024: nobody listens on vsock port 1024 in the guest (no OK to CONNECT 1024)
    advice: guestd may not be up yet: wait with `guestctl health --wait 60`, or look at the VM's console
    ");
}

#[test]
fn the_wrong_kind_of_socket_is_recognised() {
    let agent = FakeGuest::new(|_, connection| {
        connection.read_to("\n");
        connection.raw(b"HTTP/1.1 400 Bad Request\r\n\r\n");
    });
    let outcome = outcome(guestctl(&["--vm", &agent.hybrid(), "info"]));
    assert_eq!(outcome.code, Some(69));
    insta::assert_snapshot!(outcome.stderr(&agent), @r#"
    guestctl: cannot reach the VM at fc:PATH:1024: the socket answered "HTTP/1.1 400 Bad Request\r" to CONNECT and not `OK` with a number
    advice: give the uds_path of the VM's vsock device; if this is guestd's own socket, the endpoint is unix:PATH
    "#);
    let firecracker = FakeGuest::new(|_, connection| {
        connection.read_to("\r\n\r\n");
    });
    let outcome = run(&firecracker, &["info"]);
    assert_eq!(outcome.code, Some(125));
    assert!(outcome.stderr(&firecracker).contains("the endpoint is fc:PATH"), "{}", outcome.stderr(&firecracker));
}

#[test]
fn bad_usage_is_2_and_nothing_is_tried() {
    for line in [
        &["--vm", "tcp:1.2.3.4", "info"][..],
        &["exec"],
        &["exec", "--"],
        &["exec", "-e", "NOVALUE", "true"],
        &["attach"],
        &["attach", "x", "--from", "1", "--latest"],
        &["signal", "x"],
        &["exec", "-d", "-i", "true"],
        &["exec", "--memory", "0", "true"],
        &["tunnel"],
        &["tunnel", "80"],
        &["tunnel", "--stdio", "0"],
        &["--json", "exec", "-t", "true"],
        &["--json", "shell"],
        &["proxy"],
        &["proxy", "no host"],
        &["proxy", "host", "0"],
        &["proxy", "host", "443", "more"],
        &["--json", "proxy", "host"],
        &["bridge", "add", "0", "3000"],
        &["bridge", "add", "8080", "[fe80::1]:3000"],
        &["bridge", "add", "8000-8999", "127.0.0.1:3000"],
        &["bridge", "add", "8080", "3000", "--mode", "https"],
        &["bridge", "cut", "0"],
        &["bridge", "auto", "maybe"],
        &["health", "--wait", "-1"],
        &["--json", "completions", "bash"],
        &["--json", "metrics"],
        &[],
    ] {
        let outcome = outcome(guestctl(line));
        assert_eq!((outcome.code, outcome.stdout()), (Some(2), ""), "{line:?}");
        assert!(!outcome.stderr.is_empty(), "{line:?}");
    }
}

#[test]
fn the_environment_names_the_vm_unless_the_command_line_does() {
    let guest = FakeGuest::answering("200 OK", READY);
    let with_env = |value: &str, args: &[&str]| {
        let mut command = guestctl(args);
        command.env("GUESTD_VM", value);
        outcome(command)
    };
    assert_eq!(with_env(&guest.unix(), &["health"]).code, Some(0));
    assert_eq!(with_env("nonsense", &["--vm", &guest.unix(), "health"]).code, Some(0));
    assert_eq!(with_env("nonsense", &["completions", "bash"]).code, Some(0));
    let outcome = with_env("nonsense", &["health"]);
    assert_eq!(outcome.code, Some(2));
    insta::assert_snapshot!(String::from_utf8(outcome.stderr).unwrap(), @r"
    guestctl: GUESTD_VM cannot be used: `nonsense` is no endpoint: it must be unix:PATH, vsock:CID[:PORT] or fc:UDS_PATH[:PORT]
    advice: set GUESTD_VM to an endpoint, unset it, or give --vm
    ");
}

#[test]
fn a_token_comes_from_a_file() {
    let guest = FakeGuest::answering("200 OK", READY);
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(b"s3cret\n").unwrap();
    let path = file.path().to_str().unwrap();
    assert_eq!(run(&guest, &["--token-file", path, "health"]).code, Some(0));
    assert!(guest.next_request().head.contains("authorization: Bearer s3cret\r\n"));
    let outcome = run(&guest, &["--token-file", "/nowhere/token", "health"]);
    assert_eq!(outcome.code, Some(125));
    insta::assert_snapshot!(outcome.stderr(&guest), @r"
    guestctl: cannot read the token file /nowhere/token: No such file or directory (os error 2)
    advice: give --token-file a file that holds the VM's token and nothing else
    ");
}

// The other commands.

#[test]
fn health_is_0_when_ready_and_1_when_not() {
    let outcome = run(&FakeGuest::answering("200 OK", READY), &["health"]);
    assert_eq!(outcome.code, Some(0));
    insta::assert_snapshot!(outcome.stdout(), @"ready: guestd 0.1.0, up 2.50 s, first answered 2.00 s after the kernel's start");
    let degraded = FakeGuest::answering("200 OK", DEGRADED);
    for args in [&["health"][..], &["health", "--wait", "0"]] {
        assert_eq!(run(&degraded, args).code, Some(1));
    }
    let outcome = run(&degraded, &["health", "--json"]);
    assert_eq!((outcome.code, outcome.json()["checks"][0]["name"].clone()), (Some(1), json!("ipv6")));
    let starting = FakeGuest::answering("503 Service Unavailable", STARTING);
    assert_eq!(run(&starting, &["health"]).code, Some(1));
}

#[test]
fn health_waits_until_the_vm_is_ready() {
    let guest = FakeGuest::new(|number, connection| {
        connection.read_to("\n");
        if number == 0 {
            return;
        }
        connection.raw(b"OK 1\n");
        connection.request();
        connection.answer("200 OK", if number == 1 { STARTING } else { READY });
    });
    let outcome = outcome(guestctl(&["--vm", &guest.hybrid(), "health", "--wait", "60"]));
    assert_eq!(outcome.code, Some(0), "{}", outcome.stderr(&guest));
}

#[test]
fn a_vm_that_says_nothing_is_waited_for_no_longer_than_asked() {
    let guest = FakeGuest::new(|_, connection| connection.until_closed());
    let outcome = outcome(guestctl(&["--vm", &guest.hybrid(), "health", "--wait", "1"]));
    assert_eq!(outcome.code, Some(69));
    assert!(outcome.stderr(&guest).contains("took CONNECT 1024 and gave no OK"), "{}", outcome.stderr(&guest));
}

#[test]
fn ports_are_a_table_for_people_and_a_list_for_programs() {
    let guest = FakeGuest::answering("200 OK", LISTENERS);
    let outcome = run(&guest, &["ports"]);
    assert_eq!(outcome.code, Some(0));
    insta::assert_snapshot!(outcome.stdout(), @r"
    PORT  ADDRESS  EXPOSURE  PROCESS               URL
    22    [::]     direct    sshd (300)            https://vm-7.vm.vers.sh:22
    3000  0.0.0.0  bridged   httpd\u{1b}[2J (412)  https://vm-7.vm.vers.sh:3000

    0.0.0.0:3000 is bridged: an IPv4-only bind (every IPv4 address and no IPv6 one)
        bind [::] to do without

    1 more in other network namespaces (containers): guestctl ports --all
    ");
    assert_eq!(run(&guest, &["ports", "--json"]).json().as_array().unwrap().len(), 2);
    let all: Value = serde_json::from_str(LISTENERS).unwrap();
    assert_eq!(run(&guest, &["ports", "--json", "--all"]).json(), all);
}

#[test]
fn a_rule_is_added_to_those_that_are_there() {
    let guest = FakeGuest::new(|number, connection| {
        connection.request();
        connection.answer("200 OK", match number {
            0 => r#"{"auto":true,"tier":"bind","rules":[{"listen":9000,"to":"127.0.0.1:1"}],"ports":[]}"#,
            _ => r#"{"auto":true,"tier":"bind","rules":[{"listen":9000,"to":"127.0.0.1:1"},{"listen":8080,"to":"127.0.0.1:3000"}],"ports":[]}"#,
        });
    });
    let outcome = run(&guest, &["bridge", "add", "8080", "3000"]);
    assert_eq!(outcome.code, Some(0));
    insta::assert_snapshot!(outcome.stdout(), @r"
    automatic bridging is on; tier bind

    PORT  TO              KIND  MODE  STATE    OPEN  TOTAL  IN  OUT  ERRORS  MESSAGE
    9000  127.0.0.1:1     rule  tcp   waiting  -     -      -   -    -       -
    8080  127.0.0.1:3000  rule  tcp   waiting  -     -      -   -    -       -
    ");
    assert!(guest.next_request().head.starts_with("GET /v1/bridge "));
    let request = guest.next_request();
    assert!(request.head.starts_with("PUT /v1/bridge "));
    assert_eq!(request.body, r#"{"rules":[{"listen":9000,"to":"127.0.0.1:1"},{"listen":8080,"to":"127.0.0.1:3000"}]}"#);
}

#[test]
fn connections_of_a_port_or_of_all_are_cut() {
    let guest = FakeGuest::answering("200 OK", r#"{"auto":true,"tier":"steer","rules":[],"ports":[]}"#);
    for (line, body) in
        [(&["bridge", "cut", "8080"][..], r#"{"listen":8080}"#), (&["bridge", "cut"], r#"{"listen":null}"#)]
    {
        assert_eq!(run(&guest, line).code, Some(0));
        let request = guest.next_request();
        assert!(request.head.starts_with("POST /v1/bridge/cut "));
        assert_eq!(request.body, body);
    }
}

#[test]
fn automatic_bridging_is_switched_and_unknown_rules_are_not_removed() {
    let guest = FakeGuest::answering("200 OK", r#"{"auto":false,"tier":"bind","rules":[],"ports":[]}"#);
    assert_eq!(run(&guest, &["bridge", "auto", "off", "--json"]).json()["auto"], json!(false));
    assert_eq!(guest.next_request().body, r#"{"auto":false}"#);
    let outcome = run(&guest, &["bridge", "remove", "8080"]);
    assert_eq!(outcome.code, Some(125));
    insta::assert_snapshot!(outcome.stderr(&guest), @r"
    guestctl: no rule bridges port 8080
    advice: see what there is: guestctl bridge list
    ");
}

#[test]
fn metrics_are_passed_on_with_nothing_that_drives_a_terminal() {
    let guest = FakeGuest::answering("200 OK", "# TYPE guestd_up gauge\nguestd_up 1\nx{l=\"\u{1b}c\"} 1\n");
    let outcome = run(&guest, &["metrics"]);
    assert_eq!(outcome.stdout(), "# TYPE guestd_up gauge\nguestd_up 1\nx{l=\"\\u{1b}c\"} 1\n");
}

#[test]
fn help_lists_what_works_and_nothing_else() {
    let outcome = outcome(guestctl(&["--help"]));
    assert_eq!(outcome.code, Some(0));
    let help = outcome.stdout();
    let commands = help.split_once("Commands:\n").unwrap().1.split_once("\n\n").unwrap().0;
    let names: Vec<&str> = commands.lines().filter_map(|line| line.split_whitespace().next()).collect();
    assert_eq!(
        names,
        [
            "health",
            "info",
            "exec",
            "attach",
            "ps",
            "signal",
            "wait",
            "logs",
            "service",
            "power",
            "shell",
            "tunnel",
            "proxy",
            "ports",
            "bridge",
            "keys",
            "cp",
            "snapshot",
            "generation",
            "env",
            "disk",
            "metrics",
            "completions",
            "help"
        ]
    );
}

#[test]
fn completions_are_made_without_a_vm() {
    let outcome = outcome(guestctl(&["completions", "bash"]));
    assert_eq!(outcome.code, Some(0));
    assert!(outcome.stdout().contains("_guestctl"));
}

// Output that nobody takes.

#[test]
fn a_reader_that_has_gone_ends_it_quietly() {
    let (reader, writer): (PipeReader, _) = std::io::pipe().unwrap();
    drop(reader);
    let guest = FakeGuest::answering("200 OK", READY);
    let mut command = guestctl(&["--vm", &guest.unix(), "health"]);
    command.stdout(writer).stderr(Stdio::piped());
    let output = command.spawn().unwrap().wait_with_output().unwrap();
    assert_eq!((output.status.code(), output.stderr), (Some(141), Vec::new()));
}

#[test]
fn a_full_disk_is_told() {
    let guest = FakeGuest::streaming(&[OUT, EXIT_7]);
    let mut command = guestctl(&["--vm", &guest.unix(), "exec", "true"]);
    command.stdout(std::fs::File::create("/dev/full").unwrap()).stderr(Stdio::piped());
    let output = command.spawn().unwrap().wait_with_output().unwrap();
    let outcome = Outcome { code: output.status.code(), stdout: Vec::new(), stderr: output.stderr };
    assert_eq!(outcome.code, Some(125));
    insta::assert_snapshot!(outcome.stderr(&guest), @r"
    guestctl: cannot write the output: No space left on device (os error 28)
    advice: check what standard output is, and that its disk is not full
    ");
}

#[test]
fn an_error_stream_that_nobody_reads_does_not_stop_a_command() {
    let (reader, writer): (PipeReader, _) = std::io::pipe().unwrap();
    drop(reader);
    let guest = FakeGuest::streaming(&[ERR, OUT, EXIT_7]);
    let mut command = guestctl(&["--vm", &guest.unix(), "exec", "true"]);
    command.stderr(writer).stdout(Stdio::piped());
    let output = command.spawn().unwrap().wait_with_output().unwrap();
    assert_eq!((output.status.code(), output.stdout), (Some(7), b"out\n\xff\xfe\0".to_vec()));
}
