use super::*;
use crate::registry::content::Service;

const BEAT: Duration = Duration::from_secs(60);
const SECOND: Duration = Duration::from_secs(1);

fn content(address: &str) -> Content {
    Content { address: address.to_owned(), services: Vec::<Service>::new(), left_out: 0 }
}

fn refused(content: bool) -> Outcome {
    Outcome::Refused { why: "no".to_owned(), content }
}

fn lost() -> Outcome {
    Outcome::Again { why: "lost".to_owned(), sent: true, after: None }
}

/// A course with its time, which answers what is expected to be asked.
struct Play {
    course: Course,
    wanted: Content,
    now: Instant,
}

impl Play {
    fn new() -> Self {
        let now = Instant::now();
        Self { course: Course::new(BEAT, now), wanted: content("a"), now }
    }

    fn registered() -> Self {
        let mut play = Self::new();
        play.call(Call::Register, Outcome::Done);
        play
    }

    /// `call` is to be made now, and comes to this.
    fn call(&mut self, call: Call, outcome: Outcome) {
        assert_eq!(self.course.next(&self.wanted, self.now), Next::Send(call));
        self.course.sending();
        self.course.answered(call, &self.wanted.clone(), outcome, self.now, 0);
    }

    /// Nothing is to be done for this long; then it is that much later.
    fn wait(&mut self) -> Duration {
        match self.course.next(&self.wanted, self.now) {
            Next::Wait(until) => {
                let waited = until - self.now;
                self.now = until;
                waited
            }
            Next::Send(call) => panic!("{call} is to be sent"),
        }
    }

    fn trouble(&self) -> Option<Call> {
        self.course.trouble(&self.wanted).map(|trouble| trouble.call)
    }
}

#[test]
fn a_vm_is_registered_and_kept_fresh() {
    let mut play = Play::registered();
    for _ in 0..3 {
        assert_eq!(play.wait(), BEAT);
        play.call(Call::Heartbeat, Outcome::Done);
    }
    assert!(play.course.registered() && play.course.may_be_known() && play.course.last_heartbeat() == Some(play.now));
}

#[test]
fn a_change_is_told_once_and_does_not_put_a_heartbeat_off() {
    let mut play = Play::registered();
    play.now += 10 * SECOND;
    play.wanted = content("b");
    play.call(Call::Update, Outcome::Done);
    assert_eq!(play.wait(), BEAT - 10 * SECOND);
    play.wanted = content("c");
    play.call(Call::Heartbeat, Outcome::Done);
    play.call(Call::Update, Outcome::Done);
}

#[test]
fn a_known_vm_is_set_right_and_then_kept_fresh() {
    let mut play = Play::new();
    play.call(Call::Register, Outcome::Known);
    play.call(Call::Update, Outcome::Done);
    play.call(Call::Heartbeat, Outcome::Done);
    assert_eq!(play.wait(), BEAT);
}

#[test]
fn a_forgotten_vm_registers_anew_at_once() {
    let mut play = Play::registered();
    play.wait();
    play.call(Call::Heartbeat, Outcome::Unknown);
    play.call(Call::Register, Outcome::Done);
    play.wanted = content("b");
    play.call(Call::Update, Outcome::Unknown);
    play.call(Call::Register, Outcome::Done);
    assert_eq!(play.trouble(), None);
}

#[test]
fn a_registry_that_contradicts_itself_is_asked_ever_less() {
    let mut play = Play::new();
    let mut pauses = Vec::new();
    for turn in 0..10 {
        play.call(Call::Register, Outcome::Known);
        play.call(Call::Update, Outcome::Unknown);
        if turn > 0 {
            pauses.push(play.wait());
        }
    }
    assert!(pauses.is_sorted() && pauses[0] >= SECOND / 2 && pauses[8] == limits::REGISTRY_RETRY.1 / 2, "{pauses:?}");
}

#[test]
fn a_registry_that_takes_all_but_heartbeats_is_asked_ever_less() {
    let mut play = Play::new();
    let mut pauses = Vec::new();
    for turn in 0..10 {
        play.call(Call::Register, Outcome::Known);
        play.call(Call::Update, Outcome::Done);
        play.call(Call::Heartbeat, Outcome::Unknown);
        if turn > 0 {
            assert_eq!(play.trouble(), Some(Call::Heartbeat));
            pauses.push(play.wait());
        }
    }
    assert!(pauses.is_sorted() && pauses[0] >= SECOND / 2 && pauses[8] == limits::REGISTRY_RETRY.1 / 2, "{pauses:?}");
}

#[test]
fn an_entry_that_cannot_be_set_right_is_kept_fresh() {
    for outcome in [refused(true), refused(false), lost()] {
        let mut play = Play::new();
        play.call(Call::Register, Outcome::Known);
        play.call(Call::Update, outcome.clone());
        if let Next::Wait(_) = play.course.next(&play.wanted, play.now) {
            play.wait();
        }
        play.call(Call::Heartbeat, Outcome::Done);
        if let Next::Wait(_) = play.course.next(&play.wanted, play.now) {
            play.wait();
        }
        assert_eq!(play.trouble(), Some(Call::Update), "{outcome:?}");
    }
}

