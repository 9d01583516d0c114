//! The IPv6-to-IPv4 bridge, as clients see and set it.

use std::net::{IpAddr, SocketAddr};

use serde::{Deserialize, Serialize};

/// Answer of `GET /v1/bridge`, and of a `PUT`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bridge {
    /// Are IPv4-only listeners bridged without being asked?
    pub auto: bool,
    /// How the bridge takes its ports: `bind` (it holds the port on the VM's IPv6 addresses).
    pub tier: String,
    /// Explicit rules.
    pub rules: Vec<BridgeRule>,
    /// Every port that is or should be bridged, sorted by port.
    pub ports: Vec<BridgePort>,
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

/// An explicit rule: IPv6 connections to `listen` go to `to`. It holds on every interface.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BridgeRule {
    /// TCP port on the VM's IPv6 side.
    pub listen: u16,
    /// IPv4 address and port of the service, for example `127.0.0.1:3000`.
    pub to: SocketAddr,
}

/// One bridged port.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BridgePort {
    /// TCP port on the IPv6 side.
    pub listen: u16,
    /// IPv4 address and port of the service.
    pub to: SocketAddr,
    /// Made by guestd itself, not by a rule.
    pub auto: bool,
    /// What became of it.
    pub state: BridgePortState,
    /// Why it failed, or what it waits for.
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
        self.to.port() == port && address.is_ipv4() && (address.is_unspecified() || self.to.ip() == address)
    }
}

impl BridgeRule {
    /// Is it a rule that the bridge can carry out?
    ///
    /// # Errors
    /// A sentence: port 0, or a target that is no IPv4 address of a service.
    pub fn check(&self) -> Result<(), &'static str> {
        match self.to.ip() {
            _ if self.listen == 0 || self.to.port() == 0 => Err("port 0 is no port; give 1 to 65535"),
            IpAddr::V6(_) => {
                Err("the target is an IPv6 address; the bridge leads from IPv6 to IPv4, so give an IPv4 one")
            }
            IpAddr::V4(to) if to.is_unspecified() => {
                Err("the target is 0.0.0.0; give an address of the service, such as 127.0.0.1")
            }
            IpAddr::V4(to) if to.is_multicast() || to.is_broadcast() => {
                Err("the target is a multicast or broadcast address")
            }
            IpAddr::V4(_) => Ok(()),
        }
    }
}
