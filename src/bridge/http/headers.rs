//! What a proxy changes in the headers of a message: those for the next hop alone go, the client's address comes. Pure.

use std::net::{IpAddr, SocketAddr};

use hyper::{
    HeaderMap, Uri,
    header::{self, HeaderName, HeaderValue},
};

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");
const HTTP2_SETTINGS: HeaderName = HeaderName::from_static("http2-settings");

/// What `Connection` cannot take away: a request would become another one.
const KEPT: [HeaderName; 2] = [header::HOST, header::CONTENT_LENGTH];

/// Takes away what is meant for the next hop only (RFC 9110, section 7.6.1), but for an upgrade that both ends are to see, and gives
/// that back.
pub(super) fn strip_hop_by_hop(headers: &mut HeaderMap) {
    let named: Vec<HeaderName> = headers
        .get_all(header::CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|name| name.trim().parse().ok())
        .filter(|name| !KEPT.contains(name))
        .collect();
    let upgrade = named.contains(&header::UPGRADE).then(|| protocols(headers)).flatten();
    // Whoever asks for trailers gets them, as far as we are concerned.
    let trailers = headers.get(header::TE).is_some_and(|value| value == "trailers");
    for name in named.iter().chain(&[
        header::CONNECTION,
        KEEP_ALIVE,
        PROXY_CONNECTION,
        header::TE,
        header::TRANSFER_ENCODING,
        header::UPGRADE,
        HTTP2_SETTINGS,
    ]) {
        headers.remove(name);
    }
    let mut connection = Vec::new();
    if let Some(upgrade) = upgrade {
        headers.insert(header::UPGRADE, upgrade);
        connection.push("Upgrade");
    }
    if trailers {
        headers.insert(header::TE, HeaderValue::from_static("trailers"));
        connection.push("TE");
    }
    if let Ok(value) = HeaderValue::from_str(&connection.join(", "))
        && !connection.is_empty()
    {
        headers.insert(header::CONNECTION, value);
    }
}

/// The protocols that a client offers to change to, or a server has chosen. Without HTTP/2: within it a client could send requests
/// with any addresses.
fn protocols(headers: &HeaderMap) -> Option<HeaderValue> {
    let values = headers.get_all(header::UPGRADE).iter().filter_map(|value| value.to_str().ok());
    let protocols = values.flat_map(|value| value.split(',')).map(str::trim);
    let allowed = protocols.filter(|name| !name.is_empty() && !name.get(..2).is_some_and(is_http_2));
    let allowed: Vec<_> = allowed.collect();
    if allowed.is_empty() { None } else { HeaderValue::from_str(&allowed.join(", ")).ok() }
}

/// `h2c`, and `h2` where somebody writes that.
fn is_http_2(beginning: &str) -> bool {
    beginning.eq_ignore_ascii_case("h2")
}

/// Adds the client's address to what others have said of it.
pub(super) fn add_client(headers: &mut HeaderMap, client: IpAddr) {
    // Where headers become variables (CGI, WSGI, Rack), `X_Forwarded_For` is the same name, and would be joined with what is said here.
    let is_double = |name: &HeaderName| {
        let dashed = name.as_str().replace('_', "-");
        name.as_str().contains('_') && (X_FORWARDED_FOR == *dashed || header::FORWARDED == *dashed)
    };
    let doubles: Vec<_> = headers.keys().filter(|name| is_double(name)).cloned().collect();
    for name in doubles {
        headers.remove(name);
    }
    // A quote that is left open would swallow what comes after it.
    let closed = |value: &&HeaderValue| !has_open_quote(value.as_bytes());
    let well: Vec<_> = headers.get_all(header::FORWARDED).iter().filter(closed).cloned().collect();
    headers.remove(header::FORWARDED);
    for value in well {
        headers.append(header::FORWARDED, value);
    }
    append(headers, X_FORWARDED_FOR, &client.to_string());
    // RFC 7239, section 6: an IPv6 address is in brackets, and so in quotes.
    let node = match client {
        IpAddr::V6(client) => format!("for=\"[{client}]\""),
        IpAddr::V4(client) => format!("for={client}"),
    };
    append(headers, header::FORWARDED, &node);
}

/// Adds what HTTP/1.1 asks for and HTTP/1.0 does not (RFC 9112, section 3.2): who its target names, else the address that the client connected
/// to.
pub(super) fn add_host(headers: &mut HeaderMap, target: &Uri, local: SocketAddr) {
    if headers.contains_key(header::HOST) {
        return;
    }
    let connected_to = || SocketAddr::new(local.ip().to_canonical(), local.port()).to_string();
    let host = target.authority().map_or_else(connected_to, |authority| authority.as_str().to_owned());
    if let Ok(host) = HeaderValue::from_str(&host) {
        headers.insert(header::HOST, host);
    }
}

/// RFC 9110, section 5.6.4.
fn has_open_quote(value: &[u8]) -> bool {
    let (mut quoted, mut escaped) = (false, false);
    for byte in value {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = quoted,
            b'"' => quoted = !quoted,
            _ => {}
        }
    }
    quoted || escaped
}

