//! The replay ring: the last output of one exec, by absolute cursor. Pure: no clock, no lock, no task.
//!
//! Owns pieces of output in the order in which they were read, both streams under one cursor, and what they cost in memory.
//! Refused: deciding when something has to go. Pieces leave at the front, whole, when the caller says so.
//!
//! ```text
//!        start                    cursor of a reader           end
//!  ────────┼──── piece ──┼─ piece ─┼──── piece ──────────────────┼────> bytes
//!   Gap    │                       │ Data                        │ Nothing yet
//! ```

use std::collections::VecDeque;

use bytes::Bytes;

use crate::api::OutputStream;
use crate::limits;

/// A piece of output, as it was read.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Piece {
    /// Where it came from.
    pub(super) stream: OutputStream,
    /// Offset of its first byte.
    pub(super) start: u64,
    /// Never empty.
    pub(super) bytes: Bytes,
    /// Place in the order over all execs.
    pub(super) sequence: u64,
    /// Seconds since 1970 when it was read.
    pub(super) timestamp: f64,
}

impl Piece {
    /// Offset of the first byte after it.
    pub(super) fn end(&self) -> u64 {
        self.start + self.bytes.len() as u64
    }

    /// What it takes of the memory.
    pub(super) fn cost(&self) -> usize {
        cost(self.bytes.len())
    }
}

/// What so many bytes cost when they are kept in one piece. Output that comes byte by byte is dearer than its bytes.
pub(super) fn cost(bytes: usize) -> usize {
    bytes + limits::EXEC_PIECE_OVERHEAD
}

/// What there is at a cursor.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Found {
    /// The bytes that follow, of one stream.
    Data(OutputStream, Bytes),
    /// The bytes up to here are gone.
    Gap(u64),
    /// The cursor is at the end, or past it.
    Nothing,
}

/// The last output of one exec.
#[derive(Debug, Default)]
pub(super) struct ReplayRing {
    pieces: VecDeque<Placed>,
    start: u64,
    end: u64,
    /// Cost of all that was ever appended; the difference between two points is the cost of what lies between them.
    appended: u64,
    cost: usize,
}

#[derive(Debug)]
struct Placed {
    piece: Piece,
    /// `appended` before this one.
    before: u64,
}

impl ReplayRing {
    /// Offset of the first byte that is here.
    pub(super) fn start(&self) -> u64 {
        self.start
    }

    /// Offset of the first byte that is still to come.
    pub(super) fn end(&self) -> u64 {
        self.end
    }

    /// What all pieces take of the memory.
    pub(super) fn cost(&self) -> usize {
        self.cost
    }

    /// Adds output at the end. Empty output is none.
    pub(super) fn append(&mut self, stream: OutputStream, bytes: Bytes, sequence: u64, timestamp: f64) {
        if bytes.is_empty() {
            return;
        }
        let piece = Piece { stream, start: self.end, bytes, sequence, timestamp };
        let (cost, before) = (piece.cost(), self.appended);
        self.end = piece.end();
        self.cost += cost;
        self.appended += cost as u64;
        self.pieces.push_back(Placed { piece, before });
    }

    /// The oldest piece.
    pub(super) fn front(&self) -> Option<&Piece> {
        self.pieces.front().map(|placed| &placed.piece)
    }

    /// Takes the oldest piece out.
    pub(super) fn pop(&mut self) -> Option<Piece> {
        let piece = self.pieces.pop_front()?.piece;
        self.cost -= piece.cost();
        self.start = piece.end();
        Some(piece)
    }

    /// What there is at a cursor, at most `max` bytes of it.
    pub(super) fn read_from(&self, cursor: u64, max: usize) -> Found {
        if cursor < self.start {
            return Found::Gap(self.start);
        }
        let Some(Placed { piece, .. }) = self.pieces.get(self.index(cursor)) else {
            return Found::Nothing;
        };
        // Within the piece, so it fits a usize.
        let skip = usize::try_from(cursor - piece.start).unwrap_or(usize::MAX).min(piece.bytes.len());
        let end = piece.bytes.len().min(skip.saturating_add(max));
        Found::Data(piece.stream, piece.bytes.slice(skip..end))
    }

    /// What the pieces cost that hold anything from this cursor on.
    pub(super) fn cost_from(&self, cursor: u64) -> usize {
        let before = self.pieces.get(self.index(cursor)).map_or(self.appended, |placed| placed.before);
        usize::try_from(self.appended - before).unwrap_or(usize::MAX)
    }

    /// Pieces with this place in the order or a later one.
    pub(super) fn since(&self, sequence: u64) -> impl Iterator<Item = &Piece> {
        let first = self.pieces.partition_point(|placed| placed.piece.sequence < sequence);
        self.pieces.range(first..).map(|placed| &placed.piece)
    }

