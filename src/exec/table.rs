//! Which execs run: ids in use, their number, and the counters of those that came before. Nothing here waits for a process.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::error::ExecError;

/// Sums since the agent started.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ExecCounters {
    /// Commands that were started.
    pub started: u64,
    /// Requests whose command could not be started, those with a limit reached and an id in use among them.
    pub failed: u64,
    /// Commands that their time-out ended.
    pub timed_out: u64,
}

/// The execs that run.
#[derive(Debug)]
pub(super) struct Table {
    running: Mutex<HashMap<String, CancellationToken>>,
    max: usize,
    /// Execs with something still to do for whoever asked: run, or hand over the last of the output.
    open: watch::Sender<usize>,
    pub(super) started: AtomicU64,
    pub(super) failed: AtomicU64,
    pub(super) timed_out: AtomicU64,
}

/// A running exec's place; free for another one when dropped.
#[derive(Debug)]
pub(super) struct Slot {
    table: Arc<Table>,
    id: String,
    /// Cancelled where the exec is to be ended.
    pub(super) stop: CancellationToken,
}

/// Counts as something still to do until dropped.
#[derive(Debug)]
pub(super) struct Open(Arc<Table>);

impl Table {
    pub(super) fn new(max: usize) -> Self {
        Self {
            running: Mutex::default(),
            max,
            open: watch::Sender::new(0),
            started: AtomicU64::new(0),
            failed: AtomicU64::new(0),
            timed_out: AtomicU64::new(0),
        }
    }

    /// Takes a place under this id.
    pub(super) fn claim(self: &Arc<Self>, id: &str) -> Result<Slot, ExecError> {
        let mut running = self.lock();
        let count = running.len();
        match running.entry(id.to_owned()) {
            Entry::Occupied(_) => Err(ExecError::IdInUse { id: id.to_owned() }),
            Entry::Vacant(_) if count >= self.max => Err(ExecError::TooManyRunning { limit: self.max }),
            Entry::Vacant(place) => {
                let stop = place.insert(CancellationToken::new()).clone();
                Ok(Slot { table: Arc::clone(self), id: id.to_owned(), stop })
            }
        }
    }

    pub(super) fn open(self: &Arc<Self>) -> Open {
        self.open.send_modify(|open| *open += 1);
        Open(Arc::clone(self))
    }

    pub(super) fn running(&self) -> usize {
        self.lock().len()
    }

    pub(super) fn stop_all(&self) {
        self.lock().values().for_each(CancellationToken::cancel);
    }

    /// Returns when nothing is open.
    pub(super) async fn idle(&self) {
        // An error would be that the sender is gone, which self holds.
        let _ = self.open.subscribe().wait_for(|open| *open == 0).await;
    }

    pub(super) fn counters(&self) -> ExecCounters {
        ExecCounters {
            started: self.started.load(Ordering::Relaxed),
            failed: self.failed.load(Ordering::Relaxed),
            timed_out: self.timed_out.load(Ordering::Relaxed),
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, CancellationToken>> {
        // A map is whole between any two of its calls, so a panic elsewhere while it was locked is no reason to stop.
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Slot {
    pub(super) fn id(&self) -> &str {
        &self.id
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.table.lock().remove(&self.id);
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.open.send_modify(|open| *open -= 1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::ErrorCode;

    #[test]
    fn an_id_is_in_use_until_its_slot_is_dropped() {
        let table = Arc::new(Table::new(8));
        let slot = table.claim("a").unwrap();
        assert_eq!(table.claim("a").unwrap_err().code(), ErrorCode::Conflict);
        drop(slot);
        assert!(table.claim("a").is_ok());
    }

    #[test]
    fn an_id_in_use_is_told_before_a_full_table() {
        let table = Arc::new(Table::new(1));
        let _slot = table.claim("a").unwrap();
        assert_eq!(table.claim("a").unwrap_err().code(), ErrorCode::Conflict);
        let error = table.claim("b").unwrap_err();
        assert_eq!(error.code(), ErrorCode::LimitReached);
        assert!(error.to_string().starts_with("1 execs"), "{error}");
    }
}
