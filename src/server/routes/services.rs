//! Services of `guestd init`, and the end of the VM.

use std::sync::Arc;

use axum::{
    Json,
    extract::{Request, State},
    http::StatusCode,
};

use crate::{
    api::{ErrorCode, LogEntry, Logs, OutputStream, PowerAccepted, PowerRequest, Service, ServiceAction},
    control::{Output, Piece, Question, State as InitState},
    limits,
    server::{Agent, body, error::ApiError, path::Path},
};

/// `GET /v1/services`.
pub(super) async fn list(State(agent): State<Arc<Agent>>) -> Result<Json<Vec<Service>>, ApiError> {
    let state: InitState = agent.init.ask(Question::State).await?;
    Ok(Json(state.services))
}

/// `POST /v1/services/{name}/start`, `stop`, `restart`: answers when it is done, with how the service is then.
pub(super) async fn act(
    State(agent): State<Arc<Agent>>,
    Path((name, action)): Path<(String, String)>,
) -> Result<Json<Service>, ApiError> {
    let action = match action.as_str() {
        "start" => ServiceAction::Start,
        "stop" => ServiceAction::Stop,
        "restart" => ServiceAction::Restart,
        other => {
            let why = format!("a service can be told to start, stop or restart, and not to {other:?}");
            return Err(ApiError::new(ErrorCode::NotFound, why));
        }
    };
    agent.init.act(name, action).await.map(Json)
}

/// `POST /v1/power`: answers before the end.
pub(super) async fn power(
    State(agent): State<Arc<Agent>>,
    request: Request,
) -> Result<(StatusCode, Json<PowerAccepted>), ApiError> {
    let PowerRequest { action } = body::json(request).await?;
    let by = agent.init.power(action).await?;
    Ok((StatusCode::ACCEPTED, Json(PowerAccepted { action, by })))
}

/// Output of a service as log entries. It has no end: `eof` says that there is no more at present.
pub(super) async fn logs(
    agent: &Agent,
    service: String,
    stream: Option<OutputStream>,
    offset: u64,
    max_entries: usize,
) -> Result<Logs, ApiError> {
    let most = limits::SERVICE_LOG_BYTES;
    let output: Output = agent.init.ask(Question::Output { service: service.clone(), from: offset, most }).await?;
    let eof = output.pieces.is_empty();
    let mut pieces = output.pieces;
    if max_entries > 0 {
        pieces.truncate(max_entries);
    }
    let next_offset = pieces.last().map_or(output.next, |last| last.end);
    let of = |is_error| if is_error { OutputStream::Stderr } else { OutputStream::Stdout };
    pieces.retain(|piece| stream.is_none_or(|wanted| wanted == of(piece.is_error)));
    let entry = |piece: Piece| LogEntry {
        timestamp: piece.timestamp,
        stream: of(piece.is_error),
        data_b64: piece.data_b64,
        exec_id: String::new(),
        service: Some(service.clone()),
    };
    Ok(Logs { entries: pieces.into_iter().map(entry).collect(), next_offset, eof })
}
