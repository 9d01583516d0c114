//! Health and info.

use std::sync::Arc;

use axum::{Json, extract::State, http::StatusCode};

use crate::{
    api::{Health, Info, Status},
    server::Agent,
};

/// `GET /health`: the status alone, for load balancers and those without the token.
pub(super) async fn open_health(State(agent): State<Arc<Agent>>) -> (StatusCode, Json<Health>) {
    answer(agent.health(false).await)
}

/// `GET /v1/health`: the status and every check.
pub(super) async fn health(State(agent): State<Arc<Agent>>) -> (StatusCode, Json<Health>) {
    answer(agent.health(true).await)
}

/// A degraded VM is served: 200. One that is starting or draining is not: 503.
fn answer(health: Health) -> (StatusCode, Json<Health>) {
    let status = match health.status {
        Status::Ready | Status::Degraded => StatusCode::OK,
        Status::Starting | Status::Draining => StatusCode::SERVICE_UNAVAILABLE,
    };
    (status, Json(health))
}

/// `GET /v1/info`.
pub(super) async fn info(State(agent): State<Arc<Agent>>) -> Json<Info> {
    Json(agent.info().await)
}
