//! Which ports to bridge, and to where: a pure function of the listeners and the settings.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv6Addr, SocketAddr},
};

use super::{PSEUDO_IPV4, PSEUDO_IPV4_BITS, denylist};
use crate::{
    api::{BridgeLeftOut, BridgeListen, BridgeMode, BridgeRule, Family, Scope},
    config::RoutablePorts,
    facts::SocketFact,
    limits,
    listeners::{Bind, ListenerTable},
};

/// What the user wants bridged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// IPv4-only listeners, unasked.
    pub auto: bool,
    /// Explicit rules.
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
    /// How its connections are passed on.
    pub mode: BridgeMode,
    /// Where they may come from.
    pub reach: Reach,
    /// Ports of the rule that wants it; none where nobody asked.
    pub rule: Option<BridgeListen>,
    /// Inodes of the listeners that it serves; empty for a rule of one port, which stands whether anything listens or not. When none
    /// of them is left, the port is let go.
    pub serves: Vec<u64>,
    /// What is to be said of it although it works, as far as guestd can tell.
    pub note: Option<String>,
}

/// On which of the VM's addresses a bridged port accepts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reach {
    /// On those that the outside can reach: automatic bridges, and rules that lead to `::1` on the port that they listen on, so that
    /// clients inside the VM reach the service itself.
    VmAddresses,
    /// On all, `::1` too (all other rules).
    Everywhere,
}

impl Planned {
    /// Was it made without being asked?
    pub fn is_auto(&self) -> bool {
        self.rule.is_none()
    }

    /// Is it there for listeners that were found, and may still bind IPv6 themselves?
    pub fn settles(&self) -> bool {
        !self.serves.is_empty()
    }

    fn of_rule(rule: &BridgeRule, port: u16, table: &ListenerTable) -> Self {
        let to = rule.target_of(port);
        let own_port = to == SocketAddr::new(Ipv6Addr::LOCALHOST.into(), port);
        let note = (!is_own(table, to.ip())).then(|| {
            format!("the VM has no address {} at present, and the bridge leads to the VM's own services only", to.ip())
        });
        Self {
            to,
            mode: rule.mode,
            reach: if own_port { Reach::VmAddresses } else { Reach::Everywhere },
            rule: Some(rule.listen),
            serves: Vec::new(),
            note,
        }
    }
}

/// Decides what to bridge.
pub fn plan(table: &ListenerTable, settings: &Settings) -> BridgePlan {
    decide(table, settings).0
}

/// Listeners where a range or `*` leads, and that it does not make public, at most [`limits::BRIDGE_LEFT_OUT`].
pub fn left_out(table: &ListenerTable, settings: &Settings) -> Vec<BridgeLeftOut> {
    decide(table, settings).1.into_values().collect()
}

fn decide(table: &ListenerTable, settings: &Settings) -> (BridgePlan, BTreeMap<u16, BridgeLeftOut>) {
    let mut plan = BridgePlan::new();
    let ipv6 = table.ipv6_listeners();
    if settings.auto {
        for socket in &table.sockets {
            if is_bridged_unasked(table, socket, settings, &ipv6) {
                let to = SocketAddr::new(Bind::of(socket).address, socket.port);
                let planned = plan.entry(socket.port).or_insert_with(|| Planned {
                    to,
                    mode: BridgeMode::Tcp,
                    reach: Reach::VmAddresses,
                    rule: None,
                    serves: Vec::new(),
                    note: None,
                });
                planned.serves.push(socket.inode);
            }
        }
    }
    let (of_one, of_several): (Vec<_>, Vec<_>) = settings.rules.iter().partition(|rule| rule.listen.is_port());
    for rule in of_one {
        if let BridgeListen::Port(port) = rule.listen {
            plan.insert(port, Planned::of_rule(rule, port, table));
        }
    }
    let mut left_out = BTreeMap::new();
    if of_several.is_empty() {
        return (plan, left_out);
    }
    // What nobody asked for makes room.
    let mut asked = plan.values().filter(|planned| !planned.is_auto()).count();
    for socket in &table.sockets {
        let port = socket.port;
        let bind = Bind::of(socket);
        let Some(rule) = BridgeRule::of_port(&settings.rules, port) else { continue };
        if rule.listen.is_port() || !leads_to(rule, bind.address) || table.absent.contains(&bind.address) {
            continue;
        }
        let by_this_rule = plan.get(&port).is_some_and(|planned| planned.rule.is_some());
        let reason = if let Some(what) = denylist::what_is_on(port) {
            // What its owner bound to all addresses is bridged unasked, and is none of the rule's business.
            if plan.contains_key(&port) {
                continue;
            }
            let to = rule.target_of(port);
            format!("{what}; if it is meant to be public, `guestctl bridge add {port} {to}`")
        } else if let Some(other) = ipv6.get(&port) {
            format!("the port is served over IPv6, by who listens on [{}]:{port}", other.address)
        } else if !by_this_rule && asked >= limits::BRIDGE_PORTS {
            format!("{} ports are bridged, which is the most", limits::BRIDGE_PORTS)
        } else {
            if !by_this_rule {
                asked += 1;
                plan.insert(port, Planned::of_rule(rule, port, table));
            }
            if let Some(planned) = plan.get_mut(&port) {
                planned.serves.push(socket.inode);
            }
            continue;
        };
        if left_out.len() < limits::BRIDGE_LEFT_OUT {
            left_out.entry(port).or_insert(BridgeLeftOut { port, rule: rule.listen, reason });
        }
    }
    (plan, left_out)
}

