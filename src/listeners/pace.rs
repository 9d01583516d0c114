//! When to look: a pure function of what was heard, when the last look was and what it cost.
//!
//! What is heard is answered by a look at once, unless looks have taken more than their share of a CPU (`limits::LISTENER_LOOK_SHARE`, with
//! some credit): in a storm they come at a distance that keeps them within it, and whatever is heard meanwhile is answered by one
//! more look, so that the last state is always seen. Without events a look is made from time to time, ever more seldom while
//! nothing changes.

use std::time::{Duration, Instant};

use crate::limits;

/// What to do now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    /// Look.
    Look,
    /// Wait, until then at the longest.
    Wait {
        /// None is for ever.
        until: Option<Instant>,
        /// Whatever is heard leads to the look that is due anyway, and is not worth being woken for.
        deaf: bool,
    },
}

/// A look, as far as the next one depends on it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Looked {
    pub(super) ended: Instant,
    /// CPU time.
    pub(super) cost: Duration,
    /// Something is different from the last time.
    pub(super) news: bool,
    /// The look failed, or showed what is known to be over.
    pub(super) again: bool,
    /// When a look is due for what this one has left open: the owner of some socket, for one.
    pub(super) due: Option<Instant>,
}

/// When to look next.
#[derive(Debug)]
pub(super) struct Pace {
    /// Something was heard since the last look.
    heard: bool,
    /// When to look without having heard anything.
    due: Option<Instant>,
    /// No look before, wishes apart.
    not_before: Instant,
    /// The last look's end.
    ended: Instant,
    /// CPU time of looks beyond their share.
    debt: Duration,
    /// Wait before looking again because of `Looked::again`.
    retry: Duration,
    poll: Option<Poll>,
}

#[derive(Debug)]
struct Poll {
    shortest: Duration,
    now: Duration,
}

impl Pace {
    /// After a first look. `poll` is the shortest time between two looks where there are no events.
    pub(super) fn new(now: Instant, poll: Option<Duration>) -> Self {
        let poll = poll.map(|shortest| Poll { shortest, now: shortest });
        Self {
            heard: false,
            due: poll.as_ref().map(|poll| now + poll.now),
            not_before: now,
            ended: now,
            debt: Duration::ZERO,
            retry: limits::LISTENER_LOOK_AGAIN.0,
            poll,
        }
    }

    /// Something was heard.
    pub(super) fn hear(&mut self) {
        self.heard = true;
    }

    /// What to do now.
    pub(super) fn step(&self, now: Instant) -> Step {
        let due = if self.heard { Some(self.not_before) } else { self.due.map(|due| due.max(self.not_before)) };
        match due {
            Some(due) if due <= now => Step::Look,
            until => Step::Wait { until, deaf: self.heard },
        }
    }

