//! What the bridge does at present, as others see it.

use std::{
    net::{IpAddr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Instant,
};

use super::Tier;
use crate::api::{self, BridgeListen, BridgeMode, BridgePort, BridgePortState, BridgeRule};

/// The bridge's ports and settings. Counters in it are as of the last word of the data plane.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct BridgeState {
    /// Automatic bridging is on.
    pub auto: bool,
    /// Explicit rules.
    pub rules: Vec<BridgeRule>,
    /// Ports, sorted.
    pub ports: Vec<PortState>,
    /// Can connections to services come from stand-in addresses? If not, they come from the VM's own IPv4 address.
    pub pseudo_ipv4: PseudoIpv4State,
    /// The process that does it.
    pub plane: PlaneState,
}

/// State of the data plane.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PlaneState {
    /// It runs. It is started when there is something to bridge.
    pub runs: bool,
    /// How it comes by its connections.
    pub tier: Tier,
    /// Why the kernel does not steer them to it.
    pub tier_reason: Option<String>,
    /// How the kernel steers.
    pub variant: Option<String>,
    /// Why nothing is bridged at present, where that is so.
    pub trouble: Option<String>,
    /// Connections that it may have at once, where it has told.
    pub connections: u64,
    /// Planes of before that made room and still have connections.
    pub retired: usize,
    /// Why it is not known yet whether one of before goes on.
    pub awaited: Option<String>,
    /// Why a restart of the agent ends it, where it does.
    pub dies_with_agent: Option<String>,
    /// The last time that it ended unasked or could not be started: why, and when.
    pub lost: Option<(String, Instant)>,
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
        api::Bridge {
            auto: self.auto,
            tier: self.plane.tier.name().to_owned(),
            tier_reason: self.plane.tier_reason.clone(),
            rules: self.rules.clone(),
            ports: self.ports(),
            left_out: Vec::new(),
            clients: Vec::new(),
            clients_omitted: 0,
            not_kept: None,
        }
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
    /// Ports of the rule that it is made by.
    pub rule: Option<BridgeListen>,
    /// How its connections are passed on.
    pub mode: BridgeMode,
    /// What became of it.
    pub state: BridgePortState,
    /// Why it failed, or what it waits for.
    pub message: Option<String>,
    /// Where it accepts.
    pub addresses: Vec<IpAddr>,
    /// Its traffic.
    pub counters: Arc<PortCounters>,
}

/// Counters apart: they are the same ones.
impl PartialEq for PortState {
    fn eq(&self, other: &Self) -> bool {
        let Self { listen, to, auto, state, rule, mode, message, addresses, counters: _ } = self;
        (*listen, *to, *auto, *state) == (other.listen, other.to, other.auto, other.state)
            && (*rule, *mode) == (other.rule, other.mode)
            && *message == other.message
            && *addresses == other.addresses
    }
}

impl Eq for PortState {}

impl PortState {
    fn report(&self) -> BridgePort {
        BridgePort {
            listen: self.listen,
            to: self.to,
            auto: self.auto,
            rule: self.rule,
            mode: self.mode,
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
