//! How far one service is. Pure: told what happened and when, it says what to do.
//!
//! ```text
//!                 may start            ready
//!   Waiting ────────────────> Starting ─────> Running        stop, from anywhere ──> Stopping ──> Stopped
//!      ^                         │ ended, too late │ ended                          TERM, grace, KILL
//!      │ pause over              v                 v
//!   Pausing <──────────────── is it to be started again? ──no──> Done (exited with 0), Failed
//! ```
//!
//! The pause doubles with each end, and begins anew after a life that was ready for a while. Some, such as the agent, have an allowance of
//! starts without any pause, after lives that were ready at all: whoever kills an agent that works should find it back at once.

use std::time::Duration;

use super::{Restart, allowance::Allowance};
use crate::limits;

/// What to do for a service.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::init) enum Act {
    /// Start its program.
    Spawn,
    /// Send its stop signal to the main process.
    Signal,
    /// End all of it, now.
    Kill,
}

/// How a process ended, as far as it counts here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::init) struct Ended {
    /// It exited with 0.
    pub(in crate::init) well: bool,
    /// For people.
    pub(in crate::init) how: String,
}

/// The times and rules of one service.
#[derive(Debug, Clone, Copy)]
pub(in crate::init) struct Policy {
    pub(in crate::init) restart: Restart,
    pub(in crate::init) pause: (Duration, Duration),
    pub(in crate::init) grace: Duration,
    pub(in crate::init) ready_time: Duration,
    /// It is ready when it has exited with 0.
    pub(in crate::init) one_shot: bool,
    /// Starts without a pause, after lives that were ready; one more for each [`limits::SERVICE_AT_ONCE_EVERY`].
    pub(in crate::init) at_once: u32,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum State {
    Waiting,
    Starting {
        until: Duration,
    },
    Running {
        since: Duration,
    },
    Pausing {
        until: Duration,
    },
    /// `signalled` when the stop signal was sent; `kill_at` until SIGKILL was.
    Stopping {
        signalled: bool,
        kill_at: Option<Duration>,
        then: Then,
    },
    Stopped,
    Done,
    Failed(String),
}

/// What comes after a stop.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Then {
    Stop,
    Start,
    /// It was ended by us because of this.
    Judge(String),
}

/// One service's state. Times are since the kernel's start.
#[derive(Debug, Clone)]
pub(in crate::init) struct Life {
    policy: Policy,
    state: State,
    since: Duration,
    pause: Duration,
    at_once: Allowance,
    restarts: u32,
    last: Option<String>,
    /// Has ended without having been asked to, since it was last wanted.
    has_failed: bool,
}

impl Life {
    pub(in crate::init) fn new(policy: Policy, enabled: bool, now: Duration) -> Self {
        let state = if enabled { State::Waiting } else { State::Stopped };
        let at_once = Allowance::new(policy.at_once, limits::SERVICE_AT_ONCE_EVERY, now);
        Self { policy, state, since: now, pause: policy.pause.0, at_once, restarts: 0, last: None, has_failed: false }
    }

    fn go(&mut self, state: State, now: Duration) {
        self.state = state;
        self.since = now;
    }

    /// What is due. `may_start`, when those that it waits for are settled; `may_stop`, when those that wait for it have ended.
    pub(in crate::init) fn due(&mut self, now: Duration, may_start: bool, may_stop: bool) -> Option<Act> {
        match &mut self.state {
            State::Waiting if may_start => Some(Act::Spawn),
            State::Pausing { until } if now >= *until => Some(Act::Spawn),
            State::Starting { until } if now >= *until => {
                let why = format!("it was not ready within {} ms", self.policy.ready_time.as_millis());
                self.go(State::Stopping { signalled: true, kill_at: None, then: Then::Judge(why) }, now);
                Some(Act::Kill)
            }
            State::Stopping { signalled: signalled @ false, kill_at, .. } if may_stop => {
                *signalled = true;
                *kill_at = Some(now + self.policy.grace);
                Some(Act::Signal)
            }
            State::Stopping { signalled: true, kill_at, .. } if kill_at.is_some_and(|at| now >= at) => {
                *kill_at = None;
                Some(Act::Kill)
            }
            _ => None,
        }
    }