    /// The oldest pieces, until they come to so many bytes.
    pub(super) fn oldest(&self, bytes: usize) -> Vec<Piece> {
        let mut total = 0;
        let pieces = self.pieces.iter().map(|placed| &placed.piece);
        let enough = pieces.take_while(|piece| {
            let wanted = total < bytes;
            total += piece.bytes.len();
            wanted
        });
        enough.cloned().collect()
    }

    /// Index of the first piece that ends after the cursor.
    fn index(&self, cursor: u64) -> usize {
        self.pieces.partition_point(|placed| placed.piece.end() <= cursor)
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    #[derive(Debug, Clone)]
    enum Step {
        Append(OutputStream, Vec<u8>),
        Pop,
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let stream = prop_oneof![Just(OutputStream::Stdout), Just(OutputStream::Stderr)];
        let append = (stream, vec(any::<u8>(), 0..40)).prop_map(|(stream, bytes)| Step::Append(stream, bytes));
        vec(prop_oneof![3 => append, 1 => Just(Step::Pop)], 0..60)
    }

    /// What the ring should be: every byte with its stream, and where the ring begins.
    #[derive(Default)]
    struct Model {
        bytes: Vec<(OutputStream, u8)>,
        ends: Vec<usize>,
        start: usize,
    }

    fn play(steps: Vec<Step>) -> (ReplayRing, Model) {
        let (mut ring, mut model) = (ReplayRing::default(), Model::default());
        for (sequence, step) in steps.into_iter().enumerate() {
            match step {
                Step::Append(stream, bytes) => {
                    model.bytes.extend(bytes.iter().map(|byte| (stream, *byte)));
                    if !bytes.is_empty() {
                        model.ends.push(model.bytes.len());
                    }
                    ring.append(stream, bytes.into(), sequence as u64, 0.0);
                }
                Step::Pop => {
                    ring.pop();
                    model.start = model.ends.iter().copied().find(|end| *end > model.start).unwrap_or(model.start);
                }
            }
        }
        (ring, model)
    }

    proptest! {
        #[test]
        fn a_reader_gets_every_byte_that_is_here_in_order_with_its_stream(steps in steps(), max in 1_usize..50) {
            let (ring, model) = play(steps);
            prop_assert_eq!((ring.start(), ring.end()), (model.start as u64, model.bytes.len() as u64));
            let (mut cursor, mut read) = (ring.start(), Vec::new());
            while let Found::Data(stream, bytes) = ring.read_from(cursor, max) {
                prop_assert!((1..=max).contains(&bytes.len()));
                cursor += bytes.len() as u64;
                read.extend(bytes.iter().map(|byte| (stream, *byte)));
            }
            prop_assert_eq!(ring.read_from(cursor, max), Found::Nothing);
            prop_assert_eq!(&read[..], &model.bytes[model.start..]);
        }

        #[test]
        fn any_cursor_is_data_a_gap_to_the_start_or_nothing(steps in steps(), cursor in 0_u64..3000) {
            let (ring, model) = play(steps);
            match ring.read_from(cursor, usize::MAX) {
                Found::Gap(to) => prop_assert!(cursor < to && to == ring.start()),
                Found::Nothing => prop_assert!(cursor >= ring.end()),
                Found::Data(stream, bytes) => {
                    let from = cursor as usize;
                    let expected: Vec<_> = bytes.iter().map(|byte| (stream, *byte)).collect();
                    prop_assert_eq!(&model.bytes[from..from + bytes.len()], &expected[..]);
                }
            }
        }

        #[test]
        fn cost_is_that_of_the_pieces(steps in steps(), cursor in 0_u64..3000) {
            let (ring, _) = play(steps);
            let pieces: Vec<_> = ring.since(0).collect();
            prop_assert_eq!(ring.cost(), pieces.iter().map(|piece| piece.cost()).sum::<usize>());
            let from: usize = pieces.iter().filter(|piece| piece.end() > cursor).map(|piece| piece.cost()).sum();
            prop_assert_eq!(ring.cost_from(cursor), from);
        }
    }

    #[test]
    fn the_oldest_pieces_are_as_many_as_it_takes() {
        let mut ring = ReplayRing::default();
        for sequence in 0..4 {
            ring.append(OutputStream::Stdout, Bytes::from_static(b"12345"), sequence, 0.0);
        }
        assert_eq!(ring.oldest(1).len(), 1);
        assert_eq!(ring.oldest(6).len(), 2);
        assert_eq!(ring.oldest(usize::MAX).len(), 4);
        assert_eq!(ring.since(3).count(), 1);
    }
}
