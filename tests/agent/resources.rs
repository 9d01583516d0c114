//! What execs may take and what they took. Limits that are kept need a guest with controllers; see the tests in VMs.

use std::fs;
use std::path::{Path, PathBuf};

use guestd::exec::CgroupParent;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::json;

use crate::support::{TestAgent, eventually};

#[test]
fn cpu_time_of_the_whole_tree_is_told_without_any_controller() {
    let agent = TestAgent::start();
    // A grandchild works, and is waited for.
    let script = "sh -c 'i=0; while [ $i -lt 20000 ]; do i=$((i+1)); done'; true";
    let (status, result) = agent.call("POST", "/v1/exec", &json!({"command": ["sh", "-c", script]}).to_string());
    assert_eq!(status, 200, "{result}");
    let cpu_time = result["cpu_time_us"].as_u64().unwrap_or_else(|| panic!("no CPU time in {result}"));
    assert!((1000..60_000_000).contains(&cpu_time), "{result}");
    assert_eq!(result["oom_killed"], false);
}

#[test]
fn limits_are_kept_or_refused_by_the_name_of_the_missing_controller() {
    let agent = TestAgent::start();
    let message = agent.check("cgroup2")["message"].as_str().unwrap().to_owned();
    for (limit, controller) in [("memory_bytes", "memory"), ("pids", "pids"), ("cpu_weight", "cpu")] {
        let request = json!({"command": ["true"], "limits": {limit: 10_000}, "exec_id": limit});
        let (status, body) = agent.call("POST", "/v1/exec", &request.to_string());
        let has = message.split_once("with controllers ").is_some_and(|(_, rest)| {
            rest.split(['.', ';']).next().unwrap().split(", ").any(|found| found == controller)
        });
        if has {
            assert_eq!(status, 200, "{body}");
            continue;
        }
        assert_eq!((status, &body["code"]), (422, &json!("limits_unsupported")), "{body}");
        let error = body["error"].as_str().unwrap();
        assert!(
            error.contains(&format!("limits.{limit}")) && error.contains(&format!("controller {controller},")),
            "{error}"
        );
    }
    // Nothing of the refused ones is left, and the same id can be used again.
    let (status, _) = agent.call("POST", "/v1/exec", r#"{"command": ["true"], "exec_id": "pids"}"#);
    assert_eq!(status, 200);
}

#[test]
fn limit_that_stands_for_nothing_is_answered_422() {
    let agent = TestAgent::start();
    let (status, body) = agent.call("POST", "/v1/exec", r#"{"command": ["true"], "limits": {"pids": 0}}"#);
    assert_eq!((status, &body["code"]), (422, &json!("invalid_field")), "{body}");
}

/// A cgroup of the test's own. What is in it is ended, and all of it removed, with this value.
struct OwnCgroup(PathBuf);

impl OwnCgroup {
    fn new() -> Self {
        let path = CgroupParent::detect().unwrap().path().join(format!("guestd-crash-{}", std::process::id()));
        fs::create_dir(&path).unwrap();
        Self(path)
    }

    /// An agent that runs in it.
    fn agent(&self) -> TestAgent {
        let join = format!("echo $$ >{}/cgroup.procs && exec \"$@\"", self.0.display());
        TestAgent::start_with("bridge.auto = false\n", &["sh", "-c", &join, "sh"])
    }
}

impl Drop for OwnCgroup {
    fn drop(&mut self) {
        fn children(path: &Path) -> Vec<PathBuf> {
            let entries = fs::read_dir(path).into_iter().flatten().flatten();
            entries.map(|entry| entry.path()).filter(|path| path.is_dir()).collect()
        }
        for path in children(&self.0).into_iter().chain([self.0.clone()]) {
            for pid in fs::read_to_string(path.join("cgroup.procs")).unwrap_or_default().lines() {
                let _ = kill(Pid::from_raw(pid.parse().unwrap()), Signal::SIGKILL);
            }
            eventually("a cgroup is empty and removed", || fs::remove_dir(&path).ok());
        }
    }
}

#[test]
fn agent_removes_the_empty_cgroups_that_one_which_was_killed_left_and_no_others() {
    let cgroup = OwnCgroup::new();
    let crashed = cgroup.agent();
    let pid = |id: &str| {
        let request = json!({"command": ["sleep", "1000"], "exec_id": id, "detach": true});
        let (status, started) = crashed.call("POST", "/v1/exec", &request.to_string());
        assert_eq!(status, 202, "{started}");
        Pid::from_raw(started["pid"].as_i64().unwrap().try_into().unwrap())
    };
    let (ended, _running) = (pid("ended"), pid("running"));
    kill(crashed.pid(), Signal::SIGKILL).unwrap();
    drop(crashed);
    let [left, busy] = ["exec-ended", "exec-running"].map(|name| cgroup.0.join(name));
    kill(ended, Signal::SIGKILL).unwrap();
    eventually("nothing is in the cgroup", || {
        fs::read_to_string(left.join("cgroup.events")).unwrap().contains("populated 0").then_some(())
    });
    let next = cgroup.agent();
    assert!(!left.exists() && busy.exists());
    assert!(next.terminate().success());
}
