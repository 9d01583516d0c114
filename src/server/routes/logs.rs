//! What execs have printed.

use std::sync::Arc;

use axum::{Json, extract::State, http::Uri};
use serde::Deserialize;

use crate::{
    api::{Logs, OutputStream},
    exec::LogQuery,
    server::{Agent, error::ApiError, query},
};

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Wanted {
    exec_id: Option<String>,
    stream: Option<OutputStream>,
    offset: u64,
    max_entries: usize,
}

/// `GET /v1/logs?exec_id=&stream=&offset=&max_entries=`.
pub(super) async fn list(State(agent): State<Arc<Agent>>, uri: Uri) -> Result<Json<Logs>, ApiError> {
    let Wanted { exec_id, stream, offset, max_entries } = query::of(&uri)?;
    Ok(Json(agent.execs.logs(LogQuery { exec_id, stream, offset, max_entries }).await?))
}
