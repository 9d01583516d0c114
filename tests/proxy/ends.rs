//! Bytes and ends: each is handed on as it came, and what broke is never taken for an end.

use std::{io::ErrorKind, process::Stdio};

use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::TcpStream,
};
use tokio_rustls::server::TlsStream;

use crate::{
    authority::{Authority, path},
    rig::{Proxy, Server, command, soon},
};

/// What goes each way in the test of bulk.
const BULK_BYTES: usize = 100 * 1024 * 1024;

/// The most memory that the proxy may hold meanwhile, in KiB.
const PEAK_KIB: u64 = 24 * 1024;

/// A proxy whose connection stands, and the server's end of that.
async fn connected() -> (Proxy, TlsStream<TcpStream>) {
    let authority = Authority::new("one");
    let server = Server::start(authority.server("DNS:localhost")).await;
    let proxy = Proxy::start(server.port(), &authority);
    let service = server.shake().await;
    (proxy, service)
}

/// Sends at once.
async fn say(service: &mut TlsStream<TcpStream>, bytes: &[u8]) {
    service.write_all(bytes).await.unwrap();
    service.flush().await.unwrap();
}

/// Bytes of no simple pattern; that at `position`.
fn pattern(position: usize) -> u8 {
    (position.wrapping_mul(2_654_435_761) >> 13) as u8
}

async fn send_bulk(to: &mut (impl AsyncWrite + Unpin)) {
    let mut sent = 0;
    while sent < BULK_BYTES {
        let part: Vec<u8> = (sent..BULK_BYTES.min(sent + 1024 * 1024)).map(pattern).collect();
        to.write_all(&part).await.unwrap();
        sent += part.len();
    }
    to.flush().await.unwrap();
}

