//! The output of a command, read in the order in which its streams have something, until the command is over.
//!
//! Over is not the end of file: a daemon that the command left behind holds the pipes as long as it lives. After the exit all
//! that the command itself has written is in the pipes and is owed to the journal; what comes then is awaited for a short silence
//! only. Where the journal makes the command wait, nothing is read meanwhile; the time that it takes counts for nothing.

use std::os::fd::OwnedFd;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep_until};

use super::io::Source;
use super::journal::Journal;
use crate::api::OutputStream;
use crate::limits;

/// stdout and stderr of one command, each until its end.
#[derive(Debug)]
pub(super) struct Output {
    stdout: Option<Source>,
    stderr: Option<Source>,
    /// Without these, the streams would end by themselves with the command.
    held: Vec<OwnedFd>,
    /// Those that have ended; closing them can wait until nobody else does.
    ended: Vec<Source>,
    buffer: BytesMut,
    /// Bytes handed over since others had a turn.
    turn: usize,
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
    /// Reads these; a terminal has one stream only.
    pub(super) fn new(stdout: Source, stderr: Option<Source>, held: Vec<OwnedFd>) -> Self {
        Self { stdout: Some(stdout), stderr, held, ended: Vec::new(), buffer: BytesMut::new(), turn: 0 }
    }

    /// Hands all output to the journal. Returns when both streams have ended, or the command has exited and its output is drained.
    pub(super) async fn forward(&mut self, journal: &Journal, mut exited: oneshot::Receiver<()>, patience: Patience) {
        let mut drain: Option<Drain> = None;
        while !self.is_over() {
            let deadline = drain.as_ref().and_then(Drain::deadline);
            let stream = tokio::select! {
                stream = self.ready() => stream,
                _ = &mut exited, if drain.is_none() => {
                    self.held.clear();
                    let drain = drain.insert(Drain::begin(Instant::now(), patience, self.pending()));
                    self.drain_pipes(journal, drain).await;
                    continue;
                }
                () = sleep_until(deadline.unwrap_or_else(Instant::now)), if deadline.is_some() => return,
            };
            if let Some(bytes) = self.read(stream, Source::read) {
                self.hand_over(journal, drain.as_mut(), stream, bytes).await;
            }
        }
    }

    /// What is there already, and the end, if nobody else holds the pipes, without another wait for events.
    async fn drain_pipes(&mut self, journal: &Journal, drain: &mut Drain) {
        for stream in [OutputStream::Stdout, OutputStream::Stderr] {
            loop {
                let owed = drain.owes(stream);
                let Some(bytes) = self.read(stream, Source::read_unasked) else {
                    // Whoever else has the pipe may have read it, too.
                    drain.owed = self.pending();
                    break;
                };
                let ended = bytes.is_empty();
                self.hand_over(journal, Some(drain), stream, bytes).await;
                // A daemon may never stop talking.
                if ended || !owed {
                    break;
                }
            }
        }
    }

    async fn hand_over(&mut self, journal: &Journal, drain: Option<&mut Drain>, stream: OutputStream, bytes: Bytes) {
        let before = Instant::now();
        let count = bytes.len();
        if let Some(spare) = journal.append(stream, bytes).await {
            self.recycle(spare);
        }
        if let Some(drain) = drain {
            drain.handed_over(stream, count, before, Instant::now());
        }
        self.turn += count;
        if self.turn >= limits::EXEC_TURN_BYTES {
            self.turn = 0;
            // Readers get a turn too, before what is new to them has left the replay ring.
            tokio::task::yield_now().await;
        }
    }

    /// Whether both streams have ended.
    pub(super) fn is_over(&self) -> bool {
        self.stdout.is_none() && self.stderr.is_none()
    }

    /// The streams that have ended, to be closed by somebody else.
    pub(super) fn let_go(&mut self) -> Vec<Source> {
        std::mem::take(&mut self.ended)
    }

