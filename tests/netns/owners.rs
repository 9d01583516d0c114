//! Whose a listener is, while processes pass it on, become other programs, and end; and names that are meant to do harm.

use std::{
    io::Write,
    os::fd::OwnedFd,
    process::{Command, Stdio},
};

use nix::sys::signal::{Signal, kill};
use serde_json::Value;

use crate::{
    containers::Process,
    namespace::{agent, connect, enter, listen, own_listeners, report},
    support::{TestAgent, eventually},
};

fn name(entry: &Value) -> &str {
    entry["process"]["name"].as_str().unwrap_or_default()
}

#[test]
fn listener_that_is_passed_on_is_its_new_owners_at_the_next_look_and_nobodys_copy_is_counted_twice() {
    let agent = agent();
    let listener = listen("[::]:3000");
    report(&agent, &listener, |entry| entry["process"]["pid"] == std::process::id());
    let first = Process::with_socket(&["sleep", "600"], listener.try_clone().unwrap());
    let second = Process::with_socket(&["sleep", "601"], listener.try_clone().unwrap());
    let shared = report(&agent, &listener, |entry| entry["process"]["holders"] == 3);
    assert_eq!(shared["process"]["pid"], std::process::id());
    let inode = nix::sys::stat::fstat(&listener).unwrap().st_ino;
    drop(listener);
    let owned_by = |pid: u32, holders: Value| {
        eventually("it is the other's", || {
            let listeners = own_listeners(&agent);
            let entry = listeners.iter().find(|entry| entry["inode"] == inode)?;
            (entry["process"]["pid"] == pid && entry["process"]["holders"] == holders).then_some(())
        });
    };
    let (first_pid, second_pid) = (first.0.id(), second.0.id());
    owned_by(first_pid.min(second_pid), 2.into());
    drop(first);
    owned_by(second_pid, Value::Null);
}

#[test]
fn process_that_becomes_another_program_is_known_by_its_new_name_and_command() {
    let agent = agent();
    let listener = listen("[::]:3000");
    let mut command = Command::new("setpriv");
    // The second is of the same name, and only its command line tells it.
    command.args(["--pdeathsig", "KILL", "sh", "-c", "read go; exec sh -c 'read go; exec sleep 600' second"]);
    command.stdin(Stdio::piped()).stdout(Stdio::from(OwnedFd::from(listener.try_clone().unwrap())));
    let mut process = Process(command.spawn().unwrap());
    // It would hold the socket still.
    drop(command);
    let inode = nix::sys::stat::fstat(&listener).unwrap().st_ino;
    drop(listener);
    let mut go = process.0.stdin.take().unwrap();
    let until = |what: &str, is: &dyn Fn(&str, &str) -> bool| {
        let pid = eventually(what, || {
            let listeners = own_listeners(&agent);
            let entry = listeners.iter().find(|entry| entry["inode"] == inode)?;
            let command = entry["process"]["command"].as_str()?;
            is(name(entry), command).then(|| entry["process"]["pid"].as_u64().unwrap())
        });
        assert_eq!(pid, u64::from(process.0.id()));
    };
    until("it is the first shell", &|name, command| name == "sh" && command.starts_with("sh -c read go; exec sh"));
    go.write_all(b"\n").unwrap();
    until("it is the second", &|name, command| name == "sh" && command.ends_with("sleep 600 second"));
    go.write_all(b"\n").unwrap();
    until("it is sleep", &|name, command| name == "sleep" && command == "sleep 600");
}

/// PID 1 of a VM that holds the service's socket, as systemd does, and starts the service at the first connection.
const INIT: &str = r#"
import socket, subprocess, sys
listener = socket.create_server(("::", 3000), family=socket.AF_INET6)
agent = subprocess.Popen(sys.argv[1:])
client, _ = listener.accept()
service = subprocess.Popen(["sleep", "600"], stdin=listener)
agent.wait()
"#;

#[test]
fn socket_that_init_holds_is_the_services_as_soon_as_the_service_holds_it_too() {
    enter();
    let init = ["unshare", "--pid", "--fork", "--mount-proc", "--kill-child", "python3", "-c", INIT];
    let agent = TestAgent::start_with("bridge.auto = false\nlisteners.poll_ms = 50\n", &init);
    let owner = |wanted: &str| {
        eventually("the owner is as expected", || {
            own_listeners(&agent).into_iter().find(|entry| name(entry) == wanted).map(|entry| entry["process"].clone())
        })
    };
    assert_eq!(owner("python3")["pid"], 1);
    let _client = connect(3000);
    let service = owner("sleep");
    assert_eq!(service["holders"], 2, "{service}");
    // unshare(1) ends with its child and not by SIGTERM.
    let children = std::fs::read_to_string(format!("/proc/{0}/task/{0}/children", agent.pid())).unwrap();
    let child = children.trim().parse().unwrap();
    kill(nix::unistd::Pid::from_raw(child), Signal::SIGKILL).unwrap();
}

/// Gives itself a name of these bytes by one write, and stops.
const EVIL: &str =
    r#"open my $comm, ">", "/proc/self/comm"; syswrite $comm, "\x1b[2J\n\xff)"; close $comm; kill STOP => $$"#;

#[test]
fn names_with_escapes_line_feeds_and_bytes_that_are_no_text_are_valid_json_and_harmless_to_see() {
    let agent = agent();
    let listener = listen("0.0.0.0:3000");
    let script = "exec -a $'\\x1b]0;owned\\a\\n\\xff\"' perl -e \"$1\" $'\\x9b2J\\r\\n\\xc3\\x28'";
    let _evil = Process::with_socket(&["bash", "-c", script, "bash", EVIL], listener.try_clone().unwrap());
    let inode = nix::sys::stat::fstat(&listener).unwrap().st_ino;
    drop(listener);
    let entry = eventually("the process has its name", || {
        let listeners = own_listeners(&agent);
        listeners.iter().find(|entry| entry["inode"] == inode && name(entry).starts_with('\u{1b}')).cloned()
    });
    assert_eq!(name(&entry), "\u{1b}[2J\n\u{fffd})");
    let command = entry["process"]["command"].as_str().unwrap();
    assert!(command.starts_with("\u{1b}]0;owned\u{7}\n\u{fffd}\" -e"), "{command:?}");
    assert!(command.ends_with("\u{fffd}2J\r\n\u{fffd}("), "{command:?}");
    let vm = format!("unix:{}", agent.socket().display());
    let output = Command::new(env!("CARGO_BIN_EXE_guestctl")).args(["--vm", &vm, "ports", "--all"]).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let shown = String::from_utf8(output.stdout).unwrap();
    assert!(shown.contains("3000") && shown.contains("2J"), "{shown:?}");
    let harmful: Vec<char> = shown.chars().filter(|c| c.is_control() && *c != '\n').collect();
    assert_eq!(harmful, [] as [char; 0], "{shown:?}");
    let line = shown.lines().find(|line| line.starts_with("3000")).unwrap();
    assert!(line.contains("2J"), "the name breaks no line: {shown:?}");
}
