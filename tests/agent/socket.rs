//! A WebSocket client of the tests' own, on the agent's Unix socket.

use std::path::Path;

use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio_websockets::{ClientBuilder, Limits, Message, WebSocketStream};

use crate::support::DEADLINE;

/// The headers of a handshake that is in order.
pub(crate) const HANDSHAKE: &str = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
    Sec-WebSocket-Protocol: v5.channel.k8s.io\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";

/// An open socket; a message is its channel and payload.
pub(crate) struct Socket(WebSocketStream<UnixStream>);

/// What came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Got {
    /// A message.
    Message(u8, Bytes),
    /// The socket was closed, with this code.
    Close(u16),
    /// The connection ended without a close.
    Cut,
}

impl Socket {
    /// Asks for the path; the socket, or the status and body of a refusal.
    pub(crate) async fn open(agent: &Path, path: &str) -> Result<Self, (u16, Value)> {
        Self::open_with(agent, path, HANDSHAKE).await
    }

    /// The same with headers of the test's own.
    pub(crate) async fn open_with(agent: &Path, path: &str, headers: &str) -> Result<Self, (u16, Value)> {
        let mut stream = UnixStream::connect(agent).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nHost: guestd\r\n{headers}\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(within(stream.read_u8()).await.unwrap());
        }
        let head = String::from_utf8(head).unwrap().to_ascii_lowercase();
        let status: u16 = head.split(' ').nth(1).unwrap().parse().unwrap();
        if status != 101 {
            let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")).unwrap();
            let mut body = vec![0; length.parse().unwrap()];
            stream.read_exact(&mut body).await.unwrap();
            return Err((status, serde_json::from_slice(&body).unwrap()));
        }
        for header in
            ["sec-websocket-accept: s3pplmbitxaq9kygzzhzrbk+xoo=", "sec-websocket-protocol: v5.channel.k8s.io"]
        {
            assert!(head.contains(header), "{head}");
        }
        Ok(Self(ClientBuilder::new().limits(Limits::unlimited()).take_over(stream)))
    }

    /// Sends a message.
    pub(crate) async fn send(&mut self, channel: u8, payload: &[u8]) {
        self.raw(Message::binary([&[channel], payload].concat())).await;
    }

    /// Sends what no client of ours would.
    pub(crate) async fn raw(&mut self, message: Message) {
        within(self.0.send(message)).await.unwrap();
    }

    /// What comes next.
    pub(crate) async fn next(&mut self) -> Got {
        loop {
            let message = match within(self.0.next()).await {
                Some(Ok(message)) => message,
                _ => return Got::Cut,
            };
            if let Some((code, _)) = message.as_close() {
                return Got::Close(code.into());
            }
            if message.is_binary() {
                let mut payload = Bytes::from(message.into_payload());
                let channel = payload.split_to(1)[0];
                return Got::Message(channel, payload);
            }
        }
    }

    /// The next message, which must be a status.
    pub(crate) async fn status(&mut self) -> Value {
        match self.next().await {
            Got::Message(3, json) => serde_json::from_slice(&json).unwrap(),
            other => panic!("no status: {other:?}"),
        }
    }

    /// Waits for the answer to a ping, with what came before it left out.
    pub(crate) async fn ping(&mut self) {
        self.raw(Message::ping(&b"?"[..])).await;
        while !within(self.0.next()).await.unwrap().unwrap().is_pong() {}
    }

    /// Both directions apart, for those who use them at once.
    pub(crate) fn into_inner(self) -> WebSocketStream<UnixStream> {
        self.0
    }
}

/// Fails where something hangs.
pub(crate) async fn within<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(DEADLINE, future).await.expect("it happens in time")
}
