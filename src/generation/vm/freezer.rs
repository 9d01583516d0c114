//! A frozen root file system, and the thread that thaws it, whatever becomes of everybody else.
//!
//! The thread touches no disk: it has the mount point open before it freezes it. It counts its time in ticks, so that a copy of the VM that
//! goes on much later gives its host the same time as the VM itself.

use std::io;
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::sync::oneshot;

use crate::sys::filesystem::Mounted;

const TICK: Duration = Duration::from_secs(1);

/// Dropped, it thaws; to wait for that there is [`Freezer::end`].
#[derive(Debug)]
pub(super) struct Freezer {
    order: Arc<Order>,
    thread: Option<JoinHandle<io::Result<()>>>,
}

/// What the thread is told.
#[derive(Debug)]
struct Order {
    /// Time until it thaws; none once it is about to.
    left: Mutex<Option<Duration>>,
    changed: Condvar,
}

impl Order {
    fn left(&self) -> MutexGuard<'_, Option<Duration>> {
        self.left.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// So much time is left from now on. Whether it is not too late for that.
    fn set(&self, time: Duration) -> bool {
        let mut left = self.left();
        if left.is_some() {
            *left = Some(time);
        }
        self.changed.notify_one();
        left.is_some()
    }

    /// Returns when the time is over.
    fn wait(&self) {
        let mut left = self.left();
        while let Some(time) = left.filter(|time| !time.is_zero()) {
            let (now, tick) = self.changed.wait_timeout(left, TICK).unwrap_or_else(PoisonError::into_inner);
            left = now;
            // A jump of the clock counts for a tick.
            if tick.timed_out() && *left == Some(time) {
                *left = Some(time.saturating_sub(TICK));
            }
        }
        *left = None;
    }
}

impl Freezer {
    /// Begins to freeze what is mounted here, or above; the receiver tells when that is done.
    ///
    /// # Errors
    /// There is no such directory, or no thread to be had.
    pub(super) fn start(root: &Path, watchdog: Duration) -> io::Result<(Self, oneshot::Receiver<io::Result<()>>)> {
        let mounted = Mounted::open(root)?;
        let order = Arc::new(Order { left: Mutex::new(Some(watchdog)), changed: Condvar::new() });
        let (tell, told) = oneshot::channel();
        let work = {
            let order = Arc::clone(&order);
            move || {
                let frozen = mounted.freeze();
                let is_frozen = frozen.is_ok();
                // Nobody may wait for it any more.
                let _ = tell.send(frozen);
                if !is_frozen {
                    order.left().take();
                    return Ok(());
                }
                order.wait();
                mounted
                    .thaw()
                    .map(drop)
                    .inspect_err(|error| tracing::error!(%error, "the root file system could not be thawed"))
            }
        };
        let thread = std::thread::Builder::new().name("guestd-thaw".to_owned()).spawn(work)?;
        Ok((Self { order, thread: Some(thread) }, told))
    }

    /// Stays frozen for so long from now on; false where it has thawed, or is about to.
    pub(super) fn stay(&self, time: Duration) -> bool {
        self.order.set(time)
    }

    /// Thaws, and waits for that: as long as the disk takes for what is under way.
    pub(super) fn end(mut self) -> io::Result<()> {
        self.order.set(Duration::ZERO);
        match self.thread.take().map(JoinHandle::join) {
            Some(Ok(thawed)) => thawed,
            // A panic; what it has frozen is thawed by whoever asked.
            Some(Err(_)) | None => Ok(()),
        }
    }
}

impl Drop for Freezer {
    fn drop(&mut self) {
        self.order.set(Duration::ZERO);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_is_given_until_it_is_over_and_not_after() {
        let order = Arc::new(Order { left: Mutex::new(Some(Duration::from_secs(3600))), changed: Condvar::new() });
        let waiting = std::thread::spawn({
            let order = Arc::clone(&order);
            move || order.wait()
        });
        assert!(order.set(Duration::from_secs(7200)) && !waiting.is_finished());
        assert!(order.set(Duration::ZERO));
        waiting.join().unwrap();
        assert!(!order.set(Duration::from_secs(1)), "what is thawed does not stay frozen");
    }
}
