//! Requests and answers of every kind, as they reach the other side.

use std::{
    io::{Read, Write},
    net::{Ipv4Addr, TcpListener},
    sync::atomic::Ordering::Relaxed,
};

use crate::rig::{Bridge, DEADLINE, obliging, service};

#[test]
fn a_request_is_passed_on_as_it_was_with_the_client_in_two_headers() {
    let (address, told) = obliging("hello");
    let bridge = Bridge::to(address);
    let answer = bridge.ask(
        b"GET /x?y=%20z HTTP/1.1\r\nHOST: a.example:8080\r\nX-Zebra: 1\r\nx-APPLE: 2\r\nCookie: a=b\r\nConnection: X-Secret, keep-alive\r\n\
          X-Secret: 3\r\nKeep-Alive: 5\r\nX-Forwarded-For: 192.0.2.9\r\nX-Zebra: 4\r\n\r\n",
    );
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n") && answer.ends_with("\r\n\r\nhello"), "{answer}");
    insta::assert_snapshot!(told.recv_timeout(DEADLINE).unwrap()[0], @r#"
    GET /x?y=%20z HTTP/1.1
    HOST: a.example:8080
    X-Zebra: 1
    X-Zebra: 4
    x-APPLE: 2
    Cookie: a=b
    X-Forwarded-For: 192.0.2.9, 2001:db8::1
    forwarded: for="[2001:db8::1]"
    "#);
    assert_eq!(bridge.errors(), 0);
    assert!(bridge.counters.bytes_in.load(Relaxed) > 100 && bridge.counters.bytes_out.load(Relaxed) > 20);
}

#[test]
fn pipelined_requests_are_answered_in_order_over_one_connection_to_the_service() {
    let (address, told) = service(|_, mut connection| {
        let mut paths = Vec::new();
        loop {
            let head = connection.head();
            let Some(path) = head.split(' ').nth(1) else { return paths };
            let body = if head.starts_with("POST") { connection.exactly(5) } else { String::new() };
            connection
                .answer(&format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{path}{body}", path.len() + body.len()));
            paths.push(path.to_owned());
        }
    });
    let bridge = Bridge::to(address);
    let answer = bridge.ask(
        b"GET /1 HTTP/1.1\r\nHost: a\r\n\r\nPOST /2 HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nGET /GET /3 HTTP/1.1\r\nHost: a\r\n\r\n",
    );
    let places: Vec<_> = ["\r\n\r\n/1", "\r\n\r\n/2GET /", "\r\n\r\n/3"].iter().map(|body| answer.find(body)).collect();
    assert!(places.is_sorted() && places.iter().all(Option::is_some), "{answer}");
    assert_eq!(told.recv_timeout(DEADLINE).unwrap(), ["/1", "/2", "/3"]);
}

#[test]
fn a_service_that_closes_between_requests_is_dialled_anew() {
    let (address, told) = service(|number, mut connection| {
        let head = connection.head();
        connection.answer(&format!("HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n{number}"));
        head
    });
    let bridge = Bridge::to(address);
    let mut client = bridge.connect();
    for number in 0..3 {
        client.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
        let mut answer = [0; 39];
        client.read_exact(&mut answer).unwrap();
        assert!(answer.ends_with(format!("\r\n\r\n{number}").as_bytes()), "{}", String::from_utf8_lossy(&answer));
        told.recv_timeout(DEADLINE).unwrap();
    }
}

#[test]
fn bodies_of_every_kind_come_whole() {
    for (version, answer, expected) in [
        ("1.1", "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabc", "abc"),
        ("1.1", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n2\r\nbc\r\n0\r\n\r\n", "0\r\n\r\n"),
        ("1.1", "HTTP/1.0 200 OK\r\n\r\nabc", "3\r\nabc\r\n0\r\n\r\n"),
        ("1.0", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n2\r\nbc\r\n0\r\n\r\n", "\r\n\r\nabc"),
        ("1.1", "HTTP/1.1 204 No Content\r\nX: y\r\n\r\n", "x: y\r\n\r\n"),
        ("1.1", "HTTP/1.1 304 Not Modified\r\nContent-Length: 7\r\n\r\n", "\r\n\r\n"),
        (
            "1.1",
            "HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nx",
            "\r\n\r\nx",
        ),
    ] {
        let (address, _told) = service(move |_, mut connection| {
            connection.head();
            connection.answer(answer);
        });
        let bridge = Bridge::to(address);
        let got = bridge.ask(format!("GET / HTTP/{version}\r\nHost: a\r\n\r\n").as_bytes());
        assert!(got.starts_with(&format!("HTTP/{version} ")), "{got}");
        assert!(got.to_lowercase().ends_with(&expected.to_lowercase()), "{answer:?} became {got:?}");
        assert_eq!(got.contains("ransfer-"), expected.ends_with("0\r\n\r\n"), "{got:?}");
        assert_eq!(bridge.errors(), 0, "{answer:?}");
    }
}

#[test]
fn an_answer_to_head_has_the_length_and_no_body() {
    let (address, _told) = service(|_, mut connection| {
        connection.head();
        connection.answer("HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n");
        connection.head()
    });
    let answer = Bridge::to(address).ask(b"HEAD / HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!(answer, "HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n");
}

#[test]
fn chunked_requests_and_trailers_pass_in_both_directions() {
    let (address, told) = service(|_, mut connection| {
        let head = connection.head();
        let body = connection.exactly("3\r\nabc\r\n0\r\nx-sum: 1\r\n\r\n".len());
        connection.answer(
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: x-end\r\n\r\n1\r\nz\r\n0\r\nX-End: 2\r\n\r\n",
        );
        (head, body)
    });
    let answer = Bridge::to(address).ask(
        b"POST / HTTP/1.1\r\nHost: a\r\nTE: trailers\r\nConnection: TE\r\nTrailer: x-sum\r\nTransfer-Encoding: chunked\r\n\r\n\
          3\r\nabc\r\n0\r\nX-Sum: 1\r\n\r\n",
    );
    let (head, body) = told.recv_timeout(DEADLINE).unwrap();
    assert!(head.contains("trailers") && head.to_lowercase().contains("transfer-encoding: chunked"), "{head}");
    assert!(body.ends_with("0\r\nx-sum: 1\r\n\r\n"), "{body}");
    assert!(answer.ends_with("1\r\nz\r\n0\r\nx-end: 2\r\n\r\n"), "{answer}");
}

#[test]
fn a_client_that_waits_for_100_continue_is_told_to_go_on() {
    let (address, _told) = service(|_, mut connection| {
        connection.head();
        let body = connection.exactly(5);
        connection.answer(&format!("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n{body}"));
    });
    let bridge = Bridge::to(address);
    let mut client = bridge.connect();
    client.write_all(b"PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n").unwrap();
    let mut go_on = [0; 25];
    client.read_exact(&mut go_on).unwrap();
    assert_eq!(&go_on, b"HTTP/1.1 100 Continue\r\n\r\n");
    client.write_all(b"hello").unwrap();
    let mut answer = [0; 43];
    client.read_exact(&mut answer).unwrap();
    assert!(answer.ends_with(b"\r\n\r\nhello"));
}

#[test]
fn a_service_that_cannot_be_reached_is_502_with_a_reason() {
    let gone = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap();
    let bridge = Bridge::to(gone);
    let answer = bridge.ask(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    assert!(answer.starts_with("HTTP/1.1 502 Bad Gateway\r\n"), "{answer}");
    assert!(answer.ends_with("guestd cannot reach the service: Connection refused (os error 111)\n"), "{answer}");
    assert_eq!(bridge.errors(), 1);
}

#[test]
fn a_service_that_does_not_speak_http_is_502() {
    let (address, _told) = service(|_, mut connection| connection.answer("SSH-2.0-OpenSSH_9.2\r\n"));
    let answer = Bridge::to(address).ask(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    assert!(answer.starts_with("HTTP/1.1 502 ") && answer.contains("gave no answer that is HTTP/1"), "{answer}");
}

#[test]
fn a_head_over_the_bound_is_431() {
    let (address, _told) = obliging("");
    let long = "y".repeat(guestd::limits::BRIDGE_HTTP_HEAD_BYTES);
    let answer = Bridge::to(address).ask(format!("GET / HTTP/1.1\r\nHost: a\r\nX: {long}\r\n\r\n").as_bytes());
    assert!(answer.starts_with("HTTP/1.1 431 "), "{answer}");
    let many = "X: y\r\n".repeat(101);
    let answer = Bridge::to(address).ask(format!("GET / HTTP/1.1\r\nHost: a\r\n{many}\r\n").as_bytes());
    assert!(answer.starts_with("HTTP/1.1 431 "), "{answer}");
}

#[test]
fn a_client_that_resets_while_it_waits_is_a_reset_for_the_service() {
    for begun in ["", "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\ndata: 1\n\n"] {
        let (begin, begins) = std::sync::mpsc::channel();
        let (address, told) = service(move |_, mut connection| {
            connection.head();
            connection.answer(begun);
            begin.send(()).unwrap();
            connection.rest()
        });
        let bridge = Bridge::to(address);
        let mut client = bridge.connect();
        client.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
        begins.recv_timeout(DEADLINE).unwrap();
        socket2::SockRef::from(&client).set_linger(Some(std::time::Duration::ZERO)).unwrap();
        drop(client);
        assert_eq!(told.recv_timeout(DEADLINE).unwrap(), (String::new(), false));
    }
}

#[test]
fn an_answer_that_breaks_off_is_never_taken_for_a_whole_one() {
    for (version, answer) in [
        ("1.1", "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc"),
        ("1.1", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n"),
        ("1.0", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n"),
    ] {
        let (address, _told) = service(move |_, mut connection| {
            connection.head();
            connection.answer(answer);
        });
        let bridge = Bridge::to(address);
        let mut client = bridge.connect();
        client.write_all(format!("GET / HTTP/{version}\r\nHost: a\r\n\r\n").as_bytes()).unwrap();
        let mut got = Vec::new();
        let error = client.read_to_end(&mut got).unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset, "{got:?}");
        assert_eq!(bridge.errors(), 1);
    }
}

#[test]
fn no_more_of_a_body_is_taken_than_the_service_reads_but_for_bounded_buffers() {
    let (end, ended) = std::sync::mpsc::channel::<()>();
    let (address, _told) = service(move |_, mut connection| {
        connection.head();
        let _ = ended.recv();
    });
    let bridge = Bridge::to(address);
    let mut client = bridge.connect();
    client.write_all(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1073741824\r\n\r\n").unwrap();
    client.set_nonblocking(true).unwrap();
    let (mut sent, mut taken, piece) = (0usize, 0, vec![b'x'; 1 << 20]);
    // Until neither the kernel nor the bridge takes any more for a while. On a machine that is busy that may be early; it is never late.
    let mut still = std::time::Instant::now();
    while still.elapsed() < std::time::Duration::from_millis(500) {
        match client.write(&piece) {
            Ok(length) => sent += length,
            Err(error) => assert_eq!(error.kind(), std::io::ErrorKind::WouldBlock),
        }
        let now = bridge.counters.bytes_in.load(Relaxed);
        if now != taken {
            (taken, still) = (now, std::time::Instant::now());
        }
        // Sockets' buffers on both sides are some MiB each.
        assert!(sent < 64 << 20, "{sent} bytes are somewhere");
        std::thread::yield_now();
    }
    end.send(()).unwrap();
}
