//! WebSockets (RFC 6455) that carry channels: the handshake, the two directions, and the end.
//!
//! Owns what both routes share. A socket's task outlives its HTTP connection and is known to the same tracker, so that the agent
//! waits for it at its end. Refused here: another subprotocol than ours, text, messages over their limit, and memory for a peer
//! that asks and does not read: nothing is sent ahead of what it takes, and pings that it leaves unanswered are counted.
//!
//! ```text
//!  GET ── right headers, a place, what it is for is there ──> 101 ──> open ──> last status ──> close sent ──> over
//!   │ 400, 404, 409, 429, 503 in JSON                                  │ peer closes, vanishes, breaks the rules ▲
//!   ▼                                                                  └─────────────────────────────────────────┘
//! ```

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

use axum::{
    extract::Request,
    http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use base64::{Engine, engine::general_purpose::STANDARD};
use bytes::{BufMut, Bytes, BytesMut};
use futures_util::{
    SinkExt, StreamExt,
    stream::{SplitSink, SplitStream},
};
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tokio_websockets::{CloseCode, Limits, Message, ServerBuilder, WebSocketStream};

use super::error::ApiError;
use crate::{
    api::{Channel, ChannelStatus, ErrorCode, SUBPROTOCOL, StreamFrame, WEBSOCKET_KEY_SUFFIX},
    limits,
};

/// Sockets that are open, and how they learn that the agent ends.
#[derive(Debug)]
pub struct Sockets {
    tasks: TaskTracker,
    /// The agent takes no more requests and completes what runs.
    pub(super) drain: CancellationToken,
    execs: Arc<Semaphore>,
    tunnels: Arc<Semaphore>,
}

/// What a socket is for; each has a number of places of its own.
#[derive(Debug, Clone, Copy)]
pub(super) enum Use {
    Exec,
    Tunnel,
}

impl Sockets {
    /// None yet. Their tasks go to `tasks`; `drain` is cancelled when the agent ends.
    pub fn new(tasks: TaskTracker, drain: CancellationToken) -> Self {
        let places = |count| Arc::new(Semaphore::new(count));
        Self { tasks, drain, execs: places(limits::EXEC_SOCKETS), tunnels: places(limits::TUNNELS) }
    }

    /// Takes a place.
    ///
    /// # Errors
    /// 429 when there is none.
    pub(super) fn place(&self, what: Use) -> Result<OwnedSemaphorePermit, ApiError> {
        let (places, limit, name) = match what {
            Use::Exec => (&self.execs, limits::EXEC_SOCKETS, "execs' WebSockets"),
            Use::Tunnel => (&self.tunnels, limits::TUNNELS, "tunnels"),
        };
        Arc::clone(places).try_acquire_owned().map_err(|_| {
            let why = format!("{limit} {name} are open, which is the limit; close one and try again");
            ApiError::new(ErrorCode::LimitReached, why)
        })
    }
}

/// A request for a WebSocket with right headers, not answered yet.
#[derive(Debug)]
pub(super) struct Upgrade {
    upgraded: OnUpgrade,
    accept: HeaderValue,
}

impl Upgrade {
    /// Reads the handshake.
    ///
    /// # Errors
    /// 400: it is none, or of another version or subprotocol.
    pub(super) fn of(request: &mut Request) -> Result<Self, ApiError> {
        let accept = handshake(request.headers()).map_err(|why| ApiError::new(ErrorCode::BadRequest, why))?;
        let upgraded = hyper::upgrade::on(request);
        Ok(Self { upgraded, accept })
    }

    /// Answers 101, and runs `session` on the socket as soon as it is one. The place is held until the session is over.
    pub(super) fn start<S>(
        self,
        sockets: &Sockets,
        place: OwnedSemaphorePermit,
        session: impl FnOnce(Incoming, Outgoing) -> S + Send + 'static,
    ) -> Response
    where
        S: Future<Output = ()> + Send,
    {
        let Self { upgraded, accept } = self;
        sockets.tasks.spawn(async move {
            match upgraded.await {
                Ok(upgraded) => {
                    let (incoming, outgoing) = halves(upgraded);
                    session(incoming, outgoing).await;
                }
                // The client went before it had its answer.
                Err(error) => tracing::debug!(%error, "upgrade"),
            }
            drop(place);
        });
        let headers = [
            (header::CONNECTION, HeaderValue::from_static("upgrade")),
            (header::UPGRADE, HeaderValue::from_static("websocket")),
            (header::SEC_WEBSOCKET_ACCEPT, accept),
            (header::SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(SUBPROTOCOL)),
        ];
        (StatusCode::SWITCHING_PROTOCOLS, headers).into_response()
    }
}

/// The answer to the key, if these are the headers of a WebSocket of ours; else what is wrong with them.
fn handshake(headers: &HeaderMap) -> Result<HeaderValue, String> {
    if !has(headers, &header::CONNECTION, "upgrade") || !has(headers, &header::UPGRADE, "websocket") {
        return Err("this is a WebSocket: ask with `Connection: Upgrade` and `Upgrade: websocket`".to_owned());
    }
    if !has(headers, &header::SEC_WEBSOCKET_VERSION, "13") {
        return Err("`Sec-WebSocket-Version` must be 13".to_owned());
    }
    if !has(headers, &header::SEC_WEBSOCKET_PROTOCOL, SUBPROTOCOL) {
        return Err(format!("the only subprotocol here is {SUBPROTOCOL}: offer it in `Sec-WebSocket-Protocol`"));
    }
    let key = headers.get(header::SEC_WEBSOCKET_KEY).and_then(|key| key.to_str().ok()).unwrap_or_default();
    if STANDARD.decode(key).map(|key| key.len()) != Ok(16) {
        return Err("`Sec-WebSocket-Key` must be 16 bytes in base64".to_owned());
    }
    let digest = sha1_smol::Sha1::from([key, WEBSOCKET_KEY_SUFFIX].concat()).digest().bytes();
    HeaderValue::try_from(STANDARD.encode(digest)).map_err(|error| error.to_string())
}

/// Is the token in a header that is a list of such, in whatever case?
fn has(headers: &HeaderMap, name: &HeaderName, token: &str) -> bool {
    let lists = headers.get_all(name).into_iter().filter_map(|value| value.to_str().ok());
    lists.flat_map(|list| list.split(',')).any(|found| found.trim().eq_ignore_ascii_case(token))
}

type Socket = WebSocketStream<TokioIo<Upgraded>>;

fn halves(upgraded: Upgraded) -> (Incoming, Outgoing) {
    let limit = Limits::default().max_payload_len(Some(limits::WEBSOCKET_MESSAGE_BYTES));
    let (sink, messages) = ServerBuilder::new().limits(limit).serve(TokioIo::new(upgraded)).split();
    let pings = Arc::new(Pings::default());
    (Incoming { messages, pings: Arc::clone(&pings), unanswered: 0 }, Outgoing { sink, pings })
}

/// Pings are answered by the library as the peer reads; what it does not read is bounded here.
#[derive(Debug, Default)]
struct Pings {
    /// One has come, and its answer is to be sent.
    came: Notify,
    /// The peer does not read what is being sent.
    stalled: AtomicBool,
}

/// Why no more messages come.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Left {
    /// The peer closed the socket as it should.
    Closed,
    /// The connection ended under it.
    Gone,
    /// The peer broke the rules; how, and what to do.
    Misused(String),
}

