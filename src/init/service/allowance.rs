//! How often something may be done at once.

use std::time::Duration;

/// So many at once, and one more each time that some time has passed. Times are since the kernel's start.
#[derive(Debug, Clone, Copy)]
pub(super) struct Allowance {
    most: u32,
    every: Duration,
    left: u32,
    /// When one was last added.
    added: Duration,
}

impl Allowance {
    /// One that is full.
    pub(super) fn new(most: u32, every: Duration, now: Duration) -> Self {
        Self { most, every, left: most, added: now }
    }

    /// Takes one, if there is one.
    pub(super) fn take(&mut self, now: Duration) -> bool {
        while self.left < self.most && now.saturating_sub(self.added) >= self.every {
            self.left += 1;
            self.added += self.every;
        }
        if self.left == self.most {
            self.added = now;
        }
        let some = self.left > 0;
        self.left -= u32::from(some);
        some
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EVERY: Duration = Duration::from_secs(6);

    fn taken(allowance: &mut Allowance, now: Duration) -> usize {
        std::iter::from_fn(|| allowance.take(now).then_some(())).count()
    }

    #[test]
    fn there_are_so_many_at_once_and_later_one_for_each_time_that_passes() {
        let mut allowance = Allowance::new(3, EVERY, EVERY);
        assert_eq!(taken(&mut allowance, EVERY), 3);
        assert_eq!(taken(&mut allowance, EVERY * 2 - Duration::from_nanos(1)), 0);
        assert_eq!(taken(&mut allowance, EVERY * 2), 1);
        assert_eq!(taken(&mut allowance, EVERY * 7 / 2), 1);
        assert_eq!(taken(&mut allowance, EVERY * 4), 1, "what had passed of the next one is kept");
        assert_eq!(taken(&mut allowance, EVERY * 1_000_000), 3);
        // A full one does not save up.
        assert_eq!(taken(&mut allowance, EVERY * 1_000_001), 1);
    }

    #[test]
    fn an_allowance_of_none_never_has_one() {
        let mut allowance = Allowance::new(0, EVERY, EVERY);
        assert_eq!(taken(&mut allowance, EVERY * 9), 0);
    }
}