    /// When something is due, if nothing happens before.
    pub(in crate::init) fn deadline(&self) -> Option<Duration> {
        match self.state {
            State::Starting { until } | State::Pausing { until } => Some(until),
            State::Stopping { kill_at, .. } => kill_at,
            _ => None,
        }
    }

    /// Its program is being run.
    pub(in crate::init) fn spawned(&mut self, now: Duration) {
        if matches!(self.state, State::Pausing { .. }) {
            self.restarts = self.restarts.saturating_add(1);
        }
        self.go(State::Starting { until: now + self.policy.ready_time }, now);
    }

    /// It could not even be tried.
    pub(in crate::init) fn not_spawned(&mut self, why: String, now: Duration) {
        if matches!(self.state, State::Pausing { .. }) {
            self.restarts = self.restarts.saturating_add(1);
        }
        self.judge(&Ended { well: false, how: why.clone() }, Some(why), false, now);
    }

    /// It is ready.
    pub(in crate::init) fn ready(&mut self, now: Duration) {
        if matches!(self.state, State::Starting { .. }) {
            self.go(State::Running { since: now }, now);
        }
    }

    /// Its main process has ended. `why` is known where its program could not be run.
    pub(in crate::init) fn ended(&mut self, ended: Ended, why: Option<String>, now: Duration) {
        self.last = Some(ended.how.clone());
        match std::mem::replace(&mut self.state, State::Stopped) {
            State::Stopping { then: Then::Stop, .. } => self.go(State::Stopped, now),
            State::Stopping { then: Then::Start, .. } => {
                self.go(State::Stopped, now);
                self.start(now);
            }
            State::Stopping { then: Then::Judge(why), .. } => {
                self.judge(&Ended { well: false, how: ended.how }, Some(why), false, now);
            }
            State::Running { since } => {
                if now.saturating_sub(since) >= limits::SERVICE_STABLE {
                    self.pause = self.policy.pause.0;
                }
                let at_once = self.at_once.take(now);
                self.judge(&ended, why, at_once, now);
            }
            State::Starting { .. } if self.policy.one_shot && ended.well => self.go(State::Done, now),
            _ => self.judge(&ended, why, false, now),
        }
    }

    fn judge(&mut self, ended: &Ended, why: Option<String>, at_once: bool, now: Duration) {
        let again = match self.policy.restart {
            Restart::Always => true,
            Restart::OnFailure => !ended.well,
            Restart::Never => false,
        };
        self.last = Some(why.unwrap_or_else(|| ended.how.clone()));
        self.has_failed = true;
        if again && at_once {
            self.go(State::Pausing { until: now }, now);
        } else if again {
            let until = now + self.pause;
            // The agent's first pause is none, and doubled would stay so.
            let next = if self.pause.is_zero() { limits::AGENT_RESTART_SECOND } else { self.pause * 2 };
            self.pause = next.min(self.policy.pause.1);
            self.go(State::Pausing { until }, now);
        } else if ended.well {
            self.go(State::Done, now);
        } else {
            self.go(State::Failed(self.last.clone().unwrap_or_default()), now);
        }
    }

    /// Somebody wants it to run.
    pub(in crate::init) fn start(&mut self, now: Duration) {
        match &mut self.state {
            State::Stopped | State::Done | State::Failed(_) | State::Pausing { .. } => {
                self.pause = self.policy.pause.0;
                self.has_failed = false;
                self.go(State::Waiting, now);
            }
            State::Stopping { then, .. } => *then = Then::Start,
            State::Waiting | State::Starting { .. } | State::Running { .. } => {}
        }
    }

    /// Somebody wants it to end, and to start again or not.
    pub(in crate::init) fn stop(&mut self, again: bool, now: Duration) {
        match &mut self.state {
            State::Starting { .. } | State::Running { .. } => {
                let then = if again { Then::Start } else { Then::Stop };
                self.go(State::Stopping { signalled: false, kill_at: None, then }, now);
            }
            State::Stopping { then, .. } => *then = if again { Then::Start } else { Then::Stop },
            _ if again => self.start(now),
            State::Waiting | State::Pausing { .. } => self.go(State::Stopped, now),
            State::Stopped | State::Done | State::Failed(_) => {}
        }
    }

