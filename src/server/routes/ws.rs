//! An exec on a WebSocket: its output, its input and its terminal's size, both ways at once.
//!
//! ```text
//!   attached ──> output, gaps ──> exit ──> close
//!      │  input, resizes, end of input      ▲
//!      ▼                                    │
//!   client leaves: detached, and the exec goes on; client breaks the rules: error, close
//! ```
//!
//! The socket is a reader like any other: at its own pace, with gaps where it lags or back-pressure where the exec is lossless.
//! Nothing is queued for it here. Input waits for the command, a few messages long.

use std::sync::Arc;

use axum::{
    extract::{Request, State},
    response::Response,
};
use bytes::Bytes;
use serde::Deserialize;
use tokio::sync::mpsc;

use super::exec_stream::frame;
use crate::{
    api::{Channel, ChannelStatus, ErrorCode, OutputStream, TtySize},
    exec::{AttachFrom, Attachment, Event, Exec, ExecError},
    limits,
    server::{
        Agent,
        error::ApiError,
        path::Path,
        query,
        websocket::{Gone, Incoming, Left, Outgoing, Upgrade, Use},
    },
};

/// Query of `GET /v1/exec/{id}/ws`.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Where {
    /// Offset of the first byte that is wanted; default 0.
    cursor: Option<u64>,
    /// Only what comes from now on.
    from_latest: bool,
    /// Generation that the cursor is of.
    generation_id: Option<String>,
}

impl Where {
    fn attach_from(&self) -> Result<AttachFrom, ApiError> {
        match self {
            Self { cursor: Some(_), from_latest: true, .. } => {
                let why = "`cursor` and `from_latest` are both given; give one of them";
                Err(ApiError::new(ErrorCode::BadRequest, why))
            }
            Self { from_latest: true, .. } => Ok(AttachFrom::Latest),
            Self { cursor, .. } => Ok(AttachFrom::Cursor(cursor.unwrap_or(0))),
        }
    }
}

/// `GET /v1/exec/{id}/ws?cursor=N|from_latest=true`.
pub(super) async fn open(
    State(agent): State<Arc<Agent>>,
    Path(id): Path<String>,
    mut request: Request,
) -> Result<Response, ApiError> {
    let place_in = query::of::<Where>(request.uri())?;
    let from = place_in.attach_from()?;
    let upgrade = Upgrade::of(&mut request)?;
    let exec = agent.execs.get_at(&id, place_in.cursor, place_in.generation_id.as_deref())?;
    let place = agent.sockets.place(Use::Exec)?;
    let attachment = exec.attach(from)?;
    Ok(upgrade.start(&agent.sockets, place, |incoming, outgoing| session(incoming, outgoing, attachment)))
}

/// How a session ends before the exec does.
#[derive(Debug)]
enum Early {
    /// The client left. Its input is still delivered, as far as the command takes it soon.
    Left,
    /// The client broke the rules, or sent what the exec does not take.
    Refused(ErrorCode, String),
}

async fn session(mut incoming: Incoming, mut outgoing: Outgoing, mut attachment: Attachment) {
    let exec = Arc::clone(attachment.exec());
    let (queue, queued) = mpsc::channel(limits::EXEC_SOCKET_QUEUED_INPUT);
    let feeding = feed(&exec, queued);
    tokio::pin!(feeding);
    let early = tokio::select! {
        told = tell(&mut attachment, &mut outgoing) => match told {
            Ok(()) => None,
            Err(Gone) => Some(Early::Left),
        },
        early = listen(&mut incoming, &exec, queue) => Some(early),
        refused = &mut feeding => Some(refused),
    };
    // Detached at once, so that a lossless exec does not wait for somebody who has left.
    drop(attachment);
    drop(incoming);
    match early {
        None => outgoing.finish().await,
        Some(Early::Left) => {
            drop(outgoing);
            let _ = tokio::time::timeout(limits::WEBSOCKET_CLOSE_TIME, feeding).await;
        }
        Some(Early::Refused(code, why)) => outgoing.fail(code, why).await,
    }
}

/// Sends what the exec prints, and how it ends.
async fn tell(attachment: &mut Attachment, outgoing: &mut Outgoing) -> Result<(), Gone> {
    let id = attachment.exec().id().to_owned();
    outgoing.status(&ChannelStatus::Attached { attached: attachment.begin(), exec_id: id.clone() }).await?;
    loop {
        let event = tokio::select! {
            event = attachment.next() => event,
            gone = outgoing.answer_pings() => return Err(gone),
        };
        match event {
            Some(Event::Chunk { stream, bytes, .. }) => {
                let channel = match stream {
                    OutputStream::Stdout => Channel::Stdout,
                    OutputStream::Stderr => Channel::Stderr,
                };
                outgoing.send(channel, &bytes).await?;
            }
            Some(other) => outgoing.status(&ChannelStatus::Frame(frame(other, &id))).await?,
            None => return Ok(()),
        }
    }
}

/// Takes what the client sends. Resizes are acted on at once, past input that waits.
async fn listen(incoming: &mut Incoming, exec: &Exec, queue: mpsc::Sender<Input>) -> Early {
    loop {
        let input = match incoming.next().await {
            Ok((Channel::Stdin, bytes)) => Input::Bytes(bytes),
            Ok((Channel::Close, channel)) if channel[..] == [Channel::Stdin as u8] => Input::End,
            Ok((Channel::Resize, json)) => match resize(exec, &json) {
                Ok(()) => continue,
                Err(refused) => return refused,
            },
            Ok((other, _)) => {
                return misused(format!("an exec takes input, its end and resizes, and {other:?} is none"));
            }
            Err(Left::Closed | Left::Gone) => return Early::Left,
            Err(Left::Misused(why)) => return misused(why),
        };
        if queue.send(input).await.is_err() {
            // The one who takes it has found out why not, and ends the session.
            return std::future::pending().await;
        }
    }
}

fn misused(why: String) -> Early {
    Early::Refused(ErrorCode::BadRequest, why)
}

fn resize(exec: &Exec, json: &[u8]) -> Result<(), Early> {
    let size: TtySize = serde_json::from_slice(json)
        .map_err(|error| misused(format!("a resize must be {{\"rows\": N, \"cols\": N}}: {error}")))?;
    match exec.resize(size) {
        // The command has just ended, which its exit will tell.
        Ok(()) | Err(ExecError::Ended { .. }) => Ok(()),
        Err(error) => Err(Early::Refused(error.code(), error.to_string())),
    }
}

/// For the command.
#[derive(Debug)]
enum Input {
    Bytes(Bytes),
    End,
}

/// Gives input to the command at its pace. Returns only where it takes none, or when the client has left and all is given.
async fn feed(exec: &Exec, mut queued: mpsc::Receiver<Input>) -> Early {
    while let Some(input) = queued.recv().await {
        match input {
            Input::End => exec.close_stdin(),
            Input::Bytes(bytes) => match exec.write_stdin(bytes).await {
                Ok(_) => {}
                // Its input was ended, by it or by a client, and its output is still to come: what is typed now is lost, as what is
                // typed to a program that does not read.
                Err(ExecError::StdinClosed { .. }) if exec.takes_input() => {}
                Err(error) => return Early::Refused(error.code(), error.to_string()),
            },
        }
    }
    Early::Left
}
