//! The network namespaces beside the VM's own: which are known, when to walk for new ones, and what is seen in them.
//!
//! A walk is made at the first look, when somebody was seen to listen in a namespace that is not known, when a known one is
//! there no more, and from time to time. Between looks a namespace is remembered by its number and a way to it; no descriptor
//! is kept, which would keep a container's network alive.

use std::{
    collections::{BTreeMap, HashSet},
    io,
    time::{Duration, Instant},
};

use super::{ListenerTable, ration::Ration};
use crate::{
    facts::{NamespaceFact, NamespaceWay, UnseenFact},
    limits,
    sys::netns::{self, EntryError, Seen, Walk},
};

/// Walks in one look. Namespaces that come and go faster than that are named as unseen.
const WALKS: usize = 3;

/// Least and longest time between two walks that nothing has asked for.
const WALK_PAUSE: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));

/// Known namespaces.
#[derive(Debug)]
pub(super) struct Namespaces {
    own_cookie: Option<u64>,
    known: BTreeMap<u64, Known>,
    /// Somebody listens in a namespace that is not known.
    noticed: bool,
    /// Cookies that a walk is to find.
    wanted: HashSet<u64>,
    /// Cookies that a walk has not found: only a descriptor or a socket keeps these alive, say. They cause no second walk.
    in_vain: HashSet<u64>,
    ration: Ration,
    /// What the last walk could not see.
    unseen: Vec<UnseenFact>,
    /// Processes of which the last walk could not tell the namespace.
    unreadable: Option<String>,
}

#[derive(Debug)]
struct Known {
    way: NamespaceWay,
    cookie: Option<u64>,
}

impl Namespaces {
    pub(super) fn new() -> Self {
        Self {
            own_cookie: netns::own_cookie(),
            known: BTreeMap::new(),
            noticed: false,
            wanted: HashSet::new(),
            in_vain: HashSet::new(),
            ration: Ration::within(WALK_PAUSE.0, WALK_PAUSE.1),
            unseen: Vec::new(),
            unreadable: None,
        }
    }

    /// A socket began to listen in the namespace with this cookie, or in one that is not told.
    pub(super) fn notice(&mut self, cookie: Option<u64>) {
        let Some(cookie) = cookie else {
            self.noticed = true;
            return;
        };
        let is_known = self.own_cookie == Some(cookie) || self.known.values().any(|known| known.cookie == Some(cookie));
        if !is_known && !self.in_vain.contains(&cookie) {
            self.noticed = true;
            if self.wanted.len() < limits::NETWORK_NAMESPACES {
                self.wanted.insert(cookie);
            }
        }
    }

    /// Looks into every namespace but `own`. Where that fails, what `last` has of it stands.
    pub(super) fn look(
        &mut self,
        own: u64,
        last: Option<&ListenerTable>,
        read: impl Fn(u64) -> io::Result<NamespaceFact> + Sync,
    ) -> (Vec<NamespaceFact>, Vec<UnseenFact>) {
        let mut walks = 0;
        if self.noticed || self.ration.is_due(Instant::now()) {
            self.walk(own);
            walks += 1;
        }
        let mut results: BTreeMap<u64, Result<NamespaceFact, EntryError>> = BTreeMap::new();
        loop {
            let missing = self.known.iter().filter(|(netns, _)| !matches!(results.get(netns), Some(Ok(_))));
            let missing: Vec<_> = missing.map(|(netns, known)| (*netns, known.way.clone())).collect();
            for ((netns, _), result) in missing.iter().zip(netns::look_into(&missing, || read(netns::own()?))) {
                let result = result.map(|Seen { cookie, value }| {
                    if let Some(known) = self.known.get_mut(netns) {
                        known.cookie = cookie;
                    }
                    value
                });
                results.insert(*netns, result);
            }
            let some_gone = results.values().any(|result| matches!(result, Err(EntryError::Gone { .. })));
            if !some_gone || walks >= WALKS {
                break;
            }
            self.walk(own);
            walks += 1;
            // Ended, then, and not merely one way to it.
            results.retain(|netns, _| self.known.contains_key(netns));
        }
        self.forget_wanted();
        self.sum_up(results, last)
    }

    fn walk(&mut self, own: u64) {
        let walked = self.ration.spend(|| netns::walk(own));
        self.noticed = false;
        match walked {
            Ok(walk) => self.learn(walk),
            Err(error) => self.unseen = vec![unseen(None, format!("looking for network namespaces failed: {error}"))],
        }
    }

    fn learn(&mut self, walk: Walk) {
        let mut before = std::mem::take(&mut self.known);
        let known = |(netns, way)| {
            let cookie = before.remove(&netns).and_then(|known| known.cookie);
            (netns, Known { way, cookie })
        };
        self.known = walk.ways.into_iter().map(known).collect();
        self.unseen.clear();
        if walk.truncated {
            let limit = limits::NETWORK_NAMESPACES;
            self.unseen.push(unseen(
                None,
                format!("there are more than {limit} network namespaces; the rest is not looked at"),
            ));
        }
        self.unreadable = walk.unreadable.map(|(processes, why)| {
            format!("of {processes} processes the network namespace cannot be read ({why}; it takes CAP_SYS_PTRACE)")
        });
    }

