//! Execs: one answer, the list, one of them.

use std::{sync::Arc, time::Duration};

use axum::{
    Json,
    extract::{Request, State},
    http::{StatusCode, Uri},
    response::{IntoResponse, Response},
};
use serde::Deserialize;

use crate::{
    api::{ErrorCode, ExecRequest, ExecState, ExecStatus, ForkPoint},
    exec::ExecError,
    limits,
    server::{Agent, body, error::ApiError, path::Path, query},
};

/// `POST /v1/exec`: answers when the command has ended; with `detach`, when it has started.
pub(super) async fn run(State(agent): State<Arc<Agent>>, request: Request) -> Result<Response, ApiError> {
    let request: ExecRequest = body::json(request).await?;
    if request.detach {
        let exec = agent.execs.start(request).await?;
        return Ok((StatusCode::ACCEPTED, Json(exec.status())).into_response());
    }
    Ok(Json(agent.execs.run(request).await?).into_response())
}

/// `GET /v1/exec`: those that run and those whose records are kept, the oldest first.
pub(super) async fn list(State(agent): State<Arc<Agent>>) -> Json<Vec<ExecStatus>> {
    Json(agent.execs.list().iter().map(|exec| exec.status()).collect())
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct StatusQuery {
    wait_secs: u64,
}

/// `GET /v1/exec/{id}?wait_secs=N`: as it is, or as it is when it has ended or the time is over.
pub(super) async fn status(
    State(agent): State<Arc<Agent>>,
    Path(id): Path<String>,
    uri: Uri,
) -> Result<Json<ExecStatus>, ApiError> {
    let StatusQuery { wait_secs } = query::of(&uri)?;
    let limit = limits::EXEC_WAIT_TIME;
    if wait_secs > limit.as_secs() {
        let why = format!("`wait_secs` is {wait_secs} and the limit is {}; ask again after that", limit.as_secs());
        return Err(ApiError::new(ErrorCode::InvalidField, why));
    }
    let exec = agent.execs.get(&id)?;
    if wait_secs > 0 {
        // Over or not, the answer is what it is then.
        let _ = tokio::time::timeout(Duration::from_secs(wait_secs), exec.exited()).await;
    }
    Ok(Json(exec.status()))
}

/// `DELETE /v1/exec/{id}`: ends what runs, with all that it started, and answers how it ended; of what has ended, drops the record.
pub(super) async fn delete(
    State(agent): State<Arc<Agent>>,
    Path(id): Path<String>,
) -> Result<Json<ExecStatus>, ApiError> {
    let exec = agent.execs.get(&id)?;
    if exec.status().state == ExecState::Exited {
        agent.execs.remove(&exec);
    } else {
        exec.terminate();
        exec.exited().await;
    }
    Ok(Json(exec.status()))
}

impl From<ExecError> for ApiError {
    fn from(error: ExecError) -> Self {
        let mut answer = Self::new(error.code(), error.to_string());
        if let ExecError::StaleCursor { fork, generation, .. } = error {
            answer.0.fork = Some(Box::new(ForkPoint { generation_id: generation, cursor: fork }));
        }
        answer
    }
}
