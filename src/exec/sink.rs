//! Who gets what a command printed and how it ended: one answer at the end, frames as they come, or nobody any more.
//!
//! A reader that is gone is no error. Its sink takes everything and keeps nothing, and the command runs on.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use tokio::sync::{mpsc, oneshot};

use super::error::ExecError;
use crate::api::{ExecResult, ExecUsage, OutputStream, StreamFrame};
use crate::limits;
use crate::sys::pidfd::Exit;

/// Exit status that stands for a time-out, as of timeout(1).
const TIMED_OUT: i32 = 124;

/// How a command ended.
#[derive(Debug, Clone, Copy)]
pub(super) struct Ending {
    pub(super) exit: Exit,
    pub(super) timed_out: bool,
    pub(super) duration: Duration,
}

impl Ending {
    fn exit_code(&self) -> i32 {
        match self.exit {
            _ if self.timed_out => TIMED_OUT,
            Exit::Code(code) => code,
            Exit::Signal(signal) => 128 + signal,
        }
    }

    fn signal(&self) -> Option<i32> {
        match self.exit {
            Exit::Code(_) => None,
            Exit::Signal(signal) => Some(signal),
        }
    }

    fn duration_ms(&self) -> u64 {
        u64::try_from(self.duration.as_millis()).unwrap_or(u64::MAX)
    }
}

/// The reader of one exec.
#[derive(Debug)]
pub(super) struct Sink {
    exec_id: String,
    /// Bytes of both streams so far.
    cursor: u64,
    reader: Reader,
}

#[derive(Debug)]
enum Reader {
    /// Waits for the whole.
    Whole { reply: oneshot::Sender<Result<ExecResult, ExecError>>, kept: Kept },
    /// Waits for the start, or why there is none.
    Starting { started: oneshot::Sender<Result<(), ExecError>>, frames: mpsc::Sender<StreamFrame> },
    /// Takes frames.
    Frames(mpsc::Sender<StreamFrame>),
    /// Is gone, or has all.
    Gone,
}

impl Sink {
    /// Keeps output, within limits, for one answer.
    pub(super) fn whole(
        exec_id: &str,
        budget: &Arc<Budget>,
        reply: oneshot::Sender<Result<ExecResult, ExecError>>,
    ) -> Self {
        let kept = Kept::new(Arc::clone(budget));
        Self { exec_id: exec_id.to_owned(), cursor: 0, reader: Reader::Whole { reply, kept } }
    }

    /// Sends output as it comes, and waits while the channel is full.
    pub(super) fn frames(
        exec_id: &str,
        started: oneshot::Sender<Result<(), ExecError>>,
        frames: mpsc::Sender<StreamFrame>,
    ) -> Self {
        Self { exec_id: exec_id.to_owned(), cursor: 0, reader: Reader::Starting { started, frames } }
    }

    /// The command runs.
    pub(super) fn started(&mut self) {
        self.reader = match std::mem::replace(&mut self.reader, Reader::Gone) {
            Reader::Starting { started, frames } => match started.send(Ok(())) {
                Ok(()) => Reader::Frames(frames),
                Err(_) => Reader::Gone,
            },
            other => other,
        };
    }

    /// Output; the empty chunk that marks the end of a stream is nothing to a reader.
    pub(super) async fn chunk(&mut self, stream: OutputStream, bytes: Vec<u8>) {
        self.cursor += bytes.len() as u64;
        let gone = match &mut self.reader {
            _ if bytes.is_empty() => false,
            Reader::Whole { reply, .. } if reply.is_closed() => true,
            Reader::Whole { kept, .. } => {
                kept.add(stream, &bytes);
                false
            }
            Reader::Frames(frames) => {
                let data_b64 = STANDARD.encode(&bytes);
                drop(bytes);
                let exec_id = self.exec_id.clone();
                let frame = StreamFrame::Chunk { stream, data_b64, cursor: self.cursor, exec_id };
                frames.send(frame).await.is_err()
            }
            Reader::Starting { .. } | Reader::Gone => false,
        };
        if gone {
            self.reader = Reader::Gone;
        }
    }

    /// The end; nothing comes after it.
    pub(super) async fn end(self, ending: Ending) {
        match self.reader {
            Reader::Whole { reply, kept } => {
                let _ = reply.send(Ok(kept.into_result(self.exec_id, ending)));
            }
            Reader::Frames(frames) => {
                let frame = StreamFrame::Exit {
                    exit_code: ending.exit_code(),
                    signal: ending.signal(),
                    timed_out: ending.timed_out,
                    oom_killed: false,
                    duration_ms: ending.duration_ms(),
                    usage: ExecUsage::default(),
                    cursor: self.cursor,
                    exec_id: self.exec_id,
                };
                let _ = frames.send(frame).await;
            }
            Reader::Starting { .. } | Reader::Gone => {}
        }
    }

    /// There is no end to report, but this.
    pub(super) async fn fail(self, error: ExecError) {
        match self.reader {
            Reader::Whole { reply, .. } => _ = reply.send(Err(error)),
            Reader::Starting { started, .. } => _ = started.send(Err(error)),
            Reader::Frames(frames) => {
                let frame = StreamFrame::Error { code: error.code(), message: error.to_string() };
                let _ = frames.send(frame).await;
            }
            Reader::Gone => {}
        }
    }
}

