//! An exec's output, input and terminal on one WebSocket.
//!
//! Both sides can be used at once; each is for one task. Its end is the exec's exit or error; anything else is a loss, after which
//! the exec goes on and a new session can begin at the reader's cursor.

use bytes::Bytes;

use crate::api::{Channel, ChannelStatus, TtySize};

use super::execs::exec_path;
use super::frames::{output_of, status};
use super::websocket::{Receiver, Sender};
use super::{Call, Client, ClientError, Endpoint, ExecEvent, ReadFrom};

const CALL: Call = Call::get("/v1/exec/{id}/ws");

/// An exec's session. Dropping both sides closes the connection; the exec goes on without it.
#[derive(Debug)]
pub struct ExecSession {
    /// Input, and the terminal's size.
    pub writer: SessionWriter,
    /// Output and end.
    pub reader: SessionReader,
}

/// What goes to an exec.
#[derive(Debug)]
pub struct SessionWriter {
    sender: Sender,
    endpoint: Endpoint,
}

/// What comes from an exec.
#[derive(Debug)]
pub struct SessionReader {
    receiver: Receiver,
    endpoint: Endpoint,
    exec_id: String,
    cursor: Option<u64>,
    ended: bool,
}

impl Client {
    /// A session with an exec that was started before.
    pub async fn exec_session(&self, id: &str, from: ReadFrom) -> Result<ExecSession, ClientError> {
        let query = match from {
            ReadFrom::Cursor(cursor) => format!("/ws?cursor={cursor}"),
            ReadFrom::Latest => "/ws?from_latest=true".to_owned(),
        };
        let (sender, receiver) = self.websocket(CALL, exec_path(id, &query)).await?;
        let endpoint = self.endpoint().clone();
        Ok(ExecSession {
            writer: SessionWriter { sender, endpoint: endpoint.clone() },
            reader: SessionReader { receiver, endpoint, exec_id: id.to_owned(), cursor: from.cursor(), ended: false },
        })
    }
}

impl SessionWriter {
    /// To the exec's standard input or terminal. Waits while the exec does not read.
    pub async fn write(&mut self, bytes: &[u8]) -> Result<(), ClientError> {
        self.send(Channel::Stdin, bytes).await
    }

    /// End of input; on a terminal, as by ctrl-D.
    pub async fn close_stdin(&mut self) -> Result<(), ClientError> {
        self.send(Channel::Close, &[Channel::Stdin as u8]).await
    }

    /// Size of the terminal.
    pub async fn resize(&mut self, size: TtySize) -> Result<(), ClientError> {
        let text = serde_json::to_vec(&size).map_err(|error| self.broken(error.to_string()))?;
        self.send(Channel::Resize, &text).await
    }

    /// Says goodbye. Without it the connection is closed all the same.
    pub async fn close(&mut self) {
        self.sender.close().await;
    }

    async fn send(&mut self, channel: Channel, payload: &[u8]) -> Result<(), ClientError> {
        self.sender.send(channel, payload).await.map_err(|why| self.broken(why))
    }

    fn broken(&self, why: String) -> ClientError {
        ClientError::Disconnected { endpoint: self.endpoint.clone(), call: CALL, source: why.into() }
    }
}

impl SessionReader {
    /// Where in the exec's output this reader is; none while that is not known.
    #[must_use]
    pub fn cursor(&self) -> Option<u64> {
        self.cursor
    }

    /// The next event; none after the exit or error, which is the last. May be dropped at any await and called again.
    pub async fn next(&mut self) -> Result<Option<ExecEvent>, ClientError> {
        while !self.ended {
            let event = match self.receiver.next().await {
                Ok(Some((channel, payload))) => self.event(channel, payload),
                Ok(None) => Err(self.cut_off("it was closed without an exit".into())),
                Err(why) => Err(self.cut_off(why)),
            };
            match event {
                Ok(None) => {}
                Ok(Some(event)) => {
                    self.cursor = event.cursor().or(self.cursor);
                    self.ended = event.is_last();
                    return Ok(Some(event));
                }
                Err(error) => {
                    self.ended = true;
                    return Err(error);
                }
            }
        }
        Ok(None)
    }

    fn event(&mut self, channel: u8, bytes: Bytes) -> Result<Option<ExecEvent>, ClientError> {
        if let Some(stream) = output_of(channel) {
            let cursor = self.cursor.unwrap_or_default() + bytes.len() as u64;
            return Ok(Some(ExecEvent::Chunk { stream, bytes, cursor }));
        }
        match Channel::try_from(channel) {
            Ok(Channel::Status) => {}
            // The end of an output before the exit says nothing that the exit does not.
            Ok(Channel::Close) => return Ok(None),
            _ => return Err(self.foreign(format!("a message is for channel {channel}, which no agent sends"))),
        }
        match status(&bytes).map_err(|error| self.foreign(error.to_string()))? {
            ChannelStatus::Attached { attached, .. } => {
                self.cursor = Some(attached);
                Ok(None)
            }
            ChannelStatus::Frame(frame) => {
                let event = ExecEvent::of(frame).map_err(|_| self.foreign("a chunk of it is no base64".into()))?;
                Ok(Some(event))
            }
        }
    }

    fn cut_off(&self, why: String) -> ClientError {
        ClientError::StreamCutOff {
            endpoint: self.endpoint.clone(),
            exec_id: Some(self.exec_id.clone()),
            cursor: self.cursor.unwrap_or_default(),
            why,
        }
    }

    fn foreign(&self, why: String) -> ClientError {
        ClientError::Protocol { endpoint: self.endpoint.clone(), call: CALL, why }
    }
}