/// What the client sends.
#[derive(Debug)]
pub(super) struct Incoming {
    messages: SplitStream<Socket>,
    pings: Arc<Pings>,
    unanswered: usize,
}

impl Incoming {
    /// The next message. Loses nothing when dropped half-way.
    ///
    /// # Errors
    /// There is none any more.
    pub(super) async fn next(&mut self) -> Result<(Channel, Bytes), Left> {
        loop {
            let message = match self.messages.next().await {
                Some(Ok(message)) => message,
                None | Some(Err(tokio_websockets::Error::Io(_))) => return Err(Left::Gone),
                Some(Err(error)) => return Err(Left::Misused(format!("this is no WebSocket of RFC 6455: {error}"))),
            };
            if message.is_close() {
                return Err(Left::Closed);
            }
            if message.is_ping() {
                self.pinged()?;
            } else if !message.is_pong() {
                return parse(message);
            }
        }
    }

    fn pinged(&mut self) -> Result<(), Left> {
        self.pings.came.notify_one();
        self.unanswered = if self.pings.stalled.load(Relaxed) { self.unanswered + 1 } else { 0 };
        if self.unanswered > limits::WEBSOCKET_PINGS {
            return Err(Left::Misused(format!(
                "more than {} pings came while nothing was read; read the answers",
                limits::WEBSOCKET_PINGS
            )));
        }
        Ok(())
    }
}

fn parse(message: Message) -> Result<(Channel, Bytes), Left> {
    if !message.is_binary() {
        return Err(Left::Misused("a text message came; messages are binary, a byte of channel first".to_owned()));
    }
    let mut payload = Bytes::from(message.into_payload());
    if payload.is_empty() {
        return Err(Left::Misused("an empty message came; its first byte must be the channel".to_owned()));
    }
    let channel = payload.split_to(1)[0];
    match Channel::try_from(channel) {
        Ok(channel) => Ok((channel, payload)),
        Err(number) => Err(Left::Misused(format!("there is no channel {number}"))),
    }
}

/// The beginning of a message, with room for a payload of this length.
pub(super) fn message_of(channel: Channel, capacity: usize) -> BytesMut {
    let mut message = BytesMut::with_capacity(1 + capacity);
    message.put_u8(channel as u8);
    message
}

/// The client does not take any more.
#[derive(Debug)]
pub(super) struct Gone;

/// What the client gets.
#[derive(Debug)]
pub(super) struct Outgoing {
    sink: SplitSink<Socket, Message>,
    pings: Arc<Pings>,
}

