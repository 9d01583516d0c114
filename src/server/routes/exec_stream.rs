//! What an exec prints, as it comes: NDJSON, or by `Accept: application/octet-stream` binary frames.
//!
//! The reader pulls: nothing is queued here but one frame. A client that goes away drops the body, and with it the attachment.

use std::{collections::VecDeque, convert::Infallible, sync::Arc};

use axum::{
    body::Body,
    extract::{Request, State},
    http::{HeaderMap, HeaderValue, header},
    response::{IntoResponse, Response},
};
use base64::{Engine, engine::general_purpose::STANDARD};
use bytes::{BufMut, Bytes, BytesMut};
use futures_util::stream;

use crate::{
    api::{AttachRequest, Channel, ChannelStatus, ErrorCode, GENERATION_HEADER, OutputStream, StreamFrame},
    exec::{AttachFrom, Attachment, Event},
    server::{Agent, body, error::ApiError},
};

const NDJSON: &str = "application/x-ndjson";
const BINARY: &str = "application/octet-stream";

/// `POST /v1/exec/stream`: starts it and follows it from the beginning.
pub(super) async fn start(State(agent): State<Arc<Agent>>, request: Request) -> Result<Response, ApiError> {
    let framing = Framing::of(request.headers());
    let request = body::json(request).await?;
    let attachment = agent.execs.stream(request).await?;
    Ok(follow(attachment, framing, &agent))
}

/// `POST /v1/exec/stream/attach`: follows one that is there.
pub(super) async fn attach(State(agent): State<Arc<Agent>>, request: Request) -> Result<Response, ApiError> {
    let framing = Framing::of(request.headers());
    let AttachRequest { exec_id, cursor, from_latest, generation_id } = body::json(request).await?;
    let from = match (cursor, from_latest) {
        (Some(_), true) => {
            let why = "`cursor` and `from_latest` are both given; send one of them";
            return Err(ApiError::new(ErrorCode::InvalidField, why));
        }
        (None, true) => AttachFrom::Latest,
        (cursor, false) => AttachFrom::Cursor(cursor.unwrap_or_default()),
    };
    let exec = agent.execs.get_at(&exec_id, cursor, generation_id.as_deref())?;
    Ok(follow(exec.attach(from)?, framing, &agent))
}

/// How events are put on the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Framing {
    Ndjson,
    Binary,
}

impl Framing {
    fn of(headers: &HeaderMap) -> Self {
        let accepted = headers.get_all(header::ACCEPT).iter().filter_map(|value| value.to_str().ok());
        let mut kinds =
            accepted.flat_map(|value| value.split(',')).map(|kind| kind.split(';').next().unwrap_or_default());
        if kinds.any(|kind| kind.trim().eq_ignore_ascii_case(BINARY)) { Self::Binary } else { Self::Ndjson }
    }
}

fn follow(attachment: Attachment, framing: Framing, agent: &Agent) -> Response {
    // Ids are made of characters that may be in a header.
    let generation = agent.execs.generation().and_then(|id| HeaderValue::from_str(&id).ok());
    let id = attachment.exec().id().to_owned();
    let mut ready = VecDeque::with_capacity(2);
    if framing == Framing::Binary {
        let attached = ChannelStatus::Attached { attached: attachment.begin(), exec_id: id.clone() };
        ready.extend(status(&attached));
    }
    let parts = stream::unfold((attachment, id, ready), move |(mut attachment, id, mut ready)| async move {
        if ready.is_empty() {
            let event = attachment.next().await?;
            match framing {
                Framing::Ndjson => ready.push_back(line(event, &id)),
                Framing::Binary => ready.extend(binary(event, &id)),
            }
        }
        let part = ready.pop_front()?;
        Some((Ok::<_, Infallible>(part), (attachment, id, ready)))
    });
    let kind = match framing {
        Framing::Ndjson => NDJSON,
        Framing::Binary => BINARY,
    };
    let mut response = ([(header::CONTENT_TYPE, kind)], Body::from_stream(parts)).into_response();
    if let Some(generation) = generation {
        response.headers_mut().insert(GENERATION_HEADER, generation);
    }
    response
}

