//! One HTTP/1.1 request on a connection of its own.

use std::fmt;
use std::future::poll_fn;
use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::{FutureExt as _, stream};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Full, LengthLimitError, Limited, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::client::conn::http1::{self, SendRequest};
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, EXPECT, HOST, HeaderMap, HeaderName, HeaderValue};
use hyper::{Request, Response, StatusCode, Uri};
use hyper_util::rt::TokioIo;
use tokio::sync::Notify;
use tokio::time::timeout;

use crate::api::ErrorBody;
use crate::limits;

use super::connect::{Duplex, connect};
use super::{Call, Client, ClientError};

/// Start of a foreign answer that is shown, in characters.
const SHOWN_CHARACTERS: usize = 120;

/// Body of a request: bytes that are there, or that come as it is sent.
pub(crate) type Body = UnsyncBoxBody<Bytes, io::Error>;

/// A request that is still to be sent.
pub(super) struct Question {
    call: Call,
    target: Option<String>,
    headers: HeaderMap,
    body: Body,
    asked_for: Option<Arc<Notify>>,
}

impl Question {
    /// The call by itself: no body.
    pub(super) fn new(call: Call) -> Self {
        Self::with_body(call, Body::new(Full::new(Bytes::new()).map_err(|never| match never {})))
    }

    /// With a body as it comes, of any length. Its type is a header of its own.
    pub(super) fn with_body(call: Call, body: Body) -> Self {
        Self { call, target: None, headers: HeaderMap::new(), body, asked_for: None }
    }

    /// With a body that is to come when the guest is ready to read it, or after [`limits::CLIENT_CONTINUE_TIME`]: `body` is for that moment.
    pub(super) fn on_demand(call: Call, body: impl Future<Output = io::Result<Bytes>> + Send + 'static) -> Self {
        let asked_for = Arc::new(Notify::new());
        let is_asked_for = Arc::clone(&asked_for);
        let late = stream::once(async move {
            // Who does not ask gets it as well.
            let _ = timeout(limits::CLIENT_CONTINUE_TIME, is_asked_for.notified()).await;
            body.await.map(Frame::data)
        });
        let question = Self::with_body(call, Body::new(StreamBody::new(late)));
        Self { asked_for: Some(asked_for), ..question.header(EXPECT, HeaderValue::from_static("100-continue")) }
    }

    /// With a JSON body, which must not be over guestd's limit; an empty one is none.
    pub(super) fn json(call: Call, body: Bytes) -> Result<Self, ClientError> {
        if body.len() > limits::REQUEST_BODY_BYTES {
            let bytes = body.len();
            return Err(ClientError::RequestTooLarge { call, bytes });
        }
        if body.is_empty() {
            return Ok(Self::new(call));
        }
        let question = Self::with_body(call, Body::new(Full::new(body).map_err(|never| match never {})));
        Ok(question.header(CONTENT_TYPE, HeaderValue::from_static("application/json")))
    }

    /// To this path and query, where the call's own path has variable parts.
    pub(super) fn to(self, target: String) -> Self {
        let target = Some(target);
        Self { target, ..self }
    }

    /// With this header.
    pub(super) fn header(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.headers.insert(name, value);
        self
    }
}

/// A text as one segment of a path, or as a value of a query: everything but RFC 3986's unreserved characters as %XX.
pub(super) fn escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => escaped.push(byte.into()),
            other => {
                escaped.push('%');
                for digit in [other >> 4, other & 15] {
                    escaped.extend(char::from_digit(digit.into(), 16).map(|digit| digit.to_ascii_uppercase()));
                }
            }
        }
    }
    escaped
}

/// A response whose body is still to be read.
pub(super) struct Reply {
    pub(super) status: StatusCode,
    pub(super) headers: HeaderMap,
    pub(super) body: Incoming,
    pub(super) connection: Connection,
}

/// A connection that carries a response. It is driven by whoever waits for something from it, not by a task of its own,
/// so that dropping it closes both directions at once.
pub(crate) struct Connection {
    /// Held to the end, since hyper takes the loss of its sender for the wish to close.
    sender: SendRequest<Body>,
    io: Io,
}

/// hyper's side of the connection; none once it has ended.
struct Io(Option<Pin<Box<dyn Future<Output = ()> + Send>>>);

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.io.0.is_some() { "Connection(open)" } else { "Connection(ended)" })
    }
}

