//! Binary frames out of a stream of packets that may be split anywhere. Pure.
//!
//! ```text
//!  header (8 bytes) ──> payload ──┐      output: every piece that has come is given at once, none is copied
//!     ^                           │      status: gathered to its end, up to a limit
//!     └───────────────────────────┘
//! ```
//! Output may be given in smaller pieces than it was framed in, since its cursor counts bytes; so a frame of any length needs
//! no memory.

use bytes::{Buf as _, Bytes, BytesMut};

use crate::api::{Channel, ChannelStatus, OutputStream};

/// What a stream of frames gives.
#[derive(Debug, PartialEq)]
pub(super) enum Piece {
    Output(OutputStream, Bytes),
    Status(ChannelStatus),
}

/// What no frame can be.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum FrameError {
    #[error("a frame of it is for channel {0}, which no agent sends")]
    Channel(u8),
    #[error("a status in it has {0} bytes, more than any status")]
    StatusTooLong(usize),
    #[error("a status in it cannot be read ({0})")]
    Status(String),
}

/// Bytes of a frame's header.
const HEADER_BYTES: usize = 8;

#[derive(Debug)]
enum State {
    /// These many bytes of the header have come.
    Header([u8; HEADER_BYTES], usize),
    /// These many bytes of output are still to come.
    Output(OutputStream, usize),
    /// What has come of a status, and how long it is.
    Status(BytesMut, usize),
}

/// Takes packets, gives pieces. Ask for all pieces before the next packet: at most one packet is held.
#[derive(Debug)]
pub(super) struct Frames {
    packet: Bytes,
    state: State,
    limit: usize,
}

impl Frames {
    /// A reader of statuses of at most `limit` bytes.
    pub(super) fn new(limit: usize) -> Self {
        Self { packet: Bytes::new(), state: State::Header([0; HEADER_BYTES], 0), limit }
    }

    /// Adds a packet.
    pub(super) fn push(&mut self, packet: Bytes) {
        if self.packet.is_empty() {
            self.packet = packet;
        } else {
            let mut joined = BytesMut::from(&self.packet[..]);
            joined.extend_from_slice(&packet);
            self.packet = joined.freeze();
        }
    }

    /// Does the stream stand between two frames?
    pub(super) fn is_whole(&self) -> bool {
        self.packet.is_empty() && matches!(self.state, State::Header(_, 0))
    }

    /// The next piece; none until another packet comes.
    pub(super) fn next(&mut self) -> Result<Option<Piece>, FrameError> {
        loop {
            match &mut self.state {
                State::Header(header, have) => {
                    let more = self.packet.len().min(HEADER_BYTES - *have);
                    self.packet.copy_to_slice(&mut header[*have..*have + more]);
                    *have += more;
                    if *have < HEADER_BYTES {
                        return Ok(None);
                    }
                    let header = *header;
                    self.state = self.body_of(header)?;
                }
                State::Output(stream, left) => {
                    let stream = *stream;
                    let bytes = self.packet.split_to(self.packet.len().min(*left));
                    *left -= bytes.len();
                    if *left == 0 {
                        self.state = State::Header([0; HEADER_BYTES], 0);
                    } else if bytes.is_empty() {
                        return Ok(None);
                    }
                    if !bytes.is_empty() {
                        return Ok(Some(Piece::Output(stream, bytes)));
                    }
                }
                State::Status(text, length) => {
                    let more = self.packet.len().min(*length - text.len());
                    text.extend_from_slice(&self.packet.split_to(more));
                    if text.len() < *length {
                        return Ok(None);
                    }
                    let status = status(text);
                    self.state = State::Header([0; HEADER_BYTES], 0);
                    return status.map(Piece::Status).map(Some);
                }
            }
        }
    }

    /// What follows a header: channel, three bytes that mean nothing yet, length.
    fn body_of(&self, header: [u8; HEADER_BYTES]) -> Result<State, FrameError> {
        let [channel, _, _, _, a, b, c, d] = header;
        let length = u32::from_be_bytes([a, b, c, d]) as usize;
        match output_of(channel) {
            Some(stream) => Ok(State::Output(stream, length)),
            None if channel != Channel::Status as u8 => Err(FrameError::Channel(channel)),
            None if length > self.limit => Err(FrameError::StatusTooLong(length)),
            None => Ok(State::Status(BytesMut::new(), length)),
        }
    }
}

