//! How long a command lives, and on what it does not depend: readers, time-outs, daemons, limits, shutdown.
//!
//! Commands and tests wait for one another by FIFOs, which open and read without polling.

#![expect(clippy::unwrap_used, reason = "clippy allows it in test functions, and these have helpers")]

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use futures_util::FutureExt;
use guestd::api::{ErrorCode, ExecRequest, OutputStream};
use guestd::exec::{Attachment, CgroupParent, Event, ExecConfig, Execs};
use guestd::limits;
use nix::sys::stat::Mode;

fn config() -> ExecConfig {
    ExecConfig {
        environment_file: "/nonexistent/environment".into(),
        cgroup: Some(CgroupParent::detect().unwrap()),
        kill_grace: Duration::from_millis(200),
        ..ExecConfig::default()
    }
}

/// With a cgroup for each exec, and without.
fn both_ways() -> [Execs; 2] {
    [config(), ExecConfig { cgroup: None, ..config() }].map(Execs::new)
}

fn sh(script: &str) -> ExecRequest {
    let command = ["sh", "-c", script].map(str::to_owned).into();
    ExecRequest { command, ..ExecRequest::default() }
}

/// A directory for FIFOs.
struct Gates(tempfile::TempDir);

impl Gates {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    /// A script that starts in it.
    fn sh(&self, script: &str) -> ExecRequest {
        let working_dir = Some(self.0.path().to_str().unwrap().to_owned());
        ExecRequest { working_dir, ..sh(script) }
    }

    fn gate(&self, name: &str) -> Gate {
        let path = self.0.path().join(name);
        nix::unistd::mkfifo(&path, Mode::S_IRWXU).unwrap();
        Gate(path)
    }
}

impl Drop for Gates {
    /// Lets go whoever still waits at a gate, which after a failed test would be for ever.
    fn drop(&mut self) {
        for gate in fs::read_dir(self.0.path()).into_iter().flatten().flatten() {
            let _ = OpenOptions::new().read(true).write(true).open(gate.path());
        }
    }
}

struct Gate(PathBuf);

impl Gate {
    /// Lets the one who reads go on.
    async fn open(&self) {
        let path = self.0.clone();
        let open = move || OpenOptions::new().write(true).open(path).unwrap().write_all(b"go\n").unwrap();
        tokio::task::spawn_blocking(open).await.unwrap();
    }

    /// Waits for one who writes and closes.
    async fn wait(&self) -> String {
        let path = self.0.clone();
        let read = move || {
            let mut text = String::new();
            File::open(path).unwrap().read_to_string(&mut text).unwrap();
            text
        };
        tokio::task::spawn_blocking(read).await.unwrap()
    }
}

/// Bytes until there are as many, or the end.
async fn read(stream: &mut Attachment, count: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    while bytes.len() < count {
        match stream.next().await {
            Some(Event::Chunk { bytes: chunk, .. }) => bytes.extend(chunk),
            other => panic!("{other:?}"),
        }
    }
    bytes
}

async fn last_frame(mut stream: Attachment) -> Event {
    let mut last = None;
    while let Some(frame) = stream.next().await {
        last = Some(frame);
    }
    last.unwrap()
}

/// An id that no other test run has, and the cgroup of an exec with it.
fn unique(name: &str) -> (Option<String>, PathBuf) {
    let id = format!("{name}-of-{}", std::process::id());
    let cgroup = CgroupParent::detect().unwrap().path().join(format!("exec-{id}"));
    (Some(id), cgroup)
}

/// Runs execs, at the start and end of which the cgroups of ended daemons are removed, until this one is.
async fn until_removed(execs: &Execs, cgroup: &Path) {
    while cgroup.exists() {
        execs.run(sh("true")).await.unwrap();
    }
}

/// Whether a process runs; a zombie does not.
fn runs(pid: &str) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with(['Z', 'X']))
}

