//! Tunnels to real services.

use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use serde_json::json;
use socket2::SockRef;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_websockets::Message;

use crate::socket::{Got, HANDSHAKE, Socket, within};
use crate::support::TestAgent;

/// A tunnel and the service's end of it.
async fn pair(agent: &TestAgent) -> (Socket, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let path = format!("/v1/tunnel/{}", listener.local_addr().unwrap().port());
    let (socket, service) = tokio::join!(Socket::open(agent.socket(), &path), within(listener.accept()));
    (socket.unwrap(), service.unwrap().0)
}

async fn read_to_end(service: &mut TcpStream) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    within(service.read_to_end(&mut bytes)).await.map(|_| bytes)
}

#[tokio::test]
async fn end_of_input_reaches_the_service_which_can_still_answer() {
    let agent = TestAgent::start();
    let (mut socket, mut service) = pair(&agent).await;
    socket.send(0, b"question").await;
    socket.send(255, &[0]).await;
    assert_eq!(read_to_end(&mut service).await.unwrap(), b"question");
    service.write_all(b"answer").await.unwrap();
    assert_eq!(socket.next().await, Got::Message(1, "answer".into()));
    drop(service);
    assert_eq!(socket.next().await, Got::Message(255, vec![1].into()));
    assert_eq!(socket.next().await, Got::Close(1000));
}

#[tokio::test]
async fn end_of_output_reaches_the_client_which_can_still_send() {
    let agent = TestAgent::start();
    let (mut socket, mut service) = pair(&agent).await;
    service.write_all(b"hello").await.unwrap();
    service.shutdown().await.unwrap();
    assert_eq!(socket.next().await, Got::Message(1, "hello".into()));
    assert_eq!(socket.next().await, Got::Message(255, vec![1].into()));
    socket.ping().await;
    socket.send(0, b"late").await;
    socket.send(255, &[0]).await;
    assert_eq!(read_to_end(&mut service).await.unwrap(), b"late");
    assert_eq!(socket.next().await, Got::Close(1000));
}

#[tokio::test]
async fn reset_by_the_service_is_an_error_and_no_end_of_output() {
    let agent = TestAgent::start();
    let (mut socket, service) = pair(&agent).await;
    SockRef::from(&service).set_linger(Some(Duration::ZERO)).unwrap();
    drop(service);
    let status = socket.status().await;
    assert_eq!((&status["type"], &status["code"]), (&json!("error"), &json!("internal")));
    assert!(status["message"].as_str().unwrap().contains("may not be all"), "{status}");
    assert_eq!(socket.next().await, Got::Close(1011));
}

#[tokio::test]
async fn client_that_vanishes_is_a_reset_for_the_service_and_no_end_of_input() {
    let agent = TestAgent::start();
    let (mut socket, mut service) = pair(&agent).await;
    socket.send(0, b"half a").await;
    let mut bytes = [0; 6];
    within(service.read_exact(&mut bytes)).await.unwrap();
    drop(socket);
    let error = read_to_end(&mut service).await.unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
}

#[tokio::test]
async fn what_the_service_sent_before_it_stopped_to_read_is_delivered() {
    let agent = TestAgent::start();
    let (mut socket, mut service) = pair(&agent).await;
    service.write_all(b"last words").await.unwrap();
    assert_eq!(socket.next().await, Got::Message(1, "last words".into()));
    drop(service);
    assert_eq!(socket.next().await, Got::Message(255, vec![1].into()));
    // The service is gone altogether, so that input is refused; the client learns that it was not all taken, whichever of
    // the refusal and the end of input comes first.
    socket.send(0, b"into the void").await;
    socket.ping().await;
    socket.send(0, b"again").await;
    let status = socket.status().await;
    assert_eq!(status["type"], "error", "{status}");
}

#[tokio::test]
async fn sixty_four_mebibytes_go_both_ways_at_once_byte_for_byte() {
    const BYTES: usize = 64 * 1024 * 1024;
    let agent = TestAgent::start();
    let (socket, service) = pair(&agent).await;
    let echo = tokio::spawn(async move {
        let (mut read, mut write) = service.into_split();
        tokio::io::copy(&mut read, &mut write).await.unwrap();
    });
    let (mut sink, mut messages) = socket.into_inner().split();
    let send = async {
        let mut noise = Noise::default();
        for _ in 0..BYTES / CHUNK {
            sink.send(Message::binary([&[0][..], &noise.chunk()].concat())).await.unwrap();
        }
        sink.send(Message::binary(vec![255, 0])).await.unwrap();
    };
    let receive = async {
        let mut noise = Noise::default();
        let mut expected: Vec<u8> = Vec::new();
        let mut count = 0;
        loop {
            let message = messages.next().await.unwrap().unwrap();
            let payload = message.as_payload();
            match payload[0] {
                1 => {
                    let mut bytes = &payload[1..];
                    count += bytes.len();
                    while !bytes.is_empty() {
                        if expected.is_empty() {
                            expected = noise.chunk();
                        }
                        let length = bytes.len().min(expected.len());
                        assert!(bytes[..length] == expected[..length], "differs before byte {count}");
                        bytes = &bytes[length..];
                        expected.drain(..length);
                    }
                }
                255 => break,
                other => panic!("channel {other}"),
            }
        }
        assert_eq!(count, BYTES);
    };
    within(async { tokio::join!(send, receive) }).await;
    echo.await.unwrap();
}

const CHUNK: usize = 64 * 1024;

/// Bytes that do not repeat soon, from a fixed seed.
struct Noise(u64);

