//! Which ports of the plan the data plane is to bind, and when (tier `bind`). Pure: time and answers are given.
//!
//! ```text
//!            seen in the plan            settled, bound on an address
//!   (none) ──────────────────> Settling ───────────────────────────> Active
//!                                 │  ^                                 │
//!                      bind fails │  │ back-off over                   │ out of the plan, or its listeners replaced
//!                                 v  │                                 v
//!                                Failed ────────────────────────────> (none)
//! ```

use std::{
    collections::{BTreeMap, BTreeSet},
    net::Ipv6Addr,
    time::Duration,
};

use tokio::time::Instant;

use super::{
    BridgePlan, Planned, Reach,
    orders::{PortReport, State, WantPort},
};
use crate::{api::BridgePortState, limits};

/// Longest wait between two tries at a port that could not be taken.
const LONGEST_BACKOFF: Duration = Duration::from_secs(5);

/// The ports that are or should be bound.
#[derive(Debug, Default)]
pub(super) struct Settling {
    ports: BTreeMap<u16, Port>,
}

/// One of them.
#[derive(Debug)]
pub(super) struct Port {
    pub(super) planned: Planned,
    /// Where the plane accepts.
    pub(super) addresses: Vec<Ipv6Addr>,
    /// When to try (again) to take what is missing.
    due: Instant,
    failures: u32,
    pub(super) message: Option<String>,
    /// It is in the order that is being answered, with a try.
    tried: bool,
}

impl Settling {
    pub(super) fn iter(&self) -> impl Iterator<Item = (&u16, &Port)> {
        self.ports.iter()
    }

    /// When the next port is due.
    pub(super) fn due(&self) -> Option<Instant> {
        self.ports.values().filter(|port| port.wants_more()).map(|port| port.due).min()
    }

    /// Brings the ports in line with the plan. What a plane holds already needs no time to settle. Gives how many found no room.
    pub(super) fn follow(&mut self, plan: BridgePlan, held: &[PortReport], now: Instant) -> usize {
        self.ports.retain(|listen, port| port.still_serves(plan.get(listen)));
        let mut without_room = 0;
        // What was asked for comes first.
        let (unasked, asked): (Vec<_>, Vec<_>) = plan.into_iter().partition(|(_, planned)| planned.is_auto());
        for (listen, planned) in asked.into_iter().chain(unasked) {
            if let Some(port) = self.ports.get_mut(&listen) {
                port.planned = planned;
                continue;
            }
            let is_full = self.ports.len() >= limits::BRIDGE_PORTS;
            if is_full && (planned.is_auto() || !self.make_room()) {
                without_room += 1;
                continue;
            }
            let held = held.iter().find(|held| held.listen == listen && held.to == Some((planned.to, planned.mode)));
            let addresses = held.map(|held| held.addresses.clone()).unwrap_or_default();
            // A rule for one port was asked for: there is nothing to wait for.
            let settles = planned.settles() && addresses.is_empty();
            let due = if settles { now + limits::BRIDGE_SETTLE_TIME } else { now };
            self.ports.insert(listen, Port { planned, addresses, due, failures: 0, message: None, tried: false });
        }
        without_room
    }

    /// Lets go of one that nobody asked for, if there is one.
    fn make_room(&mut self) -> bool {
        let unasked = self.ports.iter().rev().find(|(_, port)| port.planned.is_auto()).map(|(listen, _)| *listen);
        unasked.is_some_and(|listen| self.ports.remove(&listen).is_some())
    }

    /// What to ask of the plane: ports that have settled, and a try at those that are due and do not hold all that they should.
    pub(super) fn wants(&mut self, reachable: &BTreeSet<Ipv6Addr>, now: Instant) -> Vec<WantPort> {
        let mut wants = Vec::new();
        for (listen, port) in &mut self.ports {
            let is_complete = port.failures == 0 && port.covers(reachable);
            port.tried = port.due <= now && !is_complete;
            if port.tried || port.failures > 0 || !port.addresses.is_empty() {
                wants.push(WantPort::of(*listen, &port.planned, port.tried));
            }
        }
        wants
    }

