//! Bytes that are requests, and bytes that only look so.

use super::*;

/// How far these bytes are passed, and why no further; the same however they are cut.
fn judge(bytes: &[u8]) -> (usize, Next) {
    let whole = Requests::default().judge(bytes);
    let (mut requests, mut passed, mut next) = (Requests::default(), 0, Next::More);
    for end in 1..=bytes.len() {
        let verdict = requests.judge(&bytes[passed..end]);
        passed += verdict.pass;
        next = verdict.next;
        if next != Next::More {
            break;
        }
    }
    assert_eq!((passed, &next), (whole.pass, &whole.next), "{:?}", String::from_utf8_lossy(bytes));
    (passed, next)
}

fn refused(bytes: &[u8]) -> &'static str {
    match judge(bytes) {
        (_, Next::Refuse { why, .. }) => why,
        other => panic!("{:?} gave {other:?}", String::from_utf8_lossy(bytes)),
    }
}

#[test]
fn requests_of_every_kind_of_body_follow_each_other() {
    let row = b"\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n\
        POST /x HTTP/1.1\r\nhost: a\r\ncontent-length: 5\r\n\r\nGET /\
        POST /y HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: Chunked\r\n\r\n5\r\nhello\r\n0a;x=\"y\"\r\n0123456789\r\n0\r\nX: y\r\n\r\n\
        GET /old HTTP/1.0\r\n\r\n";
    assert_eq!(judge(row), (row.len(), Next::More));
    let (passed, next) = judge(b"GET / HTTP/1.1\r\nHost: a\r\n\r\nGET / HT");
    assert_eq!((passed, next), (27, Next::More));
}

#[test]
fn nothing_is_read_after_a_request_that_may_change_the_protocol_until_that_is_decided() {
    let upgrade = b"GET / HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\n\r\n\x81\x00\n";
    assert_eq!(judge(upgrade), (upgrade.len() - 3, Next::Decide(1)));
    let connect = b"CONNECT a:1 HTTP/1.1\r\nHost: a\r\n\r\n\n";
    assert_eq!(judge(connect), (connect.len() - 1, Next::Decide(1)));
    let mut requests = Requests::default();
    let refused =
        b"POST / HTTP/1.1\r\nHost: a\r\nUpgrade: x\r\nContent-Length: 1\r\n\r\n.GET / HTTP/1.1\r\nHost: a\r\n\r\n";
    let verdict = requests.judge(refused);
    assert_eq!(verdict.next, Next::Decide(1));
    requests.go_on();
    assert_eq!(requests.judge(&refused[verdict.pass..]), Verdict { pass: 27, next: Next::More });
}

