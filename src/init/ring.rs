//! The last output of one service, in memory of a fixed size. Pure.
//!
//! Taken once and never grown: process 1 must not be talked into memory by a service that prints. Pieces are records in a ring of
//! bytes; when there is no room the oldest go. Offsets count the bytes of output and go on for ever, so that a reader can go on
//! where it was, over restarts of the service and of the agent.

use std::collections::VecDeque;

/// Before each piece: its length, its stream and its time.
const HEAD: usize = 4 + 1 + 8;

/// A piece as it was read.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Piece {
    /// Offset of its first byte.
    pub(super) offset: u64,
    /// It came by standard error.
    pub(super) is_error: bool,
    /// Seconds since 1970.
    pub(super) timestamp: f64,
    pub(super) bytes: Vec<u8>,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Ring {
    bytes: VecDeque<u8>,
    capacity: usize,
    /// Offset of the first byte that is still there.
    start: u64,
    end: u64,
}

impl Ring {
    /// With room for so many bytes, heads of pieces among them.
    pub(super) fn new(capacity: usize) -> Self {
        Self { bytes: VecDeque::with_capacity(capacity), capacity, start: 0, end: 0 }
    }

    /// Offset after the last byte.
    pub(super) fn end(&self) -> u64 {
        self.end
    }

    /// Keeps a piece; of one that is too large, its end.
    pub(super) fn push(&mut self, is_error: bool, timestamp: f64, bytes: &[u8]) {
        let most = self.capacity.saturating_sub(HEAD);
        let kept = &bytes[bytes.len().saturating_sub(most)..];
        while self.bytes.len() + HEAD + kept.len() > self.capacity {
            let Some((length, ..)) = self.head(0) else { break };
            self.bytes.drain(..HEAD + length);
            self.start += length as u64;
        }
        if kept.len() < bytes.len() {
            self.start += (bytes.len() - kept.len()) as u64;
        }
        self.end += bytes.len() as u64;
        self.bytes.extend((kept.len() as u32).to_le_bytes());
        self.bytes.push_back(is_error.into());
        self.bytes.extend(timestamp.to_le_bytes());
        self.bytes.extend(kept);
    }

    /// Pieces from this offset on, or from the oldest that is there, of about so many bytes at most.
    pub(super) fn read(&self, from: u64, most: usize) -> Vec<Piece> {
        let (mut pieces, mut taken, mut at, mut offset) = (Vec::new(), 0, 0, self.start);
        while let Some((length, is_error, timestamp)) = self.head(at) {
            let end = offset + length as u64;
            if end > from {
                if taken > 0 && taken + length > most {
                    break;
                }
                let skip = usize::try_from(from.saturating_sub(offset)).unwrap_or_default();
                let bytes: Vec<u8> = self.bytes.range(at + HEAD + skip..at + HEAD + length).copied().collect();
                taken += bytes.len();
                pieces.push(Piece { offset: offset + skip as u64, is_error, timestamp, bytes });
            }
            at += HEAD + length;
            offset = end;
        }
        pieces
    }

    /// The last bytes, at most so many, of all streams.
    pub(super) fn tail(&self, most: usize) -> Vec<u8> {
        let pieces = self.read(self.end.saturating_sub(most as u64), most + self.capacity);
        pieces.into_iter().flat_map(|piece| piece.bytes).collect()
    }

    fn head(&self, at: usize) -> Option<(usize, bool, f64)> {
        let mut head = [0; HEAD];
        if self.bytes.len() < at + HEAD {
            return None;
        }
        for (to, from) in head.iter_mut().zip(self.bytes.range(at..at + HEAD)) {
            *to = *from;
        }
        let [a, b, c, d, is_error, timestamp @ ..] = head;
        let length = usize::try_from(u32::from_le_bytes([a, b, c, d])).ok()?;
        Some((length, is_error != 0, f64::from_le_bytes(timestamp)))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn text(pieces: &[Piece]) -> String {
        pieces.iter().map(|piece| String::from_utf8_lossy(&piece.bytes).into_owned()).collect()
    }

    #[test]
    fn output_is_read_again_from_any_byte() {
        let mut ring = Ring::new(1000);
        ring.push(false, 1.5, b"one ");
        ring.push(true, 2.5, b"two");
        let all = ring.read(0, 100);
        assert_eq!((all[1].is_error, all[1].timestamp, all[1].offset), (true, 2.5, 4));
        assert_eq!(text(&ring.read(2, 100)), "e two");
        assert_eq!(ring.read(7, 100), []);
        assert_eq!(ring.tail(5), b"e two"[..].split_at(0).1.to_vec());
    }

    #[test]
    fn the_oldest_goes_and_offsets_go_on() {
        let mut ring = Ring::new(2 * HEAD + 8);
        for word in ["aaaa", "bbbb", "cccc"] {
            ring.push(false, 0.0, word.as_bytes());
        }
        let left = ring.read(0, 100);
        assert_eq!((text(&left).as_str(), left[0].offset, ring.end()), ("bbbbcccc", 4, 12));
    }

    #[test]
    fn of_a_piece_larger_than_the_ring_the_end_stays() {
        let mut ring = Ring::new(HEAD + 3);
        ring.push(false, 0.0, b"abcdef");
        let left = ring.read(0, 100);
        assert_eq!((text(&left).as_str(), left[0].offset, ring.end()), ("def", 3, 6));
    }

    proptest! {
        #[test]
        fn what_is_kept_is_the_end_of_what_was_pushed(pieces in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..40), 0..40)) {
            let mut ring = Ring::new(100);
            let capacity = ring.bytes.capacity();
            let mut all = Vec::new();
            for piece in &pieces {
                ring.push(false, 0.0, piece);
                all.extend_from_slice(piece);
            }
            let kept: Vec<u8> = ring.read(0, usize::MAX).into_iter().flat_map(|piece| piece.bytes).collect();
            prop_assert!(all.ends_with(&kept));
            prop_assert_eq!(ring.end(), all.len() as u64);
            prop_assert_eq!(ring.bytes.capacity(), capacity, "it never grows");
        }
    }
}
