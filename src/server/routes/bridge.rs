//! The bridge.

use std::sync::Arc;

use axum::{
    Json,
    extract::{Request, State},
};

use crate::{
    api::Bridge,
    server::{Agent, body, error::ApiError},
};

/// `GET /v1/bridge`.
pub(super) async fn show(State(agent): State<Arc<Agent>>) -> Json<Bridge> {
    Json(agent.bridge.state().report())
}

/// `PUT /v1/bridge`: answers when the bridge has acted on it.
pub(super) async fn update(State(agent): State<Arc<Agent>>, request: Request) -> Result<Json<Bridge>, ApiError> {
    let update = body::json(request).await?;
    Ok(Json(agent.bridge.update(update).await?.report()))
}
