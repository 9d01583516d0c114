//! Processes choose their names: a name is data to programs and harmless to terminals, in every form of output.

use std::{
    io::{BufRead, BufReader},
    os::fd::OwnedFd,
    process::{Child, Command, Stdio},
};

use serde_json::Value;

use crate::{
    namespace::{agent, listen, own_listeners},
    support::eventually,
    watch::{Watch, is_synced},
};

/// A process, ended with this value.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Clears the screen, ends the line, closes proc(5)'s parenthesis, and is a quote and a backslash to JSON.
const NAME: &str = "\x1b[2J\n) \"\\\u{9b}m";

fn is_harmless(text: &str) -> bool {
    text.chars().all(|character| character == '\n' || !character.is_control())
}

#[test]
fn name_of_a_process_drives_no_terminal_and_breaks_no_json() {
    let agent = agent();
    let dir = tempfile::tempdir().unwrap();
    let program = dir.path().join(NAME);
    std::fs::copy("/bin/sleep", &program).unwrap();
    let socket = listen("0.0.0.0:3000");
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL"]).arg(&program).arg("600").stdin(OwnedFd::from(socket));
    let holder = Running(command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap());
    // The command holds what its child got.
    drop(command);
    let pid = holder.0.id();
    eventually("the other process is the owner, and bridged", || {
        let listeners = own_listeners(&agent);
        let listener = &listeners[0];
        let process = &listener["process"];
        (process["pid"] == pid && process["name"] == NAME && listener["exposure"] == "bridged").then_some(())
    });

    let mut watch = Watch::open(&agent);
    let told = watch.until(is_synced);
    assert!(told.iter().any(|event| event["listener"]["process"]["name"] == NAME), "{told:?}");

    let guestctl = |args: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_guestctl"));
        command.arg("--vm").arg(format!("unix:{}", agent.socket().display())).args(args);
        command
    };
    for args in [&["ports"][..], &["ports", "--probe"], &["ports", "--json"], &["ports", "--udp"]] {
        let text = String::from_utf8(guestctl(args).output().unwrap().stdout).unwrap();
        assert!(is_harmless(&text), "{args:?}: {text:?}");
    }
    let json: Value = serde_json::from_slice(&guestctl(&["ports", "--json"]).output().unwrap().stdout).unwrap();
    assert!(json.as_array().unwrap().iter().any(|entry| entry["process"]["name"] == NAME), "{json}");
    for args in [&["ports", "--watch"][..], &["ports", "--watch", "--json"]] {
        let mut child = Running(guestctl(args).stdout(Stdio::piped()).spawn().unwrap());
        let mut lines = BufReader::new(child.0.stdout.take().unwrap()).lines().map(Result::unwrap);
        let line = lines.find(|line| line.contains("3000")).unwrap();
        assert!(line.contains("added") && line.contains("[2J") && is_harmless(&line), "{args:?}: {line:?}");
    }
}
