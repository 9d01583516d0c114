//! What execs have printed.

use std::sync::Arc;

use axum::{Json, extract::State, http::Uri};
use serde::Deserialize;

use crate::{
    api::{ErrorCode, Logs, OutputStream},
    exec::LogQuery,
    server::{Agent, error::ApiError, query},
};

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Wanted {
    exec_id: Option<String>,
    service: Option<String>,
    stream: Option<OutputStream>,
    offset: u64,
    max_entries: usize,
}

/// `GET /v1/logs?exec_id=&service=&stream=&offset=&max_entries=`. What execs have printed, or what one service has.
pub(super) async fn list(State(agent): State<Arc<Agent>>, uri: Uri) -> Result<Json<Logs>, ApiError> {
    let Wanted { exec_id, service, stream, offset, max_entries } = query::of(&uri)?;
    if let Some(service) = service {
        if exec_id.is_some() {
            let why = "`exec_id` and `service` are two sources; ask for one at a time";
            return Err(ApiError::new(ErrorCode::BadRequest, why));
        }
        return super::services::logs(&agent, service, stream, offset, max_entries).await.map(Json);
    }
    Ok(Json(agent.execs.logs(LogQuery { exec_id, stream, offset, max_entries }).await?))
}
