//! Request bodies: bounded in size and time, and JSON of the right shape.

use axum::extract::Request;
use bytes::Bytes;
use http_body_util::{BodyExt, LengthLimitError, Limited};
use serde::de::DeserializeOwned;

use super::error::ApiError;
use crate::{api::ErrorCode, limits};

/// Reads the body as a `T`.
///
/// # Errors
/// 413 over `limits::REQUEST_BODY_BYTES`, 408 after `limits::REQUEST_BODY_TIME`, 400 where it is no JSON, 422 where it is
/// JSON of another shape, naming the field.
pub(super) async fn json<T: DeserializeOwned>(request: Request) -> Result<T, ApiError> {
    parsed(&bytes(request).await?)
}

/// The same; an empty body is all defaults.
///
/// # Errors
/// As [`json`].
pub(super) async fn json_or_default<T: DeserializeOwned + Default>(request: Request) -> Result<T, ApiError> {
    let bytes = bytes(request).await?;
    if bytes.is_empty() { Ok(T::default()) } else { parsed(&bytes) }
}

fn parsed<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, ApiError> {
    let mut text = serde_json::Deserializer::from_slice(bytes);
    let value = serde_path_to_error::deserialize(&mut text).map_err(|error| {
        let (path, cause) = (error.path().to_string(), error.inner());
        match cause.classify() {
            serde_json::error::Category::Data if path == "." => {
                ApiError::new(ErrorCode::InvalidField, format!("the request's JSON has the wrong shape: {cause}"))
            }
            serde_json::error::Category::Data => {
                ApiError::new(ErrorCode::InvalidField, format!("field `{path}` of the request is wrong: {cause}"))
            }
            _ => not_json(cause),
        }
    })?;
    text.end().map_err(|error| not_json(&error))?;
    Ok(value)
}

fn not_json(error: &serde_json::Error) -> ApiError {
    ApiError::new(ErrorCode::BadRequest, format!("the request's body is no JSON: {error}"))
}

/// Reads what a client still sends of a body that is answered already, for a moment: a connection that is closed with bytes
/// unread is reset, and the answer can be lost with it.
pub(super) fn discard(mut body: axum::body::Body) {
    // Ends by itself, soon, and holds nothing but the connection.
    tokio::spawn(tokio::time::timeout(limits::REQUEST_DISCARD_TIME, async move {
        while let Some(Ok(_)) = body.frame().await {}
    }));
}

async fn bytes(request: Request) -> Result<Bytes, ApiError> {
    let limit = limits::REQUEST_BODY_BYTES;
    let body = Limited::new(request.into_body(), limit);
    match tokio::time::timeout(limits::REQUEST_BODY_TIME, body.collect()).await {
        Ok(Ok(body)) => Ok(body.to_bytes()),
        Ok(Err(error)) if error.is::<LengthLimitError>() => Err(ApiError::new(
            ErrorCode::PayloadTooLarge,
            format!("the request's body is larger than the limit of {limit} bytes; send less"),
        )),
        Ok(Err(error)) => {
            Err(ApiError::new(ErrorCode::BadRequest, format!("the request's body did not arrive whole: {error}")))
        }
        Err(_) => {
            let seconds = limits::REQUEST_BODY_TIME.as_secs();
            Err(ApiError::new(
                ErrorCode::RequestTimeout,
                format!("the request's body did not arrive within {seconds} s; send it faster or check Content-Length"),
            ))
        }
    }
}
