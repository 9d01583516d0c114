//! Listeners.

use std::sync::Arc;

use axum::{Json, extract::State};

use crate::{api::Listener, server::Agent};

/// `GET /v1/listeners`, as they are now.
pub(super) async fn list(State(agent): State<Arc<Agent>>) -> Json<Vec<Listener>> {
    agent.looker.fresh().await;
    Json(agent.listeners())
}
