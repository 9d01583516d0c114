//! The ports that are held by binding them (tier `bind`).

use std::{
    collections::{BTreeMap, BTreeSet},
    net::Ipv6Addr,
    sync::Arc,
};

use super::{
    taken::{Taken, describe},
    targets::Targets,
};
use crate::bridge::{
    engine::{Engine, Route},
    orders::{Want, WantPort},
};

/// All of them.
#[derive(Debug, Default)]
pub(super) struct HeldPorts {
    ports: BTreeMap<u16, Held>,
    /// Ports that were held once: what refuses one of them may be the remains of the bridge's own connections.
    held_before: BTreeSet<u16>,
}

#[derive(Debug, Default)]
pub(super) struct Held {
    pub(super) taken: Vec<Taken>,
    /// The last try met a socket that has the port.
    in_use: bool,
    /// What the last try failed by.
    pub(super) failure: Option<String>,
}

impl HeldPorts {
    pub(super) fn iter(&self) -> impl Iterator<Item = (&u16, &Held)> {
        self.ports.iter()
    }

    pub(super) fn all_taken(&self) -> impl Iterator<Item = &Taken> {
        self.ports.values().flat_map(|held| &held.taken)
    }

    /// Holds what is wanted and nothing else.
    pub(super) fn want(&mut self, want: &Want, engine: &Engine, targets: &Arc<Targets>) {
        let wanted: BTreeMap<u16, &WantPort> = want.ports.iter().map(|port| (port.listen, port)).collect();
        for number in self.ports.keys().copied().collect::<Vec<_>>() {
            if !wanted.contains_key(&number)
                && let Some(held) = self.ports.remove(&number)
            {
                tracing::info!(port = number, "bridge: port let go");
                held.close(engine);
            }
        }
        targets.retain(|number| wanted.contains_key(&number));
        self.held_before.extend(&want.remains);
        for (number, port) in wanted {
            let addresses: BTreeSet<_> = if port.everywhere {
                BTreeSet::from([Ipv6Addr::UNSPECIFIED])
            } else {
                want.addresses.iter().copied().collect()
            };
            let held = self.ports.entry(number).or_default();
            held.drop_unwanted(&addresses, engine);
            // The agent has seen what is bound since its last order.
            held.listen(number, engine, targets);
            if let Err(why) = targets.set(number, port.to, port.mode) {
                held.failure = Some(why);
                continue;
            }
            if port.take {
                let held_before = self.held_before.contains(&number);
                held.take(number, &addresses, held_before);
                if !held.taken.is_empty() {
                    self.held_before.insert(number);
                }
            }
        }
    }

    /// Lets everything go.
    pub(super) fn close(&mut self, engine: &Engine) {
        for (_, held) in std::mem::take(&mut self.ports) {
            held.close(engine);
        }
    }
}

impl Held {
    fn drop_unwanted(&mut self, wanted: &BTreeSet<Ipv6Addr>, engine: &Engine) {
        let (keep, gone) =
            std::mem::take(&mut self.taken).into_iter().partition(|taken| wanted.contains(&taken.address));
        self.taken = keep;
        gone.into_iter().for_each(|taken| Taken::close(taken, engine));
    }

    fn listen(&mut self, number: u16, engine: &Engine, targets: &Arc<Targets>) {
        let (mut listening, mut failure) = (Vec::new(), None);
        for mut taken in std::mem::take(&mut self.taken) {
            let was_pending = taken.is_pending();
            match taken.listen(engine, Route::ByLocalPort(targets.clone())) {
                Ok(()) => {
                    if was_pending {
                        tracing::info!(port = number, address = %taken.address, "bridge: port taken");
                    }
                    listening.push(taken);
                }
                Err(error) => failure = Some(describe(taken.address, number, &error)),
            }
        }
        self.taken = listening;
        if failure.is_some() {
            self.failure = failure;
        }
    }

    /// Binds where it is missing.
    fn take(&mut self, number: u16, wanted: &BTreeSet<Ipv6Addr>, held_before: bool) {
        // The first try is exact. What refuses a port that was held before is taken for the remains of its connections; any
        // other may be a service that has bound and is about to listen.
        let over_own_remains = held_before && self.in_use;
        let missing: Vec<_> =
            wanted.iter().filter(|address| self.taken.iter().all(|taken| taken.address != **address)).collect();
        (self.in_use, self.failure) = (false, None);
        if wanted.is_empty() {
            self.failure = Some("the VM has no IPv6 address that the outside can reach".to_owned());
        }
        for address in missing {
            match Taken::bind(*address, number, over_own_remains) {
                Ok(taken) => self.taken.push(taken),
                Err(error) => {
                    self.in_use |= error.raw_os_error() == Some(libc::EADDRINUSE);
                    self.failure = Some(describe(*address, number, &error));
                }
            }
        }
    }

    fn close(self, engine: &Engine) {
        self.taken.into_iter().for_each(|taken| taken.close(engine));
    }
}
