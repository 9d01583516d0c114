//! What happens in an exec, whatever form it travelled in. Pure.
//!
//! NDJSON, binary frames and WebSocket messages all become these events; [`ExecEvent::frame`] is the way back, for
//! whoever prints NDJSON.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;

use crate::api::{ErrorCode, ExecExit, OutputStream, StreamFrame};

/// One thing that happened in an exec.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ExecEvent {
    /// Output.
    Chunk {
        /// Where it came from.
        stream: OutputStream,
        /// The bytes, exactly.
        bytes: Bytes,
        /// Offset of the first byte after these in the exec's output, both streams counted together.
        cursor: u64,
    },
    /// Output that this reader cannot have any more: it was overwritten before it was read.
    Gap {
        /// Offset of the first byte that is missing.
        from: u64,
        /// Offset of the first byte that follows.
        to: u64,
    },
    /// The command ended. Nothing follows.
    Exit {
        /// How.
        exit: ExecExit,
        /// Offset of the end of the output.
        cursor: u64,
    },
    /// The exec could not be followed to its end. Nothing follows.
    Error {
        /// For programs to branch on.
        code: ErrorCode,
        /// guestd's sentence.
        message: String,
    },
}

/// A chunk whose bytes are no base64.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct NotBase64;

impl ExecEvent {
    /// The event of a frame.
    pub(super) fn of(frame: StreamFrame) -> Result<Self, NotBase64> {
        Ok(match frame {
            StreamFrame::Chunk { stream, data_b64, cursor, .. } => {
                let bytes = STANDARD.decode(data_b64).map_err(|_| NotBase64)?.into();
                Self::Chunk { stream, bytes, cursor }
            }
            StreamFrame::Gap { from, to, .. } => Self::Gap { from, to },
            StreamFrame::Exit { exit_code, signal, timed_out, oom_killed, duration_ms, usage, cursor, .. } => {
                Self::Exit { exit: ExecExit { exit_code, signal, timed_out, oom_killed, duration_ms, usage }, cursor }
            }
            StreamFrame::Error { code, message } => Self::Error { code, message },
        })
    }

    /// The same as a line of NDJSON has it.
    #[must_use]
    pub fn frame(&self, exec_id: &str) -> StreamFrame {
        let exec_id = exec_id.to_owned();
        match self {
            Self::Chunk { stream, bytes, cursor } => {
                StreamFrame::Chunk { stream: *stream, data_b64: STANDARD.encode(bytes), cursor: *cursor, exec_id }
            }
            Self::Gap { from, to } => StreamFrame::Gap { from: *from, to: *to, exec_id },
            Self::Exit { exit, cursor } => {
                let ExecExit { exit_code, signal, timed_out, oom_killed, duration_ms, usage } = exit.clone();
                StreamFrame::Exit {
                    exit_code,
                    signal,
                    timed_out,
                    oom_killed,
                    duration_ms,
                    usage,
                    cursor: *cursor,
                    exec_id,
                }
            }
            Self::Error { code, message } => StreamFrame::Error { code: *code, message: message.clone() },
        }
    }

    /// Is it the last one of its exec?
    #[must_use]
    pub fn is_last(&self) -> bool {
        matches!(self, Self::Exit { .. } | Self::Error { .. })
    }

    /// Where the output stands after it; none for an error.
    pub(super) fn cursor(&self) -> Option<u64> {
        match self {
            Self::Chunk { cursor, .. } | Self::Exit { cursor, .. } => Some(*cursor),
            Self::Gap { to, .. } => Some(*to),
            Self::Error { .. } => None,
        }
    }
}

/// Whose frame it is, where the frame says it.
pub(super) fn exec_id(frame: &StreamFrame) -> Option<&str> {
    match frame {
        StreamFrame::Chunk { exec_id, .. } | StreamFrame::Gap { exec_id, .. } | StreamFrame::Exit { exec_id, .. } => {
            Some(exec_id)
        }
        StreamFrame::Error { .. } => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_frame_becomes_an_event_and_the_same_frame_again() {
        for line in [
            r#"{"type":"chunk","stream":"stderr","data_b64":"ZXJyCoA=","cursor":5,"exec_id":"e1"}"#,
            r#"{"type":"gap","from":5,"to":9,"exec_id":"e1"}"#,
            r#"{"type":"exit","exit_code":7,"signal":null,"timed_out":false,"duration_ms":1,"cursor":9,"exec_id":"e1"}"#,
            r#"{"type":"error","code":"internal","message":"lost"}"#,
        ] {
            let frame: StreamFrame = serde_json::from_str(line).unwrap();
            assert_eq!(ExecEvent::of(frame.clone()).unwrap().frame("e1"), frame);
        }
    }
}
