//! One look: dumps the sockets and the addresses, finds the owners, and says how it knows.
//!
//! Owns the cache of socket owners. A look that fails leaves the last table standing and says so: "unknown" is never "none".

use std::{
    collections::{BTreeSet, HashSet},
    io,
    net::IpAddr,
    sync::atomic::{AtomicUsize, Ordering},
    time::{Duration, Instant},
};

use super::{ListenerTable, namespaces::Namespaces, own::OwnSockets, owners::SocketOwners, table::Bind};
use crate::{
    api::Scope,
    facts::{AddressFact, NamespaceFact, SocketFact},
    limits,
    sys::{netns, proc_pid, rtnl, sock_diag},
};

/// Looks by procfs after which sock_diag is tried again: its module may have been loaded.
const SOCK_DIAG_RETRY: u32 = 64;

/// A clock that has moved by less than this against the other was slewed or read at another moment, not set.
const CLOCK_STEP: Duration = Duration::from_secs(1);

/// Where a table came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// NETLINK sock_diag: exact.
    SockDiag,
    /// `/proc/net/tcp*`: IPv6-only sockets look like dual-stack ones.
    Procfs,
}

/// What the last look found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Observation {
    /// The table, at most `limits::LISTENERS` sockets.
    pub table: ListenerTable,
    /// How it was read.
    pub source: Source,
    /// Why the last look failed, if it did; `table` is then older.
    pub failure: Option<String>,
    /// There were more sockets than the table holds.
    pub truncated: bool,
}

impl Observation {
    /// Is `next` worth waking those who act on observations?
    ///
    /// How many connections wait to be accepted is not: it changes with every look at a busy service, and who asks for a
    /// report reads the latest anyway.
    pub(super) fn is_outdated_by(&self, next: &Self) -> bool {
        if self == next {
            return false;
        }
        let mut quiet = next.clone();
        let (before, after) = (self.table.all_sockets(), quiet.table.all_sockets_mut());
        for (socket, before) in after.zip(before) {
            socket.accept_queue = before.accept_queue;
        }
        *self != quiet
    }
}

/// What looks.
#[derive(Debug)]
pub(super) struct Looker {
    own: OwnSockets,
    owners: SocketOwners,
    namespaces: Namespaces,
    source: Source,
    looks: u32,
    booted_at: Duration,
}

impl Looker {
    pub(super) fn new(own: OwnSockets) -> Self {
        Self {
            own,
            owners: SocketOwners::default(),
            namespaces: Namespaces::new(),
            source: Source::SockDiag,
            looks: 0,
            booted_at: Duration::ZERO,
        }
    }

    /// A socket began to listen in the network namespace with this cookie (SO_NETNS_COOKIE), where the kernel tells it. One that is
    /// not known makes the next look walk for new namespaces.
    pub(super) fn notice(&mut self, netns_cookie: Option<u64>) {
        self.namespaces.notice(netns_cookie);
    }

    /// When to look again for the sake of a socket whose owner was not found.
    pub(super) fn next_retry(&self) -> Option<Instant> {
        self.owners.next_retry()
    }

    /// Looks; `last` is what stands when the look fails.
    pub(super) fn look(&mut self, last: Option<&Observation>) -> Observation {
        match self.table(last.map(|last| &last.table)) {
            Ok((table, truncated)) => Observation { table, source: self.source, failure: None, truncated },
            Err(error) => Observation {
                table: last.map(|last| last.table.clone()).unwrap_or_default(),
                source: self.source,
                failure: Some(error.to_string()),
                truncated: last.is_some_and(|last| last.truncated),
            },
        }
    }

    /// The same observation with what a walk over all processes finds, which takes a while; None where none is due. `exactly` is for
    /// somebody who has asked.
    pub(super) fn complete(&mut self, observation: &Observation, exactly: bool) -> Option<Observation> {
        let now = Instant::now();
        if observation.failure.is_some() || !self.owners.owes_a_walk(exactly, now) {
            return None;
        }
        self.owners.walk(exactly, now);
        let table = ListenerTable { processes: self.owners.facts(), ..observation.table.clone() };
        Some(Observation { table, ..observation.clone() })
    }

