//! The bearer token (RFC 6750, section 2.1), where one is configured. `/health` needs none.

use std::sync::Arc;

use axum::{
    extract::{Request, State},
    http::header,
    middleware::Next,
    response::{IntoResponse, Response},
};

use super::{Agent, error::ApiError};
use crate::api::ErrorCode;

/// Lets a request through that has the token, or needs none.
pub(super) async fn check(State(agent): State<Arc<Agent>>, request: Request, next: Next) -> Response {
    let Some(token) = &agent.config.auth_token else { return next.run(request).await };
    let given = request
        .headers()
        .get(header::AUTHORIZATION)
        .and_then(|value| value.to_str().ok())
        .and_then(|value| value.split_once(' '))
        .filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"))
        .map(|(_, token)| token.trim());
    match given {
        Some(given) if token.matches(given) => next.run(request).await,
        Some(_) => refuse("the token is wrong"),
        None => refuse("a token is needed: send `Authorization: Bearer TOKEN`"),
    }
}

fn refuse(why: &str) -> Response {
    let mut response = ApiError::new(ErrorCode::Unauthorized, why).into_response();
    response.headers_mut().insert(header::WWW_AUTHENTICATE, header::HeaderValue::from_static("Bearer"));
    response
}
