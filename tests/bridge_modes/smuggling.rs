//! Requests that two readers read differently, so that one of them may see another request within.

use std::net::SocketAddr;

use crate::rig::{Bridge, DEADLINE, Server, ask, obliging, service};

/// Name, and bytes that no service may get to see as a request.
const ATTEMPTS: &[(&str, &str)] = &[
    ("CL.TE", "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 6\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nG"),
    (
        "TE.CL",
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\n5c\r\nGPOST / HTTP/1.1\r\n\r\n0\r\n\r\n",
    ),
    (
        "two lengths",
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\nContent-Length: 30\r\n\r\nGET /admin HTTP/1.1\r\nHost: a\r\n\r\n",
    ),
    (
        "list of lengths",
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0, 30\r\n\r\nGET /admin HTTP/1.1\r\nHost: a\r\n\r\n",
    ),
    ("length with a sign", "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: +1\r\n\r\nx"),
    ("length in hexadecimal", "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0x1\r\n\r\nx"),
    ("encoding not chunked", "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: identity\r\n\r\n"),
    ("encoding not chunked at last", "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked, gzip\r\n\r\n0\r\n\r\n"),
    ("encoding nearly chunked", "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: xchunked\r\n\r\n0\r\n\r\n"),
    ("encoding after a vertical tab", "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: \u{b}chunked\r\n\r\n0\r\n\r\n"),
    (
        "encoding twice",
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: x\r\n\r\n0\r\n\r\n",
    ),
    ("blank before the colon", "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding : chunked\r\n\r\n0\r\n\r\n"),
    ("folded header", "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding:\r\n chunked\r\n\r\n0\r\n\r\n"),
    ("blank before the first header", "GET / HTTP/1.1\r\n Host: a\r\n\r\n"),
    (
        "line feed in a value",
        "GET / HTTP/1.1\r\nHost: a\r\nX: a\nContent-Length: 30\r\n\r\nGET /admin HTTP/1.1\r\nHost: a\r\n\r\n",
    ),
    ("carriage return in a value", "GET / HTTP/1.1\r\nHost: a\r\nX: a\rContent-Length: 30\r\n\r\n"),
    ("zero byte in a value", "GET / HTTP/1.1\r\nHost: a\r\nX: a\0b\r\n\r\n"),
    ("encoding in HTTP/1.0", "POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
    ("no host", "GET / HTTP/1.1\r\n\r\n"),
    ("two hosts", "GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n"),
    ("blank in the target", "GET / x HTTP/1.1\r\nHost: a\r\n\r\n"),
    ("HTTP/0.9", "GET /\r\n\r\n"),
    ("HTTP/2", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
];

/// The same in a body, of which a service sees the beginning; never the end.
const CHUNKS: &[(&str, &str)] = &[
    ("no number", "zz\r\nhello\r\n0\r\n\r\n"),
    ("a blank", "5 \r\nhello\r\n0\r\n\r\n"),
    ("a sign", "+5\r\nhello\r\n0\r\n\r\n"),
    ("0x", "0x5\r\nhello\r\n0\r\n\r\n"),
    ("too many digits", "fffffffffffffffff\r\nhello\r\n0\r\n\r\n"),
    ("line feed alone", "5\nhello\r\n0\r\n\r\n"),
    ("line feed in an extension", "5;x\nhello\r\n0\r\n\r\n"),
    ("longer than its size", "5\r\nhello!\r\n0\r\n\r\n"),
    ("line feed after the data", "5\r\nhello\n0\r\n\r\n"),
    ("trailer with a line feed alone", "5\r\nhello\r\n0\r\nX: y\n\r\n"),
];

#[test]
fn no_ambiguous_request_reaches_the_service_and_each_is_400_and_the_end() {
    let (address, told) = obliging("x");
    for (name, attempt) in ATTEMPTS {
        let bridge = Bridge::to(address);
        let answer = bridge.ask(format!("{attempt}GET /after HTTP/1.1\r\nHost: a\r\n\r\n").as_bytes());
        assert!(answer.starts_with("HTTP/1.1 400 "), "{name}: {answer:?}");
        assert_eq!(answer.matches("HTTP/1.").count(), 1, "{name}: {answer:?}");
        assert_eq!(bridge.errors(), 1, "{name}");
    }
    assert!(told.try_recv().is_err(), "something was connected to the service");
}

#[test]
fn after_a_good_request_an_ambiguous_one_is_refused_all_the_same() {
    for (name, attempt) in ATTEMPTS {
        let (address, told) = obliging("x");
        let answer = Bridge::to(address).ask(format!("GET /good HTTP/1.1\r\nHost: a\r\n\r\n{attempt}").as_bytes());
        let statuses: Vec<_> = answer.match_indices("HTTP/1.1 ").map(|(at, _)| &answer[at + 9..at + 12]).collect();
        assert_eq!(statuses, ["200", "400"], "{name}: {answer:?}");
        assert_eq!(told.recv_timeout(DEADLINE).unwrap().len(), 1, "{name}");
    }
}

#[test]
fn a_request_with_chunks_that_are_none_never_ends_well_for_the_service() {
    for (name, chunks) in CHUNKS {
        let (address, told) = service(|_, mut connection| {
            connection.head();
            connection.rest().0
        });
        let bridge = Bridge::to(address);
        let request = format!(
            "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n{chunks}GET /after HTTP/1.1\r\nHost: a\r\n\r\n"
        );
        let answer = bridge.ask(request.as_bytes());
        assert!(answer.starts_with("HTTP/1.1 400 "), "{name}: {answer:?}");
        assert_eq!(answer.matches("HTTP/1.").count(), 1, "{name}: {answer:?}");
        // The request may have been refused before the service was dialled.
        drop(bridge);
        if let Ok(body) = told.recv_timeout(DEADLINE) {
            assert!(!body.contains("0\r\n\r\n") && !body.contains("after"), "{name}: {body:?}");
        }
    }
}

/// What this server itself answers by 400, of the attempts.
fn refused_by(server: SocketAddr) -> Vec<&'static str> {
    let attempts = ATTEMPTS.iter();
    attempts.filter(|(_, attempt)| ask(server, attempt.as_bytes()).contains(" 400 ")).map(|(name, _)| *name).collect()
}

#[test]
fn what_nginx_and_haproxy_refuse_is_refused_and_much_of_this_they_do_refuse() {
    let nginx = Server::start(
        &["nginx", "-p", "DIR", "-c", "DIR/nginx.conf", "-e", "DIR/error.log"],
        &[("nginx.conf", crate::real_servers::NGINX)],
    );
    let haproxy =
        Server::start(&["haproxy", "-f", "DIR/haproxy.cfg"], &[("haproxy.cfg", crate::real_servers::HAPROXY)]);
    for (name, server) in [("nginx", &nginx), ("haproxy", &haproxy)] {
        let refused = refused_by(server.address);
        // The second opinion: these are attempts, and not things that everybody takes.
        assert!(refused.len() >= ATTEMPTS.len() / 2, "{name} refuses {refused:?} only");
    }
}
