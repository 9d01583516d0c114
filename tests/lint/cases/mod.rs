//! For each rule a tree that trips it and one that nearly does: both as a directory and as an image, with the same findings.

mod accounts;
mod identity;
mod mounts;
mod network;
mod permissions;
mod program;
mod secrets;
mod services;
mod sizes;
mod ssh;
mod traces;

use std::collections::BTreeSet;

use guestd::lint::{Severity, rules};

use crate::fixture::{Fixture, lint_of, seen};

/// A rule, where it finds something after `trips`, and what is not to trip it.
pub(crate) struct Case {
    rule: &'static str,
    at: &'static str,
    trips: fn(&Fixture),
    spares: fn(&Fixture),
    /// Rules that are tripped too.
    also: &'static [&'static str],
}

/// A case in which no other rule is tripped.
const fn case(rule: &'static str, at: &'static str, trips: fn(&Fixture), spares: fn(&Fixture)) -> Case {
    Case { rule, at, trips, spares, also: &[] }
}

impl Case {
    const fn also(self, rules: &'static [&'static str]) -> Self {
        Self { also: rules, ..self }
    }
}

/// Nothing more than the fixture has.
fn nothing(_: &Fixture) {}

const ALL: &[&[Case]] = &[
    accounts::CASES,
    identity::CASES,
    mounts::CASES,
    network::CASES,
    permissions::CASES,
    program::CASES,
    secrets::CASES,
    services::CASES,
    sizes::CASES,
    ssh::CASES,
    traces::CASES,
];

/// Rules of the medium, of waivers and of other programs, and the module here that has their tests.
const ELSEWHERE: &[(&str, &str)] = &[
    ("ext4-clean", "images"),
    ("unreadable", "images"),
    ("too-large", "hostile"),
    ("not-searched", "src/lint/rules/secrets.rs"),
    ("mounted", "hostile"),
    ("tree-owner", "hostile"),
    ("sshd-says", "tools"),
    ("systemd-says", "tools"),
    ("waiver-unknown", "waivers"),
    ("waiver-unused", "waivers"),
];

/// Tries the cases of a matter.
fn hold(cases: &[Case]) {
    let base = Fixture::new();
    for Case { rule, at, trips, spares, also } in cases {
        let spoilt = base.copy();
        trips(&spoilt);
        let found = found(&spoilt, rule);
        let of_rule: Vec<_> = found.iter().filter(|(id, ..)| id == rule).collect();
        assert!(of_rule.iter().any(|(_, path, ..)| path == at), "{rule} does not find {at}: {found:?}");
        let others: Vec<_> = found.iter().filter(|(id, ..)| id != rule && !also.contains(&id.as_str())).collect();
        assert!(others.is_empty(), "what trips {rule} at {at} trips others too: {others:?}");

        let spared = base.copy();
        spares(&spared);
        let found = self::found(&spared, rule);
        let tripped: Vec<_> = found.iter().filter(|(id, ..)| !also.contains(&id.as_str())).collect();
        assert!(tripped.is_empty(), "what is not to trip {rule} at {at}: {tripped:?}");
    }
}

/// The findings, which are the same in the directory and in an image of it.
fn found(fixture: &Fixture, rule: &str) -> Vec<crate::fixture::Seen> {
    let in_directory = seen(&fixture.lint());
    let in_image = seen(&lint_of(&fixture.image(&[])));
    assert_eq!(in_directory, in_image, "a directory and its image, for {rule}");
    in_directory
}

#[test]
fn the_tree_that_is_spoilt_has_nothing_wrong_with_it() {
    assert_eq!(found(&Fixture::new(), "none"), []);
}

#[test]
fn every_rule_has_a_tree_that_trips_it() {
    let here = ALL.iter().copied().flatten().map(|case| case.rule);
    let tested: BTreeSet<&str> = here.chain(ELSEWHERE.iter().map(|(rule, _)| *rule)).collect();
    assert_eq!(rules().map(|rule| rule.id).collect::<BTreeSet<_>>(), tested);
}

#[test]
fn rules_have_names_of_their_own_and_say_why_and_what_to_do() {
    let mut names = BTreeSet::new();
    for rule in rules() {
        assert!(names.insert(rule.id), "two rules are called {}", rule.id);
        let is_name = rule
            .id
            .bytes()
            .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'-' | b'.'));
        assert!(is_name, "{}", rule.id);
        for text in [rule.wants, rule.reason, rule.fix] {
            assert!(text.len() >= 9 && !text.ends_with('.'), "{}: {text}", rule.id);
        }
        assert!(matches!(rule.severity, Severity::Error | Severity::Warning | Severity::Info));
    }
}
