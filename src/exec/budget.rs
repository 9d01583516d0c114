//! Memory for the output of all execs together, and who gives some back when there is too much.
//!
//! Every piece of every replay ring is charged here. Over the limit, output goes in this order until there is some room again:
//!
//! 1. that of ended execs, the one that ended first before the others;
//! 2. the oldest of running ones, half of the largest ring at a time;
//! 3. what ended execs had promised to keep (`lossless`, `spill`) and nobody has read.
//!
//! What running execs have promised to keep is never taken: their rings have a fixed share each, which together is no more than
//! the limit. A ring that lost something tells its readers so. For an instant there can be one piece over the limit for each
//! running exec, which is charged before room is made for it.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use super::journal::Journal;

/// Whose turn it is to give something back, the first before the others.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Turn {
    /// Over, and nothing promised. The number orders the ends.
    Ended(u64),
    /// Runs, and nothing promised. The number is its cost.
    Running(usize),
    /// Over, promised and not read.
    EndedUnread(u64),
    /// Runs, and promised.
    Never,
}

/// What all journals share: the memory, and the order of their pieces.
#[derive(Debug)]
pub(super) struct Budget {
    limit: usize,
    used: AtomicUsize,
    sequence: AtomicU64,
    /// Times that a reader was told of a gap.
    pub(super) gaps: AtomicU64,
    journals: Mutex<BTreeMap<u64, Weak<Journal>>>,
    numbers: AtomicU64,
}

impl Budget {
    pub(super) fn new(limit: usize) -> Self {
        Self {
            limit,
            used: AtomicUsize::new(0),
            sequence: AtomicU64::new(0),
            gaps: AtomicU64::new(0),
            journals: Mutex::default(),
            numbers: AtomicU64::new(0),
        }
    }

    /// Knows a journal from now on. The number is for [`Budget::forget`].
    pub(super) fn register(&self, journal: impl FnOnce(u64) -> Arc<Journal>) -> Arc<Journal> {
        let number = self.numbers.fetch_add(1, Ordering::Relaxed);
        let journal = journal(number);
        self.journals().insert(number, Arc::downgrade(&journal));
        journal
    }

    pub(super) fn forget(&self, number: u64) {
        self.journals().remove(&number);
    }

    pub(super) fn charge(&self, cost: usize) {
        self.used.fetch_add(cost, Ordering::Relaxed);
    }

    pub(super) fn release(&self, cost: usize) {
        self.used.fetch_sub(cost, Ordering::Relaxed);
    }

    /// What is kept now.
    pub(super) fn used(&self) -> usize {
        self.used.load(Ordering::Relaxed)
    }

    /// The next place in the order of all pieces. To be taken while the journal that it is for is locked, so that whoever locks
    /// the journal later finds the piece.
    pub(super) fn next_sequence(&self) -> u64 {
        self.sequence.fetch_add(1, Ordering::AcqRel)
    }

    /// Places below this one are taken.
    pub(super) fn sequence(&self) -> u64 {
        self.sequence.load(Ordering::Acquire)
    }

    /// Makes room, if there is too much. No journal may be locked by the caller.
    pub(super) fn enforce(&self) {
        if self.used() <= self.limit {
            return;
        }
        // A little more than is needed, so that not every piece leads here.
        let target = self.limit - self.limit / 16;
        let mut journals: Vec<(Turn, Arc<Journal>)> =
            self.all().into_iter().map(|journal| (journal.turn(), journal)).collect();
        while self.used() > target {
            let next = journals.iter().enumerate().filter(|(_, (turn, _))| *turn != Turn::Never);
            // Of the running ones the largest is next, not the smallest.
            let Some(next) = next.min_by_key(|(_, (turn, _))| turn.order()).map(|(index, _)| index) else { return };
            let (turn, journal) = &mut journals[next];
            let wanted = self.used().saturating_sub(target);
            let freed = match turn {
                Turn::Running(cost) => journal.give_back(wanted.min(*cost / 2 + 1)),
                _ => journal.give_back(usize::MAX),
            };
            *turn = match turn {
                Turn::Running(cost) if freed > 0 => Turn::Running(cost.saturating_sub(freed)),
                _ => Turn::Never,
            };
        }
    }

    /// All journals that are still there.
    fn all(&self) -> Vec<Arc<Journal>> {
        self.journals().values().filter_map(Weak::upgrade).collect()
    }

    fn journals(&self) -> MutexGuard<'_, BTreeMap<u64, Weak<Journal>>> {
        self.journals.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Turn {
    /// Sorts by whose turn it is.
    fn order(self) -> (u8, u64) {
        match self {
            Self::Ended(at) => (0, at),
            Self::Running(cost) => (1, u64::MAX - cost as u64),
            Self::EndedUnread(at) => (2, at),
            Self::Never => (3, 0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ended_execs_give_first_then_the_largest_running_then_what_was_promised() {
        let mut turns =
            [Turn::Never, Turn::EndedUnread(1), Turn::Running(10), Turn::Ended(9), Turn::Running(20), Turn::Ended(3)];
        turns.sort_by_key(|turn| turn.order());
        let expected =
            [Turn::Ended(3), Turn::Ended(9), Turn::Running(20), Turn::Running(10), Turn::EndedUnread(1), Turn::Never];
        assert_eq!(turns, expected);
    }
}
