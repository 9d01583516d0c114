//! Changes of the bridge's settings over restarts of the agent.

use std::{
    io::Write,
    os::unix::net::{UnixDatagram, UnixStream},
    path::Path,
    process::{Child, Command},
};

use serde_json::{Value, json};

use crate::support::{DEADLINE, answer, request};

/// An agent with this directory's socket and configuration, by which its data plane ends with it.
struct Agent {
    child: Child,
}

impl Agent {
    fn start(dir: &Path, config: &str) -> Self {
        std::fs::write(dir.join("config.toml"), config).unwrap();
        let notify = dir.join("notify");
        let _ = std::fs::remove_file(&notify);
        let ready = UnixDatagram::bind(&notify).unwrap();
        ready.set_read_timeout(Some(DEADLINE)).unwrap();
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "TERM"]).arg(env!("CARGO_BIN_EXE_guestd")).args(["agent", "--no-vsock"]);
        command.arg("--config").arg(dir.join("config.toml")).arg("--socket").arg(dir.join("guestd.sock"));
        let agent = Self { child: command.env("NOTIFY_SOCKET", &notify).spawn().unwrap() };
        let length = ready.recv(&mut [0; 64]).expect("the agent says that it is ready");
        assert!(length > 0);
        agent
    }

    fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn call(dir: &Path, method: &str, body: &str) -> Value {
    let mut stream = UnixStream::connect(dir.join("guestd.sock")).unwrap();
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    stream.write_all(request(method, "/v1/bridge", body).as_bytes()).unwrap();
    let (status, body) = answer(&mut stream);
    assert_eq!(status, 200, "{body}");
    body
}

/// Where nothing ever listens, so that nothing is bridged on this machine.
fn rule() -> Value {
    json!({"listen": "1-2", "to": "127.0.0.1", "mode": "proxy-v2"})
}

#[test]
fn a_rule_that_was_added_outlives_a_crash_until_the_configuration_changes() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let config = "[bridge]\nauto = false\ngrace_ms = 0\n";
    let agent = Agent::start(dir, config);
    let changed = call(dir, "PUT", &json!({"rules": [rule()]}).to_string());
    assert_eq!((&changed["rules"], &changed["not_kept"]), (&json!([rule()]), &Value::Null));
    agent.kill();

    let agent = Agent::start(dir, config);
    assert_eq!(call(dir, "GET", "")["rules"], json!([rule()]));
    agent.kill();

    let agent = Agent::start(dir, "[bridge]\nauto = false\ngrace_ms = 0\nrules = [\"3-4=127.0.0.1\"]\n");
    assert_eq!(call(dir, "GET", "")["rules"], json!([{"listen": "3-4", "to": "127.0.0.1"}]));
    agent.kill();

    let agent = Agent::start(dir, config);
    assert_eq!(call(dir, "GET", "")["rules"], json!([]));
    agent.kill();
    assert!(!dir.join("guestd.sock.bridge.json").exists());
}

#[test]
fn a_change_that_cannot_be_kept_holds_and_says_so() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    // A directory of the file's name, which no rename replaces.
    std::fs::create_dir(dir.join("guestd.sock.bridge.json")).unwrap();
    let _agent = Agent::start(dir, "[bridge]\nauto = false\ngrace_ms = 0\n");
    let changed = call(dir, "PUT", &json!({"rules": [rule()]}).to_string());
    assert_eq!(changed["rules"], json!([rule()]));
    let why = changed["not_kept"].as_str().unwrap();
    assert!(why.starts_with("cannot write ") && why.contains("guestd.sock.bridge.json"), "{why}");
    assert_eq!(call(dir, "GET", "")["not_kept"], Value::Null);
}
