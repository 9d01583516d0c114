//! The two output pipes of a command, read in the order in which they have something, until the command is over.
//!
//! Over is not the end of file: a daemon that the command left behind holds the pipes as long as it lives. After the exit all
//! that the command itself has written is in the pipes and is owed to the reader; what comes then is awaited for a short silence
//! only. A reader that is slow makes the command wait, for nothing is read meanwhile; the time that it takes counts for nothing.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use tokio::net::unix::pipe::Receiver;
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep_until};

use super::sink::Sink;
use crate::api::OutputStream;
use crate::limits;
use crate::sys::process::pending;

/// stdout and stderr of one command.
#[derive(Debug)]
pub(super) struct Output {
    stdout: Pipe,
    stderr: Pipe,
}

/// How long to wait for more after the exit.
#[derive(Debug, Clone, Copy)]
pub(super) struct Patience {
    /// This much silence ends it.
    pub(super) silence: Duration,
    /// This much time ends it at all events.
    pub(super) limit: Duration,
}

impl Output {
    /// Takes the read ends. Needs to be called within a runtime.
    ///
    /// # Errors
    /// Where they are no pipes, or epoll has no room.
    pub(super) fn new(stdout: OwnedFd, stderr: OwnedFd) -> io::Result<Self> {
        Ok(Self {
            stdout: Pipe(Some(Receiver::from_owned_fd(stdout)?)),
            stderr: Pipe(Some(Receiver::from_owned_fd(stderr)?)),
        })
    }

    /// Hands all output to the sink. Returns when both pipes have ended, or the command has exited and its output is drained.
    pub(super) async fn forward(&mut self, sink: &mut Sink, mut exited: oneshot::Receiver<()>, patience: Patience) {
        let mut drain: Option<Drain> = None;
        while !self.is_over() {
            let Self { stdout, stderr } = self;
            let deadline = drain.as_ref().and_then(Drain::deadline);
            let (stream, bytes) = tokio::select! {
                bytes = stdout.next(), if stdout.0.is_some() => (OutputStream::Stdout, bytes),
                bytes = stderr.next(), if stderr.0.is_some() => (OutputStream::Stderr, bytes),
                _ = &mut exited, if drain.is_none() => {
                    let owed = [stdout.pending(), stderr.pending()];
                    drain = Some(Drain::begin(Instant::now(), patience, owed));
                    continue;
                }
                () = sleep_until(deadline.unwrap_or_else(Instant::now)), if deadline.is_some() => return,
            };
            let before = Instant::now();
            let count = bytes.len();
            sink.chunk(stream, bytes).await;
            if let Some(drain) = &mut drain {
                drain.handed_over(stream, count, before, Instant::now());
            }
        }
    }

    /// Whether both pipes have ended.
    pub(super) fn is_over(&self) -> bool {
        self.stdout.0.is_none() && self.stderr.0.is_none()
    }

    /// Reads what comes and throws it away, until both pipes have ended.
    pub(super) async fn discard(mut self) {
        while !self.is_over() {
            let Self { stdout, stderr } = &mut self;
            tokio::select! {
                _ = stdout.next(), if stdout.0.is_some() => {}
                _ = stderr.next(), if stderr.0.is_some() => {}
            }
        }
    }
}

/// A read end, until its end of file.
#[derive(Debug)]
struct Pipe(Option<Receiver>);

impl Pipe {
    /// The next bytes; none at the end of file, after which the pipe is closed. Loses nothing when dropped half-way.
    async fn next(&mut self) -> Vec<u8> {
        loop {
            let Some(pipe) = &self.0 else {
                return Vec::new();
            };
            let ready = pipe.readable().await;
            // Room is taken only now that there is something, so a silent command costs no buffer.
            let mut bytes = Vec::with_capacity(limits::EXEC_CHUNK_BYTES);
            match ready.and_then(|()| pipe.try_read_buf(&mut bytes)) {
                Ok(count) if count > 0 => return bytes,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => continue,
                Err(error) => tracing::warn!(%error, "reading a command's output failed"),
                Ok(_) => {}
            }
            self.0 = None;
        }
    }

    fn pending(&self) -> usize {
        self.0.as_ref().map_or(0, |pipe| pending(pipe.as_fd()).unwrap_or(0))
    }
}

/// When draining ends. Pure: time is told to it.
#[derive(Debug)]
struct Drain {
    patience: Patience,
    /// Bytes of each stream that were in the pipe at the exit and are still to come.
    owed: [usize; 2],
    quiet_until: Instant,
    until: Instant,
}

impl Drain {
    fn begin(now: Instant, patience: Patience, owed: [usize; 2]) -> Self {
        Self { patience, owed, quiet_until: now + patience.silence, until: now + patience.limit }
    }

    /// Notes that so many bytes were given to the reader, who took from `before` to `after` to take them.
    fn handed_over(&mut self, stream: OutputStream, count: usize, before: Instant, after: Instant) {
        let owed = &mut self.owed[stream as usize];
        // At the end of file nothing is owed any more, whatever was counted.
        *owed = if count == 0 { 0 } else { owed.saturating_sub(count) };
        self.quiet_until = after + self.patience.silence;
        self.until += after - before;
    }

    /// The end, unless something is owed.
    fn deadline(&self) -> Option<Instant> {
        (self.owed == [0, 0]).then(|| self.quiet_until.min(self.until))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATIENCE: Patience = Patience { silence: Duration::from_millis(250), limit: Duration::from_secs(2) };
    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn silence_ends_draining_and_each_chunk_renews_it() {
        let start = Instant::now();
        let mut drain = Drain::begin(start, PATIENCE, [0, 0]);
        assert_eq!(drain.deadline(), Some(start + PATIENCE.silence));
        let later = start + SECOND;
        drain.handed_over(OutputStream::Stdout, 5, later, later);
        assert_eq!(drain.deadline(), Some(later + PATIENCE.silence));
    }

    #[test]
    fn endless_chatter_ends_at_the_limit() {
        let start = Instant::now();
        let mut drain = Drain::begin(start, PATIENCE, [0, 0]);
        let late = start + Duration::from_millis(1900);
        drain.handed_over(OutputStream::Stderr, 5, late, late);
        assert_eq!(drain.deadline(), Some(start + PATIENCE.limit));
    }

    #[test]
    fn what_was_in_the_pipes_at_the_exit_is_owed_whatever_the_time() {
        let start = Instant::now();
        let mut drain = Drain::begin(start, PATIENCE, [10, 1]);
        let late = start + 60 * SECOND;
        drain.handed_over(OutputStream::Stdout, 12, late, late);
        assert_eq!(drain.deadline(), None);
        drain.handed_over(OutputStream::Stderr, 0, late, late);
        assert!(drain.deadline().is_some());
    }

    #[test]
    fn the_time_that_a_slow_reader_takes_counts_for_nothing() {
        let start = Instant::now();
        let mut drain = Drain::begin(start, PATIENCE, [0, 0]);
        drain.handed_over(OutputStream::Stdout, 5, start, start + 60 * SECOND);
        assert_eq!(drain.deadline(), Some(start + 60 * SECOND + PATIENCE.silence));
    }
}
