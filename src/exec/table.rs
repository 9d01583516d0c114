//! All execs by id: those that run, and the records of those that have ended, of which so many are kept, for so long. Nothing
//! here waits for a process.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use tokio::sync::watch;

use super::error::ExecError;
use super::record::Exec;
use crate::limits;

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

/// The execs.
#[derive(Debug)]
pub(super) struct Table {
    inner: Mutex<Inner>,
    max: usize,
    /// Execs with something still to do: run, or have their output read.
    open: watch::Sender<usize>,
    pub(super) started: AtomicU64,
    pub(super) failed: AtomicU64,
    pub(super) timed_out: AtomicU64,
}

#[derive(Debug, Default)]
struct Inner {
    execs: HashMap<String, Arc<Exec>>,
    /// Those that have ended, the one that was first before the others.
    ended: VecDeque<Arc<Exec>>,
    running: usize,
    numbers: u64,
}

/// A running exec's place; free for another one when dropped.
#[derive(Debug)]
pub(super) struct Slot(Arc<Table>);

/// Counts as something still to do until dropped.
#[derive(Debug)]
pub(super) struct Open(Arc<Table>);

/// What came of a claim.
pub(super) enum Claim {
    /// A new exec, with a place to run.
    Fresh(Arc<Exec>, Slot),
    /// The one that this request stands for already.
    Known(Arc<Exec>),
}

impl Table {
    pub(super) fn new(max: usize) -> Self {
        Self {
            inner: Mutex::default(),
            max,
            open: watch::Sender::new(0),
            started: AtomicU64::new(0),
            failed: AtomicU64::new(0),
            timed_out: AtomicU64::new(0),
        }
    }

    /// Takes a place for what `make` makes, of which there are `extra` beyond the bound, unless the id is known: then it is the same exec, or
    /// somebody else's.
    pub(super) fn claim(
        self: &Arc<Self>,
        id: &str,
        fingerprint: u64,
        extra: usize,
        make: impl FnOnce(u64) -> Exec,
    ) -> Result<Claim, ExecError> {
        let mut inner = self.lock();
        let expired = inner.expire(Instant::now());
        let claim = match inner.execs.get(id) {
            Some(exec) if exec.label.fingerprint == fingerprint => Ok(Claim::Known(Arc::clone(exec))),
            Some(_) => Err(ExecError::IdInUse { id: id.to_owned() }),
            None if inner.running >= self.max.saturating_add(extra) => {
                Err(ExecError::TooManyRunning { limit: self.max })
            }
            None => {
                inner.numbers += 1;
                inner.running += 1;
                let exec = Arc::new(make(inner.numbers));
                inner.execs.insert(id.to_owned(), Arc::clone(&exec));
                Ok(Claim::Fresh(exec, Slot(Arc::clone(self))))
            }
        };
        drop(inner);
        // What they hold is given back outside of the lock.
        drop(expired);
        claim
    }

    /// The exec of this id.
    pub(super) fn get(&self, id: &str) -> Option<Arc<Exec>> {
        let mut inner = self.lock();
        let expired = inner.expire(Instant::now());
        let found = inner.execs.get(id).cloned();
        drop(inner);
        drop(expired);
        found
    }

    /// All execs, the oldest first.
    pub(super) fn list(&self) -> Vec<Arc<Exec>> {
        let mut inner = self.lock();
        let expired = inner.expire(Instant::now());
        let mut execs: Vec<_> = inner.execs.values().cloned().collect();
        drop(inner);
        drop(expired);
        execs.sort_by_key(|exec| exec.number);
        execs
    }

    /// An exec has ended, and is a record from now on.
    pub(super) fn keep_record(&self, exec: &Arc<Exec>) {
        let mut inner = self.lock();
        let known = inner.execs.get(exec.id()).is_some_and(|known| known.number == exec.number);
        if known {
            inner.ended.push_back(Arc::clone(exec));
        }
        let expired = inner.expire(Instant::now());
        drop(inner);
        drop(expired);
    }

    /// Drops an exec's record, or the exec that did not come to be.
    pub(super) fn remove(&self, exec: &Exec) {
        let mut inner = self.lock();
        let known = inner.execs.get(exec.id()).is_some_and(|known| known.number == exec.number);
        let _removed = known.then(|| inner.execs.remove(exec.id()));
        inner.ended.retain(|ended| ended.number != exec.number);
        drop(inner);
        // A record that nobody can find is waited for by nobody.
        exec.journal.let_go();
    }

    pub(super) fn open(self: &Arc<Self>) -> Open {
        self.open.send_modify(|open| *open += 1);
        Open(Arc::clone(self))
    }

    pub(super) fn running(&self) -> usize {
        self.lock().running
    }

