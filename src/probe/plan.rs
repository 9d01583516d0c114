//! Where to connect for which listener, and what the answers mean. Pure.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv6Addr, SocketAddr, SocketAddrV6},
};

use super::Seen;
use crate::api::{BridgePort, BridgePortState, Cause, Exposure, Family, Listener, Probe, ProbeOutcome, Scope};

/// Where a listener is to be reached: a port, on an address if the VM has one.
type Target = (Option<Ipv6Addr>, u16);

/// A probe of these listeners.
#[derive(Debug)]
pub struct Plan {
    listeners: Vec<Listener>,
    /// For each of them; none where a proxy is not meant to reach it.
    targets: Vec<Option<Target>>,
}

impl Plan {
    /// For listeners of a VM whose own namespace is `netns` and that has these IPv6 addresses.
    ///
    /// Left out are other namespaces' listeners, and those of loopback that are not bridged: their owners meant them to be private.
    /// And where the kernel `steers`, those that are bridged unasked: only what comes from outside is, and a probe does not.
    pub fn new(
        listeners: Vec<Listener>,
        netns: u64,
        addresses: &[Ipv6Addr],
        bridge: &[BridgePort],
        steers: bool,
    ) -> Self {
        // A global one (2000::/3, RFC 4291) before a unique-local one: what a proxy of another network connects to.
        let is_global = |address: &&Ipv6Addr| address.segments()[0] & 0xe000 == 0x2000;
        let usual = addresses.iter().find(is_global).or(addresses.first()).copied();
        let own = |listener: &Listener| match listener.address {
            IpAddr::V6(address) if listener.scope == Scope::Address && addresses.contains(&address) => Some(address),
            _ => None,
        };
        // Ports that are served over IPv6 on one address only.
        let mut narrow = BTreeMap::new();
        for listener in listeners.iter().filter(|listener| listener.netns == netns && listener.family == Family::Ipv6) {
            match (own(listener), listener.scope) {
                (_, Scope::Wildcard) => drop(narrow.insert(listener.port, usual)),
                (Some(address), _) => drop(narrow.entry(listener.port).or_insert(Some(address))),
                _ => {}
            }
        }
        let target = |listener: &Listener| -> Option<Target> {
            if listener.netns != netns {
                return None;
            }
            if listener.exposure == Exposure::Bridged
                && let Some(port) = bridge.iter().find(|port| leads_to(port, listener))
            {
                return (!(steers && port.auto)).then_some((usual, port.listen));
            }
            if listener.scope == Scope::Loopback {
                return None;
            }
            let address = match listener.family {
                Family::Ipv6 => own(listener).or(usual),
                Family::Ipv4 => narrow.get(&listener.port).copied().unwrap_or(usual),
            };
            Some((address, listener.port))
        };
        let targets = listeners.iter().map(target).collect();
        Self { listeners, targets }
    }

    /// What to connect to, each once.
    pub fn targets(&self) -> BTreeSet<SocketAddrV6> {
        self.targets.iter().flatten().filter_map(socket_address).collect()
    }

    /// The listeners, with what was seen of each.
    pub fn judge(mut self, seen: &BTreeMap<SocketAddrV6, Seen>) -> Vec<Listener> {
        // What a port accepts may be for another of its sockets.
        let is_reachable = |listener: &Listener| listener.exposure != Exposure::Unreachable;
        let reachable: BTreeSet<Target> = self
            .listeners
            .iter()
            .zip(&self.targets)
            .filter(|(it, _)| is_reachable(it))
            .filter_map(|(_, at)| *at)
            .collect();
        for (listener, target) in self.listeners.iter_mut().zip(&self.targets) {
            let Some(target) = target else { continue };
            let seen = match socket_address(target) {
                None => Seen::only(ProbeOutcome::Unreachable),
                Some(at) => seen.get(&at).cloned().unwrap_or_else(|| Seen::only(ProbeOutcome::NotTried)),
            };
            let contradiction = contradiction(listener, *target, seen.outcome, reachable.contains(target));
            listener.probe = Some(Probe {
                address: target.0,
                port: target.1,
                outcome: seen.outcome,
                connect_ms: seen.connect_time.map(Into::into),
                banner: seen.banner,
                contradicts: contradiction.is_some(),
            });
            if let Some(why) = contradiction {
                let before = listener.hint.take().map(|hint| format!(". Besides, {hint}")).unwrap_or_default();
                listener.hint = Some(why + &before);
            }
        }
        self.listeners
    }
}

