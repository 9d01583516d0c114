//! Execs by id: the same request is the same exec, records stay, and input and signals reach what runs.

use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::join_all;
use guestd::api::{ErrorCode, ExecRequest, ExecState, SignalTarget, TtySize};
use guestd::exec::{AttachFrom, Attachment, CgroupParent, Event, ExecConfig, ExecError, Execs};
use guestd::limits;

fn config() -> ExecConfig {
    ExecConfig {
        environment_file: "/nonexistent/environment".into(),
        kill_grace: Duration::from_millis(200),
        ..ExecConfig::default()
    }
}

fn sh(script: &str) -> ExecRequest {
    let command = ["sh", "-c", script].map(str::to_owned).into();
    ExecRequest { command, ..ExecRequest::default() }
}

fn named(id: &str, script: &str) -> ExecRequest {
    ExecRequest { exec_id: Some(id.into()), ..sh(script) }
}

/// Output until there are as many bytes.
async fn read(attachment: &mut Attachment, count: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    while bytes.len() < count {
        match attachment.next().await {
            Some(Event::Chunk { bytes: chunk, .. }) => bytes.extend(chunk),
            other => panic!("{other:?}"),
        }
    }
    bytes
}

#[tokio::test]
async fn the_same_id_and_request_is_the_same_exec_while_it_runs_and_after() {
    let execs = Execs::new(config());
    let dir = tempfile::tempdir().unwrap();
    let request = ExecRequest {
        working_dir: Some(dir.path().to_str().unwrap().into()),
        ..named("once", "echo ran >>runs; echo out; echo err >&2; exit 4")
    };
    let all = join_all((0..10).map(|_| execs.run(request.clone()))).await;
    for result in all.into_iter().chain([execs.run(request.clone()).await]) {
        let result = result.unwrap();
        assert_eq!((result.stdout.as_str(), result.stderr.as_str()), ("out\n", "err\n"));
        assert_eq!((result.exit_code, result.truncated), (4, false));
    }
    let mut stream = execs.stream(ExecRequest { detach: true, ..request.clone() }).await.unwrap();
    assert_eq!(read(&mut stream, 8).await.len(), 8);
    assert_eq!(std::fs::read_to_string(dir.path().join("runs")).unwrap(), "ran\n");
    assert_eq!((execs.counters().started, execs.counters().failed), (1, 0));
}

#[tokio::test]
async fn the_same_id_and_another_request_is_a_conflict() {
    let execs = Execs::new(config());
    execs.run(named("one", "true")).await.unwrap();
    let error = execs.run(named("one", "false")).await.unwrap_err();
    assert_eq!(error.code(), ErrorCode::Conflict);
    assert!(error.to_string().contains("\"one\""), "{error}");
}

#[tokio::test]
async fn an_exec_that_could_not_start_leaves_no_record_and_everyone_is_told() {
    let execs = Execs::new(config());
    let request = ExecRequest { exec_id: Some("x".into()), command: vec!["/no/such/program".into()], ..sh("") };
    for result in join_all((0..5).map(|_| execs.run(request.clone()))).await {
        assert_eq!(result.unwrap_err().code(), ErrorCode::ProgramNotFound);
    }
    assert_eq!(execs.get("x").unwrap_err().code(), ErrorCode::NotFound);
    assert_eq!((execs.running(), execs.gauges().records), (0, 0));
    assert_eq!(execs.run(named("x", "true")).await.unwrap().exit_code, 0);
}

#[tokio::test]
async fn a_status_tells_the_life_of_an_exec() {
    let execs = Execs::new(config());
    let request = ExecRequest { stdin_open: true, user: Some("root".into()), ..named("life", "read x; exit 3") };
    let exec = execs.start(request).await.unwrap();
    let status = exec.status();
    assert_eq!((status.state, status.exit, status.finished_at), (ExecState::Running, None, None));
    assert_eq!((status.command.len(), status.user.as_deref(), status.tty), (3, Some("root"), false));
    assert!(std::path::Path::new(&format!("/proc/{}", status.pid.unwrap())).exists());
    assert!(exec.exited().now_or_never().is_none());
    exec.write_stdin("\n".into()).await.unwrap();
    exec.exited().await;
    let status = execs.get("life").unwrap().status();
    assert_eq!((status.state, status.pid, status.exit.unwrap().exit_code), (ExecState::Exited, None, 3));
    assert!(status.finished_at.unwrap() >= status.started_at);
}

#[tokio::test]
async fn execs_are_listed_oldest_first_and_removed_ones_are_gone() {
    let execs = Execs::new(config());
    for id in ["b", "a", "c"] {
        execs.run(named(id, "true")).await.unwrap();
    }
    execs.remove(&execs.get("a").unwrap());
    let ids: Vec<_> = execs.list().iter().map(|exec| exec.id().to_owned()).collect();
    assert_eq!(ids, ["b", "c"]);
    assert!(matches!(execs.get("a"), Err(ExecError::Unknown { .. })));
}

