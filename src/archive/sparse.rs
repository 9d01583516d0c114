//! Maps of sparse files: which ranges have data. GNU's formats: old (in the header), PAX 0.1 (in a record), PAX 1.0 (before
//! the content), which is the one that is written.

use super::header::{BLOCK, number};
use crate::{limits, sys::files::Segment};

/// A map in words of PAX 1.0: decimal numbers with a line feed each, padded to blocks.
pub(super) fn map(segments: &[Segment], size: u64) -> Vec<u8> {
    // GNU tar ends the map of a file that ends by a hole with an empty range at the end.
    let last = segments.last().is_none_or(|last| last.offset.saturating_add(last.length) < size);
    let ranges = segments.iter().map(|segment| (segment.offset, segment.length)).chain(last.then_some((size, 0)));
    let mut text = format!("{}\n", segments.len() + usize::from(last)).into_bytes();
    for (offset, length) in ranges {
        text.extend_from_slice(format!("{offset}\n{length}\n").as_bytes());
    }
    text.resize(text.len().next_multiple_of(BLOCK), 0);
    text
}

/// Reads a map of PAX 1.0 as its blocks come.
#[derive(Default)]
pub(super) struct MapReader {
    numbers: Vec<u64>,
    /// The number that is being read; none between two.
    current: Option<u64>,
}

impl MapReader {
    /// Takes a block; the map once it is whole.
    pub(super) fn push(&mut self, block: &[u8]) -> Result<Option<Vec<Segment>>, &'static str> {
        const WRONG: &str = "the map of a sparse file is malformed";
        for byte in block {
            match byte {
                b'0'..=b'9' => {
                    let so_far = self.current.unwrap_or(0);
                    let digit = u64::from(byte - b'0');
                    self.current = Some(so_far.checked_mul(10).and_then(|n| n.checked_add(digit)).ok_or(WRONG)?);
                }
                b'\n' => self.numbers.push(self.current.take().ok_or(WRONG)?),
                _ => return Err(WRONG),
            }
            let Some((count, ranges)) = self.numbers.split_first() else { continue };
            let count = usize::try_from(*count).map_err(|_| WRONG)?;
            if count > limits::TAR_SEGMENTS + 1 {
                return Err("the map of a sparse file has too many ranges");
            }
            if ranges.len() == count * 2 {
                return Ok(Some(pairs(ranges)));
            }
        }
        Ok(None)
    }
}

/// A map in one record of PAX 0.1: `offset,length,offset,length`.
pub(super) fn from_record(text: &[u8]) -> Option<Vec<Segment>> {
    let text = str::from_utf8(text).ok()?;
    let numbers: Vec<u64> = text.split(',').map(|number| number.parse().ok()).collect::<Option<_>>()?;
    numbers.len().is_multiple_of(2).then(|| pairs(&numbers))
}

/// Ranges of a header of the old format: pairs of 12-byte numbers, those that are used first.
pub(super) fn from_header(bytes: &[u8]) -> Option<Vec<Segment>> {
    let used = bytes.chunks_exact(24).take_while(|pair| pair[0] != 0);
    used.map(|pair| {
        let offset = number(&pair[..12])?.try_into().ok()?;
        let length = number(&pair[12..])?.try_into().ok()?;
        Some(Segment { offset, length })
    })
    .collect()
}

fn pairs(numbers: &[u64]) -> Vec<Segment> {
    numbers.chunks_exact(2).map(|pair| Segment { offset: pair[0], length: pair[1] }).collect()
}

/// Are the ranges in order, apart, inside the file, and of `stored` bytes together?
pub(super) fn is_sound(segments: &[Segment], size: u64, stored: u64) -> bool {
    let mut end = 0_u64;
    let mut sum = 0_u64;
    for segment in segments {
        let Some(next) = segment.offset.checked_add(segment.length) else { return false };
        if segment.offset < end || next > size {
            return false;
        }
        end = next;
        sum += segment.length;
    }
    sum == stored
}