impl Default for Noise {
    fn default() -> Self {
        Self(0x9e37_79b9_7f4a_7c15)
    }
}

impl Noise {
    fn chunk(&mut self) -> Vec<u8> {
        let mut next = || {
            self.0 ^= self.0 << 13;
            self.0 ^= self.0 >> 7;
            self.0 ^= self.0 << 17;
            self.0.to_le_bytes()
        };
        (0..CHUNK / 8).flat_map(|_| next()).collect()
    }
}

async fn refusal(agent: &TestAgent, path: &str) -> (u16, String, String) {
    let (status, body) = Socket::open(agent.socket(), path).await.err().expect("it is refused");
    let text = |field: &str| body[field].as_str().unwrap().to_owned();
    (status, text("code"), text("error"))
}

#[tokio::test]
async fn refused_connection_is_an_answer_and_no_tunnel() {
    let agent = TestAgent::start();
    // Bound and not listening: nobody else gets this port.
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let port = socket.local_addr().unwrap().port();
    let (status, code, error) = refusal(&agent, &format!("/v1/tunnel/{port}")).await;
    assert_eq!((status, code.as_str()), (503, "unavailable"));
    assert!(error.contains(&format!("127.0.0.1:{port}")) && error.contains("refused"), "{error}");
}

#[tokio::test]
async fn tunnel_out_of_the_vm_is_refused() {
    let agent = TestAgent::start();
    let (status, code, error) = refusal(&agent, "/v1/tunnel/80?host=192.0.2.1").await;
    assert_eq!((status, code.as_str()), (422, "invalid_field"), "{error}");
}

#[tokio::test]
async fn malformed_requests_for_a_tunnel_are_answered_400_in_json() {
    let agent = TestAgent::start();
    for path in ["/v1/tunnel/http", "/v1/tunnel/65536", "/v1/tunnel/80?hots=::1"] {
        let (status, code, error) = refusal(&agent, path).await;
        assert_eq!((status, code.as_str()), (400, "bad_request"), "{path}: {error}");
    }
    let headers = HANDSHAKE.replace("v5.channel.k8s.io", "chat");
    let (status, body) = Socket::open_with(agent.socket(), "/v1/tunnel/80", &headers).await.err().unwrap();
    assert_eq!(status, 400, "{body}");
    assert!(body["error"].as_str().unwrap().contains("v5.channel.k8s.io"), "{body}");
    assert_eq!(agent.call("GET", "/v1/tunnel/80", "").0, 400);
}

#[tokio::test]
async fn one_tunnel_too_many_is_refused_and_a_closed_one_makes_room() {
    let agent = TestAgent::start();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let path = format!("/v1/tunnel/{}", listener.local_addr().unwrap().port());
    let mut sockets = Vec::new();
    for _ in 0..guestd::limits::TUNNELS {
        sockets.push(Socket::open(agent.socket(), &path).await.unwrap_or_else(|refusal| panic!("{refusal:?}")));
        drop(within(listener.accept()).await.unwrap());
    }
    let (status, code, error) = refusal(&agent, &path).await;
    assert_eq!((status, code.as_str()), (429, "limit_reached"), "{error}");
    let mut first = sockets.swap_remove(0);
    assert_eq!(first.next().await, Got::Message(255, vec![1].into()));
    first.send(255, &[0]).await;
    assert_eq!(first.next().await, Got::Close(1000));
    let room = async { while Socket::open(agent.socket(), &path).await.is_err() {} };
    within(room).await;
}

#[tokio::test]
async fn message_on_a_channel_that_a_tunnel_does_not_have_is_told_and_ends_it() {
    let agent = TestAgent::start();
    for message in [Message::binary(vec![2, b'x']), Message::text("x")] {
        let (mut socket, mut service) = pair(&agent).await;
        socket.raw(message).await;
        let status = socket.status().await;
        assert_eq!((&status["type"], &status["code"]), (&json!("error"), &json!("bad_request")));
        assert!(matches!(socket.next().await, Got::Close(_)));
        assert!(read_to_end(&mut service).await.is_err());
    }
}

#[tokio::test]
async fn message_over_the_limit_closes_the_socket_with_the_code_for_that() {
    let agent = TestAgent::start();
    let (socket, mut service) = pair(&agent).await;
    let mut raw = socket.into_inner().into_inner();
    // RFC 6455, section 5.2: a final binary frame, masked, of a length in 8 bytes. The header is enough to be refused.
    let length = guestd::limits::WEBSOCKET_MESSAGE_BYTES as u64 + 1;
    raw.write_all(&[&[0x82, 0x80 | 127][..], &length.to_be_bytes(), &[0; 4]].concat()).await.unwrap();
    let mut close = [0; 4];
    within(raw.read_exact(&mut close)).await.unwrap();
    assert_eq!((close[0], u16::from_be_bytes([close[2], close[3]])), (0x88, 1009));
    drop(raw);
    assert!(read_to_end(&mut service).await.is_err());
}

#[tokio::test]
async fn agent_that_ends_tells_its_tunnels_and_does_not_wait_for_them() {
    let agent = TestAgent::start();
    let (mut socket, _service) = pair(&agent).await;
    let ended = tokio::task::spawn_blocking(move || agent.terminate());
    assert_eq!(socket.status().await["code"], "unavailable");
    assert_eq!(socket.next().await, Got::Close(1001));
    assert_eq!(socket.next().await, Got::Cut);
    assert!(ended.await.unwrap().success());
}