#[tokio::test]
async fn a_grandchild_that_holds_the_output_does_not_hold_up_the_answer() {
    for execs in both_ways() {
        let gates = Gates::new();
        let (gate, late) = (gates.gate("gate"), gates.gate("late"));
        // The second echo goes to a pipe whose command is long over: it must succeed, and not be a SIGPIPE.
        let (exec_id, cgroup) = unique("holder");
        let script = "(read x <gate; echo ignored; echo $? >late) & echo hi";
        let request = ExecRequest { exec_id, ..gates.sh(script) };
        let start = Instant::now();
        let result = execs.run(request).await.unwrap();
        let took = start.elapsed();
        assert_eq!((result.stdout.as_str(), result.exit_code), ("hi\n", 0));
        assert!(took < limits::EXEC_DRAIN_TIME, "{took:?}");
        assert_eq!(execs.running(), 0);
        gate.open().await;
        assert_eq!(late.wait().await, "0\n");
        until_removed(&execs, &cgroup).await;
    }
}

#[tokio::test]
async fn a_grandchild_that_never_stops_talking_does_not_either() {
    let execs = Execs::new(ExecConfig { drain_time: Duration::from_millis(300), ..config() });
    let gates = Gates::new();
    let over = gates.gate("over");
    let (exec_id, cgroup) = unique("talker");
    // Of the test's directory, so that a failed test ends it too.
    let talk = gates.0.path().join("talk");
    File::create(&talk).unwrap();
    let script = "(while [ -e talk ]; do echo noise; done; echo >over) & echo hi";
    let request = ExecRequest { exec_id, ..gates.sh(script) };
    assert!(execs.run(request).await.unwrap().stdout.contains("hi\n"));
    fs::remove_file(talk).unwrap();
    over.wait().await;
    until_removed(&execs, &cgroup).await;
}

#[tokio::test]
async fn the_cgroup_of_a_daemon_goes_when_the_daemon_has_gone() {
    let execs = Execs::new(config());
    let gates = Gates::new();
    let pid = gates.gate("pid");
    let (exec_id, path) = unique("daemon");
    let beside = PathBuf::from(format!("{}~2", path.display()));
    let mut daemons = Vec::new();
    // The same id twice: the second has its cgroup beside that of the first.
    for name in ["first", "second"] {
        let gate = gates.gate(name);
        let script = format!("exec >/dev/null 2>&1; (sh -c 'echo $PPID >pid'; read x <{name}) &");
        execs.run(ExecRequest { exec_id: exec_id.clone(), ..gates.sh(&script) }).await.unwrap();
        daemons.push((gate, pid.wait().await));
        execs.remove(&execs.get(exec_id.as_deref().unwrap()).unwrap());
    }
    assert!(path.exists() && beside.exists());
    for (gate, pid) in daemons {
        gate.open().await;
        while runs(pid.trim()) {
            tokio::task::yield_now().await;
        }
    }
    until_removed(&execs, &path).await;
    until_removed(&execs, &beside).await;
}

#[tokio::test]
async fn a_time_out_ends_the_whole_tree_even_what_left_the_session() {
    for execs in both_ways() {
        let stubborn = "trap \"\" TERM; echo $$; while :; do read x </dev/zero; done";
        let script = format!("setsid sh -c '{stubborn}' & {stubborn}");
        let (exec_id, cgroup) = unique("tree");
        let request = ExecRequest { timeout_secs: Some(1), exec_id, ..sh(&script) };
        let result = execs.run(request).await.unwrap();
        assert_eq!((result.exit_code, result.timed_out, result.signal), (124, true, Some(9)));
        let pids: Vec<&str> = result.stdout.lines().collect();
        assert_eq!(pids.len(), 2, "{result:?}");
        assert!(!pids.iter().any(|pid| runs(pid)), "{pids:?}");
        execs.drain().await;
        assert!(!cgroup.exists());
        assert_eq!(execs.counters().timed_out, 1);
    }
}

#[tokio::test]
async fn a_time_out_lets_a_command_say_good_bye() {
    for config in [config(), ExecConfig { cgroup: None, ..config() }] {
        let execs = Execs::new(ExecConfig { kill_grace: Duration::from_secs(30), ..config });
        let script = "exec 2>/dev/null; trap 'echo bye; exit 3' TERM; while :; do sleep 0.05; done";
        let request = ExecRequest { timeout_secs: Some(1), ..sh(script) };
        let end = execs.stream(request).await.unwrap();
        let end = last_frame(end).await;
        let Event::Exit { exit, cursor } = end else { panic!("{end:?}") };
        assert_eq!((exit.exit_code, exit.signal, exit.timed_out, cursor), (124, None, true, 4));
        assert!(exit.duration_ms >= 1000, "{exit:?}");
    }
}

