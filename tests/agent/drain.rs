//! SIGTERM: nothing that runs is lost, nothing new is taken.

use std::{io::Write, os::unix::net::UnixStream, path::Path};

use nix::sys::signal::{Signal, kill};
use serde_json::json;

use crate::support::{TestAgent, answer, eventually, request};

/// Starts an exec that answers when `go` is written to, and waits until it runs.
fn start_waiting_exec(agent: &TestAgent, dir: &Path) -> UnixStream {
    let (begun, go) = (dir.join("begun"), dir.join("go"));
    assert!(std::process::Command::new("mkfifo").arg(&go).status().unwrap().success());
    let script = format!("touch {}; read line < {}; echo $line", begun.display(), go.display());
    let mut stream = agent.connect();
    stream
        .write_all(request("POST", "/v1/exec", &json!({"command": ["sh", "-c", script]}).to_string()).as_bytes())
        .unwrap();
    eventually("the command runs", || begun.exists().then_some(()));
    stream
}

#[test]
fn running_response_is_completed_and_new_connections_are_refused() {
    let agent = TestAgent::start();
    let dir = tempfile::tempdir().unwrap();
    let mut running = start_waiting_exec(&agent, dir.path());
    kill(agent.pid(), Signal::SIGTERM).unwrap();
    eventually("the socket is gone", || UnixStream::connect(agent.socket()).is_err().then_some(()));
    std::fs::write(dir.path().join("go"), "finished\n").unwrap();
    let (status, result) = answer(&mut running);
    assert_eq!((status, &result["stdout"]), (200, &"finished\n".into()));
    assert!(agent.terminate().success());
}

#[test]
fn command_that_does_not_end_is_ended_at_the_deadline_and_its_response_still_comes() {
    let agent = TestAgent::start();
    let dir = tempfile::tempdir().unwrap();
    let mut running = start_waiting_exec(&agent, dir.path());
    assert!(agent.terminate().success());
    let (status, result) = answer(&mut running);
    assert_eq!((status, &result["exit_code"], &result["signal"]), (200, &143.into(), &15.into()), "{result}");
}

#[test]
fn idle_connection_does_not_delay_the_end() {
    let agent = TestAgent::start();
    let _idle = agent.connect();
    let socket = agent.socket().to_owned();
    let began = std::time::Instant::now();
    assert!(agent.terminate().success());
    assert!(began.elapsed() < guestd::limits::DRAIN_TIME / 2, "{:?}", began.elapsed());
    assert!(!socket.exists());
}

#[test]
fn command_whose_client_has_gone_is_told_to_end() {
    let agent = TestAgent::start();
    let dir = tempfile::tempdir().unwrap();
    let (begun, told) = (dir.path().join("begun"), dir.path().join("told"));
    // By the shell itself: told twice, it would lose a program that it has just started.
    let script = format!("trap ': >{}; exit' TERM; : >{}; sleep 100 & wait", told.display(), begun.display());
    let mut stream = agent.connect();
    stream
        .write_all(request("POST", "/v1/exec", &json!({"command": ["sh", "-c", script]}).to_string()).as_bytes())
        .unwrap();
    eventually("the command runs", || begun.exists().then_some(()));
    drop(stream);
    assert!(agent.terminate().success());
    assert!(told.exists());
}
