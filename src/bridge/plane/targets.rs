//! Where the connections of each port go, and their counters. Asked by the engine's threads, told by the main one.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::{Arc, OnceLock, RwLock, RwLockReadGuard, RwLockWriteGuard},
};

use super::{
    aside::Aside,
    steer::{SharedSteering, read},
};
use crate::{
    api::BridgeMode,
    bridge::{
        PSEUDO_IPV4_SERVICE, PortCounters,
        engine::{Port, Router, Source},
        proxy_header,
    },
    facts::SocketFact,
    limits,
    sys::{
        bpf::steer::{AUTO, Class},
        rtnl, sock_diag,
    },
};

/// Where connections to IPv4 services come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Origin {
    /// The client's stand-in.
    Pseudo,
    /// An address of the VM's own, where stand-ins cannot be used. Never one of 127.0.0.0/8: a service that trusts localhost would
    /// trust the internet.
    Own(Ipv4Addr),
    /// Nowhere, and why.
    Nowhere(String),
}

/// The ports of this plane.
#[derive(Debug)]
pub(super) struct Targets {
    inner: RwLock<Inner>,
    steering: OnceLock<SharedSteering>,
}

#[derive(Debug)]
struct Inner {
    origin: Origin,
    /// Connections of one port.
    most: u64,
    ports: BTreeMap<u16, Arc<Port>>,
    /// Those of the orders, as they were given.
    wanted: BTreeMap<u16, (SocketAddr, BridgeMode)>,
    /// Where automatic ports lead, and at which count of changes of their listeners it was so.
    found: BTreeMap<u16, (u32, Arc<Port>)>,
    /// They outlive a port's bridge, as Prometheus wants it.
    counters: BTreeMap<u16, Arc<PortCounters>>,
    /// What serves connections whose requests are read.
    aside: Arc<Aside>,
}

impl Targets {
    pub(super) fn new(most: u64, aside: Arc<Aside>) -> Self {
        let origin = Origin::Nowhere("the route of the stand-in addresses is not set yet".to_owned());
        let inner = Inner {
            origin,
            most,
            ports: BTreeMap::new(),
            wanted: BTreeMap::new(),
            found: BTreeMap::new(),
            counters: BTreeMap::new(),
            aside,
        };
        Self { inner: RwLock::new(inner), steering: OnceLock::new() }
    }

    /// Connections come by these programs, too.
    pub(super) fn follow(&self, steering: SharedSteering) {
        // There is one for a plane.
        let _ = self.steering.set(steering);
    }

    /// Connections come from there from now on. Where that is another place: those of the ports of orders that cannot be reached from it, and why.
    pub(super) fn set_origin(&self, origin: Origin) -> Option<BTreeMap<u16, String>> {
        let mut inner = self.write();
        if inner.origin == origin {
            return None;
        }
        inner.origin = origin;
        inner.ports.clear();
        inner.found.clear();
        let mut failures = BTreeMap::new();
        for (number, (to, mode)) in inner.wanted.clone() {
            // What cannot be reached now is reset, and tried again when there is another origin.
            match inner.port_to(number, to, mode) {
                Ok(port) => drop(inner.ports.insert(number, port)),
                Err(why) => drop(failures.insert(number, why)),
            }
        }
        Some(failures)
    }

    /// Connections to `number` go to `to` from now on.
    ///
    /// # Errors
    /// A sentence: there is no address to connect from.
    pub(super) fn set(&self, number: u16, to: SocketAddr, mode: BridgeMode) -> Result<(), String> {
        let mut inner = self.write();
        if inner.wanted.insert(number, (to, mode)) == Some((to, mode)) && inner.ports.contains_key(&number) {
            return Ok(());
        }
        inner.ports.remove(&number);
        let port = inner.port_to(number, to, mode)?;
        inner.ports.insert(number, port);
        Ok(())
    }

    /// Connections to other ports are reset from now on.
    pub(super) fn retain(&self, wanted: impl Fn(u16) -> bool) {
        let mut inner = self.write();
        inner.wanted.retain(|number, _| wanted(*number));
        inner.ports.retain(|number, _| wanted(*number));
    }

    pub(super) fn wanted(&self, number: u16) -> Option<(SocketAddr, BridgeMode)> {
        self.read().wanted.get(&number).copied()
    }

    pub(super) fn counters(&self) -> BTreeMap<u16, Arc<PortCounters>> {
        self.read().counters.clone()
    }

    /// The port of an automatic bridge. Looks where it leads when its listeners have changed, or nobody was there.
    fn automatic(&self, number: u16) -> Option<Arc<Port>> {
        let steering = self.steering.get()?;
        // Before the look: what comes after it is seen at the next.
        let counts = read(steering).port(number);
        if counts.flags & AUTO == 0 {
            return None;
        }
        let inner = self.read();
        if let Some((changes, port)) = inner.found.get(&number)
            && *changes == counts.changes
            && !port.was_refused()
        {
            return Some(Arc::clone(port));
        }
        drop(inner);
        let mut listeners = sock_diag::listening_tcp_on(number, limits::LISTENERS).ok()?;
        // What was bound to an address that has gone, or never was, may be another machine's.
        listeners.retain(|fact| {
            let address = fact.address.to_canonical();
            let is_there = address.is_unspecified() || rtnl::is_local(address).unwrap_or(false);
            // One of a single interface is for that interface's clients.
            is_there && fact.device == 0
        });
        let to = SocketAddr::new(public_ipv4(&listeners)?.into(), number);
        let mut inner = self.write();
        let port = inner.port_to(number, to, BridgeMode::Tcp).ok()?;
        inner.found.insert(number, (counts.changes, Arc::clone(&port)));
        Some(port)
    }