impl Outgoing {
    /// Sends a message, and waits until the client's side has taken it.
    pub(super) async fn send(&mut self, channel: Channel, payload: &[u8]) -> Result<(), Gone> {
        let mut message = message_of(channel, payload.len());
        message.put_slice(payload);
        self.message(message).await
    }

    /// Sends what was begun by [`message_of`].
    pub(super) async fn message(&mut self, message: BytesMut) -> Result<(), Gone> {
        self.push(Message::binary(message)).await
    }

    /// Says something about the stream itself.
    pub(super) async fn status(&mut self, status: &ChannelStatus) -> Result<(), Gone> {
        // Statuses are strings and numbers, which always serialize.
        let json = serde_json::to_vec(status).unwrap_or_default();
        self.send(Channel::Status, &json).await
    }

    /// Has pings answered where nothing else is sent. Never returns on its own while the client reads.
    pub(super) async fn answer_pings(&mut self) -> Gone {
        loop {
            self.pings.came.notified().await;
            self.pings.stalled.store(true, Relaxed);
            let flushed = self.sink.flush().await;
            self.pings.stalled.store(false, Relaxed);
            if flushed.is_err() {
                return Gone;
            }
        }
    }

    /// The last status is out: closes, and waits a while for the client to do the same.
    pub(super) async fn finish(self) {
        self.close(CloseCode::NORMAL_CLOSURE, "").await;
    }

    /// Ends the stream with an error.
    pub(super) async fn fail(mut self, code: ErrorCode, message: impl Into<String>) {
        let status = ChannelStatus::Frame(StreamFrame::Error { code, message: message.into() });
        let close = match code {
            ErrorCode::BadRequest => CloseCode::POLICY_VIOLATION,
            ErrorCode::Unavailable => CloseCode::GOING_AWAY,
            _ => CloseCode::INTERNAL_SERVER_ERROR,
        };
        // A client that reads nothing any more is not told; nor one whose socket the library is closing already, by a code.
        if tokio::time::timeout(CLOSE_TIME, self.status(&status)).await.is_ok() {
            self.close(close, "the last status says why").await;
        }
    }

    async fn close(mut self, code: CloseCode, reason: &str) {
        let closed = async {
            // Where that is refused, a close is on its way already.
            let _ = self.push(Message::close(Some(code), reason)).await;
            // Reads until the client's own close, which ends the connection without a reset.
            let _ = self.sink.close().await;
        };
        let _ = tokio::time::timeout(CLOSE_TIME, closed).await;
    }

    async fn push(&mut self, message: Message) -> Result<(), Gone> {
        self.pings.stalled.store(true, Relaxed);
        let sent = self.sink.send(message).await;
        self.pings.stalled.store(false, Relaxed);
        sent.map_err(|_| Gone)
    }
}

/// For the client to answer a close.
const CLOSE_TIME: Duration = limits::WEBSOCKET_CLOSE_TIME;

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: [(&str, &str); 5] = [
        ("connection", "keep-alive, Upgrade"),
        ("upgrade", "WebSocket"),
        ("sec-websocket-version", "13"),
        ("sec-websocket-protocol", "chat, v5.channel.k8s.io"),
        ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
    ];

    fn headers(change: (&str, &str)) -> HeaderMap {
        let changed = GOOD.map(|(name, value)| if name == change.0 { change } else { (name, value) });
        changed
            .into_iter()
            .map(|(name, value)| (HeaderName::try_from(name).unwrap(), HeaderValue::from_str(value).unwrap()))
            .collect()
    }

    #[test]
    fn the_example_of_the_rfc_is_accepted_with_its_answer() {
        assert_eq!(handshake(&headers(("", ""))).unwrap(), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    }

    #[test]
    fn each_header_is_needed_and_the_wrong_one_is_named() {
        for (change, named) in [
            (("connection", "close"), "Connection"),
            (("upgrade", "h2c"), "Upgrade"),
            (("sec-websocket-version", "8"), "Sec-WebSocket-Version"),
            (("sec-websocket-protocol", "chat"), SUBPROTOCOL),
            (("sec-websocket-key", "short"), "Sec-WebSocket-Key"),
        ] {
            assert!(handshake(&headers(change)).unwrap_err().contains(named), "{change:?}");
        }
    }

    #[test]
    fn a_message_is_a_channel_and_its_payload_and_nothing_else() {
        assert_eq!(parse(Message::binary(&b"\x00hi"[..])).unwrap(), (Channel::Stdin, Bytes::from_static(b"hi")));
        assert_eq!(parse(Message::binary(&b"\xff\x00"[..])).unwrap(), (Channel::Close, Bytes::from_static(b"\0")));
        for message in [Message::text("hi"), Message::binary(&b""[..]), Message::binary(&b"\x07"[..])] {
            assert!(matches!(parse(message), Err(Left::Misused(_))));
        }
    }
}
