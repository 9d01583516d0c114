//! What ended execs leave: descriptors to be closed and cgroups to be removed, when nobody waits, and all that has come together
//! by then at one go.
//!
//! Both are slow beside an exec's other work, and a lock of the kernel that removing takes is the one that the next start waits
//! for. So this is done on a thread of its own, a moment later.
//!
//! ```text
//!   ended ──> due ──> removed
//!              │ ▲
//!              │ └── its last process is just ending: looked at again soon
//!              ▼
//!           lingering: a daemon runs in it; looked at again when another exec has ended
//! ```
//!
//! An idle guest is not woken up for what lingers. There are never more cgroups than processes in the guest.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::io::Source;
use super::record::Live;
use super::tree::Tree;
use crate::limits;
use crate::sys::cgroup::Cgroup;

/// The longest pause between two looks at a cgroup whose last process is just ending, and how often they are looked at.
const LAST_PAUSE: Duration = Duration::from_millis(40);
const LOOKS: u32 = 6;

/// What ended execs have left. Clones are handles on the same.
#[derive(Debug, Clone)]
pub(super) struct Cleanup(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    left: Mutex<Left>,
    /// Nobody attends to anything any more.
    done: Notify,
    tasks: TaskTracker,
    /// Cancelled where nothing is to be put off any more.
    closing: CancellationToken,
}

#[derive(Debug, Default)]
struct Left {
    due: Vec<Remains>,
    lingering: Vec<Cgroup>,
    /// A task is there that sees to what is due.
    attended: bool,
}

/// What one exec has left.
#[derive(Debug, Default)]
pub(super) struct Remains {
    cgroup: Option<Cgroup>,
    /// To be closed, and nothing else.
    closed: Vec<Source>,
    live: Option<Live>,
    looks: u32,
}

impl Remains {
    /// Of one that has ended.
    pub(super) fn of(live: Option<Live>, closed: Vec<Source>) -> Self {
        Self { live, closed, ..Self::default() }
    }

    /// Of one that was never started.
    pub(super) fn of_cgroup(cgroup: Cgroup) -> Self {
        Self { cgroup: Some(cgroup), ..Self::default() }
    }

    /// Closes what is to be closed. Blocks.
    fn close(&mut self) {
        self.closed.clear();
        if let Some(Live { tree: Tree::Cgroup(cgroup), .. }) = self.live.take() {
            self.cgroup = Some(cgroup);
        }
    }
}

impl Cleanup {
    /// Nothing is left yet. Its work is among these tasks.
    pub(super) fn new(tasks: TaskTracker, closing: CancellationToken) -> Self {
        Self(Arc::new(Inner { left: Mutex::default(), done: Notify::new(), tasks, closing }))
    }

    /// Takes over what an exec has left. Needs to be called within a runtime.
    pub(super) fn add(&self, remains: Remains) {
        let mut left = self.lock();
        left.due.push(remains);
        self.attend(left);
    }

    /// Looks at what lingers: a daemon may have ended.
    pub(super) fn look_again(&self) {
        let left = self.lock();
        if !left.lingering.is_empty() {
            self.attend(left);
        }
    }

    /// Returns when nothing is due.
    pub(super) async fn done(&self) {
        loop {
            // Ready before the look, so that nothing is missed between the look and the wait.
            let done = self.0.done.notified();
            if !self.lock().attended {
                return;
            }
            done.await;
        }
    }

    fn attend(&self, mut left: MutexGuard<'_, Left>) {
        if !std::mem::replace(&mut left.attended, true) {
            drop(left);
            self.0.tasks.spawn(self.clone().work());
        }
    }

    async fn work(self) {
        let mut pause = limits::EXEC_CLEANUP_DELAY;
        loop {
            self.0.closing.run_until_cancelled(tokio::time::sleep(pause)).await;
            let cleanup = self.clone();
            // What is not done when the runtime ends is done by the agent's next start, which removes empty cgroups.
            let due = tokio::task::spawn_blocking(move || cleanup.sweep()).await;
            if due.is_err() {
                // The runtime ends.
                self.lock().attended = false;
            }
            if !due.unwrap_or_default() {
                return self.0.done.notify_waiters();
            }
            pause = (pause * 2).min(LAST_PAUSE);
        }
    }

    /// Does all that can be done now. Whether something is due still; if not, nobody attends to it any more.
    fn sweep(&self) -> bool {
        let (due, lingering) = {
            let mut left = self.lock();
            (std::mem::take(&mut left.due), std::mem::take(&mut left.lingering))
        };
        let mut lingering: Vec<Cgroup> = lingering.into_iter().filter(|cgroup| cgroup.remove().is_err()).collect();
        let mut again = Vec::new();
        for mut remains in due {
            remains.close();
            let Some(mut cgroup) = remains.cgroup.take_if(|cgroup| cgroup.remove().is_err()) else { continue };
            cgroup.rest();
            remains.looks += 1;
            // A process that is just ending is no member any more and keeps the cgroup busy for a moment yet.
            if remains.looks < LOOKS && cgroup.members().is_ok_and(|members| members.is_empty()) {
                again.push(Remains { cgroup: Some(cgroup), ..remains });
            } else {
                lingering.push(cgroup);
            }
        }
        let mut left = self.lock();
        left.due.append(&mut again);
        left.lingering.append(&mut lingering);
        left.attended = !left.due.is_empty();
        left.attended
    }

    fn lock(&self) -> MutexGuard<'_, Left> {
        self.0.left.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