    /// Reads what comes and throws it away, until both streams have ended.
    pub(super) async fn discard(mut self) {
        while !self.is_over() {
            let stream = self.ready().await;
            self.read(stream, Source::read);
        }
    }

    /// Waits until a stream has something, or has ended.
    async fn ready(&self) -> OutputStream {
        async fn one(source: Option<&Source>) {
            match source {
                Some(source) => source.ready().await,
                None => std::future::pending().await,
            }
        }
        tokio::select! {
            () = one(self.stdout.as_ref()) => OutputStream::Stdout,
            () = one(self.stderr.as_ref()) => OutputStream::Stderr,
        }
    }

    /// What a stream has: nothing yet (`None`), bytes, or no bytes at its end, after which it is read no more.
    ///
    /// Much is given away with the buffer that it was read into, little is copied, so that what is kept of it takes little.
    fn read(&mut self, stream: OutputStream, read: impl Fn(&Source, &mut BytesMut) -> Option<usize>) -> Option<Bytes> {
        const MUCH: usize = limits::EXEC_CHUNK_BYTES / 8 * 7;
        const LITTLE: usize = 512;
        let source = match stream {
            OutputStream::Stdout => &mut self.stdout,
            OutputStream::Stderr => &mut self.stderr,
        };
        // Room is taken only now, and no more than there is to read, so that a command of few words costs little.
        let room = source.as_ref().map_or(0, Source::pending).clamp(LITTLE, limits::EXEC_CHUNK_BYTES);
        if self.buffer.capacity() < room {
            self.buffer = BytesMut::with_capacity(room);
        }
        self.buffer.clear();
        let count = source.as_ref().map_or(Some(0), |source| read(source, &mut self.buffer))?;
        if count == 0 {
            self.ended.extend(source.take());
            Some(Bytes::new())
        } else if count >= MUCH {
            Some(std::mem::take(&mut self.buffer).freeze())
        } else {
            Some(Bytes::copy_from_slice(&self.buffer))
        }
    }

    /// Reads into this buffer again, where one is needed.
    fn recycle(&mut self, buffer: BytesMut) {
        if self.buffer.capacity() < limits::EXEC_CHUNK_BYTES {
            self.buffer = buffer;
        }
    }

    fn pending(&self) -> [usize; 2] {
        [&self.stdout, &self.stderr].map(|source| source.as_ref().map_or(0, Source::pending))
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

    /// Notes that so many bytes were handed over, which took from `before` to `after` to take them.
    fn handed_over(&mut self, stream: OutputStream, count: usize, before: Instant, after: Instant) {
        let owed = &mut self.owed[stream as usize];
        // At the end of file nothing is owed any more, whatever was counted.
        *owed = if count == 0 { 0 } else { owed.saturating_sub(count) };
        self.quiet_until = after + self.patience.silence;
        self.until += after - before;
    }

    fn owes(&self, stream: OutputStream) -> bool {
        self.owed[stream as usize] > 0
    }

    /// The end, unless something is owed.
    fn deadline(&self) -> Option<Instant> {
        (self.owed == [0, 0]).then(|| self.quiet_until.min(self.until))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::super::budget::Budget;
    use super::super::io::Io;
    use super::super::journal::Terms;
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

    #[tokio::test]
    async fn what_somebody_else_has_taken_out_of_a_pipe_is_owed_no_more() {
        let [(stdout, _stdout), (stderr, _stderr)] = [(); 2].map(|()| std::io::pipe().unwrap());
        let (mut output, _) = Io::pipes(stdout.into(), stderr.into(), None).unwrap().split();
        let budget = Arc::new(Budget::new(1000));
        let journal = Journal::new(&budget, Terms { capacity: 100, lossless: false, spill: None }, None);
        let mut drain = Drain::begin(Instant::now(), PATIENCE, [0, 5]);
        output.drain_pipes(&journal, &mut drain).await;
        assert!(drain.deadline().is_some(), "{drain:?}");
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