    fn table(&mut self, last: Option<&ListenerTable>) -> io::Result<(ListenerTable, bool)> {
        // Before and after the dump: a socket of ours that is closed in between is in the dump and not in the set any more.
        let own_before = self.own.all();
        let mut sockets = self.sockets()?;
        let own_after = self.own.all();
        sockets.retain(|socket| !own_before.contains(&socket.inode) && !own_after.contains(&socket.inode));
        let netns = netns::own()?;
        let addresses = rtnl::addresses()?;
        let source = self.source;
        let room = Room::beside(&sockets);
        let (mut others, unseen) = self.namespaces.look(netns, last, |netns| {
            let most = room.most();
            let sockets = match source {
                Source::SockDiag => sock_diag::listening_tcp(most)?,
                Source::Procfs => sock_diag::procfs_listening_tcp(most)?,
            };
            let mut addresses = rtnl::addresses()?;
            addresses.truncate(limits::NAMESPACE_ADDRESSES);
            room.take(sockets.len());
            Ok(NamespaceFact { netns, sockets: sorted(sockets), addresses })
        });
        let mut sockets = sorted(sockets);
        let truncated = cut(&mut sockets, &mut others);
        let absent = absent(&sockets, &addresses);
        let mut table = ListenerTable {
            netns,
            sockets,
            addresses,
            absent,
            others,
            unseen,
            unreadable: self.namespaces.unreadable().cloned(),
            booted_at: self.booted_at(),
            ..ListenerTable::default()
        };
        self.owners.update(table.all_sockets(), Instant::now());
        table.processes = self.owners.facts();
        Ok((table, truncated))
    }

    /// The kernel's start, the same at every look unless the clock was set in between.
    fn booted_at(&mut self) -> Duration {
        let now = proc_pid::booted_at();
        if now.abs_diff(self.booted_at) > CLOCK_STEP {
            self.booted_at = now;
        }
        self.booted_at
    }

    fn sockets(&mut self) -> io::Result<Vec<SocketFact>> {
        self.looks = self.looks.wrapping_add(1);
        if self.source == Source::SockDiag || self.looks.is_multiple_of(SOCK_DIAG_RETRY) {
            match sock_diag::listening_tcp(limits::LISTENERS_READ) {
                Err(error) if sock_diag::is_absent(&error) => self.source = Source::Procfs,
                Err(error) => return Err(error),
                Ok(sockets) => {
                    self.source = Source::SockDiag;
                    return Ok(sockets);
                }
            }
        }
        sock_diag::procfs_listening_tcp(limits::LISTENERS_READ)
    }
}

/// What is left of the table: of hundreds of namespaces full of sockets no more is read than it holds.
struct Room(AtomicUsize);

impl Room {
    fn beside(own: &[SocketFact]) -> Self {
        Self(AtomicUsize::new(limits::LISTENERS.saturating_sub(own.len())))
    }

    /// What to read of a namespace, each family: one more than there is room for, so that the table is seen to be cut.
    fn most(&self) -> usize {
        self.0.load(Ordering::Relaxed) + 1
    }

    /// Only one thread at a time looks into namespaces.
    fn take(&self, sockets: usize) {
        self.0.store(self.0.load(Ordering::Relaxed).saturating_sub(sockets), Ordering::Relaxed);
    }
}

fn sorted(mut sockets: Vec<SocketFact>) -> Vec<SocketFact> {
    sockets.sort_by_key(|socket| (socket.port, Bind::of(socket).family, socket.address, socket.inode));
    sockets
}

