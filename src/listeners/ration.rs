//! How often something may be done that costs more the more there is in the VM.

use std::time::{Duration, Instant};

use nix::time::{ClockId, clock_gettime};

/// What is done anew may take this part of one processor.
const SHARE: u32 = 100;

/// Lets something be done again when a hundred times the processor time that it took is over, and within bounds.
///
/// Not the time that passed meanwhile: on a busy machine the wait would be long without need.
#[derive(Debug)]
pub(super) struct Ration {
    bounds: (Duration, Duration),
    due: Option<Instant>,
}

impl Ration {
    /// Between two times, at least and at most. The first time is due at once.
    pub(super) fn within(least: Duration, most: Duration) -> Self {
        Self { bounds: (least, most), due: None }
    }

    pub(super) fn is_due(&self, now: Instant) -> bool {
        self.due.is_none_or(|due| due <= now)
    }

    /// Does it on this thread.
    pub(super) fn spend<T>(&mut self, what: impl FnOnce() -> T) -> T {
        let before = processor_time();
        let result = what();
        self.spent(processor_time().saturating_sub(before), Instant::now());
        result
    }

    fn spent(&mut self, time: Duration, now: Instant) {
        self.due = Some(now + (time * SHARE).clamp(self.bounds.0, self.bounds.1));
    }
}

/// CPU time of this thread.
pub(super) fn processor_time() -> Duration {
    // The clock exists on every kernel that guestd runs on; without it the least wait holds.
    clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).map(Duration::from).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_takes_longer_is_done_less_often_within_bounds() {
        let start = Instant::now();
        let at = |millis| start + Duration::from_millis(millis);
        let mut ration = Ration::within(Duration::from_secs(1), Duration::from_secs(30));
        assert!(ration.is_due(start));
        for (took, wait) in [(1, 1000), (50, 5000), (500, 30_000)] {
            ration.spent(Duration::from_millis(took), start);
            assert!(!ration.is_due(at(wait - 1)) && ration.is_due(at(wait)), "{took} ms");
        }
    }

    #[test]
    fn time_in_which_others_run_does_not_count() {
        let mut ration = Ration::within(Duration::ZERO, Duration::from_secs(3600));
        ration.spend(|| std::thread::sleep(Duration::from_millis(50)));
        assert!(ration.is_due(Instant::now() + Duration::from_secs(4)), "{ration:?}");
    }
}
