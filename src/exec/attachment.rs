//! One who reads an exec's output, at a pace of their own.

use std::collections::VecDeque;
use std::pin::pin;
use std::sync::Arc;

use bytes::Bytes;

use super::error::ExecError;
use super::journal::Read;
use super::record::Exec;
use super::replay::Piece;
use crate::api::{ExecExit, OutputStream};

/// Where a reader begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AttachFrom {
    /// At this offset of the output. What is not kept any more is told by a gap.
    Cursor(u64),
    /// At the end of what there is.
    Latest,
}

/// What a reader is given.
#[derive(Debug, Clone)]
pub enum Event {
    /// Output of one stream.
    Chunk {
        /// Where it came from.
        stream: OutputStream,
        /// At most `limits::EXEC_CHUNK_BYTES`, never empty.
        bytes: Bytes,
        /// Offset of the first byte after it, both streams counted together.
        cursor: u64,
    },
    /// Output that cannot be had any more.
    Gap {
        /// Offset of the first byte that is missing.
        from: u64,
        /// Offset of the first byte that follows.
        to: u64,
    },
    /// The command ended, and all its output was given. The last event.
    Exit {
        /// How.
        exit: ExecExit,
        /// Offset of the end of the output.
        cursor: u64,
    },
    /// The exec could not be followed to its end. The last event.
    Error(Arc<ExecError>),
}

/// A reader of an exec's output. Dropping it detaches; the command runs on.
#[derive(Debug)]
pub struct Attachment {
    exec: Arc<Exec>,
    reader: u64,
    begin: u64,
    cursor: u64,
    /// What was read back from disk and not yet given.
    backlog: VecDeque<Piece>,
    over: bool,
}

impl Attachment {
    pub(super) fn new(exec: Arc<Exec>, reader: u64, begin: u64) -> Self {
        Self { exec, reader, begin, cursor: begin, backlog: VecDeque::new(), over: false }
    }

    /// The exec.
    pub fn exec(&self) -> &Arc<Exec> {
        &self.exec
    }

    /// Offset at which it began.
    pub fn begin(&self) -> u64 {
        self.begin
    }

    /// The next event; none after the last. Loses nothing when dropped half-way.
    pub async fn next(&mut self) -> Option<Event> {
        if self.over {
            return None;
        }
        loop {
            if let Some(event) = self.next_of_backlog() {
                return Some(event);
            }
            let exec = Arc::clone(&self.exec);
            let mut grown = pin!(exec.journal.grown());
            grown.as_mut().enable();
            match exec.journal.read(self.reader, self.cursor) {
                Read::Chunk(stream, bytes, cursor) => {
                    self.cursor = cursor;
                    return Some(Event::Chunk { stream, bytes, cursor });
                }
                Read::Gap(to) => return Some(self.gap(to)),
                Read::Spilled(batch) => {
                    let end = batch.end;
                    let read = tokio::task::spawn_blocking(move || batch.read()).await;
                    match read.map_err(std::io::Error::other).flatten() {
                        Ok(pieces) => self.backlog = pieces.into(),
                        Err(error) => {
                            tracing::warn!(%error, "reading output back from disk failed");
                            return Some(self.gap(end));
                        }
                    }
                }
                Read::Nothing => grown.await,
                Read::Over => {
                    self.over = true;
                    return Some(match exec.end() {
                        Ok(exit) => Event::Exit { exit, cursor: self.cursor },
                        Err(error) => Event::Error(error),
                    });
                }
            }
        }
    }

    fn next_of_backlog(&mut self) -> Option<Event> {
        while let Some(Piece { stream, start, bytes, .. }) = self.backlog.pop_front() {
            let skip = usize::try_from(self.cursor.saturating_sub(start)).unwrap_or(usize::MAX);
            if skip < bytes.len() {
                let bytes = bytes.slice(skip..);
                let (from, cursor) = (self.cursor, self.cursor + bytes.len() as u64);
                self.cursor = cursor;
                self.exec.journal.advance(self.reader, from, cursor);
                return Some(Event::Chunk { stream, bytes, cursor });
            }
        }
        None
    }

    fn gap(&mut self, to: u64) -> Event {
        let from = self.cursor;
        self.cursor = to;
        self.exec.journal.advance(self.reader, from, to);
        self.exec.journal.count_gap();
        Event::Gap { from, to }
    }
}

impl Drop for Attachment {
    fn drop(&mut self) {
        self.exec.journal.detach(self.reader);
    }
}
