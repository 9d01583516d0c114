//! Output on disk: what left a replay ring and was asked to be kept.
//!
//! Owns one unlinked file for each such exec, which goes with the exec or with the agent, and the sum over all of them. Output
//! is written in batches, each read back as a whole. Refused: filling the disk. A batch that does not fit, by the limit, the free
//! space or an error, ends the spilling of its exec, and what leaves the ring from then on is a gap to its readers.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::{Buf, BufMut, Bytes, BytesMut};

use super::replay::Piece;
use crate::api::OutputStream;
use crate::limits;

/// Stream, sequence, timestamp and length of a piece, before its bytes.
const HEADER_BYTES: usize = 1 + 8 + 8 + 4;

/// Why output was not kept on disk.
#[derive(Debug, thiserror::Error)]
pub(super) enum SpillError {
    #[error("all spilled output together is at the limit of {limit} bytes (`exec.spill_bytes`)")]
    Limit { limit: u64 },
    #[error("the file system of {dir} has {free} bytes left, of which {reserve} stay free")]
    DiskFull { dir: PathBuf, free: u64, reserve: u64 },
    #[error("{what} in {dir} failed: {source}")]
    Io { what: &'static str, dir: PathBuf, source: io::Error },
}

/// Where spilled output goes, for all execs.
#[derive(Debug)]
pub(super) struct SpillStore {
    dir: PathBuf,
    limit: u64,
    used: AtomicU64,
}

/// One batch of pieces in the file of an exec.
#[derive(Debug, Clone)]
pub(super) struct Batch {
    file: Arc<File>,
    at: u64,
    length: usize,
    /// Offset of its first byte of output.
    pub(super) start: u64,
    /// Offset of the first byte of output after it.
    pub(super) end: u64,
    /// Places of its pieces are below this one.
    pub(super) before_sequence: u64,
}

/// What an exec has spilled.
#[derive(Debug)]
pub(super) struct Spill {
    store: Arc<SpillStore>,
    batches: Vec<Batch>,
    bytes: u64,
    /// Takes more.
    pub(super) open: bool,
}

impl SpillStore {
    pub(super) fn new(dir: PathBuf, limit: u64) -> Self {
        Self { dir, limit, used: AtomicU64::new(0) }
    }

    /// Bytes on disk now.
    pub(super) fn used(&self) -> u64 {
        self.used.load(Ordering::Relaxed)
    }

    /// Writes pieces behind the last batch of an exec, or into a new file. Blocks.
    pub(super) fn write(&self, last: Option<Batch>, pieces: &[Piece]) -> Result<Batch, SpillError> {
        let (Some(first), Some(newest)) = (pieces.first(), pieces.last()) else {
            return Err(self.io("spilling nothing")(io::ErrorKind::InvalidInput.into()));
        };
        let mut text = BytesMut::with_capacity(pieces.iter().map(|piece| HEADER_BYTES + piece.bytes.len()).sum());
        pieces.iter().for_each(|piece| encode(piece, &mut text));
        self.reserve(text.len() as u64)?;
        let written = self.write_text(last, &text);
        let (file, at) = written.inspect_err(|_| self.release(text.len() as u64))?;
        Ok(Batch {
            file,
            at,
            length: text.len(),
            start: first.start,
            end: newest.end(),
            before_sequence: newest.sequence + 1,
        })
    }

    fn write_text(&self, last: Option<Batch>, text: &[u8]) -> Result<(Arc<File>, u64), SpillError> {
        let (file, at) = match last {
            Some(last) => (last.file, last.at + last.length as u64),
            None => (Arc::new(self.create().map_err(self.io("making a file"))?), 0),
        };
        let stat = nix::sys::statvfs::fstatvfs(&*file).map_err(|error| self.io("statfs")(error.into()))?;
        let free = stat.blocks_available().saturating_mul(stat.fragment_size());
        let reserve = limits::EXEC_SPILL_RESERVE_BYTES;
        if free < reserve.saturating_add(text.len() as u64) {
            return Err(SpillError::DiskFull { dir: self.dir.clone(), free, reserve });
        }
        file.write_all_at(text, at).map_err(self.io("writing"))?;
        Ok((file, at))
    }

    /// A file without a name.
    fn create(&self) -> io::Result<File> {
        DirBuilder::new().recursive(true).mode(0o700).create(&self.dir)?;
        OpenOptions::new().read(true).write(true).mode(0o600).custom_flags(libc::O_TMPFILE).open(&self.dir)
    }

    fn reserve(&self, bytes: u64) -> Result<(), SpillError> {
        let take = |used: u64| used.checked_add(bytes).filter(|sum| *sum <= self.limit);
        let taken = self.used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take);
        taken.map(drop).map_err(|_| SpillError::Limit { limit: self.limit })
    }

    fn release(&self, bytes: u64) {
        self.used.fetch_sub(bytes, Ordering::Relaxed);
    }

    fn io(&self, what: &'static str) -> impl FnOnce(io::Error) -> SpillError {
        let dir = self.dir.clone();
        move |source| SpillError::Io { what, dir, source }
    }
}

impl Spill {
    pub(super) fn new(store: Arc<SpillStore>) -> Self {
        Self { store, batches: Vec::new(), bytes: 0, open: true }
    }

