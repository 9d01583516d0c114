//! Queries: parsed into a type, and what is wrong with them told by name.

use axum::{extract::Query, http::Uri};
use serde::de::DeserializeOwned;

use super::error::ApiError;
use crate::api::ErrorCode;

/// Reads the query as a `T`.
///
/// # Errors
/// 400 where it cannot be read, with the reason.
pub(super) fn of<T: DeserializeOwned>(uri: &Uri) -> Result<T, ApiError> {
    let query = Query::<T>::try_from_uri(uri);
    query.map(|Query(query)| query).map_err(|error| {
        let why = std::error::Error::source(&error).map_or_else(|| error.to_string(), ToString::to_string);
        ApiError::new(ErrorCode::BadRequest, format!("the query of `{uri}` cannot be read: {why}"))
    })
}
