//! A WebSocket to guestd whose messages are one byte of channel and a payload.
//!
//! Owns the HTTP upgrade, over any endpoint, and the channels' byte. Message framing, masks (from the kernel, each), pings and closes
//! are tokio-websockets'.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::{BufMut as _, Bytes, BytesMut};
use futures_util::stream::{SplitSink, SplitStream};
use futures_util::{SinkExt as _, StreamExt as _};
use hyper::StatusCode;
use hyper::header::{
    CONNECTION, HeaderMap, HeaderValue, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_PROTOCOL,
    SEC_WEBSOCKET_VERSION, UPGRADE,
};
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use tokio_websockets::{ClientBuilder, Limits, Message, WebSocketStream};

use crate::api::{Channel, SUBPROTOCOL, WEBSOCKET_KEY_SUFFIX};
use crate::limits;

use super::connect::connect;
use super::http::{Connection, Question, Reply};
use super::{Call, Client, ClientError};

type Stream = WebSocketStream<TokioIo<Upgraded>>;

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
        self.0.send(Message::binary(message)).await.map_err(|error| error.to_string())
    }

    /// Says the end of the whole connection. It is a courtesy: whoever reads has taken all that counts.
    pub(super) async fn close(&mut self) {
        let _ = self.0.send(Message::close(None, "")).await;
    }
}

impl Receiver {
    /// The next message: its channel, as it is, and its payload. None when the other side closed; the error says how the connection
    /// ended otherwise.
    pub(super) async fn next(&mut self) -> Result<Option<(u8, Bytes)>, String> {
        loop {
            let message = match self.0.next().await {
                None => return Ok(None),
                Some(Err(error)) => return Err(error.to_string()),
                Some(Ok(message)) if message.is_close() => return Ok(None),
                Some(Ok(message)) => message,
            };
            // Pings are answered by the library. Texts are of no version of this protocol that we speak.
            if !message.is_binary() {
                continue;
            }
            let mut message = Bytes::from(message.into_payload());
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
        let key = STANDARD.encode(key);
        let expected = answer(&key);
        let key = HeaderValue::try_from(key).map_err(|error| self.foreign(call, error.to_string()))?;
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
            let mut connection = Connection::open(stream).await?;
            let response = connection.exchange(request).await?;
            Ok((response, connection))
        };
        let exchanged = self.within(call, patience, exchange).await?;
        let (mut response, mut connection) = exchanged.map_err(|error| self.broken(call, error))?;
        if response.status() != StatusCode::SWITCHING_PROTOCOLS {
            let (head, body) = response.into_parts();
            let reply = Reply { status: head.status, headers: head.headers, body, connection };
            return Err(match reply.status.is_success() {
                true => self.foreign(call, format!("status {} and no WebSocket", reply.status)),
                false => self.failure(call, reply).await,
            });
        }
        if !speaks_ours(response.headers()) {
            return Err(self.foreign(call, format!("the WebSocket is not of the protocol {SUBPROTOCOL}")));
        }
        if response.headers().get(SEC_WEBSOCKET_ACCEPT).is_none_or(|accept| accept != expected.as_str()) {
            let why =
                "its Sec-WebSocket-Accept is not the answer to our key: whatever answered did not read the request";
            return Err(self.foreign(call, why.to_owned()));
        }
        let upgraded = connection.drive(hyper::upgrade::on(&mut response));
        let upgraded = self.within(call, patience, upgraded).await?.map_err(|error| self.broken(call, error))?;
        let limit = Limits::default().max_payload_len(Some(limits::CLIENT_MESSAGE_BYTES));
        let (sender, receiver) = ClientBuilder::new().limits(limit).take_over(TokioIo::new(upgraded)).split();
        Ok((Sender(sender), Receiver(receiver)))
    }
}

/// The Sec-WebSocket-Accept that a key asks for (RFC 6455, section 4.2.2): a cache or a proxy between does not know it.
fn answer(key: &str) -> String {
    STANDARD.encode(sha1_smol::Sha1::from([key, WEBSOCKET_KEY_SUFFIX].concat()).digest().bytes())
}

/// Did guestd take the subprotocol?
fn speaks_ours(headers: &HeaderMap) -> bool {
    headers.get(SEC_WEBSOCKET_PROTOCOL).is_some_and(|protocol| protocol == SUBPROTOCOL)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_answer_to_a_key_is_that_of_the_rfcs_example() {
        assert_eq!(answer("dGhlIHNhbXBsZSBub25jZQ=="), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    }
}
