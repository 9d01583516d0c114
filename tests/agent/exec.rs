//! Execs over the wire.

use std::io::{BufRead, BufReader, Write};

use base64::Engine;
use serde_json::{Value, json};

use crate::support::{TestAgent, request};

fn frames(agent: &TestAgent, body: &Value) -> Vec<Value> {
    let mut stream = agent.connect();
    // HTTP/1.0, so that the body comes without chunks.
    stream
        .write_all(request("POST", "/v1/exec/stream", &body.to_string()).replace("HTTP/1.1", "HTTP/1.0").as_bytes())
        .unwrap();
    let lines = BufReader::new(stream).lines().map(Result::unwrap);
    lines.skip_while(|line| !line.is_empty()).skip(1).map(|line| serde_json::from_str(&line).unwrap()).collect()
}

fn output(frames: &[Value], stream: &str) -> Vec<u8> {
    let chunks = frames.iter().filter(|frame| frame["stream"] == stream);
    chunks
        .flat_map(|frame| {
            base64::engine::general_purpose::STANDARD.decode(frame["data_b64"].as_str().unwrap()).unwrap()
        })
        .collect()
}

#[test]
fn exec_answers_with_output_and_exit_code() {
    let agent = TestAgent::start_with("bridge.auto = false\nvm_id = \"abc\"\n", &[]);
    let request = json!({
        "command": ["sh", "-c", "cat; echo \"$GREETING $VERS_VM_ID\" >&2; pwd; exit 7"],
        "stdin": "in\n", "env": {"GREETING": "hello"}, "working_dir": "/usr", "exec_id": "mine",
    });
    let (status, result) = agent.call("POST", "/v1/exec", &request.to_string());
    assert_eq!(status, 200, "{result}");
    assert_eq!(result["exec_id"], "mine");
    assert_eq!(result["exit_code"], 7);
    assert_eq!((&result["stdout"], &result["stderr"]), (&"in\n/usr\n".into(), &"hello abc\n".into()));
    assert_eq!((&result["timed_out"], &result["truncated"]), (&false.into(), &false.into()));
}

#[test]
fn stream_keeps_stdout_and_stderr_apart_and_ends_with_the_exit() {
    let agent = TestAgent::start();
    let frames = frames(&agent, &json!({"command": ["sh", "-c", "printf out; printf err >&2; exit 3"]}));
    assert_eq!((output(&frames, "stdout"), output(&frames, "stderr")), (b"out".to_vec(), b"err".to_vec()));
    let last = frames.last().unwrap();
    assert_eq!((&last["type"], &last["exit_code"], &last["cursor"]), (&"exit".into(), &3.into(), &6.into()));
}

#[test]
fn stream_of_binary_output_is_byte_exact() {
    let agent = TestAgent::start();
    let size = 3 * 1024 * 1024;
    let script = format!("head -c {size} /dev/zero | tr '\\0' '\\377'");
    let frames = frames(&agent, &json!({"command": ["sh", "-c", script], "lossless": true}));
    let bytes = output(&frames, "stdout");
    assert_eq!(bytes.len(), size);
    assert!(bytes.iter().all(|byte| *byte == 0xff));
    assert_eq!(frames.last().unwrap()["cursor"], size);
}

#[test]
fn command_that_runs_out_of_time_is_reported_so() {
    let agent = TestAgent::start();
    let (status, result) = agent.call("POST", "/v1/exec", r#"{"command": ["sleep", "100"], "timeout_secs": 1}"#);
    assert_eq!((status, &result["timed_out"], &result["exit_code"]), (200, &true.into(), &124.into()), "{result}");
}

#[test]
fn client_that_goes_away_neither_ends_the_command_nor_the_agent() {
    let agent = TestAgent::start();
    let dir = tempfile::tempdir().unwrap();
    let (begun, go, done) = (dir.path().join("begun"), dir.path().join("go"), dir.path().join("done"));
    let made = std::process::Command::new("mkfifo").arg(&go).status().unwrap();
    assert!(made.success());
    let script = format!(
        "touch {0}; read line < {1}; yes | head -c 3000000; mv {0} {2}",
        begun.display(),
        go.display(),
        done.display()
    );
    let mut stream = agent.connect();
    stream
        .write_all(request("POST", "/v1/exec/stream", &json!({"command": ["sh", "-c", script]}).to_string()).as_bytes())
        .unwrap();
    crate::support::eventually("the command runs", || begun.exists().then_some(()));
    drop(stream);
    std::fs::write(&go, "go\n").unwrap();
    crate::support::eventually("the command ends by itself", || done.exists().then_some(()));
    assert!(agent.get("/health")["version"].is_string());
}
