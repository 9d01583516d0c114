//! Listeners.

use std::sync::Arc;

use axum::{Json, extract::State};

use crate::{api::Listener, server::Agent};

/// `GET /v1/listeners`.
pub(super) async fn list(State(agent): State<Arc<Agent>>) -> Json<Vec<Listener>> {
    Json(agent.listeners())
}
