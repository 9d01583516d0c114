//! What a proxy would see: the answer to a connection that guestd makes to the VM's own IPv6 address.

use std::{net::Ipv6Addr, time::Duration};

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// One probe of a listener's public port, made for `GET /v1/listeners?probe=true`.
///
/// It starts and ends in the VM, so it knows nothing of what is in front of it, nor of firewall rules for its interface.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Probe {
    /// IPv6 address of the VM that was connected to; null where it has none.
    pub address: Option<Ipv6Addr>,
    /// The port, which for a bridged listener is that of the bridge.
    pub port: u16,
    /// What came of it.
    pub outcome: ProbeOutcome,
    /// Until the connection was accepted or refused, in milliseconds; null where it was neither.
    pub connect_ms: Option<Milliseconds>,
    /// What the service said first, at most 128 bytes of it, with all but printable ASCII as Rust's escapes (`\r`, `\x00`).
    pub banner: Option<String>,
    /// It is not what the listener's `exposure` says; the hint tells more.
    pub contradicts: bool,
}

/// What came of a probe. Of a connection that was accepted it tells the first 250 ms.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum ProbeOutcome {
    /// Accepted, and then silent, as with services whose clients speak first.
    Accepted,
    /// Accepted, and the service spoke first: there is a banner.
    Banner,
    /// Accepted, and closed without a word.
    Closed,
    /// Accepted, and reset.
    Reset,
    /// Refused: nothing listens there.
    Refused,
    /// Neither accepted nor refused within 2 s.
    TimedOut,
    /// There is no way there: the VM has no IPv6 address, has lost it, or forbids the connection.
    Unreachable,
    /// There were too many ports for the time that a probe may take.
    NotTried,
    /// An outcome that this version of the client does not know.
    #[serde(other)]
    Unknown,
}

impl ProbeOutcome {
    /// Was the connection accepted?
    #[must_use]
    pub fn is_accepted(self) -> bool {
        matches!(self, Self::Accepted | Self::Banner | Self::Closed | Self::Reset)
    }
}

/// A time in whole microseconds, which travels as a number of milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Milliseconds(u64);

impl From<Duration> for Milliseconds {
    fn from(time: Duration) -> Self {
        Self(u64::try_from(time.as_micros()).unwrap_or(u64::MAX))
    }
}

impl From<Milliseconds> for Duration {
    fn from(time: Milliseconds) -> Self {
        Self::from_micros(time.0)
    }
}

impl Serialize for Milliseconds {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        #[expect(clippy::cast_precision_loss, reason = "exact below 285 years")]
        serializer.serialize_f64(self.0 as f64 / 1000.0)
    }
}

impl<'de> Deserialize<'de> for Milliseconds {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let milliseconds = f64::deserialize(deserializer)?;
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a float saturates when cast")]
        Ok(Self((milliseconds * 1000.0).round() as u64))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_travel_as_milliseconds_and_lose_no_microsecond() {
        for micros in [0, 1, 84, 999, 1000, 2_000_001, 86_400_000_000] {
            let time = Milliseconds::from(Duration::from_micros(micros));
            let json = serde_json::to_string(&time).unwrap();
            assert_eq!(serde_json::from_str::<Milliseconds>(&json).unwrap(), time, "{json}");
        }
        assert_eq!(serde_json::to_string(&Milliseconds(84)).unwrap(), "0.084");
        assert_eq!(serde_json::from_str::<Milliseconds>("3").unwrap(), Milliseconds(3000));
    }
}
