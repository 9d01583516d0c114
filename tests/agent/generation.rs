//! Commits and restores over the Unix socket, with the files of a root of the test's own.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use nix::sys::signal::Signal;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::{PROGRAM, TestAgent, eventually, request};

/// What prepare, and the time from the closing of the gate to its opening, may take where nothing else is done.
const PROMPTLY_MS: f64 = 20.0;

/// An agent that sets a VM right whose files are in here.
struct Rig {
    agent: TestAgent,
    root: TempDir,
}

impl Rig {
    fn start() -> Self {
        Self::start_with("", &[])
    }

    fn start_with(config: &str, wrapper: &[&str]) -> Self {
        let root = tempfile::tempdir().unwrap();
        for directory in ["etc", "run"] {
            fs::create_dir(root.path().join(directory)).unwrap();
        }
        let path = root.path().display();
        let config = format!(
            "bridge.auto = false\ngeneration.local = true\ngeneration.effects = \"files\"\ngeneration.root = \"{path}\"\n{config}"
        );
        Self { agent: TestAgent::start_with(&config, wrapper), root }
    }

    fn path(&self, path: &str) -> PathBuf {
        self.root.path().join(path)
    }

    fn read(&self, path: &str) -> String {
        fs::read_to_string(self.path(path)).unwrap()
    }

    fn hook(&self, stage: &str, name: &str, script: &str) {
        let directory = self.path(&format!("etc/guestd/hooks.d/{stage}.d"));
        fs::create_dir_all(&directory).unwrap();
        let path = directory.join(name);
        fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
        fs::set_permissions(path, PermissionsExt::from_mode(0o755)).unwrap();
    }

    fn post(&self, path: &str, body: &Value) -> (u16, Value) {
        self.agent.call("POST", path, &body.to_string())
    }

    fn announce(&self, body: &Value) -> Value {
        let (status, report) = self.post("/v1/generation", body);
        assert_eq!(status, 200, "{report}");
        report
    }

    fn state(&self) -> Value {
        self.agent.get("/v1/generation")
    }

    fn wait_at_gate(&self) {
        eventually("the request waits at the gate", || (self.state()["waiting"] == 1).then_some(()));
    }

    fn exec(&self, script: &str) -> String {
        let body = json!({"command": ["sh", "-c", script]});
        let (status, result) = self.post("/v1/exec", &body);
        assert_eq!(status, 200, "{result}");
        result["stdout"].as_str().unwrap().trim().to_owned()
    }
}

fn branch(id: &str, vm_id: &str) -> Value {
    json!({"generation_id": id, "kind": "branch", "vm_id": vm_id})
}

#[test]
fn a_branch_is_another_vm_in_its_files_its_execs_and_its_report() {
    let rig = Rig::start_with("vm_id = \"parent\"\n", &[]);
    fs::write(rig.path("etc/environment"), "MINE=1\nVERS_VM_ID=golden\n").unwrap();
    let mut body = branch("g-1", "child");
    body["parent_vm_id"] = "parent".into();
    body["env"] = json!({"TOKEN": "a b"});
    let report = rig.announce(&body);
    assert_eq!(report["complete"], true, "{report:#}");
    let environment = rig.exec("echo $VERS_VM_ID,$TOKEN,$MINE");
    assert_eq!(environment, "child,a b,1");
    assert_eq!(rig.read("run/guestd/generation"), "g-1\n");
    assert!(rig.read("etc/hosts").contains("\n127.0.1.1 child\n"), "{}", rig.read("etc/hosts"));
    let identity: Value = serde_json::from_str(&rig.read("run/guestd/identity.json")).unwrap();
    assert_eq!((&identity["vm_id"], &identity["parent_vm_id"]), (&"child".into(), &"parent".into()));
    let info = rig.agent.get("/v1/info");
    assert_eq!(info["identity"]["public_name"], "child.vm.vers.sh");
    let state = rig.state();
    assert_eq!((&state["generation_id"], &state["phase"]), (&"g-1".into(), &"running".into()));
    assert!(rig.agent.check("generation")["message"].as_str().unwrap().contains("g-1"));
}