/// Did its owner mean it to be public, and do clients need the bridge for it?
fn is_bridged_unasked(
    table: &ListenerTable,
    socket: &SocketFact,
    settings: &Settings,
    ipv6: &BTreeMap<u16, &SocketFact>,
) -> bool {
    let bind = Bind::of(socket);
    bind.family == Family::Ipv4
        && matches!(bind.scope, Scope::Wildcard | Scope::Address)
        && settings.routable_ports.contains(socket.port)
        && !ipv6.contains_key(&socket.port)
        && !table.absent.contains(&bind.address)
        // Its owner wants clients of one interface alone, which may be loopback. The bridge comes by that.
        && socket.device == 0
}

/// Is who listens there reached at the rule's target?
fn leads_to(rule: &BridgeRule, bound: IpAddr) -> bool {
    rule.to.address == bound || (bound.is_unspecified() && bound.is_ipv4() && rule.to.address.is_ipv4())
}

/// Is it an address that the VM answers on?
fn is_own(table: &ListenerTable, address: IpAddr) -> bool {
    let stand_in = match address {
        IpAddr::V4(address) => (address.to_bits() ^ PSEUDO_IPV4.to_bits()) >> (32 - PSEUDO_IPV4_BITS) == 0,
        IpAddr::V6(_) => false,
    };
    address.is_loopback() || stand_in || table.addresses.iter().any(|fact| fact.address == address)
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

    fn rule(text: &str) -> BridgeRule {
        text.parse().unwrap()
    }

    fn with(rules: &[&str]) -> Settings {
        Settings { rules: rules.iter().map(|text| rule(text)).collect(), ..settings() }
    }

    /// What rules for several ports leave out, with the reasons.
    fn omitted(sockets: Vec<SocketFact>, settings: &Settings) -> Vec<String> {
        left_out(&table(sockets), settings)
            .into_iter()
            .map(|left_out| format!("{} of {}: {}", left_out.port, left_out.rule, left_out.reason))
            .collect()
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
        let rules = vec![rule("5432=127.0.0.1:5432"), rule("80=127.0.0.1:8080")];
        let plan =
            plan(&table(vec![socket("127.0.0.1", 5432), socket("0.0.0.0", 80)]), &Settings { rules, ..settings() });
        assert_eq!(plan[&5432].to, "127.0.0.1:5432".parse().unwrap());
        assert_eq!((plan[&80].to.port(), plan[&80].reach), (8080, Reach::Everywhere));
    }

    #[test]
    fn listener_of_one_interface_alone_is_never_bridged_by_default() {
        let sockets = vec![SocketFact { device: 1, ..socket("0.0.0.0", 80) }];
        assert_eq!(targets(sockets, &settings()), []);
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

    #[test]
    fn a_rule_for_all_ports_bridges_those_where_something_listens_at_its_target() {
        let sockets = vec![
            socket("127.0.0.1", 3000),
            socket("::ffff:127.0.0.1", 3001),
            socket("0.0.0.0", 3002),
            socket("127.0.0.2", 3003),
            socket("10.0.0.2", 3004),
            socket("::1", 3005),
            socket("::", 3006),
        ];
        let off = Settings { auto: false, ..with(&["*=127.0.0.1;mode=http"]) };
        let plan = plan(&table(sockets.clone()), &off);
        assert_eq!(plan.keys().copied().collect::<Vec<_>>(), [3000, 3001, 3002]);
        for (port, planned) in plan {
            assert_eq!(planned.to, SocketAddr::new([127, 0, 0, 1].into(), port));
            assert_eq!((planned.mode, planned.reach), (BridgeMode::Http, Reach::Everywhere));
            assert_eq!((planned.rule, planned.serves.len()), (Some(BridgeListen::All), 1));
            assert!(planned.settles() && !planned.is_auto() && planned.note.is_none());
        }
        assert_eq!(omitted(sockets.clone(), &off), Vec::<String>::new());
        let ipv6 = Settings { auto: false, ..with(&["*=::1"]) };
        assert_eq!(targets(sockets, &ipv6), [(3005, "[::1]:3005".into())]);
    }

    #[test]
    fn the_more_specific_rule_wins_over_ranges_all_ports_and_the_automatic_bridge() {
        let sockets =
            vec![socket("127.0.0.1", 8000), socket("0.0.0.0", 8001), socket("127.0.0.1", 9000), socket("10.0.0.2", 81)];
        let settings = with(&["*=127.0.0.1", "8000-8999=127.0.0.1;mode=proxy-v2", "8000=127.0.0.1:80"]);
        let plan = plan(&table(sockets), &settings);
        let shown: Vec<_> = plan
            .iter()
            .map(|(port, planned)| {
                format!("{port} {} {} {:?}", planned.to, planned.mode, planned.rule.map(|rule| rule.to_string()))
            })
            .collect();
        insta::assert_snapshot!(shown.join("\n"), @r#"
        81 10.0.0.2:81 tcp None
        8000 127.0.0.1:80 tcp Some("8000")
        8001 127.0.0.1:8001 proxy-v2 Some("8000-8999")
        9000 127.0.0.1:9000 tcp Some("*")
        "#);
    }

    #[test]
    fn what_a_rule_for_several_ports_leaves_out_is_told_with_the_reason() {
        let sockets = vec![
            socket("127.0.0.1", 5432),
            socket("0.0.0.0", 6379),
            socket("127.0.0.1", 8080),
            SocketFact { inode: 1, ..socket("fd00::2", 8080) },
            socket("127.0.0.1", 3000),
        ];
        let off = Settings { auto: false, ..with(&["*=127.0.0.1"]) };
        insta::assert_snapshot!(omitted(sockets.clone(), &off).join("\n"), @r"
        5432 of *: PostgreSQL is attacked by guessing passwords as soon as it is found; if it is meant to be public, `guestctl bridge add 5432 127.0.0.1:5432`
        6379 of *: Redis gives out and takes all data, mostly without a password, and can be made to write any file; if it is meant to be public, `guestctl bridge add 6379 127.0.0.1:6379`
        8080 of *: the port is served over IPv6, by who listens on [fd00::2]:8080
        ");
        assert_eq!(targets(sockets.clone(), &off), [(3000, "127.0.0.1:3000".into())]);
        // Asked for by name, it is bridged; and what is bridged unasked is no less so for the rule.
        let named = with(&["*=127.0.0.1", "5432=127.0.0.1:5432"]);
        assert_eq!(
            targets(sockets.clone(), &named).iter().map(|(port, _)| *port).collect::<Vec<_>>(),
            [3000, 5432, 6379]
        );
        assert_eq!(omitted(sockets, &named).len(), 1);
    }

    #[test]
    fn no_more_ports_are_taken_than_may_be_and_those_of_rules_come_first() {
        let sockets: Vec<_> = (20_000..20_400).map(|port| socket("127.0.0.1", port)).collect();
        let settings = with(&["*=127.0.0.1", "65000=127.0.0.1:1"]);
        let plan = plan(&table(sockets.clone()), &settings);
        assert_eq!(plan.len(), limits::BRIDGE_PORTS);
        assert!(plan.contains_key(&65_000));
        let omitted = omitted(sockets, &settings);
        assert_eq!(omitted[0], "20255 of *: 256 ports are bridged, which is the most");
        assert_eq!(omitted.len(), 145);
    }

    #[test]
    fn insiders_reach_a_service_on_ipv6_loopback_itself_where_a_rule_leads_to_its_own_port() {
        let plan = plan(&table(Vec::new()), &with(&["80=[::1]:80", "81=[::1]:80"]));
        assert_eq!((plan[&80].reach, plan[&81].reach), (Reach::VmAddresses, Reach::Everywhere));
        assert!(!plan[&80].is_auto());
    }

    #[test]
    fn a_target_that_is_none_of_the_vms_addresses_is_said_to_be_so_and_not_refused() {
        let rules =
            ["1=10.9.9.9:1", "2=[2001:db8::1]:1", "3=10.0.0.2:1", "4=[fd00::2]:1", "5=127.3.4.5:1", "6=240.0.0.1:1"];
        let plan = plan(&table(Vec::new()), &with(&rules));
        let noted: Vec<_> = plan.iter().filter(|(_, planned)| planned.note.is_some()).map(|(port, _)| *port).collect();
        assert_eq!(noted, [1, 2]);
        insta::assert_snapshot!(plan[&1].note.as_deref().unwrap(), @"the VM has no address 10.9.9.9 at present, and the bridge leads to the VM's own services only");
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