#[test]
fn what_can_be_read_in_two_ways_is_refused() {
    let head = |headers: &str| refused(format!("POST / HTTP/1.1\r\nHost: a\r\n{headers}\r\n\r\n").as_bytes());
    insta::assert_snapshot!(head("Content-Length: 1\r\nTransfer-Encoding: chunked"), @"both Content-Length and Transfer-Encoding");
    insta::assert_snapshot!(head("Transfer-Encoding: chunked\r\nContent-Length: 0"), @"both Content-Length and Transfer-Encoding");
    insta::assert_snapshot!(head("Content-Length: 1\r\nContent-Length: 2"), @"more than one Content-Length");
    insta::assert_snapshot!(head("Content-Length: 1\r\ncontent-length: 1"), @"more than one Content-Length");
    for length in ["", "+1", "-1", "1, 1", "0x1", "1 1", "1234567890123456789", "\u{b}1"] {
        assert_eq!(head(&format!("Content-Length: {length}")), "a Content-Length that is no number");
    }
    for encoding in [
        "identity",
        "chunked, identity",
        "gzip, chunked",
        "xchunked",
        "chunked\r\nTransfer-Encoding: chunked",
        "",
        "\"chunked\"",
        "chunked;q=1",
        "\u{b}chunked",
    ] {
        assert_eq!(
            head(&format!("Transfer-Encoding: {encoding}")),
            "a Transfer-Encoding other than chunked",
            "{encoding:?}"
        );
    }
    for blank in ["Transfer-Encoding : chunked", "Content-Length\t: 1", ": x", "X\u{b}: y", "Ä: x"] {
        assert_eq!(head(blank), "a header's name that is none, or has a blank before the colon", "{blank:?}");
    }
    for fold in [" chunked", "\tx"] {
        assert_eq!(head(&format!("X: y\r\n{fold}")), "a header folded over two lines");
    }
    insta::assert_snapshot!(head("X"), @"a header without a colon");
    insta::assert_snapshot!(head("X: a\nContent-Length: 9"), @"a line feed without a carriage return");
    insta::assert_snapshot!(head("X: a\rContent-Length: 9"), @"a carriage return within a line");
    insta::assert_snapshot!(head("X: a\r\r\nY: b"), @"a carriage return within a line");
    insta::assert_snapshot!(head("X: a\0b"), @"a zero byte");
    insta::assert_snapshot!(head("Host: b"), @"not exactly one Host");
    insta::assert_snapshot!(refused(b"GET / HTTP/1.1\r\n\r\n"), @"not exactly one Host");
    insta::assert_snapshot!(refused(b"GET / HTTP/1.1\n\n"), @"a line feed without a carriage return");
    insta::assert_snapshot!(refused(b"POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n"), @"Transfer-Encoding in HTTP/1.0");
    insta::assert_snapshot!(refused(b"CONNECT a:1 HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\n"), @"CONNECT with a body");
    for line in [
        "GET /",
        "GET / HTTP/2.0",
        "GET / HTTP/0.9",
        "GET  / HTTP/1.1",
        "GET / HTTP/1.1 ",
        "GET /\tHTTP/1.1",
        "PRI * HTTP/2.0",
    ] {
        let why = refused(format!("{line}\r\nHost: a\r\n\r\n").as_bytes());
        assert!(why.contains("request line"), "{line:?}: {why}");
    }
    for line in ["G\u{7f}T / HTTP/1.1", " / HTTP/1.1"] {
        assert_eq!(refused(format!("{line}\r\nHost: a\r\n\r\n").as_bytes()), "a method that is none", "{line:?}");
    }
}

#[test]
fn chunks_that_are_none_are_refused_where_they_stand() {
    let head = "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n";
    for (body, passed, why) in [
        ("x\r\n", 0, "a chunk without a size"),
        (" 5\r\nhello", 0, "a chunk without a size"),
        ("-1\r\n", 0, "a chunk without a size"),
        ("0x5\r\nhello", 1, "a size of a chunk that is no number"),
        ("5 \r\nhello", 1, "a size of a chunk that is no number"),
        ("5\nhello", 1, "a size of a chunk that is no number"),
        ("5\rhello", 2, "a line that does not end as it must"),
        ("5;x\nhello", 3, "an extension of a chunk that is none"),
        ("1000000000000000\r\n", 15, "a chunk of a size that cannot be"),
        ("5\r\nhello!\r\n", 8, "a chunk longer than its size"),
        ("5\r\nhello\n", 8, "a chunk longer than its size"),
        ("0\r\nX: y\n\r\n", 7, "a line that does not end as it must"),
        ("0\r\n X: y\r\n\r\n", 3, "a line that does not end as it must"),
        ("0\r\n\n", 3, "a line that does not end as it must"),
    ] {
        let all = format!("{head}{body}");
        assert_eq!(judge(all.as_bytes()), (head.len() + passed, Next::Refuse { in_head: false, why }), "{body:?}");
    }
    let long = format!("{head}0\r\nX: {}", "y".repeat(limits::BRIDGE_HTTP_HEAD_BYTES));
    assert_eq!(refused(long.as_bytes()), "trailers longer than they may be");
    let long = format!("{head}1;{}", "y".repeat(2000));
    assert_eq!(refused(long.as_bytes()), "an extension of a chunk that is none");
}

#[test]
fn a_head_is_as_long_as_it_may_be_and_no_longer() {
    let long = format!("GET / HTTP/1.1\r\nX: {}", "y".repeat(limits::BRIDGE_HTTP_HEAD_BYTES));
    let mut requests = Requests::default();
    assert_eq!(requests.judge(long.as_bytes()), Verdict { pass: 0, next: Next::TooLarge });
}

proptest::proptest! {
    #[test]
    fn no_bytes_make_it_fail_and_cuts_make_no_difference(bytes in proptest::collection::vec(proptest::sample::select(&b"GET / HTTP/1.1\r\nHost: a0;5\0chunked"[..]), 0..200)) {
        judge(&bytes);
    }
}