#[test]
fn calls_that_are_repeated_late_or_wrong_change_nothing() {
    let rig = Rig::start_with("vm_id = \"parent\"\n", &[]);
    let first = rig.announce(&branch("g-1", "a"));
    let again = rig.announce(&branch("g-1", "a"));
    assert_eq!((&again["replayed"], &again["at"]), (&true.into(), &first["at"]));
    let (status, body) = rig.post("/v1/generation", &branch("g-1", "b"));
    assert_eq!((status, &body["code"]), (409, &"conflict".into()));
    rig.announce(&branch("g-2", "b"));
    let (status, body) = rig.post("/v1/generation", &branch("g-1", "a"));
    assert_eq!((status, &body["code"]), (409, &"stale_generation".into()));
    let mut other = branch("g-3", "d");
    other["parent_vm_id"] = "c".into();
    let (status, body) = rig.post("/v1/generation", &other);
    assert_eq!((status, &body["code"]), (409, &"conflict".into()), "{body}");
    for wrong in [
        json!({"generation_id": ""}),
        json!({"generation_id": "x", "kind": "clone"}),
        json!({"generation_id": "x", "kind": "boot", "entropy": "AA=="}),
    ] {
        let (status, body) = rig.post("/v1/generation", &wrong);
        assert_eq!(status, 422, "{body}");
    }
    assert_eq!(rig.state()["vm_id"], "b");
    assert_eq!(rig.exec("echo $VERS_VM_ID"), "b");
}

