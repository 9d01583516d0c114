//! Disks that grow.

use std::sync::Arc;

use axum::{
    Json,
    extract::{Request, State},
};

use crate::{
    api::DiskGrown,
    growth::GrowError,
    server::{Agent, body, error::ApiError},
};

/// `POST /v1/disk/grow`; the body may be empty.
pub(super) async fn grow(State(agent): State<Arc<Agent>>, request: Request) -> Result<Json<DiskGrown>, ApiError> {
    let order = body::json_or_default(request).await?;
    Ok(Json(agent.disks.grow(order).await?))
}

impl From<GrowError> for ApiError {
    fn from(error: GrowError) -> Self {
        Self::new(error.code(), error.to_string())
    }
}
