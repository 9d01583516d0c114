//! Cgroups that an agent left which did not come to clean up after itself.
//!
//! Whoever uses a parent holds a shared lock on its directory, which the kernel lets go with its holder. Only who gets it for
//! itself alone removes what is empty: a cgroup that another agent has just made for an exec is empty, too.

use std::fs::{self, File, TryLockError};
use std::path::Path;
use std::sync::Arc;

use super::{Cgroup, CgroupParent, PROBE};

/// A shared lock, released with its last clone; none where it could not be had, which costs nothing but certainty.
#[derive(Debug, Clone, Default)]
pub(super) struct Lock(Option<Arc<File>>);

impl Lock {
    /// Never waits: any user can lock a directory that is open to all.
    pub(super) fn shared(directory: &Path) -> Self {
        Self(File::open(directory).ok().filter(|file| file.try_lock_shared().is_ok()).map(Arc::new))
    }
}

impl CgroupParent {
    /// Removes the cgroups with this prefix, and those of a detection that was cut off, in which, with all below, there is no process, unless another agent is at work here.
    /// Returns how many; those that cannot be removed stay. To be called before the first exec.
    pub fn remove_leftovers(&self, prefix: &str) -> usize {
        let Lock(Some(lock)) = &self.lock else { return 0 };
        let alone = match lock.try_lock() {
            Ok(()) => true,
            Err(TryLockError::WouldBlock | TryLockError::Error(_)) => false,
        };
        let removed = if alone { self.remove_empty(prefix) } else { 0 };
        // Also where there was no other lock to be had: the shared one is let go before that is known (flock(2)).
        let _ = lock.try_lock_shared();
        removed
    }

    fn remove_empty(&self, prefix: &str) -> usize {
        let entries = fs::read_dir(&self.path).into_iter().flatten().flatten();
        let ours = entries.filter(|entry| {
            let name = entry.file_name();
            [prefix, PROBE].iter().any(|prefix| name.as_encoded_bytes().starts_with(prefix.as_bytes()))
        });
        let left = ours.map(|entry| Cgroup::new(entry.path(), self.controllers));
        left.filter(|cgroup| cgroup.members().is_ok_and(|pids| pids.is_empty()) && cgroup.remove().is_ok()).count()
    }
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn what_is_empty_and_ours_is_removed_when_nobody_else_is_at_work() {
        let root = CgroupParent::detect().unwrap().create(&format!("guestd-leftover-{}", std::process::id())).unwrap();
        let parent = || CgroupParent::of(root.path().to_owned());
        let (first, make) = (parent(), |name: &str| parent().create(name).unwrap());
        let [empty, busy, other] = ["exec-empty", "exec-busy", "agent"].map(make);
        let (nested, below, idle) = (make("exec-empty/nested"), make("exec-busy/below"), make("exec-busy/idle"));
        let mut child = Command::new("sleep").arg("600").spawn().unwrap();
        below.write("cgroup.procs", &child.id().to_string()).unwrap();

        let second = parent();
        assert_eq!(first.remove_leftovers("exec-"), 0);
        assert!(nested.path().exists(), "the second may have just made it");
        drop(first);
        assert_eq!(second.remove_leftovers("exec-"), 1);
        assert!(!empty.path().exists() && busy.path().exists() && other.path().exists());
        assert!(idle.path().exists(), "what has processes stays as it is");
        // Its own lock is a shared one again, which lets others in.
        let third = parent();
        assert_eq!(second.remove_leftovers("exec-"), 0);

        child.kill().unwrap();
        child.wait().unwrap();
        drop(second);
        // A process that has just ended keeps its cgroup busy for a moment.
        let removed = (0..100_000).any(|_| {
            std::thread::yield_now();
            third.remove_leftovers("exec-") == 1
        });
        assert!(removed);
        other.remove().unwrap();
        root.remove().unwrap();
    }
}