#[tokio::test]
async fn a_command_that_is_over_in_time_has_not_timed_out() {
    let result = Execs::new(config()).run(ExecRequest { timeout_secs: Some(600), ..sh("exit 5") }).await;
    let result = result.unwrap();
    assert_eq!((result.exit_code, result.timed_out), (5, false));
}

#[tokio::test]
async fn a_slow_reader_of_a_lossless_exec_makes_the_command_wait_and_loses_nothing() {
    const TOTAL: usize = 16 * 1024 * 1024;
    let execs = Execs::new(config());
    let script = format!("echo $$; exec head -c {TOTAL} /dev/zero");
    let mut stream = execs.stream(ExecRequest { lossless: true, ..sh(&script) }).await.unwrap();
    let first = read(&mut stream, 2).await;
    let line = first.split(|byte| *byte == b'\n').next().unwrap();
    let pid = str::from_utf8(line).unwrap();
    let status = |file: &str| fs::read_to_string(format!("/proc/{pid}/{file}")).unwrap();
    let written = || {
        let io = status("io");
        let line = io.lines().find_map(|line| line.strip_prefix("wchar: ")).unwrap();
        line.parse::<usize>().unwrap()
    };
    // The ring, the chunk in hand and the pipe: so far, and no further, the command may be ahead of its reader.
    let ahead = limits::EXEC_REPLAY_BYTES + 2 * limits::EXEC_CHUNK_BYTES;
    let mut taken = first.len();
    // Nobody reads until most of the ring is full.
    while stream.exec().status().cursor < (limits::EXEC_REPLAY_BYTES / 2) as u64 {
        tokio::task::yield_now().await;
    }
    assert!(written() <= taken + ahead, "{} with {taken} taken", written());
    let mut total = first.len() - line.len() - 1;
    while let Some(frame) = stream.next().await {
        match frame {
            Event::Chunk { bytes, stream: OutputStream::Stdout, .. } => {
                (total, taken) = (total + bytes.len(), taken + bytes.len())
            }
            Event::Exit { exit, .. } => assert_eq!(exit.exit_code, 0),
            other => panic!("{other:?}"),
        }
        // As long as it cannot have written all, it is there to be looked at.
        if taken + ahead < TOTAL {
            tokio::task::yield_now().await;
            assert!(written() <= taken + ahead, "{} with {taken} taken", written());
        }
    }
    assert_eq!(total, TOTAL);
}

#[tokio::test]
async fn what_a_command_wrote_before_its_end_reaches_a_reader_that_comes_late() {
    // More than the queue holds, so that the end comes while the pipe is full; and a daemon, so that there is no end of file.
    let execs = Execs::new(ExecConfig { drain_silence: Duration::ZERO, drain_time: Duration::ZERO, ..config() });
    let gates = Gates::new();
    let (gate, over) = (gates.gate("gate"), gates.gate("over"));
    let script = "(read x <gate; : >over) & i=0; while [ $i -lt 40 ]; do echo $i; i=$((i+1)); done";
    let (exec_id, cgroup) = unique("late-reader");
    let mut stream = execs.stream(ExecRequest { exec_id, ..gates.sh(script) }).await.unwrap();
    while execs.running() > 0 {
        tokio::task::yield_now().await;
    }
    let mut text = Vec::new();
    while let Some(frame) = stream.next().await {
        if let Event::Chunk { bytes, .. } = frame {
            text.extend(bytes);
        }
    }
    let expected: String = (0..40).map(|number| format!("{number}\n")).collect();
    assert_eq!(String::from_utf8(text).unwrap(), expected);
    gate.open().await;
    over.wait().await;
    until_removed(&execs, &cgroup).await;
}

#[tokio::test]
async fn a_reader_that_goes_away_does_not_end_the_command() {
    let execs = Execs::new(config());
    let gates = Gates::new();
    let over = gates.gate("over");
    let mut stream = execs.stream(gates.sh("head -c 8000000 /dev/zero; echo $? >over")).await.unwrap();
    read(&mut stream, 1).await;
    drop(stream);
    assert_eq!(over.wait().await, "0\n");
    execs.drain().await;
    assert_eq!(execs.running(), 0);
}

