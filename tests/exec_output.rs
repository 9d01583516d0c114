//! Output that is read again, by many, late, slowly, and from disk: every byte, or a gap that says which are missing.

#![expect(clippy::unwrap_used, reason = "clippy allows it in test functions, and these have helpers")]

use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::join_all;
use guestd::api::{ErrorCode, ExecRequest, ExecState, OutputStream};
use guestd::exec::{AttachFrom, Attachment, Event, Exec, ExecConfig, Execs, LogQuery};
use guestd::limits;

const MIB: usize = 1024 * 1024;

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

/// Prints so many bytes, of which each eight are their own number; the pattern of [`numbered`].
fn numbers(bytes: usize) -> ExecRequest {
    sh(&format!("seq -f %07.0f 0 {} | head -c {bytes}", bytes / 8))
}

fn numbered(from: usize, to: usize) -> Vec<u8> {
    let text: String = (from / 8..to.div_ceil(8)).map(|number| format!("{number:07}\n")).collect();
    text.as_bytes()[from % 8..][..to - from].to_vec()
}

/// All that a reader gets: bytes with their offset, gaps, and the end.
#[derive(Debug, Default, PartialEq)]
struct Seen {
    bytes: usize,
    gaps: Vec<(u64, u64)>,
    end: Option<u64>,
}

/// Reads to the end and compares each byte with the pattern.
async fn read(mut attachment: Attachment) -> Seen {
    let (mut seen, mut at) = (Seen::default(), attachment.begin());
    while let Some(event) = attachment.next().await {
        match event {
            Event::Chunk { bytes, cursor, .. } => {
                let from = usize::try_from(at).unwrap();
                assert!(bytes == numbered(from, from + bytes.len()), "differs after {at}");
                at += bytes.len() as u64;
                seen.bytes += bytes.len();
                assert_eq!(cursor, at);
            }
            Event::Gap { from, to } => {
                assert_eq!(from, at);
                at = to;
                seen.gaps.push((from, to));
            }
            Event::Exit { cursor, .. } => {
                assert_eq!(cursor, at);
                seen.end = Some(cursor);
            }
            Event::Error(error) => panic!("{error}"),
        }
    }
    seen
}

async fn over(exec: &Arc<Exec>) {
    let mut latest = exec.attach(AttachFrom::Latest).unwrap();
    while latest.next().await.is_some() {}
}

#[tokio::test]
async fn a_late_reader_gets_a_gap_that_names_what_is_missing_and_every_byte_after_it() {
    let execs = Execs::new(config());
    let total = 3 * MIB;
    let exec = execs.start(numbers(total)).await.unwrap();
    // Not by a reader, who could lag and get a gap too: gaps are counted here.
    execs.drain().await;
    let status = exec.status();
    assert_eq!((status.state, status.cursor), (ExecState::Exited, total as u64));
    assert!(status.cursor_start > 0 && status.cursor - status.cursor_start <= limits::EXEC_REPLAY_BYTES as u64);
    let kept = total - usize::try_from(status.cursor_start).unwrap();
    assert!(kept > limits::EXEC_REPLAY_BYTES / 2, "{kept}");
    let seen = read(exec.attach(AttachFrom::Cursor(5)).unwrap()).await;
    assert_eq!(seen, Seen { bytes: kept, gaps: vec![(5, status.cursor_start)], end: Some(total as u64) });
    assert_eq!(execs.gauges().gaps, 1);
    let seen = read(exec.attach(AttachFrom::Cursor(total as u64 - 3)).unwrap()).await;
    assert_eq!(seen, Seen { bytes: 3, gaps: vec![], end: Some(total as u64) });
    let past = exec.attach(AttachFrom::Cursor(total as u64 + 1)).unwrap_err();
    assert_eq!(past.code(), ErrorCode::InvalidField);
}

#[tokio::test]
async fn a_reader_that_does_not_read_holds_up_nobody() {
    let execs = Execs::new(config());
    let total = 8 * MIB;
    let exec = execs.start(numbers(total)).await.unwrap();
    let idle = exec.attach(AttachFrom::Cursor(0)).unwrap();
    over(&exec).await;
    let seen = read(idle).await;
    assert_eq!(seen.end, Some(total as u64));
    assert_eq!(seen.gaps.len(), 1);
    assert_eq!(seen.bytes as u64 + seen.gaps[0].1 - seen.gaps[0].0, total as u64);
}

