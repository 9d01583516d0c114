//! Looks at the sockets again and again, on a thread of its own, and publishes what it found.
//!
//! Owns the table and the cache of socket owners. A look that fails leaves the last table standing and says so: "unknown"
//! is never "none".

use std::{
    collections::HashSet,
    io,
    os::{fd::AsFd, linux::fs::MetadataExt},
    sync::{Arc, Mutex, PoisonError, Weak, mpsc},
    thread,
    time::{Duration, Instant},
};

use tokio::sync::watch;

use super::{ListenerTable, owners::SocketOwners, table::Bind};
use crate::{
    facts::SocketFact,
    limits,
    sys::{rtnl, sock_diag},
};

/// Looks by procfs after which sock_diag is tried again: its module may have been loaded.
const SOCK_DIAG_RETRY: u32 = 64;

/// Inodes of guestd's own listening sockets, which are no service of the VM's.
///
/// A socket is entered before it listens, so that no look can take it for a service's.
#[derive(Debug, Clone, Default)]
pub struct OwnSockets(Arc<Mutex<HashSet<u64>>>);

impl OwnSockets {
    /// Enters a socket and returns its inode, for [`OwnSockets::forget`].
    pub fn enter(&self, socket: impl AsFd) -> io::Result<u64> {
        let inode = nix::sys::stat::fstat(socket)?.st_ino;
        self.lock().insert(inode);
        Ok(inode)
    }

    /// Forgets a socket that was closed.
    pub fn forget(&self, inode: u64) {
        self.lock().remove(&inode);
    }

    fn all(&self) -> HashSet<u64> {
        self.lock().clone()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashSet<u64>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

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
    fn is_outdated_by(&self, next: &Self) -> bool {
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

/// The looking thread. It stops when this is dropped.
#[derive(Debug)]
pub struct Watcher {
    observations: watch::Receiver<Arc<Observation>>,
    /// A wish to look at once; its end is the end of the thread.
    looks: Option<Arc<mpsc::SyncSender<()>>>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Watcher {
    /// Takes a first look and starts the thread.
    ///
    /// # Errors
    /// The thread could not be made.
    pub fn spawn(interval: Duration, own: OwnSockets) -> io::Result<Self> {
        let mut looker = Looker { own, owners: SocketOwners::default(), source: Source::SockDiag, looks: 0 };
        let first = looker.look(None);
        let (publish, observations) = watch::channel(Arc::new(first));
        let (looks, wishes) = mpsc::sync_channel(1);
        let thread = thread::Builder::new().name("listeners".to_owned()).spawn(move || {
            while !matches!(wishes.recv_timeout(interval), Err(mpsc::RecvTimeoutError::Disconnected)) {
                let next = looker.look(Some(&publish.borrow()));
                publish.send_if_modified(|current| {
                    let news = current.is_outdated_by(&next);
                    if **current != next {
                        *current = Arc::new(next);
                    }
                    news
                });
            }
        })?;
        Ok(Self { observations, looks: Some(Arc::new(looks)), thread: Some(thread) })
    }

    /// For those who change what there is to see.
    pub fn looker(&self) -> LookNow {
        LookNow(self.looks.as_ref().map(Arc::downgrade).unwrap_or_default())
    }

    /// The latest observation, and every later one.
    pub fn observations(&self) -> watch::Receiver<Arc<Observation>> {
        self.observations.clone()
    }
}

/// A way to ask for a look before its time.
///
/// Does not keep the thread alive.
#[derive(Debug, Clone)]
pub struct LookNow(Weak<mpsc::SyncSender<()>>);

impl LookNow {
    /// Asks for a look.
    pub fn look_now(&self) {
        if let Some(looks) = self.0.upgrade() {
            // A full channel holds a wish already.
            let _ = looks.try_send(());
        }
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        self.looks.take();
        if let Some(thread) = self.thread.take() {
            // The thread holds no lock and waits for nothing but the channel that is closed now.
            let _ = thread.join();
        }
    }
}

struct Looker {
    own: OwnSockets,
    owners: SocketOwners,
    source: Source,
    looks: u32,
}

impl Looker {
    fn look(&mut self, last: Option<&Observation>) -> Observation {
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