/// Adds to a list, in one line: some services read only the first of several, some the last.
fn append(headers: &mut HeaderMap, name: HeaderName, item: &str) {
    let known = headers.get_all(&name).iter().filter(|value| !value.is_empty());
    let mut list: Vec<&[u8]> = known.map(HeaderValue::as_bytes).collect();
    list.push(item.as_bytes());
    if let Ok(value) = HeaderValue::from_bytes(&list.join(&b", "[..])) {
        headers.insert(name, value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(lines: &[(&str, &str)]) -> HeaderMap {
        lines
            .iter()
            .map(|(name, value)| (name.parse::<HeaderName>().unwrap(), value.parse::<HeaderValue>().unwrap()))
            .collect()
    }

    fn stripped(lines: &[(&str, &str)]) -> HeaderMap {
        let mut headers = headers(lines);
        strip_hop_by_hop(&mut headers);
        headers
    }

    #[test]
    fn a_name_that_services_take_for_the_same_is_not_passed_on() {
        let mut headers =
            headers(&[("x-forwarded-for", "a"), ("x_forwarded-for", "b"), ("X_Forwarded_For", "c"), ("x_mine", "d")]);
        add_client(&mut headers, "2001:db8::1".parse().unwrap());
        let names: Vec<_> = headers.keys().map(HeaderName::as_str).collect();
        assert_eq!(names, ["x-forwarded-for", "x_mine", "forwarded"]);
        assert_eq!(headers["x-forwarded-for"], "a, 2001:db8::1");
    }

    #[test]
    fn a_request_without_a_host_gets_one() {
        let local = "[fd00::2]:80".parse().unwrap();
        let host = |lines, target: &str| {
            let mut headers = headers(lines);
            add_host(&mut headers, &target.parse().unwrap(), local);
            headers.remove("host").unwrap()
        };
        assert_eq!(host(&[], "/"), "[fd00::2]:80");
        assert_eq!(host(&[], "http://example:81/x"), "example:81");
        assert_eq!(host(&[("host", "a")], "/"), "a");
    }

    #[test]
    fn headers_of_the_hop_go_and_no_others() {
        let left = stripped(&[
            ("host", "a"),
            ("content-length", "3"),
            ("connection", "close, X-Mine"),
            ("connection", "Host, content-length"),
            ("x-mine", "1"),
            ("x-other", "2"),
            ("keep-alive", "timeout=5"),
            ("proxy-connection", "close"),
            ("te", "deflate"),
            ("transfer-encoding", "chunked"),
            ("upgrade", "websocket"),
            ("trailer", "X"),
        ]);
        assert_eq!(left, headers(&[("host", "a"), ("content-length", "3"), ("x-other", "2"), ("trailer", "X")]));
    }

    #[test]
    fn an_upgrade_and_the_wish_for_trailers_are_passed_on() {
        let both = stripped(&[("connection", "keep-alive, Upgrade, TE"), ("upgrade", "websocket"), ("te", "trailers")]);
        let expected = [("upgrade", "websocket"), ("te", "trailers"), ("connection", "Upgrade, TE")];
        assert_eq!(both, headers(&expected));
    }

    #[test]
    fn an_upgrade_to_http_2_is_not_passed_on() {
        for offer in ["h2c", "H2C", "h2"] {
            let left =
                stripped(&[("connection", "Upgrade, HTTP2-Settings"), ("upgrade", offer), ("http2-settings", "AA")]);
            assert_eq!(left, HeaderMap::new());
        }
        let left = stripped(&[("connection", "upgrade"), ("upgrade", "h2c, websocket")]);
        assert_eq!(left[header::UPGRADE], "websocket");
    }

    #[test]
    fn the_client_is_added_to_those_that_others_have_named() {
        let mut named =
            headers(&[("x-forwarded-for", "192.0.2.1"), ("x-forwarded-for", "10.0.0.1, x"), ("forwarded", "for=_a")]);
        add_client(&mut named, "2001:db8::1".parse().unwrap());
        let expected = [
            ("x-forwarded-for", "192.0.2.1, 10.0.0.1, x, 2001:db8::1"),
            ("forwarded", "for=_a, for=\"[2001:db8::1]\""),
        ];
        assert_eq!(named, headers(&expected));
        let mut none = HeaderMap::new();
        add_client(&mut none, "2001:db8::1".parse().unwrap());
        assert_eq!(none, headers(&[("x-forwarded-for", "2001:db8::1"), ("forwarded", "for=\"[2001:db8::1]\"")]));
    }

    #[test]
    fn a_quote_that_a_client_leaves_open_does_not_swallow_its_address() {
        for (said, kept) in [
            ("for=\"[::1]", ""),
            ("for=\"a\\\"", ""),
            ("for=a;by=\"b\\\"\"", "for=a;by=\"b\\\"\", "),
            ("for=\"a\", for=b", "for=\"a\", for=b, "),
        ] {
            let mut named = headers(&[("forwarded", said)]);
            add_client(&mut named, "::1".parse().unwrap());
            assert_eq!(named[header::FORWARDED], format!("{kept}for=\"[::1]\""), "{said}");
        }
    }
}
