//! SSH keys.

use std::sync::Arc;

use axum::{
    Json,
    extract::{Request, State},
    http::Uri,
};
use serde::Deserialize;

use crate::{
    api::{Keys, KeysChanged},
    server::{Agent, body, error::ApiError, query},
};

/// `GET /v1/keys`.
pub(super) async fn list(State(agent): State<Arc<Agent>>) -> Result<Json<Keys>, ApiError> {
    Ok(Json(agent.keys.list().await?))
}

/// `POST /v1/keys`: answers when they open the account.
pub(super) async fn add(State(agent): State<Arc<Agent>>, request: Request) -> Result<Json<KeysChanged>, ApiError> {
    let keys = body::json(request).await?;
    Ok(Json(agent.keys.add(keys).await?))
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Which {
    id: String,
}

/// `DELETE /v1/keys?id=`: answers when the key opens nothing any more.
pub(super) async fn remove(State(agent): State<Arc<Agent>>, uri: Uri) -> Result<Json<KeysChanged>, ApiError> {
    let Which { id } = query::of(&uri)?;
    Ok(Json(agent.keys.remove(id).await?))
}
