//! The machine under all interleavings: calls that are repeated, late, out of order or wrong, kills, and branches of its memory.

use proptest::prelude::*;

use super::*;

fn announcement(id: &str, kind: GenerationKind, vm: Option<&str>, parent: Option<&str>) -> Announcement {
    let text = |text: &str| text.to_owned();
    Announcement {
        id: id.to_owned(),
        kind,
        vm_id: vm.map(text),
        parent_vm_id: parent.map(text),
        commit_id: None,
        fingerprint: 1,
    }
}

fn branch(id: &str, vm: &str, parent: &str) -> Announcement {
    announcement(id, GenerationKind::Branch, Some(vm), Some(parent))
}

fn sign() -> RestoreSign {
    RestoreSign { sign: "vmclock".to_owned(), message: String::new(), at: 0.0 }
}

/// A machine in this state, after generation `one` of VM `a`.
fn machine() -> Machine {
    let mut machine = Machine::new(None);
    assert_eq!(machine.announce(announcement("one", GenerationKind::Boot, Some("a"), None)), Ok(Verdict::Run));
    machine.finish(true);
    machine
}

#[test]
fn one_commit_becomes_two_children_while_the_parent_goes_on() {
    let mut parent = machine();
    parent.prepare(false);
    let (mut left, mut right) = (parent.clone(), parent.clone());
    assert!(parent.thaw() && parent.is_open());
    for (child, id) in [(&mut left, "b"), (&mut right, "c")] {
        assert!(!child.is_open());
        assert_eq!(child.announce(branch(id, id, "a")), Ok(Verdict::Run));
        child.finish(true);
        assert_eq!((child.id(), child.vm_id()), (Some(id), Some(id)));
    }
    assert_eq!((parent.id(), parent.vm_id()), (Some("one"), Some("a")));
}

#[test]
fn the_same_announcement_again_is_answered_and_not_carried_out() {
    let mut machine = machine();
    machine.announce(branch("two", "b", "a")).unwrap();
    machine.finish(true);
    assert_eq!(machine.announce(branch("two", "b", "a")), Ok(Verdict::Replay));
    assert!(machine.is_open());
    let changed = Announcement { fingerprint: 2, ..branch("two", "b", "a") };
    assert_eq!(machine.announce(changed), Err(Refusal::Changed { id: "two".to_owned() }));
}

#[test]
fn a_late_announcement_of_a_former_generation_is_a_conflict() {
    let mut machine = machine();
    machine.announce(branch("two", "b", "a")).unwrap();
    machine.finish(true);
    let refusal = machine.announce(announcement("one", GenerationKind::Boot, Some("a"), None)).unwrap_err();
    assert_eq!(refusal.code(), ErrorCode::StaleGeneration);
    assert_eq!(machine.vm_id(), Some("b"));
}

#[test]
fn a_late_repetition_does_not_thaw_what_was_prepared_after_it() {
    let mut machine = machine();
    machine.prepare(true);
    assert_eq!(machine.announce(announcement("one", GenerationKind::Boot, Some("a"), None)), Ok(Verdict::Replay));
    assert!(!machine.is_open());
}

#[test]
fn an_announcement_for_the_branch_of_another_vm_is_refused() {
    let mut machine = machine();
    assert!(matches!(machine.announce(branch("two", "c", "b")), Err(Refusal::OtherParent { .. })));
    // A golden image may not know its id.
    assert_eq!(Machine::new(None).announce(branch("two", "c", "b")), Ok(Verdict::Run));
}

#[test]
fn what_failed_is_tried_again_by_the_same_announcement() {
    let mut machine = machine();
    for complete in [false, true] {
        // As the first attempt may have changed the id, the parent is not asked for again.
        assert_eq!(machine.announce(branch("two", "b", "a")), Ok(Verdict::Run));
        machine.finish(complete);
    }
    assert_eq!(machine.announce(branch("two", "b", "a")), Ok(Verdict::Replay));
}

#[test]
fn an_agent_that_was_killed_leaves_nothing_closed_and_its_announcement_can_be_made_again() {
    let mut machine = machine();
    machine.announce(branch("two", "b", "a")).unwrap();
    let mut machine = machine.recovered();
    assert!(machine.is_open());
    assert_eq!((machine.id(), machine.interrupted()), (Some("one"), Some("two")));
    assert_eq!(machine.announce(branch("two", "b", "a")), Ok(Verdict::Run));
    machine.finish(true);
    assert_eq!((machine.id(), machine.interrupted()), (Some("two"), None));
}

