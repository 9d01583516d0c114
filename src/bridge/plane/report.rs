//! What the plane says of itself.

use std::{collections::BTreeMap, net::IpAddr, sync::atomic::Ordering::Relaxed};

use super::{Plane, caller::Caller, steer::Steer, taken::Taken};
use crate::{
    api::BridgeClient,
    bridge::{
        engine::EngineClient,
        orders::{Answer, Clients, Hello, PortReport, State, Tier},
    },
};

impl Plane {
    /// Says who it is.
    pub(super) fn greet(&mut self, mut guest: Caller) {
        let hello = Hello {
            identity: self.args.identity.clone(),
            pid: std::process::id(),
            tier: if self.steer.is_ok() { Tier::Steer } else { Tier::Bind },
            tier_reason: self.steer.as_ref().err().cloned(),
            variant: self.steer.as_ref().ok().map(|steer| steer.variant.clone()),
            connections: self.most,
            dies_with_agent: self.home.as_ref().err().cloned(),
            state: self.state(),
        };
        self.guest = guest.say(&Answer::Hello(hello)).is_ok().then_some(guest);
    }

    pub(super) fn state(&self) -> State {
        let steering = self.steer.iter().map(|steer| steer.inode).filter(|_| self.listener.is_some());
        let listeners = self.held.all_taken().map(|taken| taken.inode).chain(steering).collect();
        let pending = self.held.all_taken().any(Taken::is_pending);
        let mut ports: BTreeMap<u16, PortReport> = BTreeMap::new();
        for (listen, held) in self.held.iter() {
            let addresses = held.taken.iter().map(|taken| taken.address).collect();
            let (to, failure) = (self.targets.wanted(*listen), held.failure.clone());
            ports.insert(*listen, PortReport { listen: *listen, to, addresses, failure, ..PortReport::default() });
        }
        for (listen, counters) in self.targets.counters() {
            let port = ports.entry(listen).or_insert_with(|| PortReport { listen, ..PortReport::default() });
            port.open = counters.open.load(Relaxed);
            port.accepted = counters.accepted.load(Relaxed);
            port.bytes_in = counters.bytes_in.load(Relaxed);
            port.bytes_out = counters.bytes_out.load(Relaxed);
            port.errors = counters.errors.load(Relaxed);
        }
        for (listen, why) in &self.failures {
            let port = ports.entry(*listen).or_insert_with(|| PortReport { listen: *listen, ..PortReport::default() });
            port.failure = Some(why.clone());
        }
        let trouble = self.steer.as_ref().ok().and_then(Steer::trouble);
        let pseudo_ipv4 = self.pseudo_route.state().clone();
        State { listeners, pending, ports: ports.into_values().collect(), pseudo_ipv4, trouble, clients: None }
    }

    /// Those who have the most connections, as many as are told of.
    pub(super) fn clients(&self) -> Clients {
        let mut connections: BTreeMap<EngineClient, u64> = BTreeMap::new();
        for client in self.engine.clients() {
            *connections.entry(client).or_default() += 1;
        }
        self.aside.each(|one| {
            let IpAddr::V6(client) = one.peer.ip() else { return };
            let (port, pseudo) = (one.local.port(), one.port.stand_in_for(client));
            *connections.entry(EngineClient { client, port, pseudo }).or_default() += 1;
        });
        let clients = connections.into_iter().map(|(client, connections)| BridgeClient {
            pseudo: client.pseudo,
            client: client.client,
            port: client.port,
            connections,
        });
        let mut clients = Clients { clients: clients.collect(), omitted: 0 };
        clients.bound();
        clients
    }
}