    /// Processes of which the last walk could not tell the namespace, in a sentence. As a rule they are in one that is known.
    pub(super) fn unreadable(&self) -> Option<&String> {
        self.unreadable.as_ref()
    }

    /// What was wanted and has not been found by now is nowhere to be found.
    fn forget_wanted(&mut self) {
        for known in self.known.values() {
            known.cookie.inspect(|cookie| _ = self.wanted.remove(cookie));
        }
        if self.in_vain.len() + self.wanted.len() > limits::NETWORK_NAMESPACES {
            self.in_vain.clear();
        }
        self.in_vain.extend(self.wanted.drain());
    }

    fn sum_up(
        &self,
        results: BTreeMap<u64, Result<NamespaceFact, EntryError>>,
        last: Option<&ListenerTable>,
    ) -> (Vec<NamespaceFact>, Vec<UnseenFact>) {
        let (mut facts, mut all_unseen) = (Vec::new(), self.unseen.clone());
        for (netns, result) in results {
            match result {
                Ok(fact) => facts.push(fact),
                Err(error) => {
                    all_unseen.push(unseen(Some(netns), error.to_string()));
                    let before = last.and_then(|last| last.others.iter().find(|fact| fact.netns == netns));
                    facts.extend(before.cloned());
                }
            }
        }
        (facts, all_unseen)
    }
}

fn unseen(netns: Option<u64>, why: String) -> UnseenFact {
    UnseenFact { netns, why }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn walked(ways: &[(u64, i32)]) -> Walk {
        let ways = ways.iter().map(|(netns, pid)| (*netns, NamespaceWay::Process(*pid))).collect();
        Walk { ways, ..Walk::default() }
    }

    #[test]
    fn only_a_namespace_that_is_not_known_causes_a_walk_and_one_that_cannot_be_found_only_one() {
        let mut namespaces = Namespaces::new();
        let own = namespaces.own_cookie.unwrap();
        namespaces.learn(walked(&[(7, 70)]));
        namespaces.known.get_mut(&7).unwrap().cookie = Some(own + 1);
        for cookie in [own, own + 1] {
            namespaces.notice(Some(cookie));
            assert!(!namespaces.noticed, "{cookie}");
        }
        namespaces.notice(Some(own + 2));
        assert!(std::mem::take(&mut namespaces.noticed));
        namespaces.forget_wanted();
        namespaces.notice(Some(own + 2));
        assert!(!namespaces.noticed);
        namespaces.notice(None);
        assert!(namespaces.noticed);
    }

    #[test]
    fn a_flood_of_namespaces_that_cannot_be_found_is_kept_within_bounds() {
        let mut namespaces = Namespaces::new();
        let own = namespaces.own_cookie.unwrap();
        for round in 0..10 {
            for cookie in 1..=1000 {
                namespaces.notice(Some(own + round * 1000 + cookie));
            }
            namespaces.forget_wanted();
            assert!(namespaces.in_vain.len() <= limits::NETWORK_NAMESPACES && namespaces.wanted.is_empty());
        }
    }

    #[test]
    fn what_is_not_seen_this_time_stands_as_it_was_and_is_named() {
        let namespaces = Namespaces::new();
        let fact = NamespaceFact { netns: 7, sockets: Vec::new(), addresses: Vec::new() };
        let last = ListenerTable { others: vec![fact.clone()], ..ListenerTable::default() };
        let failed =
            || EntryError::Entry { way: NamespaceWay::Process(70), error: io::Error::from_raw_os_error(libc::EPERM) };
        let results = BTreeMap::from([(7, Err(failed())), (8, Err(failed()))]);
        let (facts, unseen) = namespaces.sum_up(results, Some(&last));
        assert_eq!(facts, [fact]);
        assert_eq!(unseen.iter().map(|unseen| unseen.netns).collect::<Vec<_>>(), [Some(7), Some(8)]);
        assert!(
            unseen[0].why.contains("/proc/70/ns/net") && unseen[0].why.contains("not permitted"),
            "{}",
            unseen[0].why
        );
    }

    #[test]
    fn a_namespace_keeps_its_cookie_over_walks_and_what_ended_is_forgotten() {
        let mut namespaces = Namespaces::new();
        namespaces.learn(walked(&[(7, 70), (8, 80)]));
        namespaces.known.get_mut(&7).unwrap().cookie = Some(1);
        namespaces.learn(Walk { truncated: true, unreadable: Some((3, "x".into())), ..walked(&[(7, 71)]) });
        assert_eq!(namespaces.known.keys().collect::<Vec<_>>(), [&7]);
        assert_eq!((namespaces.known[&7].cookie, &namespaces.known[&7].way), (Some(1), &NamespaceWay::Process(71)));
        assert_eq!((namespaces.unseen.len(), namespaces.unreadable().is_some()), (1, true));
        namespaces.learn(walked(&[(7, 71)]));
        assert_eq!((&*namespaces.unseen, namespaces.unreadable()), (&[][..], None));
    }
}