    /// Has it a process, as far as is known here?
    pub(in crate::init) fn runs(&self) -> bool {
        matches!(self.state, State::Starting { .. } | State::Running { .. } | State::Stopping { .. })
    }

    /// Need those that come after it wait no longer? It is ready, or has had its chance, be it that it is started again by now.
    pub(in crate::init) fn settled(&self) -> bool {
        self.has_failed || !matches!(self.state, State::Waiting | State::Starting { .. })
    }

    pub(in crate::init) fn is_starting(&self) -> bool {
        matches!(self.state, State::Starting { .. })
    }

    /// Was its end asked for?
    pub(in crate::init) fn is_stopping(&self) -> bool {
        matches!(self.state, State::Stopping { then: Then::Stop | Then::Start, .. })
    }

    pub(in crate::init) fn restarts(&self) -> u32 {
        self.restarts
    }

    /// When it came into its state.
    pub(in crate::init) fn since(&self) -> Duration {
        self.since
    }

    /// How its last process ended.
    pub(in crate::init) fn last(&self) -> Option<&str> {
        self.last.as_deref()
    }

    /// Its state on the wire.
    pub(in crate::init) fn state(&self) -> crate::api::ServiceState {
        use crate::api::ServiceState as Wire;
        match self.state {
            State::Waiting => Wire::Waiting,
            State::Starting { .. } => Wire::Starting,
            State::Running { .. } => Wire::Running,
            State::Pausing { .. } => Wire::Pausing,
            State::Stopping { .. } => Wire::Stopping,
            State::Stopped => Wire::Stopped,
            State::Done => Wire::Done,
            State::Failed(_) => Wire::Failed,
        }
    }

