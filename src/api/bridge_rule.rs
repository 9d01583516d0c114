//! Explicit rules of the bridge: how they are written, and which can be carried out.

use std::{
    collections::BTreeSet,
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    str::FromStr,
};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// An explicit rule: IPv6 connections to `listen` go to `to`. It holds on every interface.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BridgeRule {
    /// TCP ports on the VM's IPv6 side: `8080`, `"8000-8999"` or `"*"`.
    pub listen: BridgeListen,
    /// The service: `127.0.0.1:3000`, `[::1]:3000`, or an address alone for the same port there.
    pub to: BridgeTarget,
    /// What the service gets to know of the client; left out where it is `tcp`.
    #[serde(default, skip_serializing_if = "BridgeMode::is_tcp")]
    pub mode: BridgeMode,
}

/// Ports of a rule. Of several rules that have a port, the one with the fewest ports counts; of two with as many, the one that
/// begins lower.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum BridgeListen {
    /// One port.
    Port(u16),
    /// All from the first to the last, where something listens.
    Range(u16, u16),
    /// All ports where something listens.
    All,
}

/// Where a rule leads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BridgeTarget {
    /// Address of the service.
    pub address: IpAddr,
    /// Its port; none for the one that the client connected to.
    pub port: Option<u16>,
}

/// How a connection is passed on.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum BridgeMode {
    /// As it is.
    #[default]
    Tcp,
    /// As HTTP/1: each request gets `X-Forwarded-For` and `Forwarded` with the client's address.
    Http,
    /// After a PROXY header of version 1, a line of text.
    ProxyV1,
    /// After a PROXY header of version 2.
    ProxyV2,
}

/// A rule that cannot be carried out, and why.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{rule}: {why}")]
pub struct BadRule {
    /// The rule.
    pub rule: BridgeRule,
    /// What is wrong with it.
    pub why: String,
}

const PORT_ZERO: &str = "port 0 is no port; give 1 to 65535";
const LISTEN_FORMS: &str = "a port (8080), a range of ports (8000-8999) or * for all";
const TARGET_FORMS: &str =
    "an address and a port (127.0.0.1:3000, [::1]:3000), or an address alone for the same port (127.0.0.1, ::1)";

impl BridgeRule {
    /// Is it a rule that the bridge can carry out? Whether the target is an address of the VM is known when it runs.
    ///
    /// # Errors
    /// A sentence: port 0, a target that can be no service's address, or one that leads back to the rule itself.
    pub fn check(&self) -> Result<(), String> {
        if self.listen == BridgeListen::Port(0) || self.to.port == Some(0) {
            return Err(PORT_ZERO.to_owned());
        }
        if let BridgeListen::Range(first, last) = self.listen {
            match (first, last) {
                (0, _) => return Err(PORT_ZERO.to_owned()),
                (first, last) if first > last => {
                    return Err(format!("the range ends before it begins; did you mean {last}-{first}?"));
                }
                _ => {}
            }
        }
        let address = self.to.address;
        if let (BridgeListen::Range(..) | BridgeListen::All, Some(port)) = (self.listen, self.to.port) {
            return Err(format!(
                "a rule for several ports leads each to the same port; give the target without :{port}, as {address}"
            ));
        }
        check_address(address)?;
        let same_port = self.to.port.is_none() || self.listen == BridgeListen::Port(self.to.port.unwrap_or_default());
        if same_port && address.is_ipv6() && address != IpAddr::V6(Ipv6Addr::LOCALHOST) {
            return Err(format!(
                "it leads to the port that it listens on, at an address where the bridge takes connections itself: they \
                 would go round for ever; give another port, or ::1 instead of {address}"
            ));
        }
        Ok(())
    }

