//! What execs may take and what they took. Limits that are kept need a guest with controllers; see the tests in VMs.

use serde_json::json;

use crate::support::TestAgent;

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
