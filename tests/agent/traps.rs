//! What agents that run commands have stumbled over, each played out against a real agent: inherited state, children that are not
//! its own, statuses that get lost, pids that come again, trees that will not end.

use std::{
    fs,
    io::Write,
    os::unix::fs::PermissionsExt,
    path::Path,
    time::{Duration, SystemTime},
};

use guestd::limits;
use nix::{sys::stat::Mode, unistd::mkfifo};
use serde_json::{Value, json};

use crate::support::{TestAgent, eventually};

/// An agent that bridges nothing, started by a line of shell that ends in `exec "$@"`.
fn started_by(script: &str) -> TestAgent {
    TestAgent::start_with("bridge.auto = false\n", &["sh", "-euc", script, "sh"])
}

/// Runs a line of shell to its end.
fn sh(agent: &TestAgent, script: &str) -> Value {
    let (status, result) = agent.call("POST", "/v1/exec", &json!({"command": ["sh", "-c", script]}).to_string());
    assert_eq!(status, 200, "{result}");
    result
}

/// Pids and states of a process's children.
fn children(pid: nix::unistd::Pid) -> Vec<(u32, char)> {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    let lists = tasks.map(|task| fs::read_to_string(task.unwrap().path().join("children")).unwrap_or_default());
    let pids: Vec<u32> =
        lists.flat_map(|list| list.split_whitespace().map(|pid| pid.parse().unwrap()).collect::<Vec<_>>()).collect();
    let state = |pid: &u32| {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        Some((*pid, stat.rsplit_once(") ")?.1.chars().next()?))
    };
    pids.iter().filter_map(state).collect()
}

#[test]
fn nothing_that_the_agent_was_started_with_is_handed_on() {
    let agent = started_by(
        "umask 077; ulimit -Sn 4096; echo 300 >/proc/self/oom_score_adj
        trap '' HUP PIPE USR1
        exec 9</dev/null
        exec nice -n 5 env --ignore-signal=CHLD --block-signal=USR2,RTMIN+3 \"$@\"",
    );
    let inherited = fs::read_to_string(format!("/proc/{}/status", agent.pid())).unwrap();
    let number = |name: &str| {
        let line = inherited.lines().find_map(|line| line.strip_prefix(name)).unwrap();
        u64::from_str_radix(line.trim(), 16).unwrap()
    };
    assert!(number("SigIgn:") != 0 && number("SigBlk:") != 0, "it was not started with it: {inherited}");
    let script = "umask; ulimit -Sn; nice; cat /proc/self/oom_score_adj; ls /proc/self/fd | wc -l
        grep -E '^Sig(Blk|Ign)' /proc/self/status";
    let expected = "0022\n1024\n0\n0\n4\nSigBlk:\t0000000000000000\nSigIgn:\t0000000000000000\n";
    assert_eq!(sh(&agent, script)["stdout"], expected);
}

#[test]
fn exit_statuses_are_told_by_an_agent_that_was_started_with_sigchld_ignored() {
    // The kernel would reap its children itself, and nobody would learn how they ended.
    let agent = started_by("exec env --ignore-signal=CHLD \"$@\"");
    for code in [0, 7, 255] {
        assert_eq!(sh(&agent, &format!("exit {code}"))["exit_code"], code);
    }
    assert_eq!(sh(&agent, "kill -9 $$")["signal"], 9);
}

#[test]
fn child_that_is_not_an_execs_is_left_to_whoever_started_it() {
    // The shell becomes the agent, which so has a child from before: dead, and nobody's to wait for but who knows of it.
    let agent = started_by("sh -c 'exit 9' & exec \"$@\"");
    let dead = eventually("the child from before has ended", || {
        children(agent.pid()).into_iter().find(|(_, state)| *state == 'Z')
    });
    for number in 0..50 {
        assert_eq!(sh(&agent, &format!("exit {number}"))["exit_code"], number);
    }
    assert_eq!(children(agent.pid()), [dead], "it waited for a child that it did not start, or left one of its own");
}

#[test]
fn commands_that_end_in_one_moment_each_tell_their_own_status() {
    let (agent, dir) = (TestAgent::start(), tempfile::tempdir().unwrap());
    let gate = dir.path().join("gate");
    mkfifo(&gate, Mode::S_IRWXU).unwrap();
    for number in 0..limits::EXECS_RUNNING {
        let script = format!("echo; read x <{}; exit {number}", gate.display());
        let body = json!({"command": ["sh", "-c", script], "exec_id": format!("e{number}"), "detach": true});
        assert_eq!(agent.call("POST", "/v1/exec", &body.to_string()).0, 202);
    }
    for number in 0..limits::EXECS_RUNNING {
        let path = format!("/v1/exec/e{number}");
        eventually("it is at the gate", || (agent.get(&path)["cursor"] == 1).then_some(()));
    }
    // read(1) of a shell takes its line and no more. The gate stays open for the last one.
    let mut gate = fs::OpenOptions::new().read(true).write(true).open(gate).unwrap();
    gate.write_all(&b"\n".repeat(limits::EXECS_RUNNING)).unwrap();
    for number in 0..limits::EXECS_RUNNING {
        let status = agent.get(&format!("/v1/exec/e{number}?wait_secs=60"));
        assert_eq!((&status["state"], &status["exit"]["exit_code"]), (&json!("exited"), &json!(number)), "{status}");
    }
    assert_eq!(children(agent.pid()), []);
}