    pub(super) fn store(&self) -> Arc<SpillStore> {
        Arc::clone(&self.store)
    }

    pub(super) fn last(&self) -> Option<Batch> {
        self.batches.last().cloned()
    }

    /// Offset of the first byte that was spilled.
    pub(super) fn start(&self) -> Option<u64> {
        self.batches.first().map(|batch| batch.start)
    }

    /// Knows a batch that was written.
    pub(super) fn push(&mut self, batch: Batch) {
        self.bytes += batch.length as u64;
        self.batches.push(batch);
    }

    /// The batch that holds this byte.
    pub(super) fn at(&self, cursor: u64) -> Option<Batch> {
        let index = self.batches.partition_point(|batch| batch.end <= cursor);
        self.batches.get(index).filter(|batch| batch.start <= cursor).cloned()
    }

    /// Where the first batch begins that is wholly after this byte.
    pub(super) fn after(&self, cursor: u64) -> Option<u64> {
        let index = self.batches.partition_point(|batch| batch.start <= cursor);
        self.batches.get(index).map(|batch| batch.start)
    }

    /// Batches that hold pieces with this place in the order or a later one.
    pub(super) fn since(&self, sequence: u64) -> Vec<Batch> {
        let first = self.batches.partition_point(|batch| batch.before_sequence <= sequence);
        self.batches[first..].to_vec()
    }
}

impl Drop for Spill {
    fn drop(&mut self) {
        self.store.release(self.bytes);
    }
}

impl Batch {
    /// Reads its pieces back. Blocks.
    pub(super) fn read(&self) -> io::Result<Vec<Piece>> {
        let mut text = vec![0; self.length];
        self.file.read_exact_at(&mut text, self.at)?;
        let (mut text, mut start, mut pieces) = (Bytes::from(text), self.start, Vec::new());
        while text.has_remaining() {
            let piece = decode(&mut text, start).ok_or(io::ErrorKind::InvalidData)?;
            start = piece.end();
            pieces.push(piece);
        }
        Ok(pieces)
    }
}

fn encode(piece: &Piece, text: &mut BytesMut) {
    text.put_u8(piece.stream as u8);
    text.put_u64(piece.sequence);
    text.put_f64(piece.timestamp);
    // A piece is a chunk at most.
    text.put_u32(u32::try_from(piece.bytes.len()).unwrap_or(u32::MAX));
    text.put_slice(&piece.bytes);
}

fn decode(text: &mut Bytes, start: u64) -> Option<Piece> {
    let stream = match text.try_get_u8().ok()? {
        0 => OutputStream::Stdout,
        1 => OutputStream::Stderr,
        _ => return None,
    };
    let (sequence, timestamp) = (text.try_get_u64().ok()?, text.try_get_f64().ok()?);
    let length = usize::try_from(text.try_get_u32().ok()?).ok()?;
    let bytes = (length <= text.remaining()).then(|| text.split_to(length))?;
    Some(Piece { stream, start, bytes, sequence, timestamp })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn piece(start: u64, sequence: u64, text: &'static str) -> Piece {
        let bytes = Bytes::from_static(text.as_bytes());
        Piece { stream: OutputStream::Stderr, start, bytes, sequence, timestamp: 1.5 }
    }

    #[test]
    fn batches_come_back_as_they_were_and_leave_no_file() {
        let dir = tempfile::tempdir().unwrap();
        let store = Arc::new(SpillStore::new(dir.path().join("a/b"), 1000));
        let mut spill = Spill::new(Arc::clone(&store));
        let (first, second) = ([piece(10, 4, "one"), piece(13, 7, "two!")], [piece(17, 8, "three")]);
        for pieces in [&first[..], &second] {
            spill.push(store.write(spill.last(), pieces).unwrap());
        }
        assert_eq!(spill.at(12).unwrap().read().unwrap(), first);
        assert_eq!(spill.at(17).unwrap().read().unwrap(), second);
        assert_eq!((spill.start(), spill.at(9).is_none(), spill.at(22).is_none()), (Some(10), true, true));
        assert_eq!([9, 12, 17].map(|cursor| spill.after(cursor)), [Some(10), Some(17), None]);
        assert_eq!((spill.since(7).len(), spill.since(8).len(), spill.since(9).len()), (2, 1, 0));
        assert_eq!(std::fs::read_dir(dir.path().join("a/b")).unwrap().count(), 0);
        assert!(store.used() > 0);
        drop(spill);
        assert_eq!(store.used(), 0);
    }

    #[test]
    fn the_limit_over_all_execs_is_a_typed_error_and_takes_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let store = SpillStore::new(dir.path().into(), 10);
        assert!(matches!(store.write(None, &[piece(0, 0, "x")]), Err(SpillError::Limit { limit: 10 })));
        assert_eq!(store.used(), 0);
    }

    #[test]
    fn a_directory_that_cannot_be_made_is_a_typed_error() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let store = SpillStore::new(file.path().join("below"), 1000);
        assert!(matches!(store.write(None, &[piece(0, 0, "x")]), Err(SpillError::Io { .. })));
        assert_eq!(store.used(), 0);
    }
}
