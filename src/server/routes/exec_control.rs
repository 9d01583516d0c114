//! What can be done to an exec that runs: input, signals, the size of its terminal.

use std::sync::Arc;

use axum::{
    Json,
    extract::{Request, State},
    http::StatusCode,
};
use bytes::Bytes;
use http_body_util::BodyExt;
use serde::Deserialize;

use crate::{
    api::{ErrorCode, SignalRequest, StdinAccepted, TtySize},
    exec::Exec,
    server::{Agent, body, error::ApiError, path::Path, query},
};

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct StdinQuery {
    eof: bool,
    offset: Option<u64>,
}

/// `POST /v1/exec/{id}/stdin?eof=true&offset=N`: a body of any length, at the pace at which the command reads it.
///
/// With an offset the call can be repeated after a lost connection: what was accepted is not accepted again.
pub(super) async fn stdin(
    State(agent): State<Arc<Agent>>,
    Path(id): Path<String>,
    request: Request,
) -> Result<Json<StdinAccepted>, ApiError> {
    let StdinQuery { eof, mut offset } = query::of(request.uri())?;
    let exec = agent.execs.get(&id)?;
    // Nothing is sent by this; it tells a closed input, or another offset, before the body is read.
    let mut accepted = give(&exec, Bytes::new(), offset).await?;
    let mut body = request.into_body();
    while let Some(bytes) = next(&mut body, &exec).await? {
        accepted = give(&exec, bytes, offset).await?;
        offset = offset.map(|_| accepted);
    }
    if eof {
        exec.close_stdin();
    }
    Ok(Json(StdinAccepted { accepted }))
}

async fn give(exec: &Exec, bytes: Bytes, offset: Option<u64>) -> Result<u64, ApiError> {
    Ok(match offset {
        Some(offset) => exec.write_stdin_at(offset, bytes).await?,
        None => exec.write_stdin(bytes).await?,
    })
}

/// The next bytes of a body, which may take as long as whoever types it, but no longer than the exec lives: after its end the
/// write that follows says so.
async fn next(body: &mut axum::body::Body, exec: &Exec) -> Result<Option<Bytes>, ApiError> {
    loop {
        let frame = tokio::select! {
            frame = body.frame() => frame,
            () = exec.exited() => return Ok(Some(Bytes::new())),
        };
        match frame {
            None => return Ok(None),
            Some(Err(error)) => {
                let why =
                    format!("the input did not arrive whole: {error}; what did is accepted, go on by another call");
                return Err(ApiError::new(ErrorCode::BadRequest, why));
            }
            // Trailers are nothing to a command.
            Some(Ok(frame)) => match frame.into_data() {
                Ok(bytes) if !bytes.is_empty() => return Ok(Some(bytes)),
                _ => {}
            },
        }
    }
}

/// `POST /v1/exec/{id}/signal`.
pub(super) async fn signal(
    State(agent): State<Arc<Agent>>,
    Path(id): Path<String>,
    request: Request,
) -> Result<StatusCode, ApiError> {
    let exec = agent.execs.get(&id)?;
    let SignalRequest { signal, to } = body::json(request).await?;
    // It may look through all processes.
    let sent = tokio::task::spawn_blocking(move || exec.signal(&signal, to)).await;
    sent.map_err(|error| ApiError::new(ErrorCode::Internal, format!("sending the signal: {error}")))??;
    Ok(StatusCode::NO_CONTENT)
}

/// `POST /v1/exec/{id}/resize`.
pub(super) async fn resize(
    State(agent): State<Arc<Agent>>,
    Path(id): Path<String>,
    request: Request,
) -> Result<StatusCode, ApiError> {
    let exec = agent.execs.get(&id)?;
    let size: TtySize = body::json(request).await?;
    exec.resize(size)?;
    Ok(StatusCode::NO_CONTENT)
}
