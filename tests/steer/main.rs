//! The restart matrix in small: every pair of binds, as root and as another user, a few rounds each. `just restart-matrix` does it at length.
//! Needs root.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "../matrix/bridge.rs"]
mod bridge;
#[path = "../matrix/case.rs"]
mod case;
#[path = "../matrix/world.rs"]
mod world;

use case::{Case, Outcome, complaints, complaints_of_all};
use world::World;

const ROUNDS: u32 = 6;

fn outcomes(cases: &[Case], steered: bool) -> Vec<Outcome> {
    let run = || {
        let world = World::enter(steered).unwrap();
        cases.iter().map(|case| world.run(case, ROUNDS).unwrap()).collect()
    };
    std::thread::scope(|scope| scope.spawn(run).join()).unwrap()
}

#[test]
fn services_start_again_with_steering_as_without_it_and_are_reached_at_once() {
    for gap_micros in [0, 1_000] {
        let cases = Case::all(gap_micros, false);
        let (control, steered) = (outcomes(&cases, false), outcomes(&cases, true));
        let of_all = complaints_of_all(control.iter().zip(&steered));
        let wrong: Vec<_> = cases
            .iter()
            .zip(control.iter().zip(&steered))
            .flat_map(|(case, (control, steered))| {
                complaints(control, steered).into_iter().map(move |c| format!("{case}: {c}"))
            })
            .chain(of_all)
            .collect();
        assert!(wrong.is_empty(), "{} failures:\n{}", wrong.len(), wrong.join("\n"));
    }
}

/// An outcome of 300 rounds in which this bind was refused so often.
fn refused(times: u32) -> Outcome {
    let refused = (times > 0).then(|| ("new: EADDRINUSE".to_owned(), times));
    Outcome { rounds: 300, refused: refused.into_iter().collect(), bridged: 1, ..Outcome::default() }
}

#[test]
fn refusals_without_steering_excuse_no_more_than_chance_does() {
    for (control, steered, is_fine) in [
        (0, 0, true),
        (0, 1, false),
        (1, 0, true),
        (1, 300, false),
        (1, 40, false),
        (1, 4, true),
        (20, 35, true),
        (20, 90, false),
        (90, 20, false),
        (300, 300, true),
        (300, 299, false),
    ] {
        let complaints = complaints(&refused(control), &refused(steered));
        assert_eq!(complaints.is_empty(), is_fine, "{control} and {steered}: {complaints:?}");
    }
}

#[test]
fn a_little_more_in_each_of_many_cases_is_told() {
    let (control, more, as_many) = (refused(10), refused(18), refused(11));
    assert!(complaints(&control, &more).is_empty());
    let of_fifty = |steered| complaints_of_all(std::iter::repeat_n((&control, steered), 50));
    assert_eq!((of_fifty(&more).len(), of_fifty(&as_many).len()), (1, 0));
}
