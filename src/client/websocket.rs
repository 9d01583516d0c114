//! A WebSocket to guestd whose messages are one byte of channel and a payload.
//!
//! Owns the HTTP upgrade, over any endpoint, and the channels' byte. Message framing, masks, pings and closes are tungstenite's.
//! Its masks come from a generator that a clone of this process would share; they hide nothing (RFC 6455, 10.3, is about proxies),
//! so that this does no harm.

use std::future::poll_fn;
use std::pin::Pin;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::{BufMut as _, Bytes, BytesMut};
use futures_util::stream::{SplitSink, SplitStream};
use futures_util::{SinkExt as _, StreamExt as _};
use hyper::client::conn::http1;
use hyper::header::{
    CONNECTION, HeaderValue, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_PROTOCOL, SEC_WEBSOCKET_VERSION, UPGRADE,
};
use hyper::{Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::protocol::{Message, Role, WebSocketConfig};

use crate::api::{Channel, SUBPROTOCOL};
use crate::limits;

use super::connect::{Duplex, connect};
use super::http::{Connection, Question, Reply};
use super::{Call, Client, ClientError};

type Stream = WebSocketStream<Box<dyn Duplex>>;

/// The sending side.
#[derive(Debug)]
pub(super) struct Sender(SplitSink<Stream, Message>);

/// The receiving side.
#[derive(Debug)]
pub(super) struct Receiver(SplitStream<Stream>);

impl Sender {
    /// Sends a message, and waits until it is on its way.
    pub(super) async fn send(&mut self, channel: Channel, payload: &[u8]) -> Result<(), String> {
        let mut message = BytesMut::with_capacity(payload.len() + 1);
        message.put_u8(channel as u8);
        message.put_slice(payload);
        self.0.send(Message::Binary(message.freeze())).await.map_err(|error| error.to_string())
    }

    /// Says the end of the whole connection. It is a courtesy: whoever reads has taken all that counts.
    pub(super) async fn close(&mut self) {
        let _ = self.0.close().await;
    }
}

impl Receiver {
    /// The next message: its channel, as it is, and its payload. None when the other side closed; the error says how the connection
    /// ended otherwise.
    pub(super) async fn next(&mut self) -> Result<Option<(u8, Bytes)>, String> {
        loop {
            let mut message = match self.0.next().await {
                None | Some(Ok(Message::Close(_))) => return Ok(None),
                Some(Err(error)) => return Err(error.to_string()),
                Some(Ok(Message::Binary(message))) => message,
                // Pings are answered by tungstenite. Texts are of no version of this protocol that we speak.
                Some(Ok(_)) => continue,
            };
            if !message.is_empty() {
                let channel = message.split_to(1)[0];
                return Ok(Some((channel, message)));
            }
        }
    }
}

impl Client {
    /// Asks for a WebSocket. What guestd refuses is the error of any other call.
    pub(super) async fn websocket(&self, call: Call, target: String) -> Result<(Sender, Receiver), ClientError> {
        let mut key = [0; 16];
        getrandom::fill(&mut key).map_err(|error| ClientError::NoRandomness { why: error.to_string() })?;
        let key = HeaderValue::try_from(STANDARD.encode(key)).map_err(|error| self.foreign(call, error.to_string()))?;
        let question = Question::new(call)
            .to(target)
            .header(CONNECTION, HeaderValue::from_static("Upgrade"))
            .header(UPGRADE, HeaderValue::from_static("websocket"))
            .header(SEC_WEBSOCKET_VERSION, HeaderValue::from_static("13"))
            .header(SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(SUBPROTOCOL))
            .header(SEC_WEBSOCKET_KEY, key);
        let request = self.request(question)?;
        let stream = connect(self.endpoint(), self.timeouts().connect).await?;
        let patience = Some(self.timeouts().answer);
        let exchange = async {
            let (mut sender, mut connection) = http1::handshake(TokioIo::new(stream)).await?;
            let mut response = std::pin::pin!(sender.send_request(request));
            let mut done = false;
            let response = poll_fn(|context| {
                // Its error reaches us through the response.
                done = done || connection.poll_without_shutdown(context).is_ready();
                response.as_mut().poll(context)
            })
            .await?;
            if response.status() == StatusCode::SWITCHING_PROTOCOLS && !done {
                poll_fn(|context| Pin::new(&mut connection).poll_without_shutdown(context)).await?;
            }
            Ok((response, sender, connection))
        };
        let exchanged = self.within(call, patience, exchange).await?;
        let (response, sender, connection) = exchanged.map_err(|error| self.broken(call, error))?;
        if response.status() != StatusCode::SWITCHING_PROTOCOLS {
            let (head, body) = response.into_parts();
            let connection = Connection::of(sender, connection);
            let reply = Reply { status: head.status, headers: head.headers, body, connection };
            return Err(match reply.status.is_success() {
                true => self.foreign(call, format!("status {} and no WebSocket", reply.status)),
                false => self.failure(call, reply).await,
            });
        }
        if !speaks_ours(&response) {
            return Err(self.foreign(call, format!("the WebSocket is not of the protocol {SUBPROTOCOL}")));
        }
        let parts = connection.into_parts();
        let config = WebSocketConfig::default()
            .max_message_size(Some(limits::CLIENT_MESSAGE_BYTES))
            .max_frame_size(Some(limits::CLIENT_MESSAGE_BYTES));
        let (io, early) = (parts.io.into_inner(), parts.read_buf.to_vec());
        let socket = WebSocketStream::from_partially_read(io, early, Role::Client, Some(config)).await;
        let (sender, receiver) = socket.split();
        Ok((Sender(sender), Receiver(receiver)))
    }
}

/// Did guestd take the subprotocol? That says more than Sec-WebSocket-Accept, which says that it knows WebSockets at all.
fn speaks_ours<T>(response: &Response<T>) -> bool {
    response.headers().get(SEC_WEBSOCKET_PROTOCOL).is_some_and(|protocol| protocol == SUBPROTOCOL)
}