#[test]
fn a_sign_counts_until_an_announcement_and_not_right_after_one() {
    let mut machine = machine();
    assert!(!machine.sign(sign(), Some(Duration::ZERO)));
    assert!(machine.sign(sign(), Some(limits::RESTORE_SIGN_GRACE)));
    assert_eq!(machine.unacked().len(), 1);
    machine.announce(branch("two", "b", "a")).unwrap();
    assert!(!machine.sign(sign(), None));
    machine.finish(false);
    assert!(machine.unacked().is_empty());
}

#[test]
fn a_second_prepare_freezes_only_what_is_not_frozen() {
    let mut machine = machine();
    assert!(!machine.prepare(false));
    assert!(machine.prepare(true));
    assert!(!machine.prepare(true) && !machine.prepare(false));
}

/// What can come.
#[derive(Debug, Clone)]
enum Event {
    Prepare(bool),
    Thaw,
    Watchdog,
    /// One of a few ids, so that they repeat.
    Announce(u8, Option<u8>, u64),
    Finish(bool),
    Sign(u64),
    Kill,
    /// What was written goes on as another VM; the rest is for that one.
    Branch,
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        any::<bool>().prop_map(Event::Prepare),
        Just(Event::Thaw),
        Just(Event::Watchdog),
        (0..6u8, proptest::option::of(0..3u8), 1..3u64)
            .prop_map(|(id, parent, print)| Event::Announce(id, parent, print)),
        any::<bool>().prop_map(Event::Finish),
        (0..5u64).prop_map(Event::Sign),
        Just(Event::Kill),
        Just(Event::Branch),
    ]
}

/// What the agent would find on disk.
fn written(machine: &Machine) -> Machine {
    serde_json::from_slice(&serde_json::to_vec(machine).unwrap()).unwrap()
}

proptest! {
    #[test]
    fn no_order_of_calls_kills_and_branches_leaves_it_closed_or_takes_it_back(events in proptest::collection::vec(event(), 0..60)) {
        let mut machine = Machine::new(None);
        // In the order in which they became present.
        let mut lived: Vec<String> = Vec::new();
        for event in events {
            let before = machine.clone();
            let restoring = matches!(before.phase, Phase::Restoring { .. });
            match event {
                // The task carries out one call after the other.
                Event::Prepare(freeze) if !restoring => {
                    machine.prepare(freeze);
                    prop_assert!(!machine.is_open());
                }
                Event::Thaw | Event::Watchdog if !restoring => {
                    machine.thaw();
                    prop_assert!(machine.is_open());
                    prop_assert_eq!(machine.current(), before.current());
                }
                Event::Announce(id, parent, fingerprint) if !restoring => {
                    let id = id.to_string();
                    let parent = parent.map(|parent| parent.to_string());
                    let announced = Announcement {
                        fingerprint, ..announcement(&id, GenerationKind::Branch, Some(&id), parent.as_deref())
                    };
                    match machine.announce(announced) {
                        Ok(Verdict::Run) => prop_assert!(!lived.iter().rev().skip(1).any(|past| *past == id)),
                        Ok(Verdict::Replay) => {
                            prop_assert_eq!(lived.last(), Some(&id));
                            prop_assert_eq!(&machine, &before);
                        }
                        Err(_) => prop_assert_eq!(&machine, &before),
                    }
                }
                Event::Finish(complete) if restoring => {
                    machine.finish(complete);
                    prop_assert!(machine.is_open() && machine.unacked().is_empty() && machine.interrupted().is_none());
                    let id = machine.id().unwrap().to_owned();
                    if lived.last() != Some(&id) {
                        prop_assert!(!lived.contains(&id), "{} came back", id);
                        lived.push(id);
                    }
                }
                Event::Sign(secs) => {
                    let news = machine.sign(sign(), Some(Duration::from_secs(secs)));
                    prop_assert_eq!(machine.unacked().len(), before.unacked().len() + usize::from(news));
                }
                Event::Kill => {
                    machine = written(&machine).recovered();
                    prop_assert!(machine.is_open());
                    prop_assert_eq!(machine.interrupted().is_some(), restoring || before.interrupted().is_some());
                }
                Event::Branch => machine = written(&machine),
                _ => {}
            }
        }
        // Whatever was before, the watchdog alone, or a successor, opens it.
        if matches!(machine.phase, Phase::Restoring { .. }) {
            machine.finish(false);
        }
        machine.thaw();
        prop_assert!(machine.is_open());
    }
}
