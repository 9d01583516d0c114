//! Which ports to bridge, and to where: a pure function of the listeners and the settings.

use std::{collections::BTreeMap, net::SocketAddr};

use crate::{
    api::{BridgeRule, Family, Scope},
    config::RoutablePorts,
    listeners::{Bind, ListenerTable},
};

/// What the user wants bridged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// IPv4-only listeners, unasked.
    pub auto: bool,
    /// Explicit rules; the last one of a port counts.
    pub rules: Vec<BridgeRule>,
    /// Ports that the platform routes; no other is bridged unasked.
    pub routable_ports: RoutablePorts,
}

/// Ports to bridge, by the port on the IPv6 side.
pub type BridgePlan = BTreeMap<u16, Planned>;

/// One port to bridge.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Planned {
    /// The service. `0.0.0.0` is one that listens on every address; it is dialled where no loopback listener can answer.
    pub to: SocketAddr,
    /// Where they may come from.
    pub reach: Reach,
    /// Inodes of the listeners that it serves; empty for a rule. When none of them is left, the port is let go.
    pub serves: Vec<u64>,
}

/// On which of the VM's addresses a bridged port accepts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reach {
    /// On those that the outside can reach (automatic bridges).
    VmAddresses,
    /// On all, `::1` too (explicit rules).
    Everywhere,
}

impl Planned {
    /// Was it made without being asked?
    pub fn is_auto(&self) -> bool {
        self.reach == Reach::VmAddresses
    }
}

/// Decides what to bridge.
pub fn plan(table: &ListenerTable, settings: &Settings) -> BridgePlan {
    let mut plan = BridgePlan::new();
    if settings.auto {
        let ipv6 = table.ipv6_listeners();
        for socket in &table.sockets {
            let bind = Bind::of(socket);
            let meant_to_be_public =
                bind.family == Family::Ipv4 && matches!(bind.scope, Scope::Wildcard | Scope::Address);
            if !meant_to_be_public
                || !settings.routable_ports.contains(socket.port)
                || ipv6.contains_key(&socket.port)
                || table.absent.contains(&bind.address)
            {
                continue;
            }
            let to = SocketAddr::new(bind.address, socket.port);
            let planned =
                plan.entry(socket.port).or_insert(Planned { to, reach: Reach::VmAddresses, serves: Vec::new() });
            planned.serves.push(socket.inode);
        }
    }
    for rule in &settings.rules {
        plan.insert(rule.listen, Planned { to: rule.to, reach: Reach::Everywhere, serves: Vec::new() });
    }
    plan
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        facts::{NamespaceFact, SocketFact},
        listeners::tests::{socket, table},
    };

    fn settings() -> Settings {
        Settings { auto: true, rules: Vec::new(), routable_ports: RoutablePorts::All }
    }

    fn targets(sockets: Vec<SocketFact>, settings: &Settings) -> Vec<(u16, String)> {
        plan(&table(sockets), settings).iter().map(|(port, planned)| (*port, planned.to.to_string())).collect()
    }

    #[test]
    fn ipv4_wildcard_and_address_listeners_are_bridged() {
        let sockets = vec![socket("0.0.0.0", 3000), socket("10.0.0.2", 4000), socket("::ffff:10.0.0.2", 5000)];
        assert_eq!(
            targets(sockets, &settings()),
            [(3000, "0.0.0.0:3000".into()), (4000, "10.0.0.2:4000".into()), (5000, "10.0.0.2:5000".into())]
        );
    }

    #[test]
    fn loopback_and_link_local_listeners_are_never_bridged_by_default() {
        let sockets = ["127.0.0.1", "127.9.9.9", "::ffff:127.0.0.1", "::1", "169.254.1.1", "fe80::1"];
        assert_eq!(targets(sockets.map(|address| socket(address, 80)).to_vec(), &settings()), []);
    }

    #[test]
    fn a_port_that_is_served_over_ipv6_is_left_alone() {
        for ipv6 in ["::", "fd00::2"] {
            assert_eq!(targets(vec![socket("0.0.0.0", 80), socket(ipv6, 80)], &settings()), []);
        }
        assert_eq!(targets(vec![socket("0.0.0.0", 80), socket("::1", 80)], &settings()), [(80, "0.0.0.0:80".into())]);
    }

    #[test]
    fn an_explicit_rule_reaches_loopback_and_overrides_the_automatic_bridge() {
        let rules = vec![
            BridgeRule { listen: 5432, to: "127.0.0.1:5432".parse().unwrap() },
            BridgeRule { listen: 80, to: "127.0.0.1:8080".parse().unwrap() },
        ];
        let plan =
            plan(&table(vec![socket("127.0.0.1", 5432), socket("0.0.0.0", 80)]), &Settings { rules, ..settings() });
        assert_eq!(plan[&5432].to, "127.0.0.1:5432".parse().unwrap());
        assert_eq!((plan[&80].to.port(), plan[&80].reach), (8080, Reach::Everywhere));
    }

    #[test]
    fn nothing_is_bridged_unasked_when_it_is_off_or_not_routed() {
        let sockets = vec![socket("0.0.0.0", 80)];
        assert_eq!(targets(sockets.clone(), &Settings { auto: false, ..settings() }), []);
        let routable_ports = RoutablePorts::Only(vec![3000]);
        assert_eq!(targets(sockets, &Settings { routable_ports, ..settings() }), []);
    }

    #[test]
    fn containers_listeners_and_those_whose_address_is_gone_are_not_bridged() {
        let mut table = table(vec![socket("10.0.0.2", 80), socket("10.9.9.9", 81), socket("fd00::99", 80)]);
        table.absent = ["10.9.9.9", "fd00::99"].map(|address| address.parse().unwrap()).into();
        table.others = vec![NamespaceFact { netns: 7, sockets: vec![socket("0.0.0.0", 3000)], addresses: Vec::new() }];
        assert_eq!(plan(&table, &settings()).into_keys().collect::<Vec<_>>(), [80]);
    }

    #[test]
    fn several_listeners_of_a_port_make_one_bridge_that_serves_them_all() {
        let other = SocketFact { inode: 5, ..socket("0.0.0.0", 80) };
        let plan = plan(&table(vec![socket("0.0.0.0", 80), other]), &settings());
        assert_eq!(plan[&80].serves, [800, 5]);
    }

    proptest::proptest! {
        #[test]
        fn no_set_of_listeners_makes_a_loopback_address_a_target(
            binds in proptest::collection::vec((proptest::prelude::any::<std::net::Ipv4Addr>(), 1u16..5, proptest::prelude::any::<bool>()), 0..20),
        ) {
            let address = |address: std::net::Ipv4Addr, loopback: bool| {
                if loopback { std::net::Ipv4Addr::new(127, 0, 0, address.octets()[3]) } else { address }
            };
            let sockets = binds.iter().map(|(ip, port, loopback)| socket(&address(*ip, *loopback).to_string(), *port));
            for (_, planned) in plan(&table(sockets.collect()), &settings()) {
                assert!(!planned.to.ip().is_loopback(), "{planned:?}");
            }
        }
    }
}
