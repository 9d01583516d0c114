//! The output of one exec between the task that reads its pipes and those who read the output.
//!
//! One writes, any number read at their own pace, each by a cursor of its own. What does not fit the ring any more leaves it at
//! the front, by the first of these rules that applies:
//!
//! ```text
//!   spill, and the disk takes it ──> written to disk; readers get it from there
//!   lossless, and not yet taken  ──> stays, and the writer waits
//!   else                         ──> gone; who wanted it is told of a gap
//! ```
//!
//! Taken is what every attached reader has been given, and nobody's being attached makes nothing taken that was not taken
//! before. What was given to a reader can still be lost with its connection, so nothing of a lossless exec leaves a ring of which more
//! than half is not taken: at least half of it stays behind the readers, who can come back to it. Before the first of it has to leave,
//! all of the ring may wait to be taken.
//!
//! The lock is held for a few instructions at a time and never across a wait.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use bytes::{Bytes, BytesMut};
use tokio::sync::Notify;

use super::budget::{Budget, Turn};
use super::collect::Kept;
use super::replay::{Found, Piece, ReplayRing, cost};
use super::spill::{Batch, Spill, SpillStore};
use crate::api::OutputStream;
use crate::limits;

/// What an exec's output is promised.
#[derive(Debug)]
pub(super) struct Terms {
    /// Cost that the ring may come to.
    pub(super) capacity: usize,
    /// What is not taken makes the writer wait.
    pub(super) lossless: bool,
    /// What leaves the ring goes here.
    pub(super) spill: Option<Arc<SpillStore>>,
}

/// The output of one exec.
#[derive(Debug)]
pub(super) struct Journal {
    number: u64,
    capacity: usize,
    budget: Arc<Budget>,
    inner: Mutex<Inner>,
    /// There is more, or it is over.
    grown: Notify,
    /// Somebody has taken something.
    taken: Notify,
}

#[derive(Debug)]
struct Inner {
    ring: ReplayRing,
    spill: Option<Spill>,
    lossless: bool,
    /// Cursor of each attached reader.
    readers: BTreeMap<u64, u64>,
    next_reader: u64,
    /// Somebody has been given all output up to here.
    taken: u64,
    /// Place in the order of all pieces at which the command ended.
    ended: Option<u64>,
    /// Nothing comes any more.
    over: bool,
    /// For the answer of whoever waits for the whole.
    kept: Option<Kept>,
}

/// What there is for a reader.
#[derive(Debug)]
pub(super) enum Read {
    /// Output, and the cursor after it.
    Chunk(OutputStream, Bytes, u64),
    /// It is on disk, in there.
    Spilled(Batch),
    /// Gone up to here.
    Gap(u64),
    /// Nothing yet.
    Nothing,
    /// Nothing more.
    Over,
}

/// What has to be done before a piece fits.
enum Step {
    Append,
    Wait,
    Spill(Spilling),
}

/// A batch to be written.
struct Spilling {
    store: Arc<SpillStore>,
    last: Option<Batch>,
    pieces: Vec<Piece>,
}

impl Journal {
    pub(super) fn new(budget: &Arc<Budget>, terms: Terms, kept: Option<Kept>) -> Arc<Self> {
        let inner = Inner {
            ring: ReplayRing::default(),
            spill: terms.spill.map(Spill::new),
            lossless: terms.lossless,
            readers: BTreeMap::new(),
            next_reader: 0,
            taken: 0,
            ended: None,
            over: false,
            kept,
        };
        budget.register(|number| {
            Arc::new(Self {
                number,
                capacity: terms.capacity,
                budget: Arc::clone(budget),
                inner: Mutex::new(inner),
                grown: Notify::new(),
                taken: Notify::new(),
            })
        })
    }

    /// Adds output, when there is room for it. Gives back the buffer of a piece that left, where nobody else has it any more.
    pub(super) async fn append(&self, stream: OutputStream, bytes: Bytes) -> Option<BytesMut> {
        if bytes.is_empty() {
            return None;
        }
        let incoming = cost(bytes.len());
        let mut left = None;
        loop {
            // Ready before the look, so that nothing can be taken between the look and the wait.
            let taken = self.taken.notified();
            let step = {
                let mut inner = self.lock();
                let step = inner.step(incoming, self.capacity);
                if matches!(step, Step::Append) {
                    left = self.make_room(&mut inner, incoming);
                    if let Some(kept) = &mut inner.kept {
                        kept.add(stream, &bytes);
                    }
                    let sequence = self.budget.next_sequence();
                    self.budget.charge(incoming);
                    inner.ring.append(stream, bytes.clone(), sequence, now());
                }
                step
            };
            match step {
                Step::Append => break,
                Step::Wait => taken.await,
                Step::Spill(spilling) => self.spill(spilling).await,
            }
        }
        drop(bytes);
        self.grown.notify_waiters();
        self.budget.enforce();
        left.and_then(|bytes: Bytes| bytes.try_into_mut().ok())
    }

