//! Which listening sockets are guestd's own.

use std::{
    collections::HashSet,
    io,
    os::fd::AsFd,
    sync::{Arc, Mutex, PoisonError},
};

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

    /// Enters the socket with this inode, which another process holds.
    pub fn enter_inode(&self, inode: u64) {
        self.lock().insert(inode);
    }

    /// Forgets a socket that was closed.
    pub fn forget(&self, inode: u64) {
        self.lock().remove(&inode);
    }

    pub(super) fn all(&self) -> HashSet<u64> {
        self.lock().clone()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashSet<u64>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
