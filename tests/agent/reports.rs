//! Info, listeners and metrics.

use std::{
    net::TcpListener,
    process::{Child, Command, Stdio},
};

use crate::support::{TestAgent, eventually};

#[test]
fn info_tells_kernel_machine_and_boot() {
    let agent = TestAgent::start_with("bridge.auto = false\nvm_id = \"abc\"\n", &[]);
    let info = agent.get("/v1/info");
    let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    assert_eq!(info["kernel"], kernel.trim());
    assert_eq!(info["identity"]["public_name"], "abc.vm.vers.sh");
    assert!(info["memory_total_bytes"].as_u64().unwrap() > 0 && info["disk_total_bytes"].as_u64().unwrap() > 0);
    let boot = &info["boot"];
    assert!(boot["ready_secs"].as_f64().unwrap() >= boot["agent_started_secs"].as_f64().unwrap());
}

#[test]
fn new_listener_appears_with_its_process_and_goes_when_it_closes() {
    let agent = TestAgent::start_with("bridge.auto = false\nvm_id = \"abc\"\n", &[]);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let inode = nix::sys::stat::fstat(&listener).unwrap().st_ino;
    let find = || agent.get("/v1/listeners").as_array().unwrap().iter().find(|entry| entry["inode"] == inode).cloned();
    let entry = eventually("the listener is reported", find);
    assert_eq!((&entry["exposure"], &entry["cause"]), (&"unreachable".into(), &"loopback_only".into()));
    assert_eq!(entry["process"]["pid"], std::process::id());
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs_f64();
    let age = now - entry["process"]["started_at"].as_f64().unwrap();
    assert!((-1.0..600.0).contains(&age), "this process is {age} seconds old");
    assert!(entry["hint"].as_str().unwrap().contains("bridge add"));
    drop(listener);
    eventually("the listener is gone", || find().is_none().then_some(()));
}

/// A service that ends with this value.
struct Service(Child);

impl Drop for Service {
    fn drop(&mut self) {
        let _ended = self.0.kill();
        let _reaped = self.0.wait();
    }
}

#[test]
fn private_web_server_is_told_how_it_would_be_reached() {
    let agent = TestAgent::start();
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL", "python3", "-m", "http.server", "--bind", "127.0.0.1", "0"]);
    let service = Service(command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("setpriv is installed"));
    let entry = eventually("the web server is reported", || {
        let listeners = agent.get("/v1/listeners");
        listeners.as_array().unwrap().iter().find(|entry| entry["process"]["pid"] == service.0.id()).cloned()
    });
    assert_eq!((&entry["exposure"], &entry["cause"]), (&"unreachable".into(), &"loopback_only".into()));
    let (port, hint) = (&entry["port"], entry["hint"].as_str().unwrap());
    let fix = format!("run `python3 -m http.server --bind :: {port}`");
    assert!(hint.contains(&fix) && hint.contains(&format!("guestctl bridge add {port} 127.0.0.1:{port}")), "{hint}");

    let ports = |arguments: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_guestctl"));
        let output = command.arg("--vm").arg(format!("unix:{}", agent.socket().display())).args(arguments).output();
        let output = output.expect("guestctl starts");
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    let table = ports(&["ports"]);
    let why =
        format!("127.0.0.1:{port} is unreachable: loopback only, so its owner meant it to be private\n    {hint}\n");
    assert!(table.contains(&why), "{table}");
    let listeners: serde_json::Value = serde_json::from_str(&ports(&["--json", "ports"])).unwrap();
    assert!(listeners.as_array().unwrap().contains(&entry), "{listeners}");
}

#[test]
fn metrics_are_prometheus_text() {
    let agent = TestAgent::start();
    agent.call("POST", "/v1/exec", r#"{"command": ["true"]}"#);
    let output = Command::new("curl")
        .args(["-sS", "--unix-socket"])
        .arg(agent.socket())
        .arg("http://guestd/metrics")
        .output()
        .expect("curl is installed");
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.lines().any(|line| line == "guestd_execs_total{outcome=\"started\"} 1"), "{text}");
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let (_, value) = line.rsplit_once(' ').unwrap();
        assert!(value.parse::<f64>().is_ok(), "{line}");
    }
}