    /// What has become of it.
    pub(super) fn learn(&mut self, state: &State, now: Instant) {
        for (listen, port) in &mut self.ports {
            let report = state.ports.iter().find(|report| report.listen == *listen);
            port.addresses = report.map(|report| report.addresses.clone()).unwrap_or_default();
            let failure = report.and_then(|report| report.failure.clone());
            match failure {
                Some(why) if port.tried => port.fail(why, now),
                Some(why) => port.message = Some(why),
                None if port.tried => (port.failures, port.message) = (0, None),
                None => {}
            }
            port.tried = false;
        }
    }

    /// There is no plane. All is to be tried as soon as there is one.
    pub(super) fn lose(&mut self, why: &str, now: Instant) {
        for port in self.ports.values_mut() {
            port.addresses.clear();
            port.tried = false;
            if port.due <= now || port.failures > 0 {
                (port.due, port.failures, port.message) = (now, 1, Some(why.to_owned()));
            }
        }
    }
}

impl Port {
    pub(super) fn state(&self) -> BridgePortState {
        match (self.addresses.is_empty(), self.failures) {
            (false, _) => BridgePortState::Active,
            (true, 0) => BridgePortState::Settling,
            (true, _) => BridgePortState::Failed,
        }
    }

    fn wants_more(&self) -> bool {
        self.addresses.is_empty() || self.failures > 0
    }

    /// Does the plan still want this very bridge? Listeners that were all replaced are another service, which gets its own
    /// time to settle.
    fn still_serves(&self, planned: Option<&Planned>) -> bool {
        planned.is_some_and(|planned| {
            planned.to == self.planned.to
                && planned.reach == self.planned.reach
                && planned.mode == self.planned.mode
                && planned.rule == self.planned.rule
                && (planned.serves.is_empty() || planned.serves.iter().any(|inode| self.planned.serves.contains(inode)))
        })
    }

    /// Is it bound wherever it should be?
    fn covers(&self, reachable: &BTreeSet<Ipv6Addr>) -> bool {
        match self.planned.reach {
            Reach::Everywhere => self.addresses == [Ipv6Addr::UNSPECIFIED],
            Reach::VmAddresses => {
                !reachable.is_empty() && reachable.iter().all(|address| self.addresses.contains(address))
            }
        }
    }

