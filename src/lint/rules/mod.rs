//! The checklist: rules, and what looks for each. Pure functions from a tree to findings.
//!
//! A file here is a matter, with its rules at the top and one function, `check`, that looks for all of them. An error leaks or does
//! not work; a warning is wrong in most images; an info is good to know.

mod accounts;
mod identity;
mod medium;
mod mounts;
mod network;
mod permissions;
mod program;
mod secrets;
mod services;
mod sizes;
mod ssh;
mod traces;
mod verdicts;

use super::{
    finding::{Findings, Rule},
    tree::{Medium, Place, Tree},
};

pub(super) use verdicts::{SSHD_SAYS, SYSTEMD_SAYS};

/// guestd's own places in an image.
const CONFIG_FILE: &str = crate::config::DEFAULT_FILE;
const ENVIRONMENT: &str = "/etc/environment";

/// All rules, matter by matter.
pub(super) fn all() -> impl Iterator<Item = &'static Rule> {
    let matters: [&'static [&'static Rule]; 13] = [
        medium::RULES,
        identity::RULES,
        secrets::RULES,
        traces::RULES,
        ssh::RULES,
        services::RULES,
        program::RULES,
        mounts::RULES,
        network::RULES,
        accounts::RULES,
        permissions::RULES,
        sizes::RULES,
        verdicts::RULES,
    ];
    matters.into_iter().flatten().copied()
}

/// Looks for everything. `builder` is the name of the machine that the image was made on, if that is this one.
pub(super) fn check(medium: &Medium, builder: Option<&str>, found: &mut Findings) {
    medium::check_medium(medium, found);
    if let Some(tree) = &medium.tree {
        identity::check(tree, found);
        secrets::check(tree, found);
        traces::check(tree, found);
        ssh::check(tree, found);
        services::check(tree, found);
        program::check(tree, found);
        mounts::check(tree, found);
        network::check(tree, builder, found);
        accounts::check(tree, found);
        permissions::check(tree, found);
        sizes::check(tree, found);
    }
}

/// Last: what could not be looked at is known when everything has been, and what the waivers did not do as well.
pub(super) fn conclude(medium: &Medium, found: &mut Findings) {
    if let Some(tree) = &medium.tree {
        medium::check_tree(tree, found);
    }
    verdicts::check_waivers(found);
}

/// systemd itself, if the image has it.
fn systemd(tree: &Tree) -> Option<Place<'_>> {
    ["/usr/lib/systemd/systemd", "/lib/systemd/systemd"]
        .iter()
        .find_map(|path| tree.follow(path))
        .filter(|it| it.is_file())
}

/// Lines of a file that are neither empty nor comments, without blanks around them.
fn lines(text: &str) -> impl Iterator<Item = &str> {
    text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'))
}

/// `KEY=VALUE` lines as in /etc/environment and shells' profiles: `export` before them and quotes around the value are taken off.
fn assignments(text: &str) -> impl Iterator<Item = (&str, &str)> {
    lines(text).filter_map(|line| {
        let (key, value) = line.strip_prefix("export ").unwrap_or(line).trim_start().split_once('=')?;
        let is_name = !key.is_empty() && key.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
        is_name.then_some((key, value.trim().trim_matches(['"', '\''])))
    })
}

/// Files of which an image should have none, or none that is not empty.
fn not_empty<'tree>(tree: &'tree Tree, paths: &'tree [&'tree str]) -> impl Iterator<Item = Place<'tree>> {
    paths.iter().filter_map(|path| tree.look(path)).filter(|place| place.is_file() && place.facts().size > 0)
}
