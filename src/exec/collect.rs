//! The whole output of an exec for one answer, within limits.
//!
//! It is kept apart from the replay ring, which holds the last of the output: an answer has the first of it, as long as somebody
//! waits for that.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use crate::api::{ExecExit, ExecResult, OutputStream};
use crate::limits;

/// What all buffered execs may keep together.
#[derive(Debug)]
pub(super) struct Allowance(AtomicUsize);

impl Allowance {
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
pub(super) struct Kept {
    stdout: Vec<u8>,
    stderr: Vec<u8>,
    truncated: bool,
    allowance: Arc<Allowance>,
}

impl Kept {
    pub(super) fn new(allowance: Arc<Allowance>) -> Self {
        Self { stdout: Vec::new(), stderr: Vec::new(), truncated: false, allowance }
    }

    /// Cannot have more than what is here: some of it is gone already.
    pub(super) fn cut(&mut self) {
        self.truncated = true;
    }

    /// Adds what still fits.
    pub(super) fn add(&mut self, stream: OutputStream, bytes: &[u8]) {
        let kept = match stream {
            OutputStream::Stdout => &mut self.stdout,
            OutputStream::Stderr => &mut self.stderr,
        };
        let room = limits::EXEC_BUFFERED_OUTPUT_BYTES - kept.len();
        let fits = self.allowance.take(bytes.len().min(room));
        kept.extend_from_slice(&bytes[..fits]);
        self.truncated |= fits < bytes.len();
    }

    /// The answer.
    pub(super) fn into_result(mut self, exec_id: String, exit: ExecExit) -> ExecResult {
        let (stdout, stderr) = (std::mem::take(&mut self.stdout), std::mem::take(&mut self.stderr));
        // From here on it is a response, of which there are as many as connections.
        self.allowance.give_back(stdout.len() + stderr.len());
        let (stdout, stdout_b64) = text(stdout, self.truncated);
        let (stderr, stderr_b64) = text(stderr, self.truncated);
        ExecResult {
            exec_id,
            exit_code: exit.exit_code,
            stdout,
            stderr,
            stdout_b64,
            stderr_b64,
            truncated: self.truncated,
            signal: exit.signal,
            timed_out: exit.timed_out,
            oom_killed: exit.oom_killed,
            duration_ms: exit.duration_ms,
            usage: exit.usage,
        }
    }
}

impl Clone for Kept {
    /// Within the allowance too.
    fn clone(&self) -> Self {
        let mut copy = Self::new(Arc::clone(&self.allowance));
        copy.add(OutputStream::Stdout, &self.stdout);
        copy.add(OutputStream::Stderr, &self.stderr);
        copy.truncated |= self.truncated;
        copy
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        self.allowance.give_back(self.stdout.len() + self.stderr.len());
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

    #[test]
    fn each_stream_is_kept_up_to_its_limit_exactly() {
        let limit = limits::EXEC_BUFFERED_OUTPUT_BYTES;
        let mut kept = Kept::new(Arc::new(Allowance::new(4 * limit)));
        kept.add(OutputStream::Stdout, &vec![b'x'; limit]);
        kept.add(OutputStream::Stderr, b"e");
        assert!(!kept.truncated);
        kept.add(OutputStream::Stdout, b"y");
        let result = kept.into_result("id".into(), ExecExit::default());
        assert_eq!((result.stdout.len(), result.stderr.as_str()), (limit, "e"));
        assert!(result.truncated);
    }

    #[test]
    fn all_execs_together_keep_no_more_than_the_budget_and_give_it_back() {
        let allowance = Arc::new(Allowance::new(10));
        let mut first = Kept::new(Arc::clone(&allowance));
        first.add(OutputStream::Stdout, b"12345678");
        let mut second = Kept::new(Arc::clone(&allowance));
        second.add(OutputStream::Stdout, b"1234");
        let result = second.into_result("id".into(), ExecExit::default());
        assert_eq!((result.stdout.as_str(), result.truncated), ("12", true));
        drop(first);
        assert_eq!(allowance.take(100), 10);
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