    fn fail(&mut self, why: String, now: Instant) {
        if self.message.as_ref() != Some(&why) {
            tracing::warn!(to = %self.planned.to, why, "bridge: port not taken");
        }
        let backoff = limits::BRIDGE_SETTLE_TIME.saturating_mul(1 << self.failures.min(8)).min(LONGEST_BACKOFF);
        self.due = now + backoff;
        self.failures = self.failures.saturating_add(1);
        self.message = Some(why);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::{BridgeListen, BridgeMode};

    fn planned(to: &str, serves: &[u64]) -> Planned {
        let is_rule = serves.is_empty();
        Planned {
            to: to.parse().unwrap(),
            mode: BridgeMode::Tcp,
            reach: if is_rule { Reach::Everywhere } else { Reach::VmAddresses },
            rule: is_rule.then_some(BridgeListen::Port(80)),
            serves: serves.to_vec(),
            note: None,
        }
    }

    fn plan(planned: Planned) -> BridgePlan {
        BridgePlan::from([(80, planned)])
    }

    fn address() -> Ipv6Addr {
        "fd00::2".parse().unwrap()
    }

    fn reachable() -> BTreeSet<Ipv6Addr> {
        BTreeSet::from([address()])
    }

    fn report(addresses: Vec<Ipv6Addr>, failure: Option<&str>) -> State {
        let failure = failure.map(ToOwned::to_owned);
        let to = Some(("0.0.0.0:80".parse().unwrap(), BridgeMode::Tcp));
        State {
            ports: vec![PortReport { listen: 80, to, addresses, failure, ..PortReport::default() }],
            ..State::default()
        }
    }

    fn takes(settling: &mut Settling, now: Instant) -> Vec<bool> {
        settling.wants(&reachable(), now).iter().map(|port| port.take).collect()
    }

    #[test]
    fn service_is_bound_when_it_has_settled_and_then_left_alone() {
        let (mut settling, now) = (Settling::default(), Instant::now());
        settling.follow(plan(planned("0.0.0.0:80", &[1])), &[], now);
        assert!(takes(&mut settling, now).is_empty());
        let settled = settling.due().unwrap();
        assert_eq!(settled, now + limits::BRIDGE_SETTLE_TIME);
        assert_eq!(takes(&mut settling, settled), [true]);
        settling.learn(&report(vec![address()], None), settled);
        assert_eq!((takes(&mut settling, settled), settling.due()), (vec![false], None));
        // Another address of the VM's.
        let both = BTreeSet::from([address(), "fd00::3".parse().unwrap()]);
        assert!(settling.wants(&both, settled)[0].take);
    }

    #[test]
    fn service_whose_sockets_were_all_replaced_is_another_one_and_settles_anew() {
        for (next, stays) in [
            (planned("0.0.0.0:80", &[2, 3]), true),
            (planned("0.0.0.0:80", &[3]), false),
            (planned("10.0.0.2:80", &[1]), false),
        ] {
            let (mut settling, now) = (Settling::default(), Instant::now());
            settling.follow(plan(planned("0.0.0.0:80", &[1, 2])), &report(vec![address()], None).ports, now);
            assert_eq!(takes(&mut settling, now), [false], "what the plane holds already is left alone");
            settling.follow(plan(next), &[], now);
            assert_eq!(takes(&mut settling, now), if stays { vec![false] } else { vec![] });
            settling.follow(BridgePlan::new(), &[], now);
            assert!(takes(&mut settling, now).is_empty());
        }
    }

    #[test]
    fn what_was_asked_for_has_room_before_what_was_not() {
        let (mut settling, now) = (Settling::default(), Instant::now());
        let mut plan: BridgePlan = (1..=limits::BRIDGE_PORTS as u16)
            .map(|listen| (listen, planned(&format!("0.0.0.0:{listen}"), &[listen.into()])))
            .collect();
        assert_eq!(settling.follow(plan.clone(), &[], now), 0);
        plan.insert(65_000, planned("127.0.0.1:1", &[]));
        assert_eq!(settling.follow(plan.clone(), &[], now), 1);
        assert!(settling.ports.contains_key(&65_000) && settling.ports.len() == limits::BRIDGE_PORTS);
        // It stays so, and at once from the beginning.
        assert_eq!(settling.follow(plan.clone(), &[], now), 1);
        let mut fresh = Settling::default();
        assert_eq!(fresh.follow(plan, &[], now), 1);
        assert!(fresh.ports.keys().eq(settling.ports.keys()));
    }

    #[test]
    fn failure_is_tried_again_after_a_while_and_asked_for_meanwhile() {
        let (mut settling, now) = (Settling::default(), Instant::now());
        settling.follow(plan(planned("127.0.0.1:80", &[])), &[], now);
        assert_eq!(takes(&mut settling, now), [true]);
        settling.learn(&report(vec![], Some("in use")), now);
        assert_eq!(takes(&mut settling, now), [false]);
        assert_eq!(settling.ports[&80].state(), BridgePortState::Failed);
        let due = settling.due().unwrap();
        assert!(due > now);
        assert_eq!(takes(&mut settling, due), [true]);
        settling.learn(&report(vec![Ipv6Addr::UNSPECIFIED], None), due);
        assert_eq!((settling.ports[&80].state(), settling.due()), (BridgePortState::Active, None));
    }
}
