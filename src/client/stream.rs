//! The output of an exec, event by event, on one connection.

use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use hyper::header::CONTENT_TYPE;
use tokio::time::timeout;

use crate::api::{ChannelStatus, GENERATION_HEADER, StreamFrame};
use crate::limits;

use super::event::{self, ExecEvent};
use super::frames::{Frames, Piece};
use super::http::{Connection, Reply, excerpt};
use super::lines::Lines;
use super::{Call, Client, ClientError, Endpoint};

/// Media type of binary frames.
pub(super) const BINARY: &str = "application/octet-stream";

/// What an exec prints, and how it ends. Dropping it closes the connection; the exec goes on without it.
///
/// A reader that lags gets an [`ExecEvent::Gap`], unless the exec was asked to be lossless: then the command waits.
#[derive(Debug)]
pub struct ExecStream {
    generation: Option<String>,
    endpoint: Endpoint,
    call: Call,
    /// End of the exec's own time-out, if it has one.
    end: Option<Instant>,
    answer_time: Duration,
    body: Incoming,
    decoder: Decoder,
    exec_id: Option<String>,
    cursor: Option<u64>,
    ended: bool,
    connection: Connection,
}

/// The two forms of a stream; guestd says by its Content-Type which it is.
#[derive(Debug)]
enum Decoder {
    Lines(Lines),
    Frames(Frames),
}

impl ExecStream {
    /// The stream in this reply. `cursor` is where it starts, where that is known.
    pub(super) fn new(client: &Client, call: Call, reply: Reply, cursor: Option<u64>, end: Option<Instant>) -> Self {
        let binary =
            reply.headers.get(CONTENT_TYPE).is_some_and(|value| value.as_bytes().starts_with(BINARY.as_bytes()));
        let generation = reply.headers.get(GENERATION_HEADER).and_then(|value| value.to_str().ok());
        Self {
            generation: generation.map(str::to_owned),
            endpoint: client.endpoint().clone(),
            call,
            end,
            answer_time: client.timeouts().answer,
            body: reply.body,
            decoder: match binary {
                true => Decoder::Frames(Frames::new(limits::CLIENT_LINE_BYTES)),
                false => Decoder::Lines(Lines::new(limits::CLIENT_LINE_BYTES)),
            },
            exec_id: None,
            cursor,
            ended: false,
            connection: reply.connection,
        }
    }

    /// Id of the exec, as soon as something came that says it.
    #[must_use]
    pub fn exec_id(&self) -> Option<&str> {
        self.exec_id.as_deref()
    }

    /// The generation that its cursors are of; none where none was announced.
    #[must_use]
    pub fn generation(&self) -> Option<&str> {
        self.generation.as_deref()
    }

    /// Where in the exec's output this reader is; none while that is not known.
    #[must_use]
    pub fn cursor(&self) -> Option<u64> {
        self.cursor
    }

    /// The next event; none after the exit or error, which is the last. May be dropped at any await and called again.
    ///
    /// # Errors
    /// [`ClientError::StreamCutOff`] where the stream ends before its last frame, [`ClientError::Protocol`] where it is not
    /// made of frames, [`ClientError::Timeout`] where nothing comes long after the exec's own time-out. After an error
    /// there is no more.
    pub async fn next(&mut self) -> Result<Option<ExecEvent>, ClientError> {
        if self.ended {
            return Ok(None);
        }
        let event = self.read_event().await;
        match &event {
            Ok(event) => {
                self.cursor = event.cursor().or(self.cursor);
                self.ended = event.is_last();
            }
            Err(_) => self.ended = true,
        }
        event.map(Some)
    }

    async fn read_event(&mut self) -> Result<ExecEvent, ClientError> {
        loop {
            if let Some(event) = self.decoded()? {
                return Ok(event);
            }
            match (self.read_packet().await?, &mut self.decoder) {
                (Some(packet), Decoder::Lines(lines)) => lines.push(&packet),
                (Some(packet), Decoder::Frames(frames)) => frames.push(packet),
                (None, Decoder::Lines(lines)) => {
                    // A frame is whole without its line feed, since an object ends by its brace.
                    let rest = lines.rest();
                    let frame = serde_json::from_slice(&rest)
                        .map_err(|_| self.cut_off("it ended without an exit frame".into()))?;
                    return self.event(frame);
                }
                (None, Decoder::Frames(frames)) => {
                    let where_it_ended = if frames.is_whole() { "without" } else { "within a frame and without" };
                    return Err(self.cut_off(format!("it ended {where_it_ended} an exit frame")));
                }
            }
        }
    }

    /// What the packets that came so far make.
    fn decoded(&mut self) -> Result<Option<ExecEvent>, ClientError> {
        match &mut self.decoder {
            Decoder::Lines(lines) => {
                let line = lines.next().map_err(|_| {
                    self.foreign(format!("a line of it is longer than {} bytes", limits::CLIENT_LINE_BYTES))
                })?;
                let Some(line) = line else { return Ok(None) };
                let frame = serde_json::from_slice(&line)
                    .map_err(|error| self.foreign(format!("{error} in {}", excerpt(&line))))?;
                self.event(frame).map(Some)
            }
            Decoder::Frames(frames) => loop {
                match frames.next() {
                    Err(error) => return Err(self.foreign(error.to_string())),
                    Ok(None) => return Ok(None),
                    Ok(Some(Piece::Output(stream, bytes))) => {
                        let cursor = self.cursor.unwrap_or_default() + bytes.len() as u64;
                        return Ok(Some(ExecEvent::Chunk { stream, bytes, cursor }));
                    }
                    Ok(Some(Piece::Status(ChannelStatus::Attached { attached, exec_id }))) => {
                        self.cursor = Some(attached);
                        self.exec_id = Some(exec_id);
                    }
                    Ok(Some(Piece::Status(ChannelStatus::Frame(frame)))) => return self.event(frame).map(Some),
                }
            },
        }
    }

    fn event(&mut self, frame: StreamFrame) -> Result<ExecEvent, ClientError> {
        if self.exec_id.is_none() {
            self.exec_id = event::exec_id(&frame).map(str::to_owned);
        }
        ExecEvent::of(frame).map_err(|_| self.foreign("a chunk of it is no base64".into()))
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
            cursor: self.cursor.unwrap_or_default(),
            why,
        }
    }

    fn foreign(&self, why: String) -> ClientError {
        ClientError::Protocol { endpoint: self.endpoint.clone(), call: self.call, why }
    }
}
