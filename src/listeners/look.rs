//! One look: dumps the sockets and the addresses, finds the owners, and says how it knows.
//!
//! Owns the cache of socket owners. A look that fails leaves the last table standing and says so: "unknown" is never "none".

use std::{io, os::linux::fs::MetadataExt, time::Instant};

use super::{ListenerTable, own::OwnSockets, owners::SocketOwners, table::Bind};
use crate::{
    facts::SocketFact,
    limits,
    sys::{rtnl, sock_diag},
};

/// Looks by procfs after which sock_diag is tried again: its module may have been loaded.
const SOCK_DIAG_RETRY: u32 = 64;

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
        for (socket, before) in quiet.table.sockets.iter_mut().zip(&self.table.sockets) {
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
    source: Source,
    looks: u32,
}

impl Looker {
    pub(super) fn new(own: OwnSockets) -> Self {
        Self { own, owners: SocketOwners::default(), source: Source::SockDiag, looks: 0 }
    }

    /// A socket began to listen in the network namespace with this cookie, where the kernel tells it.
    pub(super) fn notice(&mut self, netns_cookie: Option<u64>) {
        // Only this namespace is looked at yet.
        let _ = netns_cookie;
    }

    /// When to look again for the sake of a socket whose owner was not found.
    pub(super) fn next_retry(&self) -> Option<Instant> {
        self.owners.next_retry()
    }

    /// Looks; `last` is what stands when the look fails.
    pub(super) fn look(&mut self, last: Option<&Observation>) -> Observation {
        match self.table() {
            Ok((table, truncated)) => Observation { table, source: self.source, failure: None, truncated },
            Err(error) => Observation {
                table: last.map(|last| last.table.clone()).unwrap_or_default(),
                source: self.source,
                failure: Some(error.to_string()),
                truncated: last.is_some_and(|last| last.truncated),
            },
        }
    }

    fn table(&mut self) -> io::Result<(ListenerTable, bool)> {
        // Before and after the dump: a socket of ours that is closed in between is in the dump and not in the set any more.
        let own_before = self.own.all();
        let mut sockets = self.sockets()?;
        let own_after = self.own.all();
        sockets.retain(|socket| !own_before.contains(&socket.inode) && !own_after.contains(&socket.inode));
        sockets.sort_by_key(|socket| (socket.port, Bind::of(socket).family, socket.address, socket.inode));
        let truncated = sockets.len() > limits::LISTENERS;
        sockets.truncate(limits::LISTENERS);
        let listening = sockets.iter().map(|socket| socket.inode).collect();
        let table = ListenerTable {
            netns: std::fs::metadata("/proc/self/ns/net")?.st_ino(),
            addresses: rtnl::addresses()?,
            processes: self.owners.of(&listening, Instant::now()),
            sockets,
        };
        Ok((table, truncated))
    }

    fn sockets(&mut self) -> io::Result<Vec<SocketFact>> {
        self.looks = self.looks.wrapping_add(1);
        if self.source == Source::SockDiag || self.looks.is_multiple_of(SOCK_DIAG_RETRY) {
            match sock_diag::listening_tcp() {
                Err(error) if sock_diag::is_absent(&error) => self.source = Source::Procfs,
                Err(error) => return Err(error),
                Ok(sockets) => {
                    self.source = Source::SockDiag;
                    return Ok(sockets);
                }
            }
        }
        sock_diag::procfs_listening_tcp()
    }
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
}
