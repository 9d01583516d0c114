//! The IPv6-to-IPv4 bridge, as clients see and set it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use serde::{Deserialize, Serialize};

use super::{BridgeListen, BridgeMode, BridgeRule};

/// Answer of `GET /v1/bridge`, and of what changes it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bridge {
    /// Are IPv4-only listeners bridged without being asked?
    pub auto: bool,
    /// How the bridge takes its ports: `steer` (the kernel hands it the connections, and the port stays the service's) or `bind`
    /// (it holds the port on the VM's IPv6 addresses).
    pub tier: String,
    /// Where the tier is `bind`, why it is not `steer`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tier_reason: Option<String>,
    /// Explicit rules.
    pub rules: Vec<BridgeRule>,
    /// Every port that is or should be bridged, sorted by port.
    pub ports: Vec<BridgePort>,
    /// Ports that a range or `*` has, and that are not bridged by it, sorted by port.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub left_out: Vec<BridgeLeftOut>,
    /// Clients that have connections now, those with the most first; at most [`crate::limits::BRIDGE_CLIENTS`].
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub clients: Vec<BridgeClient>,
    /// How many more there are.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub clients_omitted: u64,
    /// In the answer to a change: why it will not outlive the agent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub not_kept: Option<String>,
}

/// Body of `PUT /v1/bridge`; what is absent stays as it is.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BridgeUpdate {
    /// Switches automatic bridging.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub auto: Option<bool>,
    /// Replaces all explicit rules.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rules: Option<Vec<BridgeRule>>,
}

/// Body of `POST /v1/bridge/cut`: resets open connections. New ones are accepted as before.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BridgeCut {
    /// Those of this port; of all ports where it is absent.
    #[serde(default)]
    pub listen: Option<u16>,
}

/// One bridged port.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BridgePort {
    /// TCP port on the IPv6 side.
    pub listen: u16,
    /// Address and port of the service.
    pub to: SocketAddr,
    /// Made by guestd itself, not by a rule.
    pub auto: bool,
    /// Ports of the rule that it is made by.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rule: Option<BridgeListen>,
    /// What the service gets to know of the client; left out where it is `tcp`.
    #[serde(default, skip_serializing_if = "BridgeMode::is_tcp")]
    pub mode: BridgeMode,
    /// What became of it.
    pub state: BridgePortState,
    /// Why it failed, what it waits for, or what is to be known of it.
    pub message: Option<String>,
    /// IPv6 addresses on which it accepts.
    pub addresses: Vec<IpAddr>,
    /// Connections open now.
    pub connections: u64,
    /// Connections ever accepted.
    pub connections_total: u64,
    /// Bytes from clients to the service.
    pub bytes_in: u64,
    /// Bytes from the service to clients.
    pub bytes_out: u64,
    /// Connections that ended by an error: refused, reset, no source address.
    pub errors_total: u64,
}

/// A port that a rule for several ports has, and that is not bridged by it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BridgeLeftOut {
    /// The port.
    pub port: u16,
    /// Ports of the rule.
    pub rule: BridgeListen,
    /// Why not, and what to do if it should be.
    pub reason: String,
}

/// Connections of one client to one port.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct BridgeClient {
    /// The stand-in that an IPv4 service sees; none where the service is reached over IPv6 or from the VM's own address.
    pub pseudo: Option<Ipv4Addr>,
    /// Who it stands for.
    pub client: Ipv6Addr,
    /// TCP port that the client connected to.
    pub port: u16,
    /// Its connections open now.
    pub connections: u64,
}

/// State of a bridged port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BridgePortState {
    /// Accepts connections.
    Active,
    /// Waits for the service to settle, so that it may still bind IPv6 itself.
    Settling,
    /// Could not be set up; tried again.
    Failed,
}

impl BridgePort {
    /// Do its connections go to who listens on this address and port? Who listens on `0.0.0.0` is reached by any IPv4 address.
    pub fn leads_to(&self, address: IpAddr, port: u16) -> bool {
        let by_any = address.is_unspecified() && address.is_ipv4() && self.to.is_ipv4();
        self.to.port() == port && (self.to.ip() == address || by_any)
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it so")]
fn is_zero(number: &u64) -> bool {
    *number == 0
}