    /// Can these rules be carried out together?
    ///
    /// # Errors
    /// The first that cannot: by itself, because another has the same ports, or because some lead to each other in a circle.
    pub fn check_all(rules: &[Self]) -> Result<(), BadRule> {
        let mut seen = BTreeSet::new();
        for rule in rules {
            let bad = |why| BadRule { rule: rule.clone(), why };
            rule.check().map_err(bad)?;
            if !seen.insert(rule.listen) {
                return Err(bad(match rule.listen {
                    BridgeListen::Port(_) => "another rule has the same port".to_owned(),
                    BridgeListen::Range(..) => "another rule has the same range of ports".to_owned(),
                    BridgeListen::All => "another rule is for all ports, too".to_owned(),
                }));
            }
        }
        for rule in rules {
            if let Some(circle) = circle(rule, rules) {
                let why = format!(
                    "it leads back to itself ({circle}): connections would go round for ever; let one of these rules lead \
                     to an IPv4 address, or to a port without a rule"
                );
                return Err(BadRule { rule: rule.clone(), why });
            }
        }
        Ok(())
    }

    /// Where a connection to `port` goes.
    pub fn target_of(&self, port: u16) -> SocketAddr {
        SocketAddr::new(self.to.address, self.to.port.unwrap_or(port))
    }

    /// Of these rules, the one that counts for a port.
    pub fn of_port(rules: &[Self], port: u16) -> Option<&Self> {
        let those = rules.iter().filter(|rule| rule.listen.contains(port));
        those.min_by_key(|rule| (rule.listen.width(), rule.listen))
    }

    /// The next rule that a connection meets which this one has passed on to an IPv6 address. The bridge takes none over IPv4.
    fn next<'a>(&self, rules: &'a [Self]) -> Option<&'a Self> {
        let (BridgeListen::Port(_), Some(port), IpAddr::V6(_)) = (self.listen, self.to.port, self.to.address) else {
            return None;
        };
        // One that leads to ::1 on the same port leaves ::1 to the service, and so ends every way.
        Self::of_port(rules, port)
            .filter(|next| next.target_of(port) != SocketAddr::new(Ipv6Addr::LOCALHOST.into(), port))
    }
}

/// The ports of the circle that `rule` is part of: `80 -> 8080 -> 80`.
fn circle(rule: &BridgeRule, rules: &[BridgeRule]) -> Option<String> {
    let mut way = rule.listen.to_string();
    let mut at = rule;
    for _ in rules {
        at = at.next(rules)?;
        way = format!("{way} -> {}", at.listen);
        if at.listen == rule.listen {
            return Some(way);
        }
    }
    // A circle further on, of which this rule is no part.
    None
}

fn check_address(address: IpAddr) -> Result<(), String> {
    let link_local = match address {
        IpAddr::V4(address) => address.is_link_local(),
        IpAddr::V6(address) => address.is_unicast_link_local(),
    };
    let why = match address {
        _ if address.is_unspecified() => {
            let loopback: IpAddr =
                if address.is_ipv4() { Ipv4Addr::LOCALHOST.into() } else { Ipv6Addr::LOCALHOST.into() };
            return Err(format!("the target is {address}; give an address of the service, such as {loopback}"));
        }
        _ if address.is_multicast() => "a multicast address",
        IpAddr::V4(Ipv4Addr::BROADCAST) => "the broadcast address",
        _ if link_local => "a link-local address, which means something on its own link only",
        _ => return Ok(()),
    };
    Err(format!("the target is {why}; give an address of the service, such as 127.0.0.1"))
}

impl BridgeListen {
    /// Is it one of these ports?
    pub fn contains(self, port: u16) -> bool {
        match self {
            Self::Port(only) => only == port,
            Self::Range(first, last) => (first..=last).contains(&port),
            Self::All => port != 0,
        }
    }

    /// Is it one port?
    pub fn is_port(self) -> bool {
        matches!(self, Self::Port(_))
    }

    /// Number of its ports; `*` has more than any range.
    fn width(self) -> u32 {
        match self {
            Self::Port(_) => 1,
            Self::Range(first, last) => u32::from(last.saturating_sub(first)) + 1,
            Self::All => u32::MAX,
        }
    }
}

impl From<u16> for BridgeListen {
    fn from(port: u16) -> Self {
        Self::Port(port)
    }
}

impl fmt::Display for BridgeListen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Port(port) => port.fmt(f),
            Self::Range(first, last) => write!(f, "{first}-{last}"),
            Self::All => f.write_str("*"),
        }
    }
}

