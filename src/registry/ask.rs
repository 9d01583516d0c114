//! One call to the registry, on a connection of its own, and within one time-out.
//!
//! The connection goes to the host of `registry.url` and to nowhere else: no proxy of the environment is asked, no redirect is followed.
//! What the registry sends is read up to a bound, and only of a refused content is it shown.

use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::{
    Request, Response,
    body::Incoming,
    header::{AUTHORIZATION, CONNECTION, CONTENT_TYPE, HOST, HeaderValue, RETRY_AFTER, USER_AGENT},
};
use tokio::time::timeout;

use super::{
    Settings,
    answer::{Answer, Call, NoAnswer},
};
use crate::{
    client::{Body, Connection, Duplex, excerpt},
    config::ServiceUrl,
    dial::{Patience, dial},
    limits,
    tls::{self, BUNDLE_VARIABLE, TlsError, Trust},
};

/// All of a call has its time; one address of several has not all of it.
const PATIENCE: Patience = Patience {
    lookup: limits::REGISTRY_CALL_TIME,
    address: limits::REGISTRY_ADDRESS_TIME,
    addresses: limits::REGISTRY_ADDRESSES,
};

/// Calls.
pub(super) async fn ask(settings: &Settings, call: Call, id: &str, body: Vec<u8>) -> Result<Answer, NoAnswer> {
    let mut sent = false;
    let exchange = exchange(settings, call, id, body, &mut sent);
    match timeout(limits::REGISTRY_CALL_TIME, exchange).await {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(why)) => Err(NoAnswer { why, sent }),
        Err(_) => {
            let what = if sent { "it did not answer" } else { "there was no connection" };
            Err(NoAnswer { why: format!("{what} within {} s", limits::REGISTRY_CALL_TIME.as_secs()), sent })
        }
    }
}

async fn exchange(settings: &Settings, call: Call, id: &str, body: Vec<u8>, sent: &mut bool) -> Result<Answer, String> {
    let request = request(settings, call, id, body)?;
    let mut connection = Connection::open(connect(&settings.url).await?).await.map_err(|error| http(&error))?;
    *sent = true;
    let response = connection.exchange(request).await.map_err(|error| http(&error))?;
    Ok(answer(settings, response, connection).await)
}

fn request(settings: &Settings, call: Call, id: &str, body: Vec<u8>) -> Result<Request<Body>, String> {
    let json = !body.is_empty();
    let body = Body::new(Full::new(Bytes::from(body)).map_err(|never| match never {}));
    let mut request = Request::builder()
        .method(call.method())
        .uri(format!("{}{}", settings.url.path, call.path(id)))
        .header(HOST, settings.url.authority())
        .header(USER_AGENT, concat!("guestd/", env!("CARGO_PKG_VERSION")))
        .header(CONNECTION, "close")
        .body(body)
        .map_err(|error| error.to_string())?;
    if json {
        request.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    }
    if let Some(token) = &settings.token {
        let bearer = format!("Bearer {}", token.reveal());
        let mut bearer =
            HeaderValue::try_from(bearer).map_err(|_| "the token cannot be sent in a header".to_owned())?;
        bearer.set_sensitive(true);
        request.headers_mut().insert(AUTHORIZATION, bearer);
    }
    Ok(request)
}

async fn connect(url: &ServiceUrl) -> Result<Box<dyn Duplex>, String> {
    let stream = dial(&url.host, url.port, PATIENCE).await.map_err(|error| error.to_string())?;
    if !url.secure {
        return Ok(Box::new(stream));
    }
    let secured = async { tls::connect(tls::server_name(&url.host)?, stream, Trust::System).await };
    Ok(Box::new(secured.await.map_err(advised)?))
}

/// With what to do about it, where that is known.
fn advised(error: TlsError) -> String {
    match error {
        TlsError::NoAuthorities(why) => format!(
            "{why}; install the package ca-certificates, or name a file of certificates by {BUNDLE_VARIABLE} in the agent's environment"
        ),
        error => error.to_string(),
    }
}

async fn answer(settings: &Settings, response: Response<Incoming>, mut connection: Connection) -> Answer {
    let (head, body) = response.into_parts();
    let seconds = head.headers.get(RETRY_AFTER).and_then(|value| value.to_str().ok()?.trim().parse().ok());
    let mut answer =
        Answer { status: head.status.as_u16(), retry_after: seconds.map(Duration::from_secs), excerpt: None };
    // The reason of another refusal is its status; what comes with it is not worth the risk.
    if answer.status == 400
        && let Ok(body) = connection.drive(Limited::new(body, limits::REGISTRY_ANSWER_BYTES).collect()).await
    {
        answer.excerpt = harmless(settings, &body.to_bytes());
    }
    answer
}

/// The beginning of a body, unless the token is in it: a registry may repeat what it was sent.
fn harmless(settings: &Settings, body: &[u8]) -> Option<String> {
    let repeats = |token: &str| body.windows(token.len()).any(|part| part == token.as_bytes());
    let secret = settings.token.as_ref().is_some_and(|token| repeats(token.reveal()));
    (!secret && !body.is_empty()).then(|| excerpt(body))
}

/// hyper's errors name their cause in another.
fn http(error: &hyper::Error) -> String {
    let what = if error.is_parse() { "the answer is no HTTP" } else { "the connection was lost" };
    match std::error::Error::source(error) {
        Some(cause) => format!("{what}: {error}: {cause}"),
        None => format!("{what}: {error}"),
    }
}