impl Connection {
    /// Speaks HTTP on a stream.
    pub(crate) async fn open(stream: Box<dyn Duplex>) -> hyper::Result<Self> {
        let (sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        Ok(Self::of(sender, connection))
    }

    /// Of the two sides that hyper gives.
    pub(super) fn of(sender: SendRequest<Body>, connection: http1::Connection<TokioIo<Box<dyn Duplex>>, Body>) -> Self {
        // Its error reaches the caller through the response.
        let io = Io(Some(Box::pin(connection.with_upgrades().map(drop))));
        Self { sender, io }
    }

    /// Sends the request and waits for the head of its answer.
    pub(crate) async fn exchange(&mut self, request: Request<Body>) -> hyper::Result<Response<Incoming>> {
        let response = self.sender.send_request(request);
        self.io.drive(response).await
    }

    /// Waits for something that comes over this connection.
    pub(crate) async fn drive<T>(&mut self, work: impl Future<Output = T>) -> T {
        self.io.drive(work).await
    }
}

impl Io {
    async fn drive<T>(&mut self, work: impl Future<Output = T>) -> T {
        let mut work = pin!(work);
        poll_fn(|context| {
            if self.0.as_mut().is_some_and(|io| io.as_mut().poll(context).is_ready()) {
                self.0 = None;
            }
            work.as_mut().poll(context)
        })
        .await
    }
}

impl Client {
    /// Connects and asks. The answer's head must come within `patience`.
    pub(super) async fn send(&self, question: Question, patience: Option<Duration>) -> Result<Reply, ClientError> {
        let call = question.call;
        let request = self.request(question)?;
        let stream = connect(self.endpoint(), self.timeouts().connect).await?;
        let exchange = async {
            let mut connection = Connection::open(stream).await?;
            let response = connection.exchange(request).await?;
            Ok((response, connection))
        };
        let (response, connection) =
            self.within(call, patience, exchange).await?.map_err(|error| self.broken(call, error))?;
        let (head, body) = response.into_parts();
        Ok(Reply { status: head.status, headers: head.headers, body, connection })
    }

    /// The whole body of a reply, at most `limit` bytes, within `patience`.
    pub(super) async fn collect(
        &self,
        call: Call,
        reply: Reply,
        limit: usize,
        patience: Option<Duration>,
    ) -> Result<Bytes, ClientError> {
        let mut connection = reply.connection;
        let whole = connection.drive(Limited::new(reply.body, limit).collect());
        match self.within(call, patience, whole).await? {
            Ok(whole) => Ok(whole.to_bytes()),
            Err(error) if error.is::<LengthLimitError>() => {
                Err(self.foreign(call, format!("it is longer than {limit} bytes")))
            }
            Err(source) => Err(self.disconnected(call, source)),
        }
    }

    /// What a reply that is no success means.
    pub(super) async fn failure(&self, call: Call, reply: Reply) -> ClientError {
        let status = reply.status;
        let patience = Some(self.timeouts().answer);
        let limit = limits::CLIENT_ERROR_BODY_BYTES;
        let body = match self.collect(call, reply, limit, patience).await {
            Ok(body) => body,
            Err(error) => return error,
        };
        self.refusal(call, status, &body)
    }

    /// What the body of a reply that is no success means.
    pub(super) fn refusal(&self, call: Call, status: StatusCode, body: &[u8]) -> ClientError {
        match serde_json::from_slice::<ErrorBody>(body) {
            Ok(body) => ClientError::Api { endpoint: self.endpoint().clone(), call, status: status.as_u16(), body },
            Err(_) => self.foreign(call, format!("status {status} with {}", excerpt(body))),
        }
    }

    /// An answer that is not guestd's.
    pub(super) fn foreign(&self, call: Call, why: String) -> ClientError {
        ClientError::Protocol { endpoint: self.endpoint().clone(), call, why }
    }

    pub(super) fn request(&self, question: Question) -> Result<Request<Body>, ClientError> {
        let Question { call, target, headers, body, asked_for } = question;
        let mut request = Request::new(body);
        if let Some(asked_for) = asked_for {
            hyper::ext::on_informational(&mut request, move |answer| {
                if answer.status() == StatusCode::CONTINUE {
                    asked_for.notify_one();
                }
            });
        }
        *request.method_mut() = call.method();
        *request.uri_mut() = match target {
            None => Uri::from_static(call.path),
            Some(target) => Uri::try_from(target).map_err(|_| ClientError::TargetTooLong { call })?,
        };
        let all = request.headers_mut();
        all.insert(HOST, HeaderValue::from_static("guestd"));
        all.extend(headers);
        if let Some(token) = self.token() {
            all.insert(AUTHORIZATION, token.header());
        }
        Ok(request)
    }

    pub(super) async fn within<T>(
        &self,
        call: Call,
        patience: Option<Duration>,
        work: impl Future<Output = T>,
    ) -> Result<T, ClientError> {
        let Some(after) = patience else {
            return Ok(work.await);
        };
        timeout(after, work).await.map_err(|_| ClientError::Timeout { endpoint: self.endpoint().clone(), call, after })
    }

    pub(super) fn broken(&self, call: Call, error: hyper::Error) -> ClientError {
        if error.is_parse() {
            return self.foreign(call, format!("it is no HTTP ({error})"));
        }
        self.disconnected(call, Box::new(error))
    }

    pub(super) fn disconnected(&self, call: Call, source: Box<dyn std::error::Error + Send + Sync>) -> ClientError {
        ClientError::Disconnected { endpoint: self.endpoint().clone(), call, source }
    }
}

/// The start of an answer, quoted.
pub(crate) fn excerpt(body: &[u8]) -> String {
    let text = String::from_utf8_lossy(body);
    let mut start: String = text.chars().take(SHOWN_CHARACTERS).collect();
    if start.len() < text.len() {
        start.push('…');
    }
    format!("{start:?}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_stands_for_something_in_a_path_is_escaped() {
        assert_eq!(escaped("build-7_a.~"), "build-7_a.~");
        assert_eq!(escaped("a/b?c=%é"), "a%2Fb%3Fc%3D%25%C3%A9");
    }
}