impl FromStr for BridgeListen {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let number = |text: &str| {
            // A sign is no part of a port; u16's own parser takes `+`.
            let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
            digits.then(|| text.parse::<u16>().ok()).flatten()
        };
        let parsed = match text.split_once('-') {
            _ if text == "*" => Some(Self::All),
            None => number(text).map(Self::Port),
            Some((first, last)) => number(first.trim_end())
                .zip(number(last.trim_start()))
                .map(|(first, last)| if first == last { Self::Port(first) } else { Self::Range(first, last) }),
        };
        parsed.ok_or_else(|| format!("give {LISTEN_FORMS}"))
    }
}

impl Serialize for BridgeListen {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Port(port) => serializer.serialize_u16(*port),
            other => serializer.collect_str(other),
        }
    }
}

impl<'de> Deserialize<'de> for BridgeListen {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl de::Visitor<'_> for Visitor {
            type Value = BridgeListen;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(LISTEN_FORMS)
            }

            fn visit_u64<E: de::Error>(self, number: u64) -> Result<BridgeListen, E> {
                let port = u16::try_from(number);
                port.map(BridgeListen::Port).map_err(|_| E::invalid_value(de::Unexpected::Unsigned(number), &self))
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<BridgeListen, E> {
                text.parse().map_err(|_| E::invalid_value(de::Unexpected::Str(text), &self))
            }
        }
        deserializer.deserialize_any(Visitor)
    }
}

impl From<SocketAddr> for BridgeTarget {
    fn from(to: SocketAddr) -> Self {
        Self { address: to.ip().to_canonical(), port: Some(to.port()) }
    }
}

impl fmt::Display for BridgeTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.port {
            Some(port) => SocketAddr::new(self.address, port).fmt(f),
            None => self.address.fmt(f),
        }
    }
}

impl FromStr for BridgeTarget {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        // IPv4-mapped addresses are the IPv4 ones that they stand for.
        let alone =
            |text: &str| text.parse().ok().map(|address: IpAddr| Self { address: address.to_canonical(), port: None });
        let bare = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(text);
        let with_port = text.parse::<SocketAddr>().ok().map(Self::from);
        with_port.or_else(|| alone(bare)).ok_or_else(|| format!("give {TARGET_FORMS}"))
    }
}

impl Serialize for BridgeTarget {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for BridgeTarget {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(|_| de::Error::invalid_value(de::Unexpected::Str(&text), &TARGET_FORMS))
    }
}

impl BridgeMode {
    const ALL: [Self; 4] = [Self::Tcp, Self::Http, Self::ProxyV1, Self::ProxyV2];

    /// Is it the one that adds nothing?
    pub fn is_tcp(&self) -> bool {
        *self == Self::Tcp
    }

    /// Its name, in JSON and everywhere.
    pub fn name(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Http => "http",
            Self::ProxyV1 => "proxy-v1",
            Self::ProxyV2 => "proxy-v2",
        }
    }
}

impl fmt::Display for BridgeMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for BridgeMode {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let known = Self::ALL.into_iter().find(|mode| mode.name() == text);
        known.ok_or_else(|| "give tcp, http, proxy-v1 or proxy-v2".to_owned())
    }
}

/// As in the configuration: `80=[::1]:3000;mode=http`.
impl fmt::Display for BridgeRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}={}", self.listen, self.to)?;
        if self.mode.is_tcp() { Ok(()) } else { write!(f, ";mode={}", self.mode) }
    }
}

impl FromStr for BridgeRule {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (rule, options) = text.split_once(';').map_or((text, None), |(rule, options)| (rule, Some(options)));
        let (listen, to) = rule.split_once('=').ok_or("a rule is LISTEN=TO, such as 8080=127.0.0.1:3000")?;
        let mode = match options {
            None => BridgeMode::Tcp,
            Some(option) => option
                .trim()
                .strip_prefix("mode=")
                .ok_or("after `;` comes mode=tcp, mode=http, mode=proxy-v1 or mode=proxy-v2")?
                .parse()?,
        };
        Ok(Self { listen: listen.trim().parse()?, to: to.trim().parse()?, mode })
    }
}

#[cfg(test)]
mod tests;
