//! Who holds which socket, looked up as seldom as possible.
//!
//! A look-up walks over every descriptor of every process. It is made for sockets that are new, and for those whose owner has
//! gone or let them go; a socket that nobody holds (its descriptor is in flight, or it is the kernel's own) is looked for at growing intervals.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    time::{Duration, Instant},
};

use crate::{
    facts::ProcessFact,
    sys::socket_owners::{self, Holder},
};

/// First and longest wait before a socket without an owner is looked for again.
const RETRY: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));

/// Known owners, and sockets that were looked for in vain.
#[derive(Debug, Default)]
pub(super) struct SocketOwners {
    known: BTreeMap<u64, Holder>,
    missed: HashMap<u64, Missed>,
}

#[derive(Debug, Clone, Copy)]
struct Missed {
    again_at: Instant,
    wait: Duration,
    /// It has been looked for after the longest wait, too, and is no more cause for a look.
    given_up: bool,
}

impl SocketOwners {
    /// Owners of the sockets that listen now.
    pub(super) fn of(&mut self, listening: &HashSet<u64>, now: Instant) -> BTreeMap<u64, ProcessFact> {
        self.known.retain(|inode, holder| listening.contains(inode) && socket_owners::still_holds(holder, *inode));
        self.missed.retain(|inode, _| listening.contains(inode));
        let mut wanted = self.wanted(listening, now);
        if !wanted.is_empty() {
            let found = socket_owners::find(&mut wanted);
            self.learn(found, &wanted, now);
        }
        self.known.iter().map(|(inode, holder)| (*inode, holder.process.clone())).collect()
    }

    /// When the next socket is to be looked for again. A socket that nobody ever owns does not wake the VM for ever: after the longest
    /// wait it is looked for only when there is a look anyway.
    pub(super) fn next_retry(&self) -> Option<Instant> {
        self.missed.values().filter(|missed| !missed.given_up).map(|missed| missed.again_at).min()
    }

    /// Sockets to look for.
    fn wanted(&self, listening: &HashSet<u64>, now: Instant) -> HashSet<u64> {
        let due = |inode: &u64| self.missed.get(inode).is_none_or(|missed| missed.again_at <= now);
        listening.iter().copied().filter(|inode| !self.known.contains_key(inode)).filter(due).collect()
    }

    fn learn(&mut self, found: BTreeMap<u64, Holder>, in_vain: &HashSet<u64>, now: Instant) {
        self.missed.retain(|inode, _| !found.contains_key(inode));
        self.known.extend(found);
        for inode in in_vain {
            let (wait, given_up) = self
                .missed
                .get(inode)
                .map_or((RETRY.0, false), |missed| ((missed.wait * 2).min(RETRY.1), missed.wait == RETRY.1));
            self.missed.insert(*inode, Missed { again_at: now + wait, wait, given_up });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn socket_without_an_owner_is_looked_for_ever_less_often() {
        let (mut owners, start) = (SocketOwners::default(), Instant::now());
        let listening = HashSet::from([7]);
        let mut looked_at = Vec::new();
        for second in 0..200 {
            let now = start + Duration::from_secs(second);
            let wanted = owners.wanted(&listening, now);
            if !wanted.is_empty() {
                looked_at.push(second);
                owners.learn(BTreeMap::new(), &wanted, now);
            }
        }
        assert_eq!(looked_at, [0, 1, 3, 7, 15, 31, 63, 123, 183]);
    }

    #[test]
    fn retries_end_after_the_longest_wait() {
        let (mut owners, mut now) = (SocketOwners::default(), Instant::now());
        assert_eq!(owners.next_retry(), None);
        let mut waits = Vec::new();
        owners.learn(BTreeMap::new(), &HashSet::from([7]), now);
        while let Some(next) = owners.next_retry() {
            waits.push((next - now).as_secs());
            now = next;
            owners.learn(BTreeMap::new(), &owners.wanted(&HashSet::from([7]), now), now);
        }
        assert_eq!(waits, [1, 2, 4, 8, 16, 32, 60]);
    }

    #[test]
    fn socket_that_is_gone_is_forgotten_and_a_new_one_is_looked_for_at_once() {
        let (mut owners, now) = (SocketOwners::default(), Instant::now());
        owners.learn(BTreeMap::new(), &HashSet::from([7]), now);
        assert_eq!(owners.wanted(&HashSet::from([7, 8]), now), HashSet::from([8]));
        assert_eq!(owners.of(&HashSet::new(), now), BTreeMap::new());
        assert_eq!(owners.wanted(&HashSet::from([7]), now), HashSet::from([7]));
    }
}