/// Cuts the table to its bound, the own namespace's sockets last: a container must not drive them out. True if it was cut.
fn cut(own: &mut Vec<SocketFact>, others: &mut [NamespaceFact]) -> bool {
    let mut room = limits::LISTENERS;
    let mut truncated = false;
    for sockets in std::iter::once(own).chain(others.iter_mut().map(|other| &mut other.sockets)) {
        truncated |= sockets.len() > room;
        sockets.truncate(room);
        room -= sockets.len();
    }
    truncated
}

/// Bind addresses that the kernel does not take for its own, by its own word: addresses that were removed, or were never there
/// (IP_FREEBIND of ip(7)).
fn absent(sockets: &[SocketFact], addresses: &[AddressFact]) -> BTreeSet<IpAddr> {
    let there: HashSet<IpAddr> = addresses.iter().filter(|fact| fact.up).map(|fact| fact.address).collect();
    let binds: BTreeSet<IpAddr> = sockets
        .iter()
        .map(Bind::of)
        .filter(|bind| bind.scope == Scope::Address && !there.contains(&bind.address))
        .map(|bind| bind.address)
        .collect();
    // Where the kernel does not answer, nothing is claimed.
    let is_absent = |address: &IpAddr| rtnl::is_local(*address).is_ok_and(|local| !local);
    binds.into_iter().take(limits::ADDRESS_LOOKUPS).filter(is_absent).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        facts::AcceptQueue,
        listeners::tests::{socket, table},
    };

    #[test]
    fn waiting_connections_wake_nobody_and_a_changed_socket_does() {
        let observed = |socket, waiting| Observation {
            table: table(vec![SocketFact { accept_queue: Some(AcceptQueue { waiting, backlog: 1 }), ..socket }]),
            source: Source::SockDiag,
            failure: None,
            truncated: false,
        };
        let quiet = observed(socket("::", 80), 0);
        let busy = observed(socket("::", 80), 1);
        assert!(quiet != busy && !quiet.is_outdated_by(&busy) && !quiet.is_outdated_by(&quiet));
        assert!(quiet.is_outdated_by(&observed(socket("0.0.0.0", 80), 0)));
        assert!(quiet.is_outdated_by(&Observation { table: table(Vec::new()), ..busy }));
    }

    #[test]
    fn a_container_with_too_many_listeners_does_not_drive_out_those_of_the_vm() {
        let many = |count| vec![socket("::", 80); count];
        let other = |count| NamespaceFact { netns: 7, sockets: many(count), addresses: Vec::new() };
        let (mut own, mut others) = (many(10), vec![other(limits::LISTENERS - 20), other(20), other(1)]);
        assert!(cut(&mut own, &mut others));
        let lengths: Vec<_> = others.iter().map(|other| other.sockets.len()).collect();
        assert_eq!((own.len(), lengths), (10, vec![limits::LISTENERS - 20, 10, 0]));
        assert!(!cut(&mut own, &mut others));
        assert!(cut(&mut many(limits::LISTENERS + 1), &mut []));
    }

    #[test]
    fn of_all_namespaces_together_no_more_is_read_than_the_table_holds() {
        let room = Room::beside(&vec![socket("::", 80); 10]);
        assert_eq!(room.most(), limits::LISTENERS - 9);
        room.take(limits::LISTENERS - 20);
        assert_eq!(room.most(), 11);
        room.take(22);
        assert_eq!(room.most(), 1, "whether there are any is still seen");
        assert_eq!(Room::beside(&vec![socket("::", 80); limits::LISTENERS + 1]).most(), 1);
    }

    #[test]
    fn only_the_kernel_says_that_a_bind_address_is_missing() {
        let facts = rtnl::addresses().unwrap();
        let binds = ["203.0.113.77", "2001:db8::77", "::", "127.9.9.9", "::1"].map(|address| socket(address, 80));
        let missing: Vec<IpAddr> = vec!["203.0.113.77".parse().unwrap(), "2001:db8::77".parse().unwrap()];
        assert_eq!(absent(&binds, &facts).into_iter().collect::<Vec<_>>(), missing);
        assert!(rtnl::is_local("127.0.0.1".parse().unwrap()).unwrap());
    }
}
