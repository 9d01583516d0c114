//! Connections that become something else.

use std::{
    io::{Read, Write},
    net::Shutdown,
};

use crate::rig::{Bridge, DEADLINE, service};

const UPGRADE: &[u8] =
    b"GET /chat HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: x\r\n\r\n";

/// A service that agrees, and then says all back in capitals until the client has said all.
fn echo(agree: &'static str) -> (std::net::SocketAddr, std::sync::mpsc::Receiver<(String, String)>) {
    service(move |_, mut connection| {
        let head = connection.head();
        connection.answer(agree);
        let (said, _) = connection.rest();
        connection.answer(&said.to_uppercase());
        connection.end_output();
        (head, said)
    })
}

#[test]
fn after_101_bytes_pass_as_they_are_with_each_direction_ended_by_itself() {
    let (address, told) = echo(
        "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: y\r\n\r\n",
    );
    let bridge = Bridge::to(address);
    let mut client = bridge.connect();
    // Some of what is no HTTP comes with the request, before anybody has agreed.
    client.write_all(UPGRADE).unwrap();
    client.write_all(b"early\n\n").unwrap();
    let mut answer = Vec::new();
    while !answer.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        client.read_exact(&mut byte).unwrap();
        answer.extend(byte);
    }
    let answer = String::from_utf8(answer).unwrap().to_lowercase();
    assert!(answer.starts_with("http/1.1 101 ") && answer.contains("upgrade: websocket\r\n"), "{answer}");
    assert!(answer.contains("connection: upgrade\r\n") && answer.contains("sec-websocket-accept: y\r\n"), "{answer}");
    client.write_all(b"GET / HTTP/1.1\nlate").unwrap();
    client.shutdown(Shutdown::Write).unwrap();
    let mut back = String::new();
    client.read_to_string(&mut back).unwrap();
    assert_eq!(back, "EARLY\n\nGET / HTTP/1.1\nLATE");
    let (head, said) = told.recv_timeout(DEADLINE).unwrap();
    assert_eq!(said, "early\n\nGET / HTTP/1.1\nlate");
    let head = head.to_lowercase();
    assert!(head.contains("upgrade: websocket\n") && head.contains("x-forwarded-for: 2001:db8::1\n"), "{head}");
    assert_eq!(bridge.errors(), 0);
}

#[test]
fn after_2xx_to_connect_bytes_pass_as_they_are() {
    let (address, told) = echo("HTTP/1.1 200 OK\r\n\r\n");
    let answer = Bridge::to(address).ask(b"CONNECT b:1 HTTP/1.1\r\nHost: b:1\r\n\r\n\0hello\n");
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n") && answer.ends_with("\r\n\r\n\0HELLO\n"), "{answer:?}");
    let (head, said) = told.recv_timeout(DEADLINE).unwrap();
    assert!(head.starts_with("CONNECT b:1 HTTP/1.1\n"), "{head}");
    assert_eq!(said, "\0hello\n");
}

#[test]
fn where_the_service_does_not_agree_the_connection_stays_one_of_requests() {
    let (address, told) = service(|_, mut connection| {
        let mut heads = Vec::new();
        loop {
            let head = connection.head();
            if head.is_empty() {
                return heads;
            }
            heads.push(head);
            connection.answer("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nno");
        }
    });
    let bridge = Bridge::to(address);
    let answer = bridge.ask(&[UPGRADE, b"GET /2 HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: spoofed\r\n\r\n"].concat());
    assert_eq!(answer.matches("HTTP/1.1 200 OK\r\n").count(), 2, "{answer}");
    let heads = told.recv_timeout(DEADLINE).unwrap();
    assert!(heads[1].to_lowercase().contains("x-forwarded-for: spoofed, 2001:db8::1\n"), "{}", heads[1]);
    // What is no request after that is refused as ever.
    let answer = bridge.ask(&[UPGRADE, b"\x81\x05hello\n"].concat());
    assert!(answer.contains("HTTP/1.1 200 OK\r\n") && answer.contains("HTTP/1.1 400 "), "{answer}");
}

#[test]
fn an_offer_of_http_2_is_not_passed_on() {
    let (address, told) = crate::rig::obliging("x");
    let answer = Bridge::to(address).ask(
        b"GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n\r\n",
    );
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
    let head = told.recv_timeout(DEADLINE).unwrap().remove(0).to_lowercase();
    assert!(!head.contains("h2c") && !head.contains("settings") && !head.contains("upgrade"), "{head}");
}

/// Both ends of a connection that has become something else.
fn tunnel() -> (Bridge, std::net::TcpStream, std::sync::mpsc::Receiver<(String, bool)>) {
    let (address, told) = service(|_, mut connection| {
        connection.head();
        connection.answer("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\nx");
        connection.rest()
    });
    let bridge = Bridge::to(address);
    let mut client = bridge.connect();
    client.write_all(UPGRADE).unwrap();
    let mut byte = [0];
    while byte != *b"x" {
        client.read_exact(&mut byte).unwrap();
    }
    (bridge, client, told)
}

#[test]
fn a_reset_of_the_client_is_one_for_the_service() {
    let (_bridge, client, told) = tunnel();
    socket2::SockRef::from(&client).set_linger(Some(std::time::Duration::ZERO)).unwrap();
    drop(client);
    assert_eq!(told.recv_timeout(DEADLINE).unwrap(), (String::new(), false));
}

#[test]
fn a_connection_that_is_cut_is_reset_on_both_sides() {
    let (bridge, mut client, told) = tunnel();
    bridge.cut.cancel();
    assert_eq!(client.read(&mut [0]).unwrap_err().kind(), std::io::ErrorKind::ConnectionReset);
    assert_eq!(told.recv_timeout(DEADLINE).unwrap(), (String::new(), false));
    assert_eq!(bridge.errors(), 0);
}