    /// What is the matter, where something is.
    pub(in crate::init) fn problem(&self, now: Duration) -> Option<String> {
        let last = || self.last.clone().unwrap_or_else(|| "it has ended".to_owned());
        match &self.state {
            State::Failed(why) => Some(format!("{why}; it is not started again")),
            State::Pausing { until } => {
                Some(format!("{}; it is started again in {} ms", last(), until.saturating_sub(now).as_millis()))
            }
            // After some ends in a row it is in trouble though it runs at this instant.
            State::Starting { .. } if self.pause > self.policy.pause.0 => {
                Some(format!("{}, and is started again", last()))
            }
            State::Running { since }
                if self.pause > self.policy.pause.0 && now.saturating_sub(*since) < limits::SERVICE_STABLE =>
            {
                Some(format!("{} before, and was started again", last()))
            }
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::api::ServiceState;

    fn ms(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    const POLICY: Policy = Policy {
        restart: Restart::Always,
        pause: (Duration::from_millis(100), Duration::from_millis(1000)),
        grace: Duration::from_millis(500),
        ready_time: Duration::from_millis(2000),
        one_shot: false,
        at_once: 0,
    };

    fn bad() -> Ended {
        Ended { well: false, how: "exit status 1".to_owned() }
    }

    fn well() -> Ended {
        Ended { well: true, how: "exit status 0".to_owned() }
    }

    fn running(policy: Policy) -> Life {
        let mut life = Life::new(policy, true, ms(0));
        assert_eq!(life.due(ms(0), true, true), Some(Act::Spawn));
        life.spawned(ms(0));
        life.ready(ms(0));
        life
    }

    #[test]
    fn it_starts_when_it_may_and_not_before() {
        let mut life = Life::new(POLICY, true, ms(0));
        assert_eq!(life.due(ms(5), false, true), None);
        assert_eq!(life.due(ms(5), true, true), Some(Act::Spawn));
        assert_eq!(Life::new(POLICY, false, ms(0)).due(ms(5), true, true), None);
    }

    #[test]
    fn the_pause_doubles_up_to_the_longest_and_a_stable_life_begins_it_anew() {
        let mut life = running(POLICY);
        let mut now = ms(0);
        let mut pauses = Vec::new();
        for _ in 0..6 {
            life.ended(bad(), None, now);
            let until = life.deadline().unwrap();
            pauses.push((until - now).as_millis());
            assert_eq!(life.due(until - ms(1), true, true), None);
            assert_eq!(life.due(until, true, true), Some(Act::Spawn));
            now = until;
            life.spawned(now);
            life.ready(now);
        }
        assert_eq!(pauses, [100, 200, 400, 800, 1000, 1000]);
        assert_eq!(life.restarts(), 6);
        life.ended(bad(), None, now + limits::SERVICE_STABLE);
        assert_eq!(life.deadline().unwrap() - now - limits::SERVICE_STABLE, ms(100));
    }

    const AGENT: Policy = Policy { pause: limits::AGENT_RESTART, at_once: limits::AGENT_AT_ONCE, ..POLICY };

    #[test]
    fn an_agent_that_was_ready_is_back_without_a_pause_even_if_it_is_killed_a_hundred_times() {
        let mut life = running(AGENT);
        for kill in 0..100 {
            let now = ms(kill * 7);
            life.ended(bad(), None, now);
            assert_eq!(life.due(now, true, true), Some(Act::Spawn));
            life.spawned(now);
            life.ready(now);
            assert_eq!(life.problem(now), None);
        }
    }

    /// Starts in ten minutes of an agent that ends at once.
    fn starts(becomes_ready: bool) -> u32 {
        let mut life = Life::new(AGENT, true, ms(0));
        let (mut now, mut starts) = (ms(0), 0);
        while now < ms(600_000) {
            assert_eq!(life.due(now, true, true), Some(Act::Spawn));
            life.spawned(now);
            if becomes_ready {
                life.ready(now);
            }
            life.ended(bad(), None, now);
            now = life.deadline().unwrap();
            starts += 1;
        }
        starts
    }

    #[test]
    fn an_agent_that_ends_again_and_again_is_started_every_few_seconds_in_the_end() {
        let never_ready = starts(false);
        assert!((100..150).contains(&never_ready), "{never_ready} starts");
        let ready = starts(true) - limits::AGENT_AT_ONCE;
        assert!((200..250).contains(&ready), "{ready} starts beyond those without a pause");
    }

    #[test]
    fn who_has_ended_once_is_waited_for_no_longer_until_it_is_wanted_anew() {
        let mut life = Life::new(Policy { pause: limits::AGENT_RESTART, ..POLICY }, true, ms(0));
        life.spawned(ms(0));
        assert!(!life.settled());
        life.ended(bad(), None, ms(1));
        // Its first pause is none, so that nobody sees it.
        assert_eq!(life.due(ms(1), true, true), Some(Act::Spawn));
        life.spawned(ms(1));
        assert!(life.settled());
        life.ready(ms(2));
        life.stop(false, ms(3));
        life.ended(bad(), None, ms(4));
        life.start(ms(5));
        assert!(!life.settled());
    }

    #[test]
    fn who_is_not_ready_in_time_is_killed_and_started_again() {
        let mut life = Life::new(POLICY, true, ms(0));
        life.spawned(ms(0));
        assert_eq!(life.due(ms(1999), true, true), None);
        assert_eq!(life.due(ms(2000), true, true), Some(Act::Kill));
        life.ended(Ended { well: false, how: "SIGKILL".to_owned() }, None, ms(2001));
        assert_eq!(life.state(), ServiceState::Pausing);
        assert!(life.problem(ms(2001)).unwrap().contains("not ready within 2000 ms"), "{life:?}");
    }

    #[test]
    fn the_restart_policy_decides_who_comes_back() {
        let after = |restart, ended| {
            let mut life = running(Policy { restart, ..POLICY });
            life.ended(ended, None, ms(1));
            life.state()
        };
        assert_eq!(after(Restart::Always, well()), ServiceState::Pausing);
        assert_eq!(after(Restart::OnFailure, well()), ServiceState::Done);
        assert_eq!(after(Restart::OnFailure, bad()), ServiceState::Pausing);
        assert_eq!(after(Restart::Never, bad()), ServiceState::Failed);
        assert_eq!(after(Restart::Never, well()), ServiceState::Done);
    }

    #[test]
    fn a_one_shot_is_done_when_it_exits_with_0() {
        let once = Policy { restart: Restart::Never, one_shot: true, ..POLICY };
        let mut life = Life::new(once, true, ms(0));
        life.spawned(ms(0));
        assert!(!life.settled());
        life.ended(well(), None, ms(1));
        assert_eq!((life.state(), life.settled()), (ServiceState::Done, true));
    }

    #[test]
    fn a_stop_waits_for_its_turn_signals_and_kills_after_the_grace() {
        let mut life = running(POLICY);
        life.stop(false, ms(1));
        assert_eq!(life.due(ms(1), true, false), None, "others come after it and still run");
        assert_eq!(life.due(ms(5), true, true), Some(Act::Signal));
        assert_eq!(life.due(ms(504), true, true), None);
        assert_eq!(life.due(ms(505), true, true), Some(Act::Kill));
        assert_eq!(life.due(ms(506), true, true), None, "once is enough");
        life.ended(bad(), None, ms(507));
        assert_eq!(life.state(), ServiceState::Stopped);
        assert_eq!(life.due(ms(9999), true, true), None);
    }

    #[test]
    fn a_restart_is_a_stop_and_a_start_and_the_last_word_counts() {
        let mut life = running(POLICY);
        life.ended(bad(), None, ms(0));
        life.spawned(ms(0));
        life.ready(ms(0));
        assert!(life.problem(ms(1)).is_some());
        life.stop(true, ms(1));
        life.due(ms(1), true, true);
        life.ended(well(), None, ms(2));
        assert_eq!(life.due(ms(2), true, true), Some(Act::Spawn));
        life.spawned(ms(2));
        assert_eq!((life.settled(), life.problem(ms(2))), (false, None), "what was before does not count");

        let mut life = running(POLICY);
        life.stop(true, ms(1));
        life.stop(false, ms(1));
        life.ended(well(), None, ms(2));
        assert_eq!(life.state(), ServiceState::Stopped);
        life.start(ms(3));
        assert_eq!(life.due(ms(3), true, true), Some(Act::Spawn));
    }

    #[test]
    fn what_cannot_be_run_is_named() {
        let mut life = Life::new(Policy { restart: Restart::Never, ..POLICY }, true, ms(0));
        life.spawned(ms(0));
        let why = "/bin/nope: No such file or directory".to_owned();
        life.ended(Ended { well: false, how: "exit status 127".to_owned() }, Some(why), ms(1));
        assert!(life.problem(ms(1)).unwrap().contains("/bin/nope"));
        assert!(life.settled(), "others need not wait for it");
    }

    proptest! {
        #[test]
        fn whatever_happens_a_stop_ends_it(events in prop::collection::vec(0..7_u8, 0..60)) {
            let mut life = Life::new(POLICY, true, ms(0));
            let mut now = ms(0);
            for event in events {
                now += ms(150);
                match event {
                    0 => life.start(now),
                    1 => life.stop(false, now),
                    2 => life.stop(true, now),
                    3 => life.ready(now),
                    4 if life.runs() => life.ended(bad(), None, now),
                    5 if life.runs() => life.ended(well(), None, now),
                    _ => {}
                }
                if life.due(now, true, true) == Some(Act::Spawn) {
                    life.spawned(now);
                }
            }
            life.stop(false, now);
            let mut killed = false;
            for _ in 0..5 {
                now = life.deadline().unwrap_or(now).max(now);
                let act = life.due(now, true, true);
                prop_assert_ne!(act, Some(Act::Spawn));
                killed |= act == Some(Act::Kill);
            }
            if life.runs() {
                prop_assert!(killed || life.deadline().is_none());
                life.ended(bad(), None, now);
            }
            prop_assert!(!life.runs());
            prop_assert_eq!(life.due(now + ms(100_000), true, true), None);
        }
    }
}
