//! The client's watch of listeners against guests that say every byte.
#![cfg(test)]
#![expect(dead_code, reason = "the fake guest serves other tests, too")]

mod fake_guest;

use fake_guest::FakeGuest;
use guestd::api::ListenerEvent;
use guestd::client::{Client, ClientError};

const ADDED: &str = concat!(
    r#"{"type":"added","listener":{"port":80,"address":"::","family":"ipv6","v6only":false,"scope":"wildcard","#,
    r#""exposure":"direct","cause":null,"hint":null,"url":null,"process":null,"netns":1,"inode":7,"later":[1]}}"#,
);

fn client(guest: &FakeGuest) -> Client {
    Client::new(guest.unix().parse().unwrap())
}

#[tokio::test]
async fn events_come_one_by_one_however_they_are_packed_and_unknown_ones_are_passed_over() {
    let guest = FakeGuest::new(|_, connection| {
        connection.request();
        connection.stream_head();
        let text = format!("{ADDED}\n{{\"type\":\"synced\"}}\n{{\"type\":\"of_later\",\"x\":1}}\n");
        for byte in text.as_bytes() {
            connection.packet(&[*byte]);
        }
        connection.packet(b"{\"type\":\"unknown\",\"message\":\"why\"}\n{\"type\":\"synced\"}\n{\"type\":\"end\"}\n");
        connection.stream_end();
    });
    let mut watch = client(&guest).watch_listeners().await.unwrap();
    let mut events = Vec::new();
    while let Some(event) = watch.next().await.unwrap() {
        events.push(event);
    }
    let [ListenerEvent::Added { listener }, rest @ ..] = events.as_slice() else { panic!("{events:?}") };
    assert_eq!((listener.port, listener.inode), (80, 7));
    let unknown = ListenerEvent::Unknown { message: "why".into() };
    assert_eq!(rest, [ListenerEvent::Synced, unknown, ListenerEvent::Synced, ListenerEvent::End]);
    assert_eq!(watch.next().await.unwrap(), None);
    assert!(guest.next_request().head.starts_with("GET /v1/listeners/watch HTTP/1.1\r\n"));
}

#[tokio::test]
async fn a_stream_without_its_last_line_is_cut_off_however_cleanly_it_ends() {
    for clean in [true, false] {
        let guest = FakeGuest::new(move |_, connection| {
            connection.request();
            connection.stream_head();
            connection.packet(format!("{ADDED}\n{{\"type\":\"e").as_bytes());
            if clean {
                connection.stream_end();
            }
        });
        let mut watch = client(&guest).watch_listeners().await.unwrap();
        assert!(matches!(watch.next().await, Ok(Some(ListenerEvent::Added { .. }))));
        let error = watch.next().await.unwrap_err();
        assert!(matches!(error, ClientError::WatchCutOff { .. }), "{error}");
        assert_eq!(watch.next().await.unwrap(), None);
    }
}

#[tokio::test]
async fn a_line_that_is_endless_or_no_event_is_not_guestds() {
    let endless = "x".repeat(300 * 1024);
    for text in [endless.as_str(), "no event\n", "{\"type\":\"removed\"}\n"] {
        let text = text.to_owned();
        let guest = FakeGuest::new(move |_, connection| {
            connection.request();
            connection.stream_head();
            connection.packet(text.as_bytes());
            connection.until_closed();
        });
        let mut watch = client(&guest).watch_listeners().await.unwrap();
        let error = watch.next().await.unwrap_err();
        assert!(matches!(error, ClientError::Protocol { .. }), "{error}");
    }
}