#[test]
fn while_prepared_a_new_exec_waits_and_goes_on_after_the_thaw() {
    let rig = Rig::start();
    let (status, report) = rig.post("/v1/snapshot/prepare", &json!({}));
    assert_eq!((status, &report["complete"], &report["phase"]), (200, &true.into(), &"prepared".into()), "{report}");
    let mut waiting = rig.agent.connect();
    waiting
        .write_all(request("POST", "/v1/exec", r#"{"command": ["echo", "went"], "exec_id": "w"}"#).as_bytes())
        .unwrap();
    rig.wait_at_gate();
    assert_eq!(rig.agent.call("GET", "/v1/exec/w", "").0, 404, "it was started at a closed gate");
    let (status, thawed) = rig.agent.call("POST", "/v1/snapshot/thaw", "");
    assert_eq!((status, &thawed["phase"]), (200, &"running".into()));
    let mut answer = String::new();
    waiting.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200") && answer.contains("went"), "{answer}");
}

#[test]
fn an_exec_that_waited_in_the_parent_is_not_started_in_the_branch() {
    let rig = Rig::start();
    rig.post("/v1/snapshot/prepare", &json!({}));
    let mut waiting = rig.agent.connect();
    waiting.write_all(request("POST", "/v1/exec", r#"{"command": ["true"], "exec_id": "w"}"#).as_bytes()).unwrap();
    rig.wait_at_gate();
    rig.announce(&branch("g-1", "child"));
    let mut answer = String::new();
    waiting.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 503") && answer.contains("was not carried out"), "{answer}");
    assert_eq!(rig.agent.call("GET", "/v1/exec/w", "").0, 404);
}

#[test]
fn the_watchdog_opens_what_a_host_has_left_closed() {
    let rig = Rig::start();
    rig.post("/v1/snapshot/prepare", &json!({"watchdog_secs": 1}));
    eventually("the watchdog thaws", || (rig.state()["phase"] == "running").then_some(()));
    assert_eq!(rig.exec("echo on"), "on");
}

#[test]
fn a_commit_and_a_restore_take_no_longer_than_they_must() {
    let rig = Rig::start_with("vm_id = \"parent\"\n", &[]);
    let (mut best, mut prepared) = (f64::MAX, f64::MAX);
    for round in 0..5 {
        let (_, report) = rig.post("/v1/snapshot/prepare", &json!({}));
        prepared = prepared.min(report["took_ms"].as_f64().unwrap());
        let report = rig.announce(&branch(&format!("g-{round}"), &format!("vm-{round}")));
        assert_eq!(report["complete"], true, "{report:#}");
        best = best.min(report["gate_ms"].as_f64().unwrap());
    }
    // A busy machine makes it slower, and never faster.
    println!("prepare: {prepared} ms, gate to ready: {best} ms");
    assert!(prepared < PROMPTLY_MS && best < PROMPTLY_MS, "{prepared} ms, {best} ms");
}

#[test]
fn hooks_are_told_run_in_order_and_reported() {
    let rig = Rig::start();
    let log = rig.path("log");
    for (stage, name) in
        [("pre-snapshot", "10-a"), ("pre-thaw", "20-b"), ("pre-thaw", "10-a"), ("post-restore", "10-a")]
    {
        rig.hook(
            stage,
            name,
            &format!("echo $GUESTD_HOOK $GUESTD_GENERATION_ID $VERS_VM_ID {name} >>{}", log.display()),
        );
    }
    rig.post("/v1/snapshot/prepare", &json!({}));
    let report = rig.announce(&branch("g-1", "child"));
    assert_eq!(report["complete"], true, "{report:#}");
    let after = eventually("the hook after the restore is reported", || {
        let steps = rig.state()["report"]["steps"].as_array().unwrap().clone();
        steps.into_iter().find(|step| step["step"] == "hook post-restore/10-a")
    });
    assert_eq!(after["outcome"], "done");
    let expected = "pre-snapshot 10-a\npre-thaw g-1 child 10-a\npre-thaw g-1 child 20-b\npost-restore g-1 child 10-a\n";
    let told = fs::read_to_string(log).unwrap();
    assert_eq!(told.split_whitespace().collect::<Vec<_>>(), expected.split_whitespace().collect::<Vec<_>>(), "{told}");
}

#[test]
fn a_hook_that_hangs_fails_or_forks_is_reported_and_keeps_nothing_closed() {
    let rig = Rig::start();
    let pid = rig.path("pid");
    rig.hook("pre-thaw", "10-hangs", &format!("sleep 600 & echo $! >{}; wait", pid.display()));
    rig.hook("pre-thaw", "20-fails", "exit 3");
    rig.hook("pre-thaw", "30-forks", "setsid sleep 1 >/dev/null 2>&1 & exit 0");
    fs::write(rig.path("etc/guestd/hooks.d/pre-thaw.d/40-not-executable"), "").unwrap();
    let report = rig.announce(&branch("g-1", "child"));
    assert_eq!(report["complete"], false);
    let of = |name: &str| {
        let steps = report["steps"].as_array().unwrap();
        steps
            .iter()
            .find(|step| step["step"] == format!("hook pre-thaw{name}"))
            .unwrap_or_else(|| panic!("{report:#}"))
            .clone()
    };
    assert!(of("/10-hangs")["message"].as_str().unwrap().contains("ended after 5 s"), "{report:#}");
    assert!(of("/20-fails")["message"].as_str().unwrap().starts_with("exit 3"), "{report:#}");
    assert_eq!(of("/30-forks")["outcome"], "done");
    assert!(of("")["message"].as_str().unwrap().contains("not executable"), "{report:#}");
    assert_eq!(rig.exec("echo on"), "on");
    let pid = fs::read_to_string(pid).unwrap();
    let stat = fs::read_to_string(format!("/proc/{}/stat", pid.trim())).unwrap_or_default();
    assert!(stat.is_empty() || stat.contains(") Z "), "what a hook that hangs has started is ended with it: {stat}");
    assert!(rig.agent.check("generation")["message"].as_str().unwrap().contains("20-fails"));
}

/// Every point at which the agent can die in an announcement.
const POINTS: [&str; 12] =
    ["gate", "entropy", "clock", "identity", "env", "network", "ssh", "execs", "hooks", "thaw", "ready", "answer"];

#[test]
fn killed_at_any_step_the_agent_comes_back_open_and_the_announcement_can_be_made_again() {
    for point in POINTS {
        let fault = format!("GUESTD_FAULT={point}");
        let mut rig = Rig::start_with("vm_id = \"parent\"\n", &["env", &fault]);
        let body = branch("g-1", "child");
        let mut stream = rig.agent.connect();
        stream.write_all(request("POST", "/v1/generation", &body.to_string()).as_bytes()).unwrap();
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        assert!(answer.is_empty(), "{point}: it was to be killed");
        rig.agent.stop(Signal::SIGKILL);
        rig.agent.launch(Path::new(PROGRAM), &[]);
        assert_eq!(rig.exec("echo on"), "on", "{point}");
        let state = rig.state();
        assert_eq!(state["phase"], "running", "{point}: {state:#}");
        // At the first of them nothing was done, and at the last all.
        let (is_done, is_begun) = (point == "answer", point != "gate");
        let is_interrupted = is_begun && !is_done;
        assert_eq!(state["interrupted"], if is_interrupted { "g-1".into() } else { Value::Null }, "{point}");
        if is_interrupted {
            assert_eq!(rig.agent.check("generation")["state"], "degraded", "{point}");
        }
        let report = rig.announce(&body);
        assert_eq!((&report["complete"], &report["replayed"]), (&true.into(), &is_done.into()), "{point}: {report:#}");
        assert_eq!(rig.exec("echo $VERS_VM_ID"), "child", "{point}");
        assert_eq!(rig.state()["interrupted"], Value::Null, "{point}");
        assert_eq!(rig.read("run/guestd/generation"), "g-1\n", "{point}");
    }
}

#[test]
fn killed_at_any_step_of_a_prepare_the_agent_comes_back_open() {
    for point in ["gate", "hold", "execs", "freeze", "prepared"] {
        let fault = format!("GUESTD_FAULT={point}");
        let mut rig = Rig::start_with("", &["env", &fault]);
        let mut stream = rig.agent.connect();
        let body = json!({"freeze": true}).to_string();
        stream.write_all(request("POST", "/v1/snapshot/prepare", &body).as_bytes()).unwrap();
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        assert!(answer.is_empty(), "{point}: it was to be killed");
        rig.agent.stop(Signal::SIGKILL);
        rig.agent.launch(Path::new(PROGRAM), &[]);
        assert_eq!((rig.exec("echo on").as_str(), &rig.state()["phase"]), ("on", &"running".into()), "{point}");
    }
}

#[test]
fn hooks_after_a_restore_that_an_agent_was_killed_before_are_run_by_the_next() {
    let mut rig = Rig::start_with("", &["env", "GUESTD_FAULT=answer"]);
    let ran = rig.path("ran");
    rig.hook("post-restore", "10-a", &format!("echo $GUESTD_GENERATION_ID >>{}", ran.display()));
    let mut stream = rig.agent.connect();
    stream.write_all(request("POST", "/v1/generation", &branch("g-1", "child").to_string()).as_bytes()).unwrap();
    let _ = stream.read_to_end(&mut Vec::new());
    rig.agent.stop(Signal::SIGKILL);
    assert!(!ran.exists());
    rig.agent.launch(Path::new(PROGRAM), &[]);
    let text = eventually("the hook has run", || fs::read_to_string(&ran).ok().filter(|text| !text.is_empty()));
    assert_eq!(text, "g-1\n");
    eventually("it is reported", || {
        let report = rig.state()["report"].clone();
        let steps = report["steps"].as_array()?.clone();
        steps.iter().any(|step| step["step"] == "hook post-restore/10-a").then_some(())
    });
}

#[test]
fn killed_while_prepared_the_agent_comes_back_open() {
    let mut rig = Rig::start();
    let beats = rig.path("beats");
    let script = format!("while :; do echo >>{}; sleep 0.01; done", beats.display());
    let start = json!({"command": ["sh", "-c", script], "exec_id": "held", "detach": true, "on_branch": "freeze"});
    let pid = rig.post("/v1/exec", &start).1["pid"].as_i64().unwrap();
    eventually("it runs", || beats.exists().then_some(()));
    rig.post("/v1/snapshot/prepare", &json!({"freeze": true}));
    rig.agent.stop(Signal::SIGKILL);
    let still = fs::read(&beats).unwrap().len();
    rig.agent.launch(Path::new(PROGRAM), &[]);
    assert_eq!(rig.state()["phase"], "running");
    assert_eq!(rig.exec("echo on"), "on");
    // What was held for the commit outlives its agent here, as there is no init that would end it.
    eventually("what was held goes on", || (fs::read(&beats).unwrap().len() > still).then_some(()));
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid.try_into().unwrap()), Signal::SIGKILL).unwrap();
}

#[test]
fn execs_that_came_along_are_marked_and_a_cursor_of_another_generation_is_refused_with_the_fork() {
    let rig = Rig::start();
    let start = json!({"command": ["sh", "-c", "echo before; cat; echo after"], "exec_id": "x", "detach": true, "stdin_open": true});
    assert_eq!(rig.post("/v1/exec", &start).0, 202);
    let cursor = |at: u64| {
        eventually("its output is there", || (rig.agent.get("/v1/exec/x")["cursor"] == at).then_some(()));
    };
    cursor(7);
    rig.post("/v1/snapshot/prepare", &json!({}));
    // It is not held, and prints on, before the commit or after it: in the parent that may have been something else.
    rig.agent.call("POST", "/v1/exec/x/stdin", "n");
    cursor(8);
    rig.announce(&branch("g-1", "child"));
    assert_eq!(rig.agent.get("/v1/exec/x")["fork_cursor"], 7);
    rig.agent.call("POST", "/v1/exec/x/stdin?eof=true", "ew\n");
    cursor(17);

    let attach = |body: Value| {
        let mut body = body;
        body["exec_id"] = "x".into();
        let mut stream = rig.agent.connect();
        stream.write_all(request("POST", "/v1/exec/stream/attach", &body.to_string()).as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    };
    for stale in [json!({"cursor": 12}), json!({"cursor": 3, "generation_id": "g-0"})] {
        let answer = attach(stale);
        let refused = r#""code":"stale_generation","success":false,"fork":{"generation_id":"g-1","cursor":7}"#;
        assert!(answer.starts_with("HTTP/1.1 409") && answer.contains(refused), "{answer}");
    }
    // A pause changes nothing of what is read.
    rig.announce(&json!({"generation_id": "g-2", "kind": "resume"}));
    for good in [json!({"cursor": 7}), json!({"cursor": 12, "generation_id": "g-1"}), json!({})] {
        let answer = attach(good);
        assert!(answer.starts_with("HTTP/1.1 200") && answer.contains("guestd-generation: g-2"), "{answer}");
        assert!(answer.contains(r#""type":"exit","exit_code":0"#), "{answer}");
    }
}

#[test]
fn of_a_commit_that_nobody_prepared_no_output_is_known_to_be_the_parents_too() {
    let rig = Rig::start();
    let start = json!({"command": ["echo", "before"], "exec_id": "x", "detach": true});
    assert_eq!(rig.post("/v1/exec", &start).0, 202);
    eventually("its output is there", || (rig.agent.get("/v1/exec/x")["cursor"] == 7).then_some(()));
    rig.announce(&branch("g-1", "child"));
    assert_eq!(rig.agent.get("/v1/exec/x")["fork_cursor"], 0);
}

#[test]
fn an_announcement_that_is_made_again_does_nothing_to_what_was_started_since() {
    let rig = Rig::start();
    rig.hook("pre-thaw", "10-fails", "exit 3");
    let start = |id: &str, on_branch: &str| {
        let start = json!({"command": ["sleep", "600"], "exec_id": id, "detach": true, "on_branch": on_branch});
        assert_eq!(rig.post("/v1/exec", &start).0, 202);
    };
    start("parents", "freeze");
    assert_eq!(rig.announce(&branch("g-1", "child"))["complete"], false);
    rig.post("/v1/exec/parents/signal", &json!({"signal": "CONT"}));
    start("own", "kill");
    let report = rig.announce(&branch("g-1", "child"));
    assert_eq!((&report["complete"], &report["replayed"]), (&false.into(), &false.into()));
    for id in ["parents", "own"] {
        let exec = rig.agent.get(&format!("/v1/exec/{id}"));
        assert_eq!((&exec["state"], &exec["frozen"]), (&"running".into(), &false.into()), "{exec:#}");
    }
    assert_eq!(rig.agent.get("/v1/exec/own")["fork_cursor"], Value::Null);
    for id in ["parents", "own"] {
        rig.post(&format!("/v1/exec/{id}/signal"), &json!({"signal": "KILL"}));
    }
}

#[test]
fn a_vm_that_is_full_of_execs_still_runs_its_hooks() {
    let rig = Rig::start_with("exec.max_running = 1\n", &[]);
    rig.hook("pre-thaw", "10-a", "exit 0");
    rig.post("/v1/exec", &json!({"command": ["sleep", "600"], "exec_id": "all", "detach": true}));
    let report = rig.announce(&branch("g-1", "child"));
    assert_eq!(report["complete"], true, "{report:#}");
    rig.post("/v1/exec/all/signal", &json!({"signal": "KILL"}));
}

#[test]
fn in_a_branch_an_exec_runs_on_stands_still_or_is_gone_as_it_was_asked_for() {
    let rig = Rig::start();
    for what in ["keep", "freeze", "kill"] {
        let beats = rig.path(what);
        let script = format!("while :; do echo >>{}; sleep 0.01; done", beats.display());
        let start = json!({"command": ["sh", "-c", script], "exec_id": what, "detach": true, "on_branch": what});
        assert_eq!(rig.post("/v1/exec", &start).0, 202);
        eventually("it runs", || beats.exists().then_some(()));
    }
    let beats = |what: &str| fs::read(rig.path(what)).unwrap().len();
    let goes_on = |what: &str| {
        let before = beats(what);
        eventually("it runs on", || (beats(what) > before).then_some(()));
    };
    let (_, prepared) = rig.post("/v1/snapshot/prepare", &json!({}));
    let held = prepared["steps"].as_array().unwrap().iter().find(|step| step["step"] == "execs").unwrap();
    assert!(held["message"].as_str().unwrap().starts_with("2 stand still"), "{prepared:#}");
    let still = [beats("freeze"), beats("kill")];
    goes_on("keep");
    assert_eq!([beats("freeze"), beats("kill")], still);
    // The parent itself goes on.
    rig.agent.call("POST", "/v1/snapshot/thaw", "");
    goes_on("freeze");
    goes_on("kill");

    rig.post("/v1/snapshot/prepare", &json!({}));
    let still = [beats("freeze"), beats("kill")];
    rig.announce(&branch("g-1", "child"));
    let killed = rig.agent.get("/v1/exec/kill?wait_secs=10");
    assert_eq!(killed["exit"]["signal"], 9, "{killed}");
    goes_on("keep");
    assert_eq!([beats("freeze"), beats("kill")], still);
    assert_eq!(rig.agent.get("/v1/exec/freeze")["frozen"], true);
    rig.post("/v1/exec/freeze/signal", &json!({"signal": "CONT"}));
    goes_on("freeze");
    assert_eq!(rig.agent.get("/v1/exec/freeze")["frozen"], false);
}

#[test]
fn fifty_rounds_of_commit_and_branch_under_load_lose_no_output_and_leave_nothing() {
    let rig = Rig::start();
    let descriptors = || fs::read_dir(format!("/proc/{}/fd", rig.agent.pid())).unwrap().count();
    let threads = || fs::read_dir(format!("/proc/{}/task", rig.agent.pid())).unwrap().count();
    rig.exec("true");
    rig.announce(&branch("g-0", "vm-0"));
    let before = (descriptors(), threads());
    let ids: Vec<String> = (0..50).map(|round| format!("load-{round}")).collect();
    for (round, id) in ids.iter().enumerate() {
        let start = json!({"command": ["seq", "20000"], "exec_id": id, "detach": true});
        assert_eq!(rig.post("/v1/exec", &start).0, 202);
        let (_, prepared) = rig.post("/v1/snapshot/prepare", &json!({}));
        assert_eq!(prepared["complete"], true, "{prepared:#}");
        if round % 2 == 0 {
            rig.agent.call("POST", "/v1/snapshot/thaw", "");
        }
        let report = rig.announce(&branch(&format!("g-{}", round + 1), &format!("vm-{round}")));
        assert_eq!(report["complete"], true, "{report:#}");
    }
    let expected: usize = (1..=20_000_u32).map(|n| n.to_string().len() + 1).sum();
    for id in &ids {
        let ended = rig.agent.get(&format!("/v1/exec/{id}?wait_secs=30"));
        assert_eq!((&ended["exit"]["exit_code"], &ended["cursor"]), (&0.into(), &expected.into()), "{ended}");
    }
    eventually("all descriptors are closed", || (descriptors() <= before.0).then_some(()));
    // Those for what blocks stay for some seconds.
    eventually("all threads have ended", || (threads() <= before.1).then_some(()));
}

#[test]
fn only_the_host_may_unless_the_configuration_says_otherwise() {
    let agent = TestAgent::start();
    for path in ["/v1/generation", "/v1/snapshot/prepare", "/v1/snapshot/thaw"] {
        let (status, body) = agent.call("POST", path, r#"{"generation_id": "x", "kind": "branch"}"#);
        assert_eq!((status, &body["code"]), (403, &"peer_forbidden".into()), "{path}");
    }
    assert_eq!(agent.get("/v1/generation")["phase"], "running");
}

#[test]
fn account_variables_are_set_seen_by_execs_and_taken_out() {
    let rig = Rig::start();
    fs::write(rig.path("etc/environment"), "# mine\nMINE=1\n").unwrap();
    let ctl = |arguments: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_guestctl"));
        command.arg("--vm").arg(format!("unix:{}", rig.agent.socket().display())).args(arguments);
        let output = command.output().unwrap();
        (
            output.status.code().unwrap(),
            String::from_utf8(output.stdout).unwrap() + &String::from_utf8(output.stderr).unwrap(),
        )
    };
    assert_eq!(ctl(&["env", "set", "A=1", "B=two words"]).0, 0);
    assert_eq!(rig.exec("echo $A,$B,$MINE"), "1,two words,1");
    assert_eq!(ctl(&["env", "list"]), (0, "A=1\nB=two words\n".to_owned()));
    assert_eq!(ctl(&["env", "unset", "B"]).0, 0);
    assert_eq!(rig.exec("echo $A,$B,$MINE"), "1,,1");
    let (code, said) = ctl(&["env", "set", "TOKEN=a#b"]);
    assert!(code == 0 && said.contains("pam_env"), "{said}");
    let (status, body) = rig.agent.call("PUT", "/v1/env", &json!({"env": {"1": ""}}).to_string());
    assert_eq!((status, &body["code"]), (422, &"bad_env".into()));
    let long = "x".repeat(8193);
    let (status, body) = rig.agent.call("PUT", "/v1/env", &json!({"env": {"K": long}}).to_string());
    assert_eq!((status, &body["code"]), (422, &"bad_env".into()), "{body}");
    assert!(rig.read("etc/environment").starts_with("# mine\nMINE=1\n"));
}

#[test]
fn guestctl_prepares_thaws_announces_and_shows() {
    let rig = Rig::start();
    let ctl = |arguments: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_guestctl"));
        command.arg("--vm").arg(format!("unix:{}", rig.agent.socket().display())).args(arguments);
        let output = command.output().unwrap();
        assert!(output.status.success(), "{arguments:?}: {output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    assert!(ctl(&["snapshot", "prepare"]).contains("Prepared"));
    assert!(ctl(&["snapshot", "thaw"]).contains("Running"));
    let said = ctl(&["generation", "--id", "g-1", "--vm-id", "child", "--commit", "c-1"]);
    assert!(said.contains("generation g-1 is complete"), "{said}");
    let shown = ctl(&["generation"]);
    assert!(shown.contains("g-1") && shown.contains("child") && shown.contains("c-1"), "{shown}");
    let grown = rig.agent.call("POST", "/v1/disk/grow", r#"{"path": "/proc"}"#);
    assert_eq!((grown.0, &grown.1["code"]), (422, &"invalid_field".into()));
}
