//! How often something may be done that costs more the more there is in the VM.

use std::time::{Duration, Instant};

/// What is done anew may take this part of the time.
const SHARE: u32 = 100;

/// Lets something be done again when a hundred times its own duration is over, and within bounds.
#[derive(Debug)]
pub(super) struct Pace {
    bounds: (Duration, Duration),
    due: Option<Instant>,
}

impl Pace {
    /// Between two times, at least and at most. The first time is due at once.
    pub(super) fn within(least: Duration, most: Duration) -> Self {
        Self { bounds: (least, most), due: None }
    }

    pub(super) fn is_due(&self, now: Instant) -> bool {
        self.due.is_none_or(|due| due <= now)
    }

    /// It was done, from `began` to `ended`.
    pub(super) fn done(&mut self, began: Instant, ended: Instant) {
        let wait = ((ended - began) * SHARE).clamp(self.bounds.0, self.bounds.1);
        self.due = Some(ended + wait);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_takes_longer_is_done_less_often_within_bounds() {
        let start = Instant::now();
        let at = |millis| start + Duration::from_millis(millis);
        let mut pace = Pace::within(Duration::from_secs(1), Duration::from_secs(30));
        assert!(pace.is_due(start));
        for (took, wait) in [(1, 1000), (50, 5000), (500, 30_000)] {
            pace.done(start, at(took));
            assert!(!pace.is_due(at(took + wait - 1)) && pace.is_due(at(took + wait)), "{took} ms");
        }
    }
}
