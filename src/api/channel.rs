//! Channels: how output, input and control share one byte stream, on a WebSocket and in the binary form of an exec stream.
//!
//! On a WebSocket (`GET /v1/exec/{id}/ws`, `GET /v1/tunnel/{port}`) each binary message is one byte of channel and its payload, as in
//! Kubernetes' remote command protocol, version 5. In an exec stream that was asked for with `Accept: application/octet-stream`, each frame
//! is a header of eight bytes, as in Docker's attach stream, and its payload: channel, three zero bytes, length of the
//! payload as a big-endian u32.

use serde::{Deserialize, Serialize};

use super::StreamFrame;

/// Name of the WebSocket subprotocol.
pub const SUBPROTOCOL: &str = "v5.channel.k8s.io";

/// What is added to the client's key before its SHA-1 becomes the server's answer (RFC 6455, section 1.3).
pub const WEBSOCKET_KEY_SUFFIX: &str = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

/// What a payload is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Channel {
    /// To the command's standard input, or to the tunnelled service.
    Stdin = 0,
    /// From its standard output, its terminal, or the tunnelled service.
    Stdout = 1,
    /// From its standard error.
    Stderr = 2,
    /// A [`ChannelStatus`] in JSON, from the agent. The last one is an exit or an error.
    Status = 3,
    /// A [`super::TtySize`] in JSON, to the agent.
    Resize = 4,
    /// One byte, the channel that ends: `255, 0` is the end of standard input. Never the end of the connection.
    Close = 255,
}

impl TryFrom<u8> for Channel {
    type Error = u8;

    /// The byte itself is the error where it is no channel.
    fn try_from(byte: u8) -> Result<Self, u8> {
        Ok(match byte {
            0 => Self::Stdin,
            1 => Self::Stdout,
            2 => Self::Stderr,
            3 => Self::Status,
            4 => Self::Resize,
            255 => Self::Close,
            other => return Err(other),
        })
    }
}

/// What the agent says about the stream itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum ChannelStatus {
    /// First of all: where the output begins. From here on the reader counts the bytes of channels 1 and 2 together.
    Attached {
        /// Offset of the first byte that follows.
        attached: u64,
        /// Id of the exec.
        exec_id: String,
    },
    /// A gap, an exit or an error. Never a chunk.
    Frame(StreamFrame),
}
