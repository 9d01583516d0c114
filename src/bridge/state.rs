//! What the bridge does at present, as others see it.

use std::{
    net::{IpAddr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use crate::api::{self, BridgePort, BridgePortState, BridgeRule};

/// The bridge's ports and settings. Counters in it are live.
#[derive(Debug, Clone, Default)]
pub struct BridgeState {
    /// Automatic bridging is on.
    pub auto: bool,
    /// Explicit rules.
    pub rules: Vec<BridgeRule>,
    /// Ports, sorted.
    pub ports: Vec<PortState>,
    /// Can connections to services come from stand-in addresses? If not, they come from the VM's own IPv4 address.
    pub pseudo_ipv4: PseudoIpv4State,
}

/// State of the stand-in addresses.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum PseudoIpv4State {
    /// Nothing was bridged yet.
    #[default]
    NotNeeded,
    /// They can be used.
    Set,
    /// They cannot; the sentence says why.
    Failed(String),
}

impl BridgeState {
    /// The ports in the API's words.
    pub fn ports(&self) -> Vec<BridgePort> {
        self.ports.iter().map(PortState::report).collect()
    }

    /// The whole in the API's words.
    pub fn report(&self) -> api::Bridge {
        api::Bridge { auto: self.auto, tier: "bind".to_owned(), rules: self.rules.clone(), ports: self.ports() }
    }
}

/// One port.
#[derive(Debug, Clone)]
pub struct PortState {
    /// TCP port on the IPv6 side.
    pub listen: u16,
    /// Where connections go.
    pub to: SocketAddr,
    /// Made unasked.
    pub auto: bool,
    /// What became of it.
    pub state: BridgePortState,
    /// Why it failed, or what it waits for.
    pub message: Option<String>,
    /// Where it accepts.
    pub addresses: Vec<IpAddr>,
    /// Its traffic.
    pub counters: Arc<PortCounters>,
}

impl PortState {
    fn report(&self) -> BridgePort {
        BridgePort {
            listen: self.listen,
            to: self.to,
            auto: self.auto,
            state: self.state,
            message: self.message.clone(),
            addresses: self.addresses.clone(),
            connections: self.counters.open.load(Relaxed),
            connections_total: self.counters.accepted.load(Relaxed),
            bytes_in: self.counters.bytes_in.load(Relaxed),
            bytes_out: self.counters.bytes_out.load(Relaxed),
            errors_total: self.counters.errors.load(Relaxed),
        }
    }
}

/// Traffic of a port since it was first bridged.
#[derive(Debug, Default)]
pub struct PortCounters {
    /// Connections open now.
    pub open: AtomicU64,
    /// Connections ever accepted.
    pub accepted: AtomicU64,
    /// Bytes from clients to the service.
    pub bytes_in: AtomicU64,
    /// Bytes from the service to clients.
    pub bytes_out: AtomicU64,
    /// Connections that ended by an error, and accepts that failed.
    pub errors: AtomicU64,
}