#[tokio::test]
async fn a_lossless_exec_whose_end_is_waited_for_ends_though_nobody_reads_its_output() {
    let execs = Execs::new(ExecConfig { replay_bytes: 64 * 1024, ..config() });
    let total = 300_000;
    let run = execs.run(ExecRequest { lossless: true, ..numbers(total) });
    let result = tokio::time::timeout(Duration::from_secs(30), run).await.expect("it ends").unwrap();
    assert!(result.stdout.as_bytes() == numbered(0, total), "{} bytes", result.stdout.len());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lossless_exec_loses_nothing_when_its_reader_stops_and_comes_back() {
    let execs = Execs::new(config());
    let total = 6 * MIB;
    let exec = execs.start(ExecRequest { lossless: true, ..numbers(total) }).await.unwrap();
    // What was given to a reader and lost on its way is there again: it comes back a little earlier than it was.
    let on_the_way = 300_000;
    let mut cursor = 0;
    for _ in 0..4 {
        let mut reader = exec.attach(AttachFrom::Cursor(cursor)).unwrap();
        let mut at = cursor;
        while at < cursor + MIB as u64 {
            let Some(Event::Chunk { bytes: chunk, cursor: after, .. }) = reader.next().await else {
                panic!("no chunk")
            };
            let from = usize::try_from(at).unwrap();
            assert!(chunk == numbered(from, from + chunk.len()));
            at = after;
        }
        cursor = at - on_the_way;
        // Nobody is attached, and the command fills what room there is; then it waits.
        drop(reader);
        for _ in 0..1000 {
            tokio::task::yield_now().await;
        }
    }
    let seen = read(exec.attach(AttachFrom::Cursor(cursor)).unwrap()).await;
    assert_eq!(seen, Seen { bytes: total - usize::try_from(cursor).unwrap(), gaps: vec![], end: Some(total as u64) });
}

#[tokio::test]
async fn a_lossless_exec_that_nobody_reads_waits_for_a_first_reader() {
    let execs = Execs::new(config());
    let total = 4 * MIB;
    let exec = execs.start(ExecRequest { lossless: true, ..numbers(total) }).await.unwrap();
    // It cannot end, for its output has no room.
    let wait = tokio::time::timeout(Duration::from_millis(300), exec.exited()).await;
    assert!(wait.is_err());
    assert!(exec.status().cursor <= limits::EXEC_REPLAY_BYTES as u64);
    let seen = read(exec.attach(AttachFrom::Cursor(0)).unwrap()).await;
    assert_eq!(seen, Seen { bytes: total, gaps: vec![], end: Some(total as u64) });
}

#[tokio::test]
async fn the_slowest_of_the_readers_of_a_lossless_exec_gets_everything_too() {
    let execs = Execs::new(config());
    let total = 4 * MIB;
    let exec = execs.start(ExecRequest { lossless: true, ..numbers(total) }).await.unwrap();
    let slow = exec.attach(AttachFrom::Cursor(0)).unwrap();
    let mut quick = Box::pin(read(exec.attach(AttachFrom::Cursor(0)).unwrap()));
    assert!(tokio::time::timeout(Duration::from_millis(300), &mut quick).await.is_err());
    let (slow, quick) = tokio::join!(read(slow), quick);
    for seen in [slow, quick] {
        assert_eq!(seen, Seen { bytes: total, gaps: vec![], end: Some(total as u64) });
    }
}

#[tokio::test]
async fn a_lossless_exec_whose_record_is_removed_waits_for_nobody() {
    let execs = Execs::new(config());
    let exec = execs.start(ExecRequest { lossless: true, ..numbers(4 * MIB) }).await.unwrap();
    execs.remove(&exec);
    exec.exited().await;
    execs.drain().await;
    assert_eq!(execs.get(exec.id()).unwrap_err().code(), ErrorCode::NotFound);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn twenty_readers_at_once_each_get_every_byte() {
    let execs = Execs::new(config());
    let total = 3 * MIB;
    let exec = execs.start(ExecRequest { lossless: true, ..numbers(total) }).await.unwrap();
    let readers = (0..20).map(|_| tokio::spawn(read(exec.attach(AttachFrom::Cursor(0)).unwrap())));
    for seen in join_all(readers).await {
        assert_eq!(seen.unwrap(), Seen { bytes: total, gaps: vec![], end: Some(total as u64) });
    }
    assert_eq!(execs.gauges().readers, 0);
}

#[tokio::test]
async fn readers_are_limited_in_number_by_a_typed_error() {
    let execs = Execs::new(config());
    let exec = execs.start(sh("true")).await.unwrap();
    let readers: Vec<_> = (0..limits::EXEC_READERS).map(|_| exec.attach(AttachFrom::Latest).unwrap()).collect();
    assert_eq!(exec.attach(AttachFrom::Latest).unwrap_err().code(), ErrorCode::LimitReached);
    drop(readers);
    assert!(exec.attach(AttachFrom::Latest).is_ok());
}

#[tokio::test]
async fn a_reader_of_the_latest_gets_only_what_comes() {
    let execs = Execs::new(config());
    let request = ExecRequest { stdin_open: true, ..sh("echo early; read x; echo $x; read x") };
    let exec = execs.start(request).await.unwrap();
    let mut first = exec.attach(AttachFrom::Cursor(0)).unwrap();
    assert!(matches!(first.next().await, Some(Event::Chunk { bytes, .. }) if bytes == "early\n"));
    let mut latest = exec.attach(AttachFrom::Latest).unwrap();
    assert_eq!(latest.begin(), 6);
    assert!(latest.next().now_or_never().is_none());
    exec.write_stdin("late\n".into()).await.unwrap();
    assert!(matches!(latest.next().await, Some(Event::Chunk { bytes, cursor: 11, .. }) if bytes == "late\n"));
    exec.close_stdin();
    assert!(matches!(latest.next().await, Some(Event::Exit { cursor: 11, .. })));
    assert!(latest.next().await.is_none());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sixty_four_noisy_execs_stay_within_the_budget() {
    let total = 8 * MIB;
    let execs = Execs::new(ExecConfig { replay_total_bytes: total, ..config() });
    let started = join_all((0..64).map(|_| execs.start(sh("yes")))).await;
    let started: Vec<_> = started.into_iter().map(Result::unwrap).collect();
    // For an instant, a piece of each can be over it.
    let most = total + 64 * (limits::EXEC_CHUNK_BYTES + limits::EXEC_PIECE_OVERHEAD);
    while started.iter().any(|exec| exec.status().cursor < 2 * MIB as u64) {
        let used = execs.gauges().output_bytes;
        assert!(used <= most, "{used} of {most}");
        tokio::task::yield_now().await;
    }
    execs.terminate_all();
    execs.drain().await;
    let used = execs.gauges().output_bytes;
    assert!(used > total / 2 && used <= total, "{used}");
    started.iter().for_each(|exec| execs.remove(exec));
    drop(started);
    assert_eq!(execs.gauges().output_bytes, 0);
}

#[tokio::test]
async fn the_output_of_ended_execs_goes_before_that_of_running_ones() {
    let execs = Execs::new(ExecConfig { replay_total_bytes: 2 * MIB, ..config() });
    let old = execs.start(numbers(MIB / 2)).await.unwrap();
    over(&old).await;
    let waiting = execs.start(ExecRequest { stdin_open: true, ..sh("echo here; read x") }).await.unwrap();
    let mut reader = waiting.attach(AttachFrom::Cursor(0)).unwrap();
    assert!(reader.next().await.is_some());
    for _ in 0..2 {
        over(&execs.start(numbers(MIB)).await.unwrap()).await;
    }
    assert_eq!(old.status().cursor_start, MIB as u64 / 2);
    assert_eq!(waiting.status().cursor_start, 0);
    waiting.close_stdin();
    over(&waiting).await;
}

#[tokio::test]
async fn spilled_output_is_read_from_disk_without_a_gap_and_goes_with_its_record() {
    let dir = tempfile::tempdir().unwrap();
    let execs = Execs::new(ExecConfig { spill_dir: dir.path().join("spill"), ..config() });
    let total = 5 * MIB + 3;
    let exec = execs.start(ExecRequest { spill: true, ..numbers(total) }).await.unwrap();
    over(&exec).await;
    assert_eq!(exec.status().cursor_start, 0);
    assert!(execs.gauges().spilled_bytes > 3 * MIB as u64);
    for from in [0, 1_234_567, 4 * MIB, total - 1] {
        let seen = read(exec.attach(AttachFrom::Cursor(from as u64)).unwrap()).await;
        assert_eq!(seen, Seen { bytes: total - from, gaps: vec![], end: Some(total as u64) });
    }
    let mode = std::os::unix::fs::PermissionsExt::mode(&dir.path().join("spill").metadata().unwrap().permissions());
    assert_eq!(mode & 0o777, 0o700);
    assert_eq!(std::fs::read_dir(dir.path().join("spill")).unwrap().count(), 0);
    execs.remove(&exec);
    drop(exec);
    assert_eq!(execs.gauges().spilled_bytes, 0);
}

#[tokio::test]
async fn a_full_disk_is_a_gap_and_no_stuck_exec() {
    let dir = tempfile::tempdir().unwrap();
    let execs = Execs::new(ExecConfig { spill_dir: dir.path().into(), spill_bytes: MIB as u64, ..config() });
    let total = 5 * MIB;
    let exec = execs.start(ExecRequest { spill: true, ..numbers(total) }).await.unwrap();
    over(&exec).await;
    let seen = read(exec.attach(AttachFrom::Cursor(0)).unwrap()).await;
    assert_eq!((seen.gaps.len(), seen.end), (1, Some(total as u64)));
    let (from, to) = seen.gaps[0];
    assert!(from > MIB as u64 / 2 && from <= MIB as u64, "{from}");
    assert!(total as u64 - to > limits::EXEC_REPLAY_BYTES as u64 / 2, "{to}");
}

#[tokio::test]
async fn logs_are_read_page_by_page_in_the_order_of_all_execs() {
    let dir = tempfile::tempdir().unwrap();
    let execs = Execs::new(ExecConfig { spill_dir: dir.path().into(), ..config() });
    let named = |id: &str, request| ExecRequest { exec_id: Some(id.into()), ..request };
    for (id, script) in [("a", "echo 1; echo 2 >&2"), ("b", "echo 3")] {
        over(&execs.start(named(id, sh(script))).await.unwrap()).await;
    }
    let total = 3 * MIB;
    over(&execs.start(named("c", ExecRequest { spill: true, ..numbers(total) })).await.unwrap()).await;

    let first = execs.logs(LogQuery { max_entries: 3, ..LogQuery::default() }).await.unwrap();
    let mut ids: Vec<_> = first.entries.iter().map(|entry| entry.exec_id.as_str()).collect();
    ids.sort_unstable();
    assert_eq!((ids, first.eof), (vec!["a", "a", "b"], false));
    let errors = LogQuery { stream: Some(OutputStream::Stderr), ..LogQuery::default() };
    let errors = execs.logs(errors).await.unwrap();
    assert_eq!((errors.entries.len(), errors.entries[0].data_b64.as_str(), errors.eof), (1, "Mgo=", true));

    let (mut bytes, mut offset) = (Vec::new(), first.next_offset);
    loop {
        let query = LogQuery { exec_id: Some("c".into()), offset, max_entries: 7, ..LogQuery::default() };
        let page = execs.logs(query).await.unwrap();
        assert!(page.entries.len() <= 7);
        for entry in &page.entries {
            use base64::Engine;
            bytes.extend(base64::engine::general_purpose::STANDARD.decode(&entry.data_b64).unwrap());
        }
        offset = page.next_offset;
        if page.eof {
            break;
        }
    }
    assert!(bytes == numbered(0, total));
    let unknown = LogQuery { exec_id: Some("d".into()), ..LogQuery::default() };
    assert_eq!(execs.logs(unknown).await.unwrap_err().code(), ErrorCode::NotFound);
}

#[tokio::test]
async fn logs_of_all_have_each_byte_once_though_a_later_little_one_would_fit_where_a_large_one_did_not() {
    use base64::Engine;
    let execs = Execs::new(config());
    let total = 2 * limits::LOG_BYTES - 1000;
    for (id, request) in [("large", ExecRequest { spill: true, ..numbers(total) }), ("little", sh("echo late"))] {
        over(&execs.start(ExecRequest { exec_id: Some(id.to_owned()), ..request }).await.unwrap()).await;
    }
    let (mut large, mut little, mut offset) = (Vec::new(), Vec::new(), 0);
    loop {
        let page = execs.logs(LogQuery { offset, ..LogQuery::default() }).await.unwrap();
        for entry in &page.entries {
            let bytes = base64::engine::general_purpose::STANDARD.decode(&entry.data_b64).unwrap();
            if entry.exec_id == "large" { large.extend(bytes) } else { little.extend(bytes) }
        }
        offset = page.next_offset;
        if page.eof {
            break;
        }
    }
    assert!(large == numbered(0, total), "{} bytes of {total}", large.len());
    assert_eq!(little, b"late\n");
}