    /// Lets old pieces go until a new one fits, and gives back the last of them.
    fn make_room(&self, inner: &mut Inner, incoming: usize) -> Option<Bytes> {
        let mut left = None;
        while inner.ring.cost() + incoming > self.capacity
            && let Some(piece) = inner.ring.pop()
        {
            self.budget.release(piece.cost());
            left = Some(piece.bytes);
        }
        left
    }

    async fn spill(&self, Spilling { store, last, pieces }: Spilling) {
        let write = move || store.write(last, &pieces);
        let written = tokio::task::spawn_blocking(write).await;
        let mut inner = self.lock();
        let Inner { spill: Some(spill), ring, .. } = &mut *inner else { return };
        let batch = match written {
            Ok(Ok(batch)) => batch,
            Ok(Err(error)) => {
                tracing::warn!(%error, "output of an exec is kept on disk no further");
                spill.open = false;
                return;
            }
            Err(error) => {
                tracing::error!(%error, "writing output to disk");
                spill.open = false;
                return;
            }
        };
        while ring.front().is_some_and(|piece| piece.end() <= batch.end)
            && let Some(piece) = ring.pop()
        {
            self.budget.release(piece.cost());
        }
        spill.push(batch);
    }

    /// The command has ended; what is in its pipes may still come.
    pub(super) fn ended(&self) {
        self.lock().ended = Some(self.budget.sequence());
    }

    /// Nothing comes any more.
    pub(super) fn finish(&self) {
        let mut inner = self.lock();
        inner.over = true;
        inner.ended.get_or_insert(self.budget.sequence());
        drop(inner);
        self.grown.notify_waiters();
    }

    /// Nothing is waited for any longer: what is not taken may go.
    pub(super) fn let_go(&self) {
        self.lock().lossless = false;
        self.taken.notify_waiters();
    }

    /// Whose turn it is when there is too much output over all.
    pub(super) fn turn(&self) -> Turn {
        let inner = self.lock();
        let unread = inner.lossless && inner.taken() < inner.ring.end();
        match inner.ended {
            _ if inner.ring.cost() == 0 => Turn::Never,
            Some(at) if unread || inner.spill.is_some() => Turn::EndedUnread(at),
            Some(at) => Turn::Ended(at),
            None if inner.lossless || inner.spill.as_ref().is_some_and(|spill| spill.open) => Turn::Never,
            None => Turn::Running(inner.ring.cost()),
        }
    }

    /// Lets the oldest output go that comes to this cost. Returns what it came to.
    pub(super) fn give_back(&self, wanted: usize) -> usize {
        let mut inner = self.lock();
        let mut freed = 0;
        while freed < wanted
            && let Some(piece) = inner.ring.pop()
        {
            freed += piece.cost();
        }
        drop(inner);
        self.budget.release(freed);
        // The writer of one that has ended may wait for room, which is there now.
        self.taken.notify_waiters();
        freed
    }

    /// Offset of the first byte that can be read, and of the first that cannot yet.
    pub(super) fn range(&self) -> (u64, u64) {
        let inner = self.lock();
        let spilled = inner.spill.as_ref().and_then(Spill::start);
        (spilled.unwrap_or_else(|| inner.ring.start()), inner.ring.end())
    }

    /// How many readers are attached.
    pub(super) fn readers(&self) -> usize {
        self.lock().readers.len()
    }

    /// Whether all output is here.
    pub(super) fn is_over(&self) -> bool {
        self.lock().over
    }

    /// Whether somebody may still be owed something of it: it is not over, and has a reader.
    pub(super) fn is_awaited(&self) -> bool {
        let inner = self.lock();
        !inner.over && !inner.readers.is_empty()
    }

    /// A new reader at this cursor, or at the end; `None` where there are as many as may be.
    pub(super) fn attach(&self, cursor: Option<u64>) -> Option<(u64, u64)> {
        let mut inner = self.lock();
        if inner.readers.len() >= limits::EXEC_READERS {
            return None;
        }
        let (id, cursor) = (inner.next_reader, cursor.unwrap_or_else(|| inner.ring.end()));
        inner.next_reader += 1;
        inner.readers.insert(id, cursor);
        Some((id, cursor))
    }

    /// A reader is gone.
    pub(super) fn detach(&self, reader: u64) {
        self.lock().readers.remove(&reader);
        self.taken.notify_waiters();
    }

