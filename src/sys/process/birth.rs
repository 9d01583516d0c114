//! The way of a child from its first instant to its program, and how somebody else ends it there.
//!
//! Its parent's thread stands still meanwhile, and may for ever: whoever the child has become can stop it (SIGSTOP) before its
//! execve, and its directory or program may be on a file system that does not answer. SIGKILL ends all of that.

use std::os::fd::RawFd;
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering::SeqCst};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::super::pidfd::kill_by;

/// One way at a time, which can be ended from another thread.
#[derive(Debug, Default)]
pub struct Birth {
    /// The kernel's to write when it makes the child.
    pub(super) pidfd: AtomicI32,
    /// The child runs, so its pidfd is open. Stored by the child itself, which has our memory.
    under_way: AtomicBool,
    ended: AtomicBool,
    /// Since when a child is on its way. Locked where its pidfd must stay open, and stay its own.
    since: Mutex<Option<Instant>>,
}

impl Birth {
    /// Has a child that is on its way end, and every later one.
    pub fn end(&self) {
        self.ended.store(true, SeqCst);
        let _open = self.lock();
        if self.under_way.load(SeqCst) {
            kill_by(self.pidfd());
        }
    }

    /// The same, if a child is on its way for so long now. If not, when to ask again.
    pub fn end_after(&self, limit: Duration) -> Option<Duration> {
        let since = *self.lock();
        let left = since.map_or(limit, |since| limit.saturating_sub(since.elapsed()));
        if left.is_zero() {
            self.end();
        }
        Some(left).filter(|left| !left.is_zero())
    }

    /// In the parent: a child is about to be made.
    pub(super) fn expect(&self) {
        *self.lock() = Some(Instant::now());
    }

    /// In the child: it runs. Whether it may go on; one of the two, this and [`Birth::end`], sees what the other has stored.
    pub(super) fn begin(&self) -> bool {
        self.under_way.store(true, SeqCst);
        !self.is_ended()
    }

    /// In the parent: it is another program now, or has ended.
    pub(super) fn over(&self) {
        let mut since = self.lock();
        *since = None;
        self.under_way.store(false, SeqCst);
    }

    fn lock(&self) -> MutexGuard<'_, Option<Instant>> {
        self.since.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn is_ended(&self) -> bool {
        self.ended.load(SeqCst)
    }

    pub(super) fn pidfd(&self) -> RawFd {
        self.pidfd.load(SeqCst)
    }
}