async fn receive_bulk(from: &mut (impl AsyncRead + Unpin)) {
    let (mut buffer, mut received) = (vec![0; 1024 * 1024], 0);
    while received < BULK_BYTES {
        let length = from.read(&mut buffer).await.unwrap();
        let wrong = buffer[..length].iter().enumerate().find(|(at, byte)| **byte != pattern(received + at));
        assert!(length > 0 && wrong.is_none(), "{wrong:?} after {received} bytes, in the next {length}");
        received += length;
    }
    assert_eq!(received, BULK_BYTES);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_mebibytes_pass_both_ways_at_once_in_bounded_memory() {
    let (mut proxy, mut service) = connected().await;
    let (mut stdin, mut stdout) = (proxy.child.stdin.take().unwrap(), proxy.child.stdout.take().unwrap());
    let there = tokio::spawn(async move {
        // Nothing is read before all is sent: what is not taken has to wait where it is.
        send_bulk(&mut service).await;
        receive_bulk(&mut service).await;
        service
    });
    let here = tokio::spawn(async move {
        tokio::join!(send_bulk(&mut stdin), receive_bulk(&mut stdout));
        (stdin, stdout)
    });
    let all = async { (there.await.unwrap(), here.await.unwrap()) };
    let (mut service, (stdin, mut stdout)) = soon("all bytes", all).await;
    let peak = proxy.peak_kib();
    println!("it held {peak} KiB at the most");
    assert!(peak < PEAK_KIB, "it held {peak} KiB");

    drop(stdin);
    assert_eq!(soon("the end", service.read(&mut [0])).await.unwrap(), 0);
    service.shutdown().await.unwrap();
    assert_eq!(soon("the other end", stdout.read(&mut [0])).await.unwrap(), 0);
    proxy.end().await.well();
}

#[tokio::test]
async fn the_end_of_standard_input_is_told_and_the_other_direction_goes_on() {
    let (mut proxy, mut service) = connected().await;
    proxy.write(b"question").await;
    proxy.end_input();
    let mut question = Vec::new();
    // Clean: without close_notify this would fail.
    soon("the end of the input", service.read_to_end(&mut question)).await.unwrap();
    assert_eq!(question, b"question");
    for part in [b"ans", b"wer"] {
        say(&mut service, part).await;
        assert_eq!(proxy.read(3).await, part);
    }
    proxy.still_runs();
    service.shutdown().await.unwrap();
    proxy.end().await.well();
}

#[tokio::test]
async fn the_servers_close_notify_ends_standard_output_and_the_other_direction_goes_on() {
    let (mut proxy, mut service) = connected().await;
    say(&mut service, b"that was all").await;
    service.shutdown().await.unwrap();
    assert_eq!(proxy.read_to_end().await, b"that was all");
    for part in [b"more", b"over"] {
        proxy.write(part).await;
        let mut read = [0; 4];
        soon("what was sent", service.read_exact(&mut read)).await.unwrap();
        assert_eq!(&read, part);
    }
    proxy.still_runs();
    proxy.end_input();
    assert_eq!(soon("the end", service.read(&mut [0])).await.unwrap(), 0);
    proxy.end().await.well();
}

#[tokio::test]
async fn nothing_but_ends_is_something_that_can_be_sent() {
    let (mut proxy, mut service) = connected().await;
    proxy.end_input();
    assert_eq!(soon("the end", service.read(&mut [0])).await.unwrap(), 0);
    service.shutdown().await.unwrap();
    let ended = proxy.end().await;
    ended.well();
    assert_eq!(ended.stdout, b"");
}

#[tokio::test]
async fn a_server_that_has_ended_its_direction_and_wants_no_end_of_ours_has_lost_nothing() {
    let (mut proxy, mut service) = connected().await;
    service.shutdown().await.unwrap();
    assert_eq!(proxy.read_to_end().await, b"");
    // Sends a reset: what else comes is answered by that.
    let stream = service.into_inner().0;
    stream.set_zero_linger().unwrap();
    drop(stream);
    proxy.end_input();
    proxy.end().await.well();
}

#[tokio::test]
async fn bytes_that_a_server_did_not_take_any_more_are_a_failure() {
    let (mut proxy, mut service) = connected().await;
    let port = service.get_ref().0.local_addr().unwrap().port();
    service.shutdown().await.unwrap();
    assert_eq!(proxy.read_to_end().await, b"");
    let stream = service.into_inner().0;
    stream.set_zero_linger().unwrap();
    drop(stream);
    proxy.write(b"lost").await;
    let ended = proxy.end().await;
    let (cause, advice) = ended.stderr.split_once('\n').unwrap();
    assert_eq!(ended.code, Some(125), "{cause}");
    let expected =
        format!("guestctl: localhost port {port} has ended the connection and not taken all that was sent: ");
    assert!(cause.starts_with(&expected), "{cause}");
    assert_eq!(advice, "advice: see whether the service in the VM still runs, then connect again\n");
}

#[tokio::test]
async fn a_connection_that_is_cut_is_a_failure_after_all_that_came_before() {
    let (proxy, mut service) = connected().await;
    let port = service.get_ref().0.local_addr().unwrap().port();
    say(&mut service, b"cut o").await;
    // An end of TCP without one of TLS.
    drop(service.into_inner());
    let ended = proxy.end().await;
    assert_eq!(ended.stdout, b"cut o");
    let cause = "the connection to localhost port PORT ended without an end of TLS, so that what came may not be all: peer closed connection without sending TLS close_notify: https://docs.rs/rustls/latest/rustls/manual/_03_howto/index.html#unexpected-eof";
    ended.failed(125, port, cause, "see whether the VM still runs, then connect again");
}

#[tokio::test]
async fn a_connection_that_is_reset_is_a_failure() {
    let (mut proxy, mut service) = connected().await;
    let port = service.get_ref().0.local_addr().unwrap().port();
    say(&mut service, b"res").await;
    assert_eq!(proxy.read(3).await, b"res");
    let stream = service.into_inner().0;
    stream.set_zero_linger().unwrap();
    drop(stream);
    let cause = "the connection to localhost port PORT ended without an end of TLS, so that what came may not be all: Connection reset by peer (os error 104)";
    proxy.end().await.failed(125, port, cause, "see whether the VM still runs, then connect again");
}

#[tokio::test]
async fn when_nobody_is_there_any_more_it_ends_without_a_word() {
    let (mut proxy, mut service) = connected().await;
    proxy.end_input();
    drop(proxy.child.stdout.take());
    // The server is silent, and told of the end.
    assert_eq!(soon("the end", service.read(&mut [0])).await.unwrap(), 0);
    let ended = proxy.end().await;
    assert_eq!((ended.code, ended.stderr.as_str()), (Some(141), ""));
}

#[tokio::test]
async fn a_cut_that_nobody_is_there_to_miss_is_not_complained_of() {
    let (mut proxy, service) = connected().await;
    drop(proxy.child.stdout.take());
    drop(service.into_inner());
    let ended = proxy.end().await;
    assert_eq!((ended.code, ended.stderr.as_str()), (Some(141), ""));
}

#[tokio::test]
async fn what_comes_for_a_reader_that_has_gone_ends_it_without_a_word() {
    let (mut proxy, mut service) = connected().await;
    drop(proxy.child.stdout.take());
    say(&mut service, b"too late").await;
    let ended = proxy.end().await;
    assert_eq!((ended.code, ended.stderr.as_str()), (Some(141), ""));
}

#[tokio::test]
async fn input_that_cannot_be_read_is_never_passed_on_as_its_end() {
    let authority = Authority::new("one");
    let server = Server::start(authority.server("DNS:localhost")).await;
    let mut command = command(["localhost", &server.port().to_string(), "--ca", path(&authority.file())]);
    command.stdin(Stdio::from(std::fs::File::open("/").unwrap()));
    let proxy = Proxy::spawn(command);
    let mut service = server.shake().await;
    let end = soon("the cut", service.read(&mut [0])).await.unwrap_err();
    assert!(matches!(end.kind(), ErrorKind::UnexpectedEof | ErrorKind::ConnectionReset), "{end}");
    let ended = proxy.end().await;
    assert_eq!(ended.code, Some(125));
    assert!(ended.stderr.starts_with("guestctl: cannot read standard input: Is a directory"), "{}", ended.stderr);
}