#[test]
fn a_change_whose_answer_is_lost_is_undone_in_the_registry_too() {
    let mut play = Play::registered();
    play.wanted = content("b");
    play.call(Call::Update, lost());
    play.wanted = content("a");
    play.wait();
    play.call(Call::Update, Outcome::Done);
    assert_eq!(play.wait(), BEAT - SECOND / 2);
}

#[test]
fn failures_are_tried_again_ever_later_up_to_a_minute_and_forgotten_by_a_success() {
    let mut play = Play::registered();
    play.wait();
    let pauses: Vec<_> = (0..12)
        .map(|_| {
            play.call(Call::Heartbeat, lost());
            play.wait()
        })
        .collect();
    assert_eq!(pauses[..4], [SECOND / 2, SECOND, 2 * SECOND, 4 * SECOND]);
    assert_eq!(pauses[11], limits::REGISTRY_RETRY.1 / 2);
    assert_eq!(play.trouble(), Some(Call::Heartbeat));
    play.call(Call::Heartbeat, Outcome::Done);
    assert_eq!((play.trouble(), play.wait()), (None, BEAT));
}

#[test]
fn an_entry_does_not_go_stale_while_the_registry_can_be_had() {
    // The longest pause, with the longest chance, and a call at its longest.
    assert!(BEAT + pause(u32::MAX, u32::MAX) + limits::REGISTRY_CALL_TIME < Duration::from_secs(300));
    assert!(BEAT + limits::REGISTRY_RETRY_AFTER + pause(1, u32::MAX) < Duration::from_secs(300));
    assert!(pause(1, u32::MAX) <= SECOND && pause(7, u32::MAX) <= limits::REGISTRY_RETRY.1);
}

#[test]
fn the_registry_may_ask_for_time() {
    let mut play = Play::new();
    let asked = Outcome::Again { why: "429".to_owned(), sent: true, after: Some(30 * SECOND) };
    play.call(Call::Register, asked);
    assert_eq!(play.wait(), 30 * SECOND + SECOND / 2);
    play.call(Call::Register, Outcome::Done);
}

#[test]
fn a_refused_token_is_tried_again_slowly() {
    let mut play = Play::new();
    play.call(Call::Register, refused(false));
    assert_eq!((play.trouble(), play.course.may_be_known()), (Some(Call::Register), false));
    assert_eq!(play.wait(), limits::REGISTRY_REFUSED_PAUSE);
    play.call(Call::Register, Outcome::Done);
    assert_eq!(play.trouble(), None);
}

#[test]
fn a_refused_change_does_not_end_the_heartbeats_and_stays_in_sight() {
    let mut play = Play::registered();
    play.wanted = content("b");
    play.call(Call::Update, refused(true));
    assert_eq!(play.wait(), BEAT);
    play.call(Call::Heartbeat, Outcome::Done);
    assert_eq!(play.trouble(), Some(Call::Update));
    assert_eq!(play.wait(), limits::REGISTRY_REFUSED_PAUSE - BEAT);
    play.call(Call::Heartbeat, Outcome::Done);
    play.call(Call::Update, refused(true));
    // What is wanted is what the registry has: nothing is wrong any more.
    play.wanted = content("a");
    assert_eq!(play.trouble(), None);
}

#[test]
fn only_what_may_be_in_the_registry_is_taken_out_of_it() {
    let mut play = Play::new();
    assert!(!play.course.may_be_known());
    play.call(Call::Register, Outcome::Again { why: "refused".to_owned(), sent: false, after: None });
    assert!(!play.course.may_be_known());
    play.wait();
    play.call(Call::Register, lost());
    assert!(play.course.may_be_known() && !play.course.registered());
}

proptest::proptest! {
    /// Whatever the registry answers, it is not asked without a pause, and heartbeats go on when it is well again.
    #[test]
    fn no_answers_make_the_course_hurry_or_stop(answers in proptest::collection::vec((0..6_u8, 0..2_u8), 1..200)) {
        let mut play = Play::new();
        let (began, mut calls) = (play.now, 0_u32);
        for (answer, change) in answers {
            while let Next::Wait(until) = play.course.next(&play.wanted, play.now) {
                proptest::prop_assert!(until > play.now && until - play.now <= limits::REGISTRY_REFUSED_PAUSE + BEAT);
                play.now = until;
            }
            let Next::Send(call) = play.course.next(&play.wanted, play.now) else { unreachable!() };
            let outcome = match answer {
                0 => Outcome::Done,
                1 => if call == Call::Register { Outcome::Known } else { Outcome::Unknown },
                2 => refused(true),
                3 => refused(false),
                4 => lost(),
                _ => Outcome::Again { why: String::new(), sent: false, after: Some(SECOND) },
            };
            play.course.sending();
            play.course.answered(call, &play.wanted.clone(), outcome, play.now, 0);
            calls += 1;
            if change == 1 {
                // The runner tells of a change a second after it at the earliest.
                play.now += limits::REGISTRY_COALESCE_TIME;
                play.wanted = content(if play.wanted.address == "a" { "b" } else { "a" });
            }
        }
        // Registering, its 409, a PATCH and a heartbeat may come at once; more takes time.
        let spent = play.now - began;
        proptest::prop_assert!(f64::from(calls) <= 6.0 + spent.as_secs_f64() * 6.0, "{calls} calls in {spent:?}");
    }
}