#[tokio::test]
async fn input_is_streamed_and_ended() {
    let execs = Execs::new(config());
    let request = ExecRequest { stdin_open: true, stdin: Some("first ".into()), lossless: true, ..sh("cat") };
    let exec = execs.start(request).await.unwrap();
    let mut output = exec.attach(AttachFrom::Cursor(0)).unwrap();
    let text = vec![b'x'; 3 * 1024 * 1024];
    let write = async {
        assert_eq!(exec.write_stdin_at(0, text.clone().into()).await.unwrap(), text.len() as u64);
        // The same again, as after a lost answer.
        assert_eq!(exec.write_stdin_at(0, text.clone().into()).await.unwrap_err().code(), ErrorCode::Conflict);
        exec.close_stdin();
        assert_eq!(exec.write_stdin("y".into()).await.unwrap_err().code(), ErrorCode::Conflict);
    };
    let (bytes, ()) = tokio::join!(read(&mut output, 6 + text.len()), write);
    assert!(bytes.starts_with(b"first xxx"));
    assert!(matches!(output.next().await, Some(Event::Exit { exit, .. }) if exit.exit_code == 0));
}

#[tokio::test]
async fn input_for_a_command_that_does_not_read_waits_and_is_over_with_it() {
    let execs = Execs::new(config());
    let exec = execs.start(ExecRequest { stdin_open: true, ..sh("exec sleep 600") }).await.unwrap();
    let mut write = Box::pin(exec.write_stdin(vec![0; 4 * 1024 * 1024].into()));
    assert!(tokio::time::timeout(Duration::from_millis(100), &mut write).await.is_err());
    exec.terminate();
    assert_eq!(write.await.unwrap_err().code(), ErrorCode::Conflict);
    let closed = execs.start(sh("true")).await.unwrap();
    let error = closed.write_stdin("x".into()).await.unwrap_err();
    assert!(matches!(&error, ExecError::StdinClosed { .. }), "{error}");
}

#[tokio::test]
async fn signals_reach_the_process_its_group_or_all_of_it() {
    for cgroup in [Some(CgroupParent::detect().unwrap()), None] {
        let execs = Execs::new(ExecConfig { cgroup, ..config() });
        // The child is in a session of its own, and only a signal to all reaches it.
        let script = "exec 2>/dev/null; trap 'echo leader' USR1; setsid sh -c 'trap \"echo child; exit\" USR1; echo up; while :; do sleep 0.02; done' & \
                      echo up; while :; do sleep 0.02; done";
        let exec = execs.start(sh(script)).await.unwrap();
        let mut output = exec.attach(AttachFrom::Cursor(0)).unwrap();
        assert_eq!(read(&mut output, 6).await, b"up\nup\n");
        for to in [SignalTarget::Process, SignalTarget::Tree] {
            exec.signal("usr1", to).unwrap();
            let expected: &[u8] = if to == SignalTarget::Tree { b"leader\nchild\n" } else { b"leader\n" };
            let mut lines: Vec<_> = read(&mut output, expected.len()).await;
            if lines.starts_with(b"child") {
                lines.rotate_left(6);
            }
            assert_eq!(lines, expected);
        }
        assert_eq!(exec.signal("NOPE", SignalTarget::Process).unwrap_err().code(), ErrorCode::InvalidField);
        exec.signal("SIGKILL", SignalTarget::Group).unwrap();
        exec.exited().await;
        assert_eq!(exec.status().exit.unwrap().signal, Some(9));
        assert_eq!(exec.signal("TERM", SignalTarget::Tree).unwrap_err().code(), ErrorCode::Conflict);
    }
}

#[tokio::test]
async fn an_exec_on_pipes_has_no_terminal_to_resize() {
    let execs = Execs::new(config());
    let exec = execs.start(sh("true")).await.unwrap();
    let error = exec.resize(TtySize { rows: 24, cols: 80 }).unwrap_err();
    assert_eq!(error.code(), ErrorCode::Conflict);
}

#[tokio::test]
async fn no_task_is_left_after_shutdown_not_even_for_a_daemon_or_an_absent_reader() {
    let execs = Execs::new(ExecConfig { drain_silence: Duration::ZERO, ..config() });
    execs.run(sh("sleep 2 & true")).await.unwrap();
    let stuck = execs.start(ExecRequest { lossless: true, ..sh("exec yes") }).await.unwrap();
    let reader = stuck.attach(AttachFrom::Cursor(0)).unwrap();
    let open = execs.start(ExecRequest { stdin_open: true, ..sh("cat") }).await.unwrap();
    tokio::time::timeout(Duration::from_secs(30), execs.shutdown()).await.unwrap();
    assert_eq!(execs.running(), 0);
    assert_eq!((stuck.status().state, open.status().state), (ExecState::Exited, ExecState::Exited));
    drop(reader);
}

#[tokio::test]
async fn an_exec_over_its_limit_of_answer_is_cut_and_one_that_came_late_says_so() {
    let execs = Execs::new(config());
    let total = 2 * limits::EXEC_REPLAY_BYTES;
    let request = named("big", &format!("head -c {total} /dev/zero | tr '\\0' x"));
    let first = execs.run(request.clone()).await.unwrap();
    assert_eq!((first.stdout.len(), first.truncated), (total, false));
    let later = execs.run(request).await.unwrap();
    assert!(later.truncated && later.stdout.len() <= limits::EXEC_REPLAY_BYTES);
}
