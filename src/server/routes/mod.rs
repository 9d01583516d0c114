//! Paths and methods of the API, one file a subject.

mod bridge;
mod disk;
mod env;
mod exec;
mod exec_control;
mod exec_stream;
mod files;
mod generation;
mod keys;
mod listeners;
mod listeners_watch;
mod logs;
mod metrics;
mod services;
mod system;
mod tree;
mod tunnel;
mod ws;

use std::sync::Arc;

use axum::{
    Router,
    extract::Request,
    middleware,
    response::{IntoResponse, Response},
    routing::{get, post},
};

use super::{Agent, auth, error::ApiError};
use crate::api::ErrorCode;

/// The API of `agent`.
pub fn router(agent: Arc<Agent>) -> Router {
    Router::new()
        .route("/v1/health", get(system::health))
        .route("/v1/info", get(system::info))
        .route("/v1/exec", get(exec::list).post(exec::run))
        .route("/v1/exec/stream", post(exec_stream::start))
        .route("/v1/exec/stream/attach", post(exec_stream::attach))
        .route("/v1/exec/{id}", get(exec::status).delete(exec::delete))
        .route("/v1/exec/{id}/signal", post(exec_control::signal))
        .route("/v1/exec/{id}/stdin", post(exec_control::stdin))
        .route("/v1/exec/{id}/resize", post(exec_control::resize))
        .route("/v1/exec/{id}/ws", get(ws::open))
        .route("/v1/logs", get(logs::list))
        .route("/v1/files", get(files::get).put(files::put).delete(files::delete))
        .route("/v1/tree", get(tree::get).put(tree::put))
        .route("/v1/listeners", get(listeners::list))
        .route("/v1/listeners/watch", get(listeners_watch::watch))
        .route("/v1/listeners/udp", get(listeners::udp))
        .route("/v1/bridge", get(bridge::show).put(bridge::update))
        .route("/v1/bridge/cut", post(bridge::cut))
        .route("/v1/env", get(env::list).put(env::set).delete(env::unset))
        .route("/v1/snapshot/prepare", post(generation::prepare))
        .route("/v1/snapshot/thaw", post(generation::thaw))
        .route("/v1/generation", get(generation::show).post(generation::announce))
        .route("/v1/disk/grow", post(disk::grow))
        .route("/v1/keys", get(keys::list).post(keys::add).delete(keys::remove))
        .route("/v1/tunnel/{port}", get(tunnel::open))
        .route("/v1/services", get(services::list))
        .route("/v1/services/{name}/{action}", post(services::act))
        .route("/v1/power", post(services::power))
        .route("/metrics", get(metrics::text))
        .method_not_allowed_fallback(method_not_allowed)
        .fallback(not_found)
        .layer(middleware::from_fn_with_state(Arc::clone(&agent), auth::check))
        .merge(Router::new().route("/health", get(system::open_health)).method_not_allowed_fallback(method_not_allowed))
        .with_state(agent)
}

async fn not_found(request: Request) -> Response {
    let path = request.uri().path();
    ApiError::new(ErrorCode::NotFound, format!("there is no `{path}` in this API")).into_response()
}

async fn method_not_allowed(request: Request) -> Response {
    let (method, path) = (request.method(), request.uri().path());
    let why = format!("`{path}` does not take {method}; the Allow header says what it takes");
    ApiError::new(ErrorCode::MethodNotAllowed, why).into_response()
}
