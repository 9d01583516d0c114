//! The output of a running command, frame by frame.

use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use tokio::time::timeout;

use crate::api::StreamFrame;
use crate::limits;

use super::http::{Connection, Reply, excerpt};
use super::lines::Lines;
use super::{Call, Client, ClientError, Endpoint};

/// What a running command prints, and how it ends. Dropping it closes the connection; the command goes on without it.
///
/// Not reading lets the command wait once the buffers on the way are full: nothing is lost.
#[derive(Debug)]
pub struct ExecStream {
    endpoint: Endpoint,
    call: Call,
    /// End of the exec's own time-out, if it has one.
    end: Option<Instant>,
    answer_time: Duration,
    body: Incoming,
    lines: Lines,
    exec_id: Option<String>,
    cursor: u64,
    ended: bool,
    connection: Connection,
}

impl ExecStream {
    pub(super) fn new(client: &Client, call: Call, reply: Reply, patience: Option<Duration>) -> Self {
        Self {
            endpoint: client.endpoint().clone(),
            call,
            end: patience.and_then(|patience| Instant::now().checked_add(patience)),
            answer_time: client.timeouts().answer,
            body: reply.body,
            lines: Lines::new(limits::CLIENT_LINE_BYTES),
            exec_id: None,
            cursor: 0,
            ended: false,
            connection: reply.connection,
        }
    }

    /// The next frame; none after the exit or error frame, which is the last. May be dropped at any await and called again.
    ///
    /// # Errors
    /// [`ClientError::StreamCutOff`] where the stream ends before its last frame, [`ClientError::Protocol`] where it is not
    /// made of frames, [`ClientError::Timeout`] where nothing comes long after the exec's own time-out. After an error
    /// there is no more.
    pub async fn next(&mut self) -> Result<Option<StreamFrame>, ClientError> {
        if self.ended {
            return Ok(None);
        }
        let frame = self.read_frame().await;
        match &frame {
            Ok(StreamFrame::Chunk { cursor, exec_id, .. }) => {
                self.cursor = *cursor;
                if self.exec_id.is_none() {
                    self.exec_id = Some(exec_id.clone());
                }
            }
            Ok(StreamFrame::Gap { to, .. }) => self.cursor = *to,
            Ok(StreamFrame::Exit { .. } | StreamFrame::Error { .. }) | Err(_) => self.ended = true,
        }
        frame.map(Some)
    }

    async fn read_frame(&mut self) -> Result<StreamFrame, ClientError> {
        loop {
            let line = self.lines.next().map_err(|_| {
                self.foreign(format!("a line of it is longer than {} bytes", limits::CLIENT_LINE_BYTES))
            })?;
            if let Some(line) = line {
                return serde_json::from_slice(&line)
                    .map_err(|error| self.foreign(format!("{error} in {}", excerpt(&line))));
            }
            match self.read_packet().await? {
                Some(packet) => self.lines.push(&packet),
                None => {
                    // A frame is whole without its line feed, since an object ends by its brace.
                    let rest = self.lines.rest();
                    return serde_json::from_slice(&rest)
                        .map_err(|_| self.cut_off("it ended without an exit frame".into()));
                }
            }
        }
    }

    async fn read_packet(&mut self) -> Result<Option<Bytes>, ClientError> {
        loop {
            let read = self.connection.drive(self.body.frame());
            let read = match self.end {
                None => Ok(read.await),
                // A reader that was slow itself comes back after the end: then the answer time counts from now.
                Some(end) => {
                    let left = end.saturating_duration_since(Instant::now());
                    timeout(left.max(self.answer_time), read).await
                }
            };
            match read {
                Err(_) => {
                    return Err(ClientError::Timeout {
                        endpoint: self.endpoint.clone(),
                        call: self.call,
                        after: self.answer_time,
                    });
                }
                Ok(None) => return Ok(None),
                Ok(Some(Err(error))) => return Err(self.cut_off(error.to_string())),
                Ok(Some(Ok(frame))) => {
                    if let Ok(packet) = frame.into_data() {
                        return Ok(Some(packet));
                    }
                }
            }
        }
    }

    fn cut_off(&self, why: String) -> ClientError {
        ClientError::StreamCutOff {
            endpoint: self.endpoint.clone(),
            exec_id: self.exec_id.clone(),
            cursor: self.cursor,
            why,
        }
    }

    fn foreign(&self, why: String) -> ClientError {
        ClientError::Protocol { endpoint: self.endpoint.clone(), call: self.call, why }
    }
}

/// The bytes of a chunk's `data_b64`; none where it is no base64.
#[must_use]
pub fn decode_chunk(data_b64: &str) -> Option<Vec<u8>> {
    STANDARD.decode(data_b64).ok()
}
