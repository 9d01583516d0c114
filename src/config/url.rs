//! Where a service of the platform is.

use std::{fmt, net::Ipv6Addr};

use hyper::Uri;

use crate::limits;

/// `http[s]://HOST[:PORT][/PATH]`, taken apart. It has no user, password, query or fragment, so that it can be shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServiceUrl {
    /// TLS, with the certificate verified.
    pub secure: bool,
    /// Name or address; an IPv6 address without its brackets.
    pub host: String,
    /// TCP port.
    pub port: u16,
    /// Empty, or begins with a slash and does not end with one.
    pub path: String,
}

impl ServiceUrl {
    /// Reads a URL; none if it is of another form.
    pub fn parse(text: &str) -> Option<Self> {
        let uri: Uri =
            text.parse().ok().filter(|_| text.len() <= limits::URL_BYTES && !text.contains(['@', '?', '#']))?;
        let secure = match uri.scheme_str()? {
            "https" => true,
            "http" => false,
            _ => return None,
        };
        // Of an authority, `Uri` takes more than a host and a port.
        let authority = uri.authority()?.as_str();
        let (host, port) = match authority.strip_prefix('[') {
            Some(rest) => {
                let (address, port) = rest.split_once(']')?;
                (address.parse::<Ipv6Addr>().ok()?.to_string(), port)
            }
            None => {
                let (host, port) = authority.split_at(authority.find(':').unwrap_or(authority.len()));
                let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_');
                (Some(host).filter(|host| !host.is_empty() && host.bytes().all(plain))?.to_owned(), port)
            }
        };
        let port = match port.strip_prefix(':') {
            Some(port) => port.parse().ok().filter(|port| *port != 0)?,
            None if port.is_empty() => Self::usual_port(secure),
            None => return None,
        };
        Some(Self { secure, host, port, path: uri.path().trim_end_matches('/').to_owned() })
    }

    /// Host and port as the Host header has them (RFC 9110, section 7.2).
    pub fn authority(&self) -> String {
        let host = if self.host.contains(':') { format!("[{}]", self.host) } else { self.host.clone() };
        if self.port == Self::usual_port(self.secure) { host } else { format!("{host}:{}", self.port) }
    }

    fn usual_port(secure: bool) -> u16 {
        if secure { 443 } else { 80 }
    }
}

impl fmt::Display for ServiceUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.secure { "https" } else { "http" };
        write!(f, "{scheme}://{}{}", self.authority(), self.path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_taken_apart_and_shown_as_they_were() {
        let parts = |text: &str| {
            ServiceUrl::parse(text)
                .map(|url| (url.secure, url.host.clone(), url.port, url.path.clone(), url.to_string()))
        };
        let taken = |secure, host: &str, port, path: &str, shown: &str| {
            Some((secure, host.to_owned(), port, path.to_owned(), shown.to_owned()))
        };
        assert_eq!(parts("https://infra.example"), taken(true, "infra.example", 443, "", "https://infra.example"));
        assert_eq!(parts("http://infra:3000/a/b/"), taken(false, "infra", 3000, "/a/b", "http://infra:3000/a/b"));
        assert_eq!(parts("http://[fd00::1]:80/"), taken(false, "fd00::1", 80, "", "http://[fd00::1]"));
        assert_eq!(parts("https://[fd00::1]:8443"), taken(true, "fd00::1", 8443, "", "https://[fd00::1]:8443"));
    }

    #[test]
    fn what_is_no_plain_http_url_is_refused() {
        for text in [
            "",
            "infra",
            "infra:80",
            "/infra",
            "ftp://infra",
            "http://",
            "http://:80",
            "http://user:pw@infra",
            "http://infra/?a=b",
            "http://infra/#a",
            "http://infra:0",
            "http://infra:x",
            "http://infra:99999",
            "http://infra:",
            "http://[fd00::g]",
            "http://a b",
        ] {
            assert_eq!(ServiceUrl::parse(text), None, "{text}");
        }
    }

    proptest::proptest! {
        #[test]
        fn what_is_taken_is_the_same_when_it_is_shown_and_read_again(text in "https?://[a-z0-9.:\\[\\]/%-]{0,40}") {
            if let Some(url) = ServiceUrl::parse(&text) {
                proptest::prop_assert_eq!(ServiceUrl::parse(&url.to_string()), Some(url));
            }
        }
    }
}
