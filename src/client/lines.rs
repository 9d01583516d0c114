//! Lines out of a stream of packets that may be split anywhere. Pure.

use bytes::{Buf, Bytes, BytesMut};

/// Gathers packets and gives complete lines, none longer than a limit.
#[derive(Debug)]
pub(super) struct Lines {
    buffer: BytesMut,
    /// Bytes at the front of `buffer` that are known to hold no line feed.
    searched: usize,
    limit: usize,
}

/// A line is longer than the limit.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct LineTooLong;

impl Lines {
    pub(super) fn new(limit: usize) -> Self {
        Self { buffer: BytesMut::new(), searched: 0, limit }
    }

    /// Adds a packet. At most one line and one packet are held, as long as the caller asks for all lines before the next packet.
    pub(super) fn push(&mut self, packet: &[u8]) {
        self.buffer.extend_from_slice(packet);
    }

    /// The next complete line without its line feed, empty lines left out.
    pub(super) fn next(&mut self) -> Result<Option<Bytes>, LineTooLong> {
        loop {
            let Some(at) = self.buffer[self.searched..].iter().position(|byte| *byte == b'\n') else {
                self.searched = self.buffer.len();
                return if self.searched > self.limit { Err(LineTooLong) } else { Ok(None) };
            };
            let line = self.buffer.split_to(self.searched + at).freeze();
            self.buffer.advance(1);
            self.searched = 0;
            if line.len() > self.limit {
                return Err(LineTooLong);
            }
            if !line.trim_ascii().is_empty() {
                return Ok(Some(line));
            }
        }
    }

    /// What stands after the last line feed, at the end of the stream.
    pub(super) fn rest(&mut self) -> Bytes {
        self.searched = 0;
        self.buffer.split().freeze()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn all(lines: &mut Lines) -> Vec<Bytes> {
        std::iter::from_fn(|| lines.next().unwrap()).collect()
    }

    #[test]
    fn a_line_of_the_limit_passes_and_one_byte_more_does_not() {
        let mut lines = Lines::new(4);
        lines.push(b"1234\n12345\n");
        assert_eq!(lines.next(), Ok(Some(Bytes::from_static(b"1234"))));
        assert_eq!(lines.next(), Err(LineTooLong));
    }

    #[test]
    fn a_line_without_end_is_refused_once_it_is_over_the_limit() {
        let mut lines = Lines::new(4);
        lines.push(b"1234");
        assert_eq!(lines.next(), Ok(None));
        lines.push(b"5");
        assert_eq!(lines.next(), Err(LineTooLong));
    }

    #[test]
    fn empty_lines_are_left_out_and_the_rest_is_kept() {
        let mut lines = Lines::new(9);
        lines.push(b"\n\r\na\n\nb\nrest");
        assert_eq!(all(&mut lines), ["a", "b"]);
        assert_eq!(lines.rest(), "rest");
    }

    proptest! {
        #[test]
        fn the_lines_are_the_same_wherever_the_packets_are_split(
            text in "[ab\n]{0,60}",
            cuts in proptest::collection::vec(0usize..60, 0..8),
        ) {
            let mut whole = Lines::new(100);
            whole.push(text.as_bytes());
            let expected = (all(&mut whole), whole.rest());

            let mut cuts: Vec<usize> = cuts.into_iter().filter(|cut| *cut < text.len()).collect();
            cuts.sort_unstable();
            let mut split = Lines::new(100);
            let (mut found, mut from) = (Vec::new(), 0);
            for cut in cuts.into_iter().chain([text.len()]) {
                split.push(&text.as_bytes()[from..cut]);
                found.extend(all(&mut split));
                from = cut;
            }
            prop_assert_eq!((found, split.rest()), expected);
        }
    }
}