/// What all buffered execs may keep together.
#[derive(Debug)]
pub(super) struct Budget(AtomicUsize);

impl Budget {
    pub(super) fn new(bytes: usize) -> Self {
        Self(AtomicUsize::new(bytes))
    }

    /// Takes up to so many bytes.
    fn take(&self, wanted: usize) -> usize {
        let update = self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| Some(left - left.min(wanted)));
        update.map_or(0, |left| left.min(wanted))
    }

    fn give_back(&self, bytes: usize) {
        self.0.fetch_add(bytes, Ordering::Relaxed);
    }
}

/// Output of a buffered exec, each stream up to its limit.
#[derive(Debug)]
struct Kept {
    stdout: Vec<u8>,
    stderr: Vec<u8>,
    truncated: bool,
    budget: Arc<Budget>,
}

impl Kept {
    fn new(budget: Arc<Budget>) -> Self {
        Self { stdout: Vec::new(), stderr: Vec::new(), truncated: false, budget }
    }

    fn add(&mut self, stream: OutputStream, bytes: &[u8]) {
        let kept = match stream {
            OutputStream::Stdout => &mut self.stdout,
            OutputStream::Stderr => &mut self.stderr,
        };
        let room = limits::EXEC_BUFFERED_OUTPUT_BYTES - kept.len();
        let fits = self.budget.take(bytes.len().min(room));
        kept.extend_from_slice(&bytes[..fits]);
        self.truncated |= fits < bytes.len();
    }

    fn into_result(mut self, exec_id: String, ending: Ending) -> ExecResult {
        let (stdout, stderr) = (std::mem::take(&mut self.stdout), std::mem::take(&mut self.stderr));
        // From here on it is a response, of which there are as many as connections.
        self.budget.give_back(stdout.len() + stderr.len());
        let (stdout, stdout_b64) = text(stdout, self.truncated);
        let (stderr, stderr_b64) = text(stderr, self.truncated);
        ExecResult {
            exec_id,
            exit_code: ending.exit_code(),
            stdout,
            stderr,
            stdout_b64,
            stderr_b64,
            truncated: self.truncated,
            signal: ending.signal(),
            timed_out: ending.timed_out,
            oom_killed: false,
            duration_ms: ending.duration_ms(),
            usage: ExecUsage::default(),
        }
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        self.budget.give_back(self.stdout.len() + self.stderr.len());
    }
}

/// Bytes as text, with the bytes themselves beside it where text cannot hold them.
fn text(mut bytes: Vec<u8>, truncated: bool) -> (String, Option<String>) {
    if truncated
        && let Err(error) = str::from_utf8(&bytes)
        && error.error_len().is_none()
    {
        // Cut in the middle of a character: leave that out, rather than send everything twice for its sake.
        bytes.truncate(error.valid_up_to());
    }
    match String::from_utf8(bytes) {
        Ok(text) => (text, None),
        Err(error) => (String::from_utf8_lossy(error.as_bytes()).into_owned(), Some(STANDARD.encode(error.as_bytes()))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DONE: Ending = Ending { exit: Exit::Code(0), timed_out: false, duration: Duration::ZERO };

    #[test]
    fn a_time_out_is_124_however_the_command_took_it() {
        for exit in [Exit::Code(0), Exit::Signal(15)] {
            assert_eq!(Ending { exit, timed_out: true, ..DONE }.exit_code(), 124);
        }
        assert_eq!(Ending { exit: Exit::Signal(9), ..DONE }.exit_code(), 137);
    }

    #[test]
    fn each_stream_is_kept_up_to_its_limit_exactly() {
        let limit = limits::EXEC_BUFFERED_OUTPUT_BYTES;
        let mut kept = Kept::new(Arc::new(Budget::new(4 * limit)));
        kept.add(OutputStream::Stdout, &vec![b'x'; limit]);
        kept.add(OutputStream::Stderr, b"e");
        assert!(!kept.truncated);
        kept.add(OutputStream::Stdout, b"y");
        let result = kept.into_result("id".into(), DONE);
        assert_eq!((result.stdout.len(), result.stderr.as_str()), (limit, "e"));
        assert!(result.truncated);
    }

    #[test]
    fn all_execs_together_keep_no_more_than_the_budget_and_give_it_back() {
        let budget = Arc::new(Budget::new(10));
        let mut first = Kept::new(Arc::clone(&budget));
        first.add(OutputStream::Stdout, b"12345678");
        let mut second = Kept::new(Arc::clone(&budget));
        second.add(OutputStream::Stdout, b"1234");
        let result = second.into_result("id".into(), DONE);
        assert_eq!((result.stdout.as_str(), result.truncated), ("12", true));
        drop(first);
        assert_eq!(budget.take(100), 10);
    }

    #[test]
    fn bytes_that_are_no_text_come_in_base64_too() {
        assert_eq!(text(b"ok".into(), false), ("ok".into(), None));
        assert_eq!(text(vec![b'a', 0xff], false), ("a\u{fffd}".into(), Some("Yf8=".into())));
    }

    #[test]
    fn text_that_was_cut_inside_a_character_is_still_text() {
        assert_eq!(text("aä".as_bytes()[..2].into(), true), ("a".into(), None));
        assert!(text("aä".as_bytes()[..2].into(), false).1.is_some());
    }
}
