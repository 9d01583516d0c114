//! What goes wrong, as HTTP: this module alone turns errors into statuses.

use axum::{
    Json,
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};

use crate::{
    api::{ErrorBody, ErrorCode},
    bridge::UpdateError,
    keys::KeysError,
};

/// An answer that is not a success.
#[derive(Debug)]
pub(super) struct ApiError(pub(super) ErrorBody);

impl ApiError {
    pub(super) fn new(code: ErrorCode, error: impl Into<String>) -> Self {
        Self(ErrorBody::new(code, error))
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let mut response = (status(self.0.code), Json(&self.0)).into_response();
        if matches!(self.0.code, ErrorCode::Unavailable | ErrorCode::LimitReached) {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
        }
        response
    }
}

impl From<UpdateError> for ApiError {
    fn from(error: UpdateError) -> Self {
        let code = match &error {
            UpdateError::BadRule { .. } => ErrorCode::InvalidField,
            UpdateError::TooMany { .. } => ErrorCode::LimitReached,
            UpdateError::Stopped => ErrorCode::Unavailable,
        };
        Self::new(code, error.to_string())
    }
}

impl From<KeysError> for ApiError {
    fn from(error: KeysError) -> Self {
        Self::new(error.code(), error.to_string())
    }
}

fn status(code: ErrorCode) -> StatusCode {
    match code {
        ErrorCode::BadRequest | ErrorCode::CutOff => StatusCode::BAD_REQUEST,
        ErrorCode::Unauthorized => StatusCode::UNAUTHORIZED,
        ErrorCode::PeerForbidden | ErrorCode::Permission => StatusCode::FORBIDDEN,
        ErrorCode::NotFound => StatusCode::NOT_FOUND,
        ErrorCode::MethodNotAllowed => StatusCode::METHOD_NOT_ALLOWED,
        ErrorCode::RequestTimeout => StatusCode::REQUEST_TIMEOUT,
        ErrorCode::Conflict | ErrorCode::StaleGeneration | ErrorCode::Exists | ErrorCode::NotEmpty => {
            StatusCode::CONFLICT
        }
        ErrorCode::PayloadTooLarge => StatusCode::PAYLOAD_TOO_LARGE,
        ErrorCode::InvalidField
        | ErrorCode::EmptyCommand
        | ErrorCode::ProgramNotFound
        | ErrorCode::NotExecutable
        | ErrorCode::NulByte
        | ErrorCode::BadEnv
        | ErrorCode::BadWorkingDir
        | ErrorCode::UserNotFound
        | ErrorCode::LimitsUnsupported
        | ErrorCode::IsDirectory
        | ErrorCode::NotDirectory
        | ErrorCode::NotRegular
        | ErrorCode::BadArchive => StatusCode::UNPROCESSABLE_ENTITY,
        ErrorCode::BadRange => StatusCode::RANGE_NOT_SATISFIABLE,
        ErrorCode::NoSpace => StatusCode::INSUFFICIENT_STORAGE,
        ErrorCode::LimitReached => StatusCode::TOO_MANY_REQUESTS,
        ErrorCode::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
        ErrorCode::Internal | ErrorCode::Unknown => StatusCode::INTERNAL_SERVER_ERROR,
    }
}
