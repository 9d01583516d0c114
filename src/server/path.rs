//! What a path holds in its variable parts: axum's extractor, whose refusals are plain text, with ours. No route uses axum's own,
//! which clippy sees to.

use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use serde::de::DeserializeOwned;

use super::error::ApiError;
use crate::api::ErrorCode;

/// The variable parts of a path, percent-decoded and parsed.
#[derive(Debug)]
pub(super) struct Path<T>(pub(super) T);

impl<T: DeserializeOwned + Send, S: Send + Sync> FromRequestParts<S> for Path<T> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        #[expect(clippy::disallowed_types, reason = "it is wrapped here")]
        let read = axum::extract::Path::<T>::from_request_parts(parts, state).await;
        read.map(|path| Self(path.0)).map_err(|error| {
            let why = format!("the path `{}` cannot be read: {}", parts.uri.path(), error.body_text());
            ApiError::new(ErrorCode::BadRequest, why)
        })
    }
}