fn socket_address(target: &Target) -> Option<SocketAddrV6> {
    target.0.map(|address| SocketAddrV6::new(address, target.1, 0, 0))
}

/// As the verdict on the listener has it.
fn leads_to(port: &BridgePort, listener: &Listener) -> bool {
    port.state == BridgePortState::Active && port.leads_to(listener.address, listener.port)
}

/// What is to be said where the outcome is not what the exposure promises.
fn contradiction(
    listener: &Listener,
    target: Target,
    outcome: ProbeOutcome,
    port_is_reachable: bool,
) -> Option<String> {
    let at = match target {
        (Some(address), port) => SocketAddr::new(address.into(), port).to_string(),
        (None, port) => format!("port {port} of the VM"),
    };
    let what = |said: &str| Some(format!("a probe contradicts this: a connection to {at} {said}"));
    match (listener.exposure, outcome) {
        (Exposure::Direct | Exposure::Bridged, ProbeOutcome::Refused) => what(
            "was refused; the service may have stopped just now, so look again, or a firewall rejects it (`nft list ruleset`)",
        ),
        (Exposure::Direct | Exposure::Bridged, ProbeOutcome::TimedOut) => {
            what("was not accepted within 2 s; its accept queue is full, or a firewall drops it (`nft list ruleset`)")
        }
        (Exposure::Direct | Exposure::Bridged, ProbeOutcome::Unreachable) if target.0.is_none() => what(
            "cannot be made: the VM has no global or unique-local IPv6 address; give it one (`ip6` of guestd's configuration)",
        ),
        (Exposure::Direct | Exposure::Bridged, ProbeOutcome::Unreachable) => {
            what("cannot be made: the VM has lost that address just now, or a firewall forbids it (`nft list ruleset`)")
        }
        (Exposure::Bridged, ProbeOutcome::Reset) => what(
            "was accepted by guestd's bridge and then reset: the service refuses what comes from the bridge, so look at its log",
        ),
        (Exposure::Unreachable, outcome)
            if outcome.is_accepted() && !port_is_reachable && listener.cause != Some(Cause::PortNotRoutable) =>
        {
            what(
                "was accepted, though not by this socket: something redirects the port (`nft list ruleset`), or serves it by other means",
            )
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GLOBAL: &str = "2001:db8::2";
    const LOCAL: &str = "fd00::2";

    fn listener(at: &str, exposure: &str) -> Listener {
        let at: SocketAddr = at.parse().unwrap();
        let scope = match at.ip() {
            ip if ip.is_unspecified() => "wildcard",
            ip if ip.is_loopback() => "loopback",
            _ => "address",
        };
        let json = serde_json::json!({
            "port": at.port(), "address": at.ip(), "family": if at.is_ipv4() { "ipv4" } else { "ipv6" }, "v6only": false,
            "scope": scope, "exposure": exposure, "cause": null, "hint": null, "url": null, "process": null, "netns": 1, "inode": 1,
        });
        serde_json::from_value(json).unwrap()
    }

    fn plan(listeners: &[Listener]) -> Plan {
        let bridged = serde_json::json!([{
            "listen": 8080, "to": "127.0.0.1:5432", "auto": false, "state": "active", "message": null, "addresses": [],
            "connections": 0, "connections_total": 0, "bytes_in": 0, "bytes_out": 0, "errors_total": 0,
        }]);
        let bridged: Vec<BridgePort> = serde_json::from_value(bridged).unwrap();
        Plan::new(listeners.to_vec(), 1, &[LOCAL, GLOBAL].map(|address| address.parse().unwrap()), &bridged, false)
    }

    fn targets(listeners: &[Listener]) -> Vec<String> {
        plan(listeners).targets().iter().map(ToString::to_string).collect()
    }

    #[test]
    fn each_public_port_is_connected_to_once_and_on_the_address_that_serves_it() {
        let other = Listener { netns: 2, ..listener("[::]:81", "unreachable") };
        let found = targets(&[
            listener("[::]:22", "direct"),
            listener("0.0.0.0:22", "direct"),
            listener("0.0.0.0:3000", "unreachable"),
            listener("[fd00::2]:90", "direct"),
            listener("10.0.0.2:90", "direct"),
            listener("[fd00::9]:91", "direct"),
            listener("127.0.0.1:5432", "bridged"),
            listener("127.0.0.1:6379", "unreachable"),
            listener("[::1]:631", "unreachable"),
            other,
        ]);
        let expected =
            ["[2001:db8::2]:22", "[2001:db8::2]:91", "[2001:db8::2]:3000", "[2001:db8::2]:8080", "[fd00::2]:90"];
        assert_eq!(found, expected);
    }

    fn judged(listeners: &[Listener], outcome: ProbeOutcome) -> Vec<Listener> {
        let plan = plan(listeners);
        let seen = plan.targets().into_iter().map(|target| (target, Seen::only(outcome))).collect();
        plan.judge(&seen)
    }

    #[test]
    fn only_what_the_exposure_does_not_promise_contradicts_it() {
        use ProbeOutcome::{Accepted, Banner, NotTried, Refused, Reset, TimedOut, Unreachable};
        let contradicts = |listener: Listener, outcome| {
            let listener = judged(&[listener], outcome).remove(0);
            let contradicts = listener.probe.unwrap().contradicts;
            assert_eq!(contradicts, listener.hint.is_some_and(|hint| hint.starts_with("a probe contradicts this: ")));
            contradicts
        };
        for outcome in [Refused, TimedOut, Unreachable] {
            assert!(contradicts(listener("[::]:22", "direct"), outcome));
            assert!(!contradicts(listener("0.0.0.0:22", "unreachable"), outcome));
        }
        for outcome in [Accepted, Banner] {
            assert!(!contradicts(listener("[::]:22", "direct"), outcome));
            assert!(contradicts(listener("0.0.0.0:22", "unreachable"), outcome));
        }
        assert!(contradicts(listener("127.0.0.1:5432", "bridged"), Reset));
        assert!(!contradicts(listener("[::]:22", "direct"), Reset));
        assert!(!contradicts(listener("[::]:22", "direct"), NotTried));
        let not_routed = Listener { cause: Some(Cause::PortNotRoutable), ..listener("[::]:22", "unreachable") };
        assert!(!contradicts(not_routed, Accepted));
    }

    #[test]
    fn a_port_that_another_socket_serves_contradicts_nobody() {
        let both = [listener("0.0.0.0:80", "unreachable"), listener("[::]:80", "direct")];
        let judged = judged(&both, ProbeOutcome::Accepted);
        assert!(judged.iter().all(|listener| !listener.probe.as_ref().unwrap().contradicts));
    }

    #[test]
    fn a_vm_without_an_ipv6_address_is_told_so_and_nothing_is_tried() {
        let plan = Plan::new(vec![listener("[::]:22", "direct")], 1, &[], &[], false);
        assert!(plan.targets().is_empty());
        let listener = plan.judge(&BTreeMap::new()).remove(0);
        assert!(listener.hint.unwrap().contains("no global or unique-local IPv6 address"));
        assert_eq!(listener.probe.unwrap().outcome, ProbeOutcome::Unreachable);
    }
}
