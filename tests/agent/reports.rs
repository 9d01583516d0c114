//! Info, listeners and metrics.

use std::net::TcpListener;

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
    let port = listener.local_addr().unwrap().port();
    let find = || agent.get("/v1/listeners").as_array().unwrap().iter().find(|entry| entry["port"] == port).cloned();
    let entry = eventually("the listener is reported", find);
    assert_eq!((&entry["exposure"], &entry["cause"]), (&"unreachable".into(), &"loopback_only".into()));
    assert_eq!(entry["process"]["pid"], std::process::id());
    assert!(entry["hint"].as_str().unwrap().contains("bridge add"));
    drop(listener);
    eventually("the listener is gone", || find().is_none().then_some(()));
}

#[test]
fn metrics_are_prometheus_text() {
    let agent = TestAgent::start();
    agent.call("POST", "/v1/exec", r#"{"command": ["true"]}"#);
    let output = std::process::Command::new("curl")
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