    /// What comes next for a reader; output that is given counts as taken.
    pub(super) fn read(&self, reader: u64, cursor: u64) -> Read {
        let mut inner = self.lock();
        match inner.ring.read_from(cursor, limits::EXEC_CHUNK_BYTES) {
            Found::Data(stream, bytes) => {
                let after = cursor + bytes.len() as u64;
                inner.advance(reader, cursor, after);
                drop(inner);
                self.taken.notify_waiters();
                Read::Chunk(stream, bytes, after)
            }
            Found::Nothing if inner.over => Read::Over,
            Found::Nothing => Read::Nothing,
            Found::Gap(to) => match &inner.spill {
                Some(spill) => match spill.at(cursor) {
                    Some(batch) => Read::Spilled(batch),
                    // What left memory while the disk took nothing is gone, what it took after that is not.
                    None => Read::Gap(spill.after(cursor).map_or(to, |start| start.min(to))),
                },
                None => Read::Gap(to),
            },
        }
    }

    /// A reader has been given what lies between, or told that it is gone.
    pub(super) fn advance(&self, reader: u64, from: u64, to: u64) {
        self.lock().advance(reader, from, to);
        self.taken.notify_waiters();
    }

    /// Counts a gap that a reader was told of.
    pub(super) fn count_gap(&self) {
        self.budget.gaps.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    }

    /// For waiting until there is more. To be enabled before [`Journal::read`].
    pub(super) fn grown(&self) -> tokio::sync::futures::Notified<'_> {
        self.grown.notified()
    }

    /// What is wanted of this place in the order and what follows: batches on disk that may hold some, and pieces in memory.
    pub(super) fn since(&self, sequence: u64, max: usize, wants: impl Fn(&Piece) -> bool) -> (Vec<Batch>, Vec<Piece>) {
        let inner = self.lock();
        let spilled = inner.spill.as_ref().map(|spill| spill.since(sequence)).unwrap_or_default();
        (spilled, inner.ring.since(sequence).filter(|piece| wants(piece)).take(max).cloned().collect())
    }

    /// Whether all output is kept for an answer.
    pub(super) fn keeps(&self) -> bool {
        self.lock().kept.is_some()
    }

    /// Takes what was kept for the answer, or a copy of it.
    pub(super) fn kept(&self, leave: bool) -> Option<Kept> {
        let mut inner = self.lock();
        if leave { inner.kept.clone() } else { inner.kept.take() }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    /// What has to be done before this much fits.
    fn step(&self, incoming: usize, capacity: usize) -> Step {
        if self.ring.cost() + incoming <= capacity || self.ring.cost() == 0 {
            return Step::Append;
        }
        if let Some(spill) = self.spill.as_ref().filter(|spill| spill.open) {
            let pieces = self.ring.oldest(limits::EXEC_SPILL_BATCH_BYTES.min(capacity / 2));
            return Step::Spill(Spilling { store: spill.store(), last: spill.last(), pieces });
        }
        if self.lossless {
            let waiting = self.ring.cost_from(self.taken());
            if waiting > 0 && waiting + incoming > capacity / 2 {
                return Step::Wait;
            }
        }
        Step::Append
    }

    /// Up to where output is taken.
    fn taken(&self) -> u64 {
        self.readers.values().fold(self.taken, |least, cursor| least.min(*cursor))
    }

    fn advance(&mut self, reader: u64, from: u64, to: u64) {
        if let Some(cursor) = self.readers.get_mut(&reader) {
            *cursor = to;
        }
        if from <= self.taken {
            self.taken = self.taken.max(to);
        }
    }
}

impl Drop for Journal {
    fn drop(&mut self) {
        let cost = self.lock().ring.cost();
        self.budget.release(cost);
        self.budget.forget(self.number);
    }
}

/// Seconds since 1970, by CLOCK_REALTIME.
pub(super) fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_gap_between_two_batches_on_disk_ends_where_the_second_begins() {
        let dir = tempfile::tempdir().unwrap();
        let store = Arc::new(SpillStore::new(dir.path().into(), 1 << 20));
        let piece = || Bytes::from(vec![b'x'; 1000]);
        let terms = Terms { capacity: cost(1000), lossless: false, spill: Some(store) };
        let journal = Journal::new(&Arc::new(Budget::new(1 << 20)), terms, None);
        // The first goes to disk, the second is given up, the third goes to disk, the fourth stays.
        for number in 0..4 {
            journal.append(OutputStream::Stdout, piece()).await;
            if number == 1 {
                journal.give_back(usize::MAX);
            }
        }
        let (reader, _) = journal.attach(Some(0)).unwrap();
        assert!(matches!(journal.read(reader, 0), Read::Spilled(batch) if batch.end == 1000));
        assert!(matches!(journal.read(reader, 1000), Read::Gap(2000)), "{:?}", journal.read(reader, 1000));
        assert!(matches!(journal.read(reader, 2000), Read::Spilled(batch) if batch.end == 3000));
        assert!(matches!(journal.read(reader, 3000), Read::Chunk(_, _, 4000)));
    }
}
