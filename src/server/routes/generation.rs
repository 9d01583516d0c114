//! Commits and restores: for the host alone, but for the state, which everybody may see who may use the API.

use std::sync::Arc;

use axum::{
    Json,
    extract::{Request, State},
};
use tokio::time::Instant;

use crate::{
    api::{ErrorCode, GenerationReport, GenerationState, SnapshotPrepare, SnapshotReport},
    generation::GenerationError,
    server::{Agent, Peer, body, error::ApiError},
};

/// `GET /v1/generation`.
pub(super) async fn show(State(agent): State<Arc<Agent>>) -> Json<GenerationState> {
    let state = GenerationState::clone(&agent.generation.state());
    Json(GenerationState { waiting: agent.execs.waiting(), ..state })
}

/// `POST /v1/generation`: answers when the gate is open again.
pub(super) async fn announce(
    State(agent): State<Arc<Agent>>,
    request: Request,
) -> Result<Json<GenerationReport>, ApiError> {
    of_host(&agent, &request)?;
    let announcement = body::json(request).await?;
    // What passes from here on is added to the host's time.
    let received = Instant::now();
    Ok(Json(detached(async move { agent.generation.announce(announcement, received).await }).await?))
}

/// `POST /v1/snapshot/prepare`; the body may be empty.
pub(super) async fn prepare(
    State(agent): State<Arc<Agent>>,
    request: Request,
) -> Result<Json<SnapshotReport>, ApiError> {
    of_host(&agent, &request)?;
    let order: SnapshotPrepare = body::json_or_default(request).await?;
    Ok(Json(agent.generation.prepare(order).await?))
}

/// `POST /v1/snapshot/thaw`; the body may be empty.
pub(super) async fn thaw(State(agent): State<Arc<Agent>>, request: Request) -> Result<Json<SnapshotReport>, ApiError> {
    of_host(&agent, &request)?;
    let order = body::json_or_default(request).await?;
    let received = Instant::now();
    Ok(Json(agent.generation.thaw(order, received).await?))
}

/// What is begun is carried out, also where the host's connection ends meanwhile.
async fn detached<T: Send + 'static>(
    work: impl Future<Output = Result<T, GenerationError>> + Send + 'static,
) -> Result<T, ApiError> {
    let done = tokio::spawn(work).await;
    let done = done.map_err(|error| ApiError::new(ErrorCode::Internal, format!("carrying it out: {error}")))?;
    Ok(done?)
}

fn of_host(agent: &Agent, request: &Request) -> Result<(), ApiError> {
    let is_host = matches!(request.extensions().get::<Peer>(), Some(Peer::Vsock { .. }));
    if is_host || agent.config.generation_local {
        return Ok(());
    }
    let why = "commits and restores are announced by the host over vsock; `generation.local` lets root in the VM do it";
    Err(ApiError::new(ErrorCode::PeerForbidden, why))
}

impl From<GenerationError> for ApiError {
    fn from(error: GenerationError) -> Self {
        Self::new(error.code(), error.to_string())
    }
}