#[tokio::test]
async fn an_asker_that_goes_away_does_not_end_the_command() {
    let execs = Execs::new(config());
    let gates = Gates::new();
    let (begun, over) = (gates.gate("begun"), gates.gate("over"));
    let request = gates.sh("echo >begun; head -c 8000000 /dev/zero; echo $? >over");
    tokio::select! {
        _ = execs.run(request.clone()) => panic!("over before anybody opened its gate"),
        _ = begun.wait() => {}
    }
    assert_eq!(over.wait().await, "0\n");
    // Even before there is a process.
    assert!(execs.run(request.clone()).now_or_never().is_none());
    begun.wait().await;
    assert_eq!(over.wait().await, "0\n");
    assert!(execs.stream(request).now_or_never().is_none());
    begun.wait().await;
    assert_eq!(over.wait().await, "0\n");
    execs.drain().await;
    assert_eq!((execs.running(), execs.counters().started), (0, 3));
}

#[tokio::test]
async fn only_so_many_run_at_once_and_a_place_is_free_again_at_the_end() {
    let execs = Execs::new(config());
    let gates = Gates::new();
    gates.gate("gate");
    let mut streams = Vec::new();
    for _ in 0..limits::EXECS_RUNNING {
        streams.push(execs.stream(gates.sh("read x <gate")).await.unwrap());
    }
    assert_eq!(execs.running(), limits::EXECS_RUNNING);
    let error = execs.run(sh("true")).await.unwrap_err();
    assert_eq!(error.code(), ErrorCode::LimitReached);
    assert!(error.to_string().contains("64"), "{error}");
    execs.terminate_all();
    for stream in streams {
        assert!(matches!(last_frame(stream).await, Event::Exit { .. }));
    }
    assert_eq!(execs.run(sh("true")).await.unwrap().exit_code, 0);
}

#[tokio::test]
async fn an_id_is_in_use_until_its_record_is_removed() {
    let execs = Execs::new(config());
    let gates = Gates::new();
    let gate = gates.gate("gate");
    let named = |script: &str| ExecRequest { exec_id: Some("one".into()), ..gates.sh(script) };
    let stream = execs.stream(named("read x <gate")).await.unwrap();
    assert_eq!(stream.exec().id(), "one");
    assert_eq!(execs.run(named("true")).await.unwrap_err().code(), ErrorCode::Conflict);
    gate.open().await;
    last_frame(stream).await;
    assert_eq!(execs.run(named("true")).await.unwrap_err().code(), ErrorCode::Conflict);
    execs.remove(&execs.get("one").unwrap());
    assert_eq!(execs.run(named("true")).await.unwrap().exit_code, 0);
}

#[tokio::test]
async fn at_shutdown_commands_are_ended_and_their_ends_are_told() {
    for execs in both_ways() {
        let polite = execs.stream(sh("echo up; while :; do sleep 0.05; done")).await.unwrap();
        let stubborn = execs.stream(sh("trap '' TERM; echo up; while :; do sleep 0.05; done")).await.unwrap();
        let mut streams = [polite, stubborn];
        for stream in &mut streams {
            assert_eq!(read(stream, 3).await, b"up\n");
        }
        assert!(execs.drain().now_or_never().is_none());
        execs.terminate_all();
        execs.drain().await;
        assert_eq!(execs.running(), 0);
        for (stream, expected) in streams.into_iter().zip([15, 9]) {
            let end = last_frame(stream).await;
            assert!(
                matches!(&end, Event::Exit { exit, .. } if exit.signal == Some(expected)
                    && exit.exit_code == 128 + expected && !exit.timed_out),
                "{end:?}"
            );
        }
    }
}

#[tokio::test]
async fn where_a_cgroup_cannot_be_made_commands_run_all_the_same() {
    let parent = CgroupParent::detect().unwrap();
    let (exec_id, cgroup) = unique("no-cgroup");
    let name = cgroup.file_name().unwrap().to_str().unwrap();
    // Names for an exec's cgroup are up: it takes a hundred.
    let names = |number: u32| {
        if number == 1 { name.to_owned() } else { format!("{name}~{number}") }
    };
    let taken: Vec<_> = (1..=100).map(|number| parent.create(&names(number)).unwrap()).collect();
    let request = ExecRequest { exec_id, timeout_secs: Some(1), ..sh("sleep 60 & wait") };
    let result = Execs::new(config()).run(request).await;
    for cgroup in taken {
        cgroup.remove().unwrap();
    }
    let result = result.unwrap();
    assert_eq!((result.exit_code, result.timed_out), (124, true));
}