    /// A look was made, of all that was heard before it.
    pub(super) fn looked(&mut self, look: Looked) {
        let by_chance = !std::mem::take(&mut self.heard);
        let paid = look.ended.saturating_duration_since(self.ended) / limits::LISTENER_LOOK_SHARE;
        self.debt = self.debt.saturating_sub(paid) + look.cost.max(limits::LISTENER_LOOK_COST);
        let to_pay = self.debt.saturating_sub(limits::LISTENER_LOOK_BURST) * limits::LISTENER_LOOK_SHARE;
        self.not_before = look.ended + limits::LISTENER_LOOK_GAP.max(to_pay);
        self.ended = look.ended;

        let again = look.again.then(|| look.ended + self.retry);
        // What failed leaves it open: what is long due must not lead to the next at once.
        let left_open = look.due.map(|due| again.map_or(due, |again| due.max(again)));
        let (first, longest) = limits::LISTENER_LOOK_AGAIN;
        self.retry = if look.again { (self.retry * 2).min(longest) } else { first };
        let polled = self.poll.as_mut().map(|poll| {
            let longest = limits::LISTENER_POLL_LONGEST.max(poll.shortest);
            // A look that something led to says nothing of how often to look without cause.
            poll.now = match look.news {
                true => poll.shortest,
                false if by_chance => (poll.now * 2).min(longest),
                false => poll.now,
            };
            look.ended + poll.now
        });
        self.due = [again, polled, left_open].into_iter().flatten().min();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    /// A look at `at` that takes and costs `cost`.
    fn look(at: Instant, cost: Duration) -> Looked {
        Looked { ended: at + cost, cost, news: false, again: false, due: None }
    }

    /// Milliseconds of the looks that are made within `time`; `heard` says whether something is heard in a millisecond.
    fn looks(pace: &mut Pace, start: Instant, time: u32, cost: Duration, heard: impl Fn(u32) -> bool) -> Vec<u32> {
        let (mut made, mut busy_until) = (Vec::new(), start);
        for ms in 0..time {
            let now = start + MS * ms;
            if heard(ms) {
                pace.hear();
            }
            if now >= busy_until && pace.step(now) == Step::Look {
                made.push(ms);
                pace.looked(look(now, cost));
                busy_until = now + cost;
            }
        }
        made
    }

    #[test]
    fn with_events_nothing_is_waited_for_but_them_and_the_first_is_answered_at_once() {
        let start = Instant::now();
        let mut pace = Pace::new(start, None);
        let never = Step::Wait { until: None, deaf: false };
        assert_eq!(pace.step(start + 3600 * 1000 * MS), never);
        pace.hear();
        assert_eq!(pace.step(start + 3600 * 1000 * MS), Step::Look);
        pace.looked(look(start + 3600 * 1000 * MS, MS));
        assert_eq!(pace.step(start + 7200 * 1000 * MS), never);
    }

    #[test]
    fn storm_is_answered_a_hundred_times_a_second_and_its_last_event_always() {
        let start = Instant::now();
        let mut pace = Pace::new(start, None);
        let made = looks(&mut pace, start + 1000 * MS, 10_000, MS / 10, |ms| ms < 5003);
        assert_eq!(made[..4], [0, 2, 4, 6], "at its beginning there is credit");
        let within = |from, to| made.iter().filter(|ms| (from..to).contains(*ms)).count();
        assert_eq!(within(1000, 5000), 400);
        assert!((5003..5015).contains(made.last().unwrap()), "{made:?}");
        // While it waits, it is not woken by what it hears.
        pace.hear();
        pace.looked(look(start + 12_000 * MS, MS));
        pace.hear();
        assert!(matches!(pace.step(start + 12_001 * MS), Step::Wait { until: Some(_), deaf: true }));
    }

    #[test]
    fn after_a_calm_while_there_is_credit_again() {
        let start = Instant::now();
        let mut pace = Pace::new(start, None);
        looks(&mut pace, start + 1000 * MS, 5000, MS / 10, |ms| ms < 4900);
        let made = looks(&mut pace, start + 7000 * MS, 100, MS / 10, |ms| [5, 6].contains(&ms));
        assert_eq!(made, [5, 7]);
    }

    #[test]
    fn dear_looks_take_their_share_of_a_cpu_and_no_more() {
        let start = Instant::now();
        let mut pace = Pace::new(start, None);
        let cost = 300 * MS;
        let made = looks(&mut pace, start + 1000 * MS, 60_000, cost, |_| true);
        let share = 60_000 / limits::LISTENER_LOOK_SHARE;
        let used = made.len() as u32 * 300;
        assert!(used <= share + 600 && used >= share - 600, "{used} ms of {share} in {made:?}");
        assert_eq!(made[0], 0);
    }

    #[test]
    fn polling_backs_off_and_starts_anew_with_a_change() {
        let start = Instant::now();
        let mut pace = Pace::new(start, Some(250 * MS));
        assert_eq!(looks(&mut pace, start, 9000, Duration::ZERO, |_| false), [250, 750, 1750, 3750, 6250, 8750]);
        let now = start + 9000 * MS;
        pace.looked(Looked { news: true, ..look(now, MS) });
        assert_eq!(looks(&mut pace, now, 2000, Duration::ZERO, |_| false), [251, 751, 1751]);
        let mut seldom = Pace::new(start, Some(60_000 * MS));
        assert_eq!(looks(&mut seldom, start, 130_000, Duration::ZERO, |_| false), [60_000, 120_000]);
    }

    #[test]
    fn failed_look_is_made_again_soon_and_then_less_often_until_one_succeeds() {
        let start = Instant::now();
        let mut pace = Pace::new(start, None);
        let mut at = start;
        let mut waits = Vec::new();
        for _ in 0..14 {
            // An owner that was due before is no reason not to wait.
            pace.looked(Looked { again: true, due: Some(start), ..look(at, Duration::ZERO) });
            let Step::Wait { until: Some(until), deaf: false } = pace.step(at) else { panic!("{pace:?}") };
            waits.push((until - at).as_millis());
            at = until;
        }
        assert!(waits.is_sorted(), "{waits:?}");
        assert_eq!((waits[0], waits[13]), (1, limits::LISTENER_LOOK_AGAIN.1.as_millis()));
        pace.looked(look(at, Duration::ZERO));
        assert_eq!(pace.step(at + 10_000 * MS), Step::Wait { until: None, deaf: false });
    }

    #[test]
    fn owners_that_are_due_lead_to_a_look() {
        let start = Instant::now();
        let mut pace = Pace::new(start, None);
        let due = start + 4000 * MS;
        pace.looked(Looked { due: Some(due), ..look(start, MS) });
        assert_eq!(pace.step(start + 100 * MS), Step::Wait { until: Some(due), deaf: false });
        assert_eq!(pace.step(due), Step::Look);
    }
}
