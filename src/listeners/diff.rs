//! What is different between the listeners that somebody was told of and those that there are now. Pure.
//!
//! The difference is walked step by step and belongs to its reader: one that is slow holds two snapshots, which others share, and no
//! queue. When it is through, its next difference leads to whatever is the latest then.

use std::{cmp::Ordering, net::IpAddr, sync::Arc};

use crate::api::{Family, Listener};

/// The listeners at one time, each once, in the order of their keys.
#[derive(Debug, Default, PartialEq)]
pub struct Snapshot {
    listeners: Vec<Listener>,
    /// Why the look of that time failed, if it did; the listeners are then older.
    failure: Option<String>,
}

/// What tells one listener from all others; those of one port stand together.
type Key = (u16, Family, IpAddr, bool, u64, u64);

fn key(listener: &Listener) -> Key {
    let Listener { port, family, address, v6only, netns, inode, .. } = *listener;
    (port, family, address, v6only, netns, inode)
}

impl Snapshot {
    /// Puts them in order.
    pub fn new(mut listeners: Vec<Listener>, failure: Option<String>) -> Self {
        listeners.sort_by_key(key);
        // A dump that goes on while sockets move can show one twice.
        listeners.dedup_by_key(|listener| key(listener));
        Self { listeners, failure }
    }

    /// All of them.
    pub fn listeners(&self) -> &[Listener] {
        &self.listeners
    }

    /// Why the look failed, if it did.
    pub fn failure(&self) -> Option<&str> {
        self.failure.as_deref()
    }
}

/// One step from the one to the other.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Step<'a> {
    /// It is there now and was not.
    Added(&'a Listener),
    /// It was there and is another now.
    Changed(&'a Listener),
    /// It was there and is not now; as it was.
    Removed(&'a Listener),
    /// There was much that is the same; there may be more steps.
    Pause,
    /// There are no more steps.
    Through,
}

/// The steps that lead from one snapshot to another.
#[derive(Debug)]
pub struct Difference {
    from: Arc<Snapshot>,
    to: Arc<Snapshot>,
    /// How far each of them is walked.
    at: (usize, usize),
}

impl Difference {
    /// From the one to the other.
    pub fn between(from: Arc<Snapshot>, to: Arc<Snapshot>) -> Self {
        // Nothing to walk where they are the same.
        let at = if Arc::ptr_eq(&from, &to) { (from.listeners.len(), to.listeners.len()) } else { (0, 0) };
        Self { from, to, at }
    }

    /// Where it leads.
    pub fn target(&self) -> &Arc<Snapshot> {
        &self.to
    }

    /// The next step. What is the same is passed over, up to so many at once.
    pub fn next(&mut self, patience: usize) -> Step<'_> {
        for _ in 0..patience {
            let (old, new) = (self.from.listeners.get(self.at.0), self.to.listeners.get(self.at.1));
            let order = match (old, new) {
                (None, None) => return Step::Through,
                (Some(_), None) => Ordering::Less,
                (None, Some(_)) => Ordering::Greater,
                (Some(old), Some(new)) => key(old).cmp(&key(new)),
            };
            self.at.0 += usize::from(order.is_le());
            self.at.1 += usize::from(order.is_ge());
            match (order, old, new) {
                (Ordering::Less, Some(old), _) => return Step::Removed(old),
                (Ordering::Greater, _, Some(new)) => return Step::Added(new),
                (Ordering::Equal, Some(old), Some(new)) if old != new => return Step::Changed(new),
                _ => {}
            }
        }
        Step::Pause
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::{collection::vec, prelude::*};

    use super::*;

    /// A listener whose owner is `variant`.
    fn listener(port: u16, inode: u64, variant: u32) -> Listener {
        let json = serde_json::json!({
            "port": port, "address": "::", "family": "ipv6", "v6only": false, "scope": "wildcard", "exposure": "direct",
            "cause": null, "hint": null, "url": null, "process": null, "netns": 1, "inode": inode, "uid": variant,
        });
        serde_json::from_value(json).unwrap()
    }

    fn snapshot(listeners: &[(u16, u64, u32)]) -> Arc<Snapshot> {
        let listeners = listeners.iter().map(|&(port, inode, variant)| listener(port, inode, variant));
        Arc::new(Snapshot::new(listeners.collect(), None))
    }

    fn steps(from: &Arc<Snapshot>, to: &Arc<Snapshot>, patience: usize) -> Vec<(&'static str, Listener)> {
        let mut difference = Difference::between(Arc::clone(from), Arc::clone(to));
        let mut steps = Vec::new();
        loop {
            match difference.next(patience) {
                Step::Added(listener) => steps.push(("added", listener.clone())),
                Step::Changed(listener) => steps.push(("changed", listener.clone())),
                Step::Removed(listener) => steps.push(("removed", listener.clone())),
                Step::Pause => {}
                Step::Through => return steps,
            }
        }
    }

    #[test]
    fn each_step_is_told_once_and_what_is_the_same_is_not() {
        let from = snapshot(&[(22, 1, 0), (80, 2, 0), (443, 3, 0)]);
        let to = snapshot(&[(22, 1, 0), (80, 2, 7), (80, 9, 0)]);
        let kinds: Vec<_> = steps(&from, &to, 100).into_iter().map(|(kind, it)| (kind, it.port, it.inode)).collect();
        assert_eq!(kinds, [("changed", 80, 2), ("added", 80, 9), ("removed", 443, 3)]);
        assert_eq!(steps(&to, &to, 1), []);
    }

    #[test]
    fn a_socket_that_a_dump_shows_twice_is_one() {
        assert_eq!(snapshot(&[(80, 2, 0), (80, 2, 0)]).listeners().len(), 1);
    }

    proptest! {
        #[test]
        fn who_follows_the_steps_has_the_listeners_of_the_end(
            from in vec((1u16..9, 0u64..4, 0u32..3), 0..30), to in vec((1u16..9, 0u64..4, 0u32..3), 0..30),
            patience in 1usize..4,
        ) {
            let (from, to) = (snapshot(&from), snapshot(&to));
            let map = |snapshot: &Snapshot| -> BTreeMap<Key, Listener> {
                snapshot.listeners().iter().map(|listener| (key(listener), listener.clone())).collect()
            };
            let mut follower = map(&from);
            for (kind, listener) in steps(&from, &to, patience) {
                let key = key(&listener);
                let before = match kind {
                    "removed" => follower.remove(&key),
                    _ => follower.insert(key, listener),
                };
                prop_assert_eq!(before.is_none(), kind == "added");
            }
            prop_assert_eq!(follower, map(&to));
        }
    }
}