/// The output that a channel carries, if it carries some.
pub(super) fn output_of(channel: u8) -> Option<OutputStream> {
    match Channel::try_from(channel) {
        Ok(Channel::Stdout) => Some(OutputStream::Stdout),
        Ok(Channel::Stderr) => Some(OutputStream::Stderr),
        _ => None,
    }
}

/// The status that a payload of its channel holds.
pub(super) fn status(text: &[u8]) -> Result<ChannelStatus, FrameError> {
    serde_json::from_slice(text).map_err(|error| FrameError::Status(error.to_string()))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn frame(channel: u8, payload: &[u8]) -> Vec<u8> {
        let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
        [&[channel, 0, 0, 0][..], &length, payload].concat()
    }

    fn all(frames: &mut Frames) -> Result<Vec<Piece>, FrameError> {
        let mut pieces = Vec::new();
        while let Some(piece) = frames.next()? {
            pieces.push(piece);
        }
        Ok(pieces)
    }

    fn parsed(bytes: &[u8]) -> Result<Vec<Piece>, FrameError> {
        let mut frames = Frames::new(100);
        frames.push(Bytes::copy_from_slice(bytes));
        all(&mut frames)
    }

    #[test]
    fn a_status_and_both_outputs_are_told_apart_and_empty_frames_are_nothing() {
        let status = br#"{"attached":7,"exec_id":"e1"}"#;
        let bytes = [frame(3, status), frame(1, b""), frame(1, b"out"), frame(2, b"\xff")].concat();
        let attached = ChannelStatus::Attached { attached: 7, exec_id: "e1".into() };
        let out = |stream, bytes: &'static [u8]| Piece::Output(stream, Bytes::from_static(bytes));
        let expected = [Piece::Status(attached), out(OutputStream::Stdout, b"out"), out(OutputStream::Stderr, b"\xff")];
        assert_eq!(parsed(&bytes).unwrap(), expected);
    }

    #[test]
    fn what_no_agent_sends_is_refused() {
        assert_eq!(parsed(&frame(0, b"x")), Err(FrameError::Channel(0)));
        assert_eq!(parsed(&frame(9, b"x")), Err(FrameError::Channel(9)));
        assert_eq!(parsed(&frame(3, &[b' '; 101])), Err(FrameError::StatusTooLong(101)));
        assert!(matches!(parsed(&frame(3, b"{}")), Err(FrameError::Status(_))));
    }

    #[test]
    fn a_stream_is_whole_between_frames_alone() {
        let bytes = frame(1, b"out");
        for cut in 0..bytes.len() {
            let mut frames = Frames::new(100);
            frames.push(Bytes::copy_from_slice(&bytes[..cut]));
            all(&mut frames).unwrap();
            assert_eq!(frames.is_whole(), cut == 0, "{cut}");
        }
    }

    proptest! {
        #[test]
        fn the_output_is_the_same_wherever_the_packets_are_split(
            payloads in proptest::collection::vec((1u8..3, proptest::collection::vec(any::<u8>(), 0..40)), 0..6),
            size in 1usize..20,
        ) {
            let wire: Vec<u8> = payloads.iter().flat_map(|(channel, payload)| frame(*channel, payload)).collect();
            let mut frames = Frames::new(100);
            let mut found: [Vec<u8>; 2] = Default::default();
            for packet in wire.chunks(size) {
                frames.push(Bytes::copy_from_slice(packet));
                for piece in all(&mut frames).unwrap() {
                    match piece {
                        Piece::Output(OutputStream::Stdout, bytes) => found[0].extend(&bytes),
                        Piece::Output(OutputStream::Stderr, bytes) => found[1].extend(&bytes),
                        Piece::Status(status) => panic!("{status:?}"),
                    }
                }
            }
            prop_assert!(frames.is_whole());
            let sent = |wanted| payloads.iter().filter(|(channel, _)| *channel == wanted).flat_map(|(_, payload)| payload.clone()).collect::<Vec<u8>>();
            prop_assert_eq!(found, [sent(1), sent(2)]);
        }
    }
}