    fn read(&self) -> RwLockReadGuard<'_, Inner> {
        self.inner.read().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Inner> {
        self.inner.write().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

impl Inner {
    fn port_to(&mut self, number: u16, to: SocketAddr, mode: BridgeMode) -> Result<Arc<Port>, String> {
        let (to, source) = reach(to, &self.origin)?;
        let counters = Arc::clone(self.counters.entry(number).or_default());
        let port = Port::new(to, source, counters).map_err(|error| error.to_string())?;
        let port = port.with_most_connections(self.most);
        Ok(Arc::new(match mode {
            BridgeMode::Tcp => port,
            BridgeMode::ProxyV1 => port.with_preface(Box::new(proxy_header::v1)),
            BridgeMode::ProxyV2 => port.with_preface(Box::new(proxy_header::v2)),
            BridgeMode::Http => {
                let handler = self.aside.handler();
                port.with_handler(handler.map_err(|error| format!("starting the HTTP proxy failed: {error}"))?)
            }
        }))
    }
}

impl Router for Targets {
    fn port(&self, number: u16) -> Option<Arc<Port>> {
        let wanted = self.read().ports.get(&number).cloned();
        wanted.or_else(|| self.automatic(number))
    }
}

/// Of the listeners of a port the one that automatic bridging serves: on all addresses if there is one, else the first.
fn public_ipv4(listeners: &[SocketFact]) -> Option<Ipv4Addr> {
    let public = listeners.iter().filter(|fact| Class::of(fact.address) == Some(Class::V4));
    let addresses = public.filter_map(|fact| match fact.address.to_canonical() {
        IpAddr::V4(address) => Some(address),
        IpAddr::V6(_) => None,
    });
    // 0.0.0.0 is the least.
    addresses.min()
}

/// The address at which a service is dialled, and from where. One on `0.0.0.0` is dialled at an address that no loopback bind can
/// receive: at 127.0.0.1, a private service that took over the port a moment ago would answer.
fn reach(service: SocketAddr, origin: &Origin) -> Result<(SocketAddr, Source), String> {
    let (ip, source) = match (service.ip(), origin) {
        (IpAddr::V6(_), _) => (service.ip(), Source::Meant),
        (_, Origin::Nowhere(why)) => return Err(why.clone()),
        (IpAddr::V4(Ipv4Addr::UNSPECIFIED), Origin::Pseudo) => (PSEUDO_IPV4_SERVICE.into(), Source::Pseudo),
        (IpAddr::V4(Ipv4Addr::UNSPECIFIED), Origin::Own(own)) => ((*own).into(), Source::Own((*own).into())),
        (ip, Origin::Pseudo) => (ip, Source::Pseudo),
        (ip, Origin::Own(own)) => (ip, Source::Own((*own).into())),
    };
    Ok((SocketAddr::new(ip, service.port()), source))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_origin_makes_a_service_see_a_connection_from_localhost() {
        let own = Origin::Own(Ipv4Addr::new(10, 0, 0, 2));
        for origin in [Origin::Pseudo, own, Origin::Nowhere("no route".to_owned())] {
            for to in ["0.0.0.0:80", "127.0.0.1:80", "10.0.0.2:80"] {
                let Ok((to, source)) = reach(to.parse().unwrap(), &origin) else { continue };
                let is_own = |address: IpAddr| !address.is_loopback() && !address.is_unspecified();
                assert!(source == Source::Pseudo || matches!(source, Source::Own(address) if is_own(address)));
                assert!(!to.ip().is_unspecified());
            }
        }
    }

    #[test]
    fn service_on_ipv6_loopback_sees_the_address_that_the_client_connected_to() {
        let (to, source) = reach("[::1]:80".parse().unwrap(), &Origin::Nowhere(String::new())).unwrap();
        assert_eq!((to, source), ("[::1]:80".parse().unwrap(), Source::Meant));
    }

    #[test]
    fn service_on_all_addresses_is_never_dialled_at_a_loopback_one() {
        for origin in [Origin::Pseudo, Origin::Own(Ipv4Addr::new(10, 0, 0, 2))] {
            assert!(!reach("0.0.0.0:80".parse().unwrap(), &origin).unwrap().0.ip().is_loopback());
        }
    }

    #[test]
    fn another_origin_counts_for_ports_that_are_there() {
        let targets = Targets::new(1, Arc::default());
        assert!(targets.set(80, "0.0.0.0:3000".parse().unwrap(), BridgeMode::Tcp).is_err());
        assert!(targets.port(80).is_none());
        assert_eq!(targets.set_origin(Origin::Pseudo), Some(BTreeMap::new()));
        assert_eq!(targets.set_origin(Origin::Pseudo), None);
        assert_eq!(targets.port(80).unwrap().to(), "240.0.0.1:3000".parse().unwrap());
        let failures = targets.set_origin(Origin::Nowhere("no route".to_owned())).unwrap();
        assert_eq!((failures.get(&80).map(String::as_str), targets.port(80).is_none()), (Some("no route"), true));
        targets.set_origin(Origin::Pseudo);
        targets.retain(|_| false);
        assert!(targets.port(80).is_none());
    }
}