#[test]
fn signal_for_an_ended_exec_reaches_nobody_who_has_its_pid_now() {
    // In a process namespace of its own, whose next pid can be chosen.
    let namespace = ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc"];
    let agent = TestAgent::start_with("bridge.auto = false\n", &namespace);
    let body = json!({"command": ["sh", "-c", "echo $$"], "exec_id": "ended"});
    let ended = agent.call("POST", "/v1/exec", &body.to_string()).1;
    let pid: u64 = ended["stdout"].as_str().unwrap().trim().parse().unwrap();
    // A thread of the agent may take the pid first; then it is tried again with the next child.
    let script = format!(
        "for n in $(seq 100); do
            echo {} >/proc/sys/kernel/ns_last_pid; sleep 1000 </dev/null >/dev/null 2>&1 &
            [ $! = {pid} ] && exit; kill $!
        done; exit 1",
        pid - 1
    );
    assert_eq!(sh(&agent, &script)["exit_code"], 0, "no other process got pid {pid}");
    for to in ["process", "group", "tree"] {
        let body = json!({"signal": "KILL", "to": to}).to_string();
        let (status, body) = agent.call("POST", "/v1/exec/ended/signal", &body);
        assert_eq!((status, &body["code"]), (409, &json!("conflict")), "{to}: {body}");
    }
    assert_eq!(agent.call("DELETE", "/v1/exec/ended", "").0, 200);
    assert_eq!(sh(&agent, &format!("cat /proc/{pid}/comm"))["stdout"], "sleep\n");
    // unshare(1) does not hand SIGTERM on.
    sh(&agent, &format!("kill {pid}; [ $(cat /proc/1/comm) = guestd ] && kill 1"));
}

/// What the kernel lets the bomb's user have at a time, so that the machine is never in danger.
const BOMB_PROCESSES: u32 = 60;

/// Whose bomb it is: root has no such limit, and nobody else runs anything as this one.
const BOMB_USER: &str = "games";

/// Each of them forks without end, into a session of its own, and ignores SIGTERM and that there is no place for more: so it takes
/// every place that a killed one leaves. Over when the test's directory goes. In Perl, because a shell ends when it cannot fork.
const BOMB: &str = "use POSIX; $SIG{TERM} = $SIG{CHLD} = 'IGNORE'; open(my $at, '>', 'at');
    while (-e 'alive') { my $child = fork; setsid if defined $child && $child == 0; utime undef, undef, $at; }";

#[test]
fn fork_bomb_is_gone_after_its_time_out() {
    let (agent, dir) = (TestAgent::start(), tempfile::tempdir().unwrap());
    fs::set_permissions(dir.path(), PermissionsExt::from_mode(0o777)).unwrap();
    fs::write(dir.path().join("alive"), "").unwrap();
    fs::write(dir.path().join("bomb"), BOMB).unwrap();
    // It goes off only under its limit. What leads it forks once, and so stays whatever becomes of the rest.
    let script = format!(
        "prlimit --nproc={BOMB_PROCESSES}:{BOMB_PROCESSES} --pid $$
        grep -q '^Max processes  *{BOMB_PROCESSES}  *{BOMB_PROCESSES} ' /proc/self/limits || exit 9
        trap '' TERM; exec 2>/dev/null; echo up; perl bomb & exec sleep 600"
    );
    let command = json!(["sh", "-c", script]);
    let body = json!({"command": command, "working_dir": dir.path(), "user": BOMB_USER, "timeout_secs": 1});
    let began = SystemTime::now();
    let (status, result) = agent.call("POST", "/v1/exec", &body.to_string());
    let took = began.elapsed().unwrap();
    assert_eq!((status, &result["exit_code"], &result["stdout"]), (200, &json!(124), &json!("up\n")), "{result}");
    assert_eq!(processes_in(dir.path()), 0);
    let last = fs::metadata(dir.path().join("at")).unwrap().modified().unwrap();
    let lived = last.duration_since(began).unwrap();
    assert!(lived > Duration::from_secs(1), "it ended by itself after {lived:?}");
    let ending = Duration::from_secs(1) + limits::EXEC_KILL_GRACE;
    assert!(ending <= took && took < ending + Duration::from_secs(5), "{took:?}");
}

/// Processes whose working directory it is.
fn processes_in(dir: &Path) -> usize {
    let processes = fs::read_dir("/proc").unwrap().map(|entry| entry.unwrap().path());
    processes.filter(|process| fs::read_link(process.join("cwd")).is_ok_and(|cwd| cwd == dir)).count()
}
