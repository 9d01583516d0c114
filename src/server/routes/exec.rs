//! Execs: one answer, or a stream of NDJSON.

use std::{convert::Infallible, sync::Arc};

use axum::{
    Json,
    body::Body,
    extract::{Request, State},
    http::header,
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use futures_util::StreamExt;

use crate::{
    api::{ExecResult, StreamFrame},
    exec::ExecError,
    server::{Agent, body, error::ApiError},
};

/// `POST /v1/exec`: answers when the command has ended.
pub(super) async fn run(State(agent): State<Arc<Agent>>, request: Request) -> Result<Json<ExecResult>, ApiError> {
    let request = body::json(request).await?;
    Ok(Json(agent.execs.run(request).await?))
}

/// `POST /v1/exec/stream`: one frame a line, the last one `exit` or `error`.
pub(super) async fn stream(State(agent): State<Arc<Agent>>, request: Request) -> Result<Response, ApiError> {
    let request = body::json(request).await?;
    let lines = agent.execs.stream(request).await?.map(|frame| Ok::<_, Infallible>(line(&frame)));
    Ok(([(header::CONTENT_TYPE, "application/x-ndjson")], Body::from_stream(lines)).into_response())
}

fn line(frame: &StreamFrame) -> Bytes {
    // Frames are strings and numbers, which always serialize.
    let mut line = serde_json::to_vec(frame).unwrap_or_default();
    line.push(b'\n');
    line.into()
}

impl From<ExecError> for ApiError {
    fn from(error: ExecError) -> Self {
        Self::new(error.code(), error.to_string())
    }
}
