//! `guestctl ports` against guests that say every byte: what it prints of changes, over lost connections, and of probes.
#![cfg(test)]
#![expect(dead_code, reason = "the fake guest serves other tests, too")]

mod fake_guest;

use std::io::{BufRead, BufReader};
use std::process::{Child, ChildStdout, Command, Stdio};

use fake_guest::{Connection, FakeGuest};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};

fn listener(port: u16, inode: u64, name: &str) -> Value {
    json!({
        "port": port, "address": "::", "family": "ipv6", "v6only": false, "scope": "wildcard", "exposure": "direct", "cause": null,
        "hint": null, "url": format!("https://vm-7.vm.vers.sh:{port}"), "netns": 1, "inode": inode,
        "process": {"pid": 300, "name": name, "command": name, "uid": 0, "unit": null},
    })
}

fn event(kind: &str, listener: Value) -> Value {
    json!({"type": kind, "listener": listener})
}

fn synced() -> Value {
    json!({"type": "synced"})
}

/// Begins the stream and says these events.
fn say(connection: &mut Connection, events: &[Value]) {
    connection.request();
    connection.stream_head();
    for event in events {
        connection.packet(format!("{event}\n").as_bytes());
    }
}

fn guestctl(guest: &FakeGuest, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_guestctl"));
    command.arg("--vm").arg(guest.unix()).args(args).stdin(Stdio::null()).env_remove("NO_COLOR");
    command
}

/// A guestctl that watches.
struct Watching {
    child: Child,
    lines: std::io::Lines<BufReader<ChildStdout>>,
}

impl Watching {
    fn start(guest: &FakeGuest, args: &[&str]) -> Self {
        let mut child = guestctl(guest, args).stdout(Stdio::piped()).spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        Self { child, lines }
    }

    fn lines(&mut self, count: usize) -> Vec<String> {
        (&mut self.lines).take(count).map(Result::unwrap).collect()
    }

    fn signal(mut self, signal: Signal) -> Option<i32> {
        kill(Pid::from_raw(self.child.id().try_into().unwrap()), signal).unwrap();
        self.child.wait().unwrap().code()
    }
}