    /// How many records are kept.
    pub(super) fn records(&self) -> usize {
        self.lock().ended.len()
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

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // Maps are whole between any two of their calls, so a panic elsewhere while this was locked is no reason to stop.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    /// Takes out the records that are too many or too old, but for those whose reader is still to be given something. An idle
    /// guest is not woken up for this: it is done when somebody asks or something ends.
    fn expire(&mut self, now: Instant) -> Vec<Arc<Exec>> {
        let is_old = |at: Instant| now.saturating_duration_since(at) > limits::EXEC_RECORD_AGE;
        let mut expired = Vec::new();
        let mut index = 0;
        while let Some(exec) = self.ended.get(index)
            && (self.ended.len() > limits::EXEC_RECORDS || exec.ended_at().is_some_and(is_old))
        {
            if exec.journal.is_awaited() {
                index += 1;
            } else if let Some(exec) = self.ended.remove(index) {
                self.execs.remove(exec.id());
                // What it has not been asked for is waited for by nobody now.
                exec.journal.let_go();
                expired.push(exec);
            }
        }
        expired
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.0.lock().running -= 1;
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.open.send_modify(|open| *open -= 1);
    }
}

#[cfg(test)]
mod tests {
    use super::super::budget::Budget;
    use super::super::journal::{Journal, Terms};
    use super::super::record::Label;
    use super::super::stdin::Stdin;
    use futures_util::FutureExt;

    use super::*;
    use crate::api::{ErrorCode, ExecExit, ExecRequest};

    fn claim(table: &Arc<Table>, id: &str, fingerprint: u64) -> Result<Claim, ExecError> {
        table.claim(id, fingerprint, 0, |number| {
            let budget = Arc::new(Budget::new(1000));
            let journal = Journal::new(&budget, Terms { capacity: 100, lossless: false, spill: None }, None);
            let mut label = Label::of(&ExecRequest::default());
            label.fingerprint = fingerprint;
            Exec::new((id.to_owned(), number), label, journal, Stdin::none(), None)
        })
    }

    fn run(table: &Arc<Table>, id: &str) -> Arc<Exec> {
        let Ok(Claim::Fresh(exec, _slot)) = claim(table, id, 1) else { panic!("{id} is known") };
        exec.set_exited(Ok(ExecExit::default()));
        exec.set_over();
        table.keep_record(&exec);
        exec
    }

    #[test]
    fn an_id_stands_for_its_request_while_it_runs_and_as_a_record() {
        let table = Arc::new(Table::new(8));
        let Ok(Claim::Fresh(exec, slot)) = claim(&table, "a", 1) else { panic!() };
        for over in [false, true] {
            assert!(matches!(claim(&table, "a", 1), Ok(Claim::Known(same)) if Arc::ptr_eq(&same, &exec)), "{over}");
            assert!(matches!(claim(&table, "a", 2), Err(error) if error.code() == ErrorCode::Conflict), "{over}");
            exec.set_exited(Ok(ExecExit::default()));
            exec.set_over();
            table.keep_record(&exec);
        }
        drop(slot);
        table.remove(&exec);
        assert!(matches!(claim(&table, "a", 2), Ok(Claim::Fresh(..))));
    }

    #[test]
    fn an_id_in_use_is_told_before_a_full_table() {
        let table = Arc::new(Table::new(1));
        let Ok(Claim::Fresh(_exec, slot)) = claim(&table, "a", 1) else { panic!() };
        assert!(matches!(claim(&table, "a", 2), Err(error) if error.code() == ErrorCode::Conflict));
        let Err(error) = claim(&table, "b", 1) else { panic!() };
        assert_eq!(error.code(), ErrorCode::LimitReached);
        assert!(error.to_string().starts_with("1 execs"), "{error}");
        drop(slot);
        assert!(matches!(claim(&table, "b", 1), Ok(Claim::Fresh(..))));
    }

    #[test]
    fn records_are_kept_up_to_their_number_and_the_oldest_goes_first() {
        let table = Arc::new(Table::new(8));
        for number in 0..limits::EXEC_RECORDS + 2 {
            run(&table, &number.to_string());
        }
        assert_eq!((table.records(), table.list().len()), (limits::EXEC_RECORDS, limits::EXEC_RECORDS));
        assert!(table.get("0").is_none() && table.get("1").is_none() && table.get("2").is_some());
    }

    #[test]
    fn an_exec_whose_task_is_gone_is_waited_for_by_nobody() {
        let table = Arc::new(Table::new(1));
        let Ok(Claim::Fresh(exec, _slot)) = claim(&table, "a", 1) else { panic!() };
        assert!(exec.set_lost() && !exec.set_lost());
        assert!(exec.exited().now_or_never().is_some() && exec.journal.is_over());
        assert!(matches!(exec.end(), Err(error) if error.code() == ErrorCode::Internal));
    }

    #[test]
    fn records_are_kept_up_to_their_age() {
        let table = Arc::new(Table::new(8));
        run(&table, "a");
        let (now, second) = (Instant::now(), std::time::Duration::from_secs(1));
        assert_eq!(table.lock().expire(now + limits::EXEC_RECORD_AGE - second).len(), 0);
        assert_eq!(table.lock().expire(now + limits::EXEC_RECORD_AGE + second).len(), 1);
        assert!(table.get("a").is_none());
    }
}