/// An event as a frame of NDJSON.
pub(super) fn frame(event: Event, id: &str) -> StreamFrame {
    let exec_id = id.to_owned();
    match event {
        Event::Chunk { stream, bytes, cursor } => {
            StreamFrame::Chunk { stream, data_b64: STANDARD.encode(&bytes), cursor, exec_id }
        }
        Event::Gap { from, to } => StreamFrame::Gap { from, to, exec_id },
        Event::Exit { exit, cursor } => StreamFrame::Exit {
            exit_code: exit.exit_code,
            signal: exit.signal,
            timed_out: exit.timed_out,
            oom_killed: exit.oom_killed,
            duration_ms: exit.duration_ms,
            usage: exit.usage,
            cursor,
            exec_id,
        },
        Event::Error(error) => StreamFrame::Error { code: error.code(), message: error.to_string() },
    }
}

/// An event as a line. Output, of which there may be much, is encoded into its place.
fn line(event: Event, id: &str) -> Bytes {
    let Event::Chunk { stream, bytes, cursor } = event else {
        // Frames are strings and numbers, which always serialize.
        let mut line = serde_json::to_vec(&frame(event, id)).unwrap_or_default();
        line.push(b'\n');
        return line.into();
    };
    let stream = match stream {
        OutputStream::Stdout => "stdout",
        OutputStream::Stderr => "stderr",
    };
    let begin = format!(r#"{{"type":"chunk","stream":"{stream}","data_b64":""#);
    let end = format!(r#"","cursor":{cursor},"exec_id":{}}}"#, serde_json::Value::from(id));
    let mut line = String::with_capacity(begin.len() + bytes.len().div_ceil(3) * 4 + end.len() + 1);
    line.push_str(&begin);
    STANDARD.encode_string(&bytes, &mut line);
    line.push_str(&end);
    line.push('\n');
    line.into()
}

/// Header and payload; output goes on as it is, without a copy.
fn binary(event: Event, id: &str) -> [Bytes; 2] {
    match event {
        Event::Chunk { stream, bytes, .. } => {
            let channel = match stream {
                OutputStream::Stdout => Channel::Stdout,
                OutputStream::Stderr => Channel::Stderr,
            };
            [head(channel, bytes.len()), bytes]
        }
        other => status(&ChannelStatus::Frame(frame(other, id))),
    }
}

fn status(status: &ChannelStatus) -> [Bytes; 2] {
    let text = serde_json::to_vec(status).unwrap_or_default();
    [head(Channel::Status, text.len()), text.into()]
}

/// Channel, three zero bytes, length of the payload.
fn head(channel: Channel, length: usize) -> Bytes {
    let mut head = BytesMut::with_capacity(8);
    head.put_u8(channel as u8);
    head.put_bytes(0, 3);
    // A chunk at most.
    head.put_u32(u32::try_from(length).unwrap_or(u32::MAX));
    head.freeze()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_binary_only_where_that_is_accepted_by_name() {
        for (accept, expected) in [
            ("application/octet-stream", Framing::Binary),
            ("application/x-ndjson, Application/Octet-Stream;q=0.5", Framing::Binary),
            ("*/*", Framing::Ndjson),
            ("application/x-ndjson", Framing::Ndjson),
        ] {
            let headers = HeaderMap::from_iter([(header::ACCEPT, accept.parse().unwrap())]);
            assert_eq!(Framing::of(&headers), expected, "{accept}");
        }
        assert_eq!(Framing::of(&HeaderMap::new()), Framing::Ndjson);
    }

    #[test]
    fn a_line_of_output_is_what_its_frame_serializes_to() {
        for (stream, text) in
            [(OutputStream::Stdout, &b""[..]), (OutputStream::Stderr, b"\xff\0\n"), (OutputStream::Stdout, b"abcd")]
        {
            let event = || Event::Chunk { stream, bytes: Bytes::from_static(text), cursor: u64::MAX };
            let id = "a\"b\\";
            let expected = serde_json::to_string(&frame(event(), id)).unwrap() + "\n";
            assert_eq!(line(event(), id), expected);
        }
    }

    #[test]
    fn a_chunk_has_a_header_of_eight_bytes_and_its_own_bytes() {
        let bytes = Bytes::from_static(b"abc");
        let [head, payload] = binary(Event::Chunk { stream: OutputStream::Stderr, bytes, cursor: 9 }, "x");
        assert_eq!((&head[..], &payload[..]), (&[2, 0, 0, 0, 0, 0, 0, 3][..], &b"abc"[..]));
    }
}