impl Drop for Watching {
    fn drop(&mut self) {
        // After its end there is nothing left to kill.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Of the first connection it tells two listeners and is lost; of the second, that one of them has become another; the third
/// says the same and waits.
fn guest_that_is_lost(lost: fn(&mut Connection)) -> FakeGuest {
    FakeGuest::new(move |number, connection| match number {
        0 => {
            say(
                connection,
                &[event("added", listener(22, 1, "sshd")), event("added", listener(80, 2, "old")), synced()],
            );
            lost(connection);
        }
        // A connection that is closed before its answer.
        1 => {}
        _ => {
            say(
                connection,
                &[event("added", listener(22, 1, "sshd")), event("added", listener(80, 3, "new\u{1b}[2J")), synced()],
            );
            connection.until_closed();
        }
    })
}

#[test]
fn changes_are_lines_and_a_lost_connection_is_taken_up_again() {
    let guest = guest_that_is_lost(|_| {});
    let mut watching = Watching::start(&guest, &["ports", "--watch"]);
    let mut lines = watching.lines(7);
    let again = lines.remove(4);
    assert!(
        again.starts_with("unknown  the connection to unix:") && again.contains(" ended before the answer"),
        "{again}"
    );
    let text = lines.join("\n").replace(guest.unix().trim_start_matches("unix:"), "PATH");
    insta::assert_snapshot!(text, @r"
    added    [::]:22 direct sshd (300) https://vm-7.vm.vers.sh:22
    added    [::]:80 direct old (300) https://vm-7.vm.vers.sh:80
    synced
    unknown  the listeners of unix:PATH cannot be followed any more: error reading a body from connection
    removed  [::]:80 direct old (300) https://vm-7.vm.vers.sh:80
    added    [::]:80 direct new\u{1b}[2J (300) https://vm-7.vm.vers.sh:80
    ");
    assert_eq!(watching.lines(1), ["synced"]);
    assert_eq!(watching.signal(Signal::SIGINT), Some(130));
}

#[test]
fn programs_get_the_events_as_if_there_were_one_connection() {
    let guest = guest_that_is_lost(|connection| {
        connection.packet(b"{\"type\":\"later\",\"what\":1}\n{\"type\":\"end\"}\n");
        connection.stream_end();
    });
    let mut watching = Watching::start(&guest, &["--json", "ports", "--watch"]);
    let lines: Vec<Value> = watching.lines(8).iter().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines[3]["type"], "unknown");
    assert_eq!(lines[3]["message"], "guestd in the VM is ending");
    let mut without_trouble = lines.clone();
    without_trouble.retain(|line| line["type"] != "unknown");
    assert_eq!(
        without_trouble,
        [
            event("added", listener(22, 1, "sshd")),
            event("added", listener(80, 2, "old")),
            synced(),
            event("removed", listener(80, 2, "old")),
            event("added", listener(80, 3, "new\u{1b}[2J")),
            synced(),
        ]
    );
    assert_eq!(watching.signal(Signal::SIGTERM), Some(143));
}

#[test]
fn a_vm_that_cannot_be_watched_at_first_is_a_failure_at_once() {
    let error = r#"{"error":"there is no `/v1/listeners/watch` in this API","code":"not_found","success":false}"#;
    let guest = FakeGuest::answering("404 Not Found", error);
    let output = guestctl(&guest, &["ports", "--watch"]).output().unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(125), "{stderr}");
    assert!(stderr.contains("there is no `/v1/listeners/watch` in this API"), "{stderr}");
    let unix = guest.unix() + ".gone";
    let output =
        Command::new(env!("CARGO_BIN_EXE_guestctl")).args(["--vm", &unix, "ports", "--watch"]).output().unwrap();
    assert_eq!(output.status.code(), Some(69));
}

#[test]
fn what_is_no_event_ends_it() {
    let guest = FakeGuest::new(|_, connection| {
        connection.request();
        connection.stream_head();
        connection.packet(b"{\"type\":\"added\"}\n");
        connection.until_closed();
    });
    let output = guestctl(&guest, &["ports", "--watch"]).output().unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(125), "{stderr}");
    assert!(stderr.contains("the answer to GET /v1/listeners/watch") && stderr.contains("missing field"), "{stderr}");
}

#[test]
fn a_probe_is_a_column_and_its_contradiction_a_paragraph() {
    let mut ssh = listener(22, 1, "sshd");
    ssh["probe"] = json!({"address": "fd00::2", "port": 22, "outcome": "banner", "connect_ms": 0.084,
        "banner": r"SSH-2.0-OpenSSH_9.2p1 Debian-2+deb12u3 and more of it\r\nsecond line", "contradicts": false});
    let mut web = listener(80, 2, "nginx");
    web["probe"] = json!({"address": "fd00::2", "port": 80, "outcome": "timed_out", "connect_ms": null, "banner": null, "contradicts": true});
    web["hint"] = json!("a probe contradicts this: \u{1b}[2J");
    let mut odd = listener(90, 3, "odd");
    odd["probe"] = json!({"address": null, "port": 90, "outcome": "of_a_later_version", "connect_ms": null, "banner": "\u{9b}2J", "contradicts": false});
    let mut private = listener(5432, 4, "postgres");
    private["url"] = Value::Null;
    let body = json!([ssh, web, odd, private]).to_string();
    let guest = FakeGuest::new(move |_, connection| {
        connection.request();
        connection.answer("200 OK", &body);
    });
    let output = guestctl(&guest, &["ports", "--probe"]).output().unwrap();
    insta::assert_snapshot!(String::from_utf8(output.stdout).unwrap(), @r"
    PORT  ADDRESS  EXPOSURE  PROBE                                            PROCESS         URL
    22    [::]     direct    banner 0.1 ms SSH-2.0-OpenSSH_9.2p1 Debian-2+d…  sshd (300)      https://vm-7.vm.vers.sh:22
    80    [::]     direct    ! timed out                                      nginx (300)     https://vm-7.vm.vers.sh:80
    90    [::]     direct    unknown \u{9b}2J                                 odd (300)       https://vm-7.vm.vers.sh:90
    5432  [::]     direct    -                                                postgres (300)  -

    [::]:80 is direct: so it is bound, and a probe says otherwise
        a probe contradicts this: \u{1b}[2J
    ");
    assert!(guest.next_request().head.starts_with("GET /v1/listeners?probe=true HTTP/1.1\r\n"));
    assert!(guest.next_request().head.starts_with("GET /v1/listeners/udp HTTP/1.1\r\n"));
}

#[test]
fn flags_that_exclude_each_other_are_bad_usage() {
    for args in [["--watch", "--probe"], ["--watch", "--udp"], ["--udp", "--probe"], ["--udp", "--all"]] {
        let output = Command::new(env!("CARGO_BIN_EXE_guestctl")).arg("ports").args(args).output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{args:?}");
    }
}
