//! The file system as a whole, and what of it could not be looked at.

use super::{Findings, Medium, Rule, Tree};
use crate::lint::finding::Severity;

static EXT4_CLEAN: Rule = Rule {
    id: "ext4-clean",
    severity: Severity::Error,
    wants: "an image that was unmounted, without errors and orphans",
    reason: "every VM would replay the journal or start with a damaged file system",
    fix: "unmount it, then `e2fsck -fy IMAGE`",
};

static UNREADABLE: Rule = Rule {
    id: "unreadable",
    severity: Severity::Error,
    wants: "everything to be readable for this check",
    reason: "what was not looked at cannot be vouched for",
    fix: "run it as root; for an image see what `e2fsck -fn IMAGE` says",
};

static TOO_LARGE: Rule = Rule {
    id: "too-large",
    severity: Severity::Error,
    wants: "a tree within the bounds of this check",
    reason: "what is beyond them was not looked at and cannot be vouched for",
    fix: "leave out what a VM does not need; the bounds are in src/limits",
};

static MOUNTED: Rule = Rule {
    id: "mounted",
    severity: Severity::Warning,
    wants: "nothing to be mounted in the directory",
    reason: "what is mounted hides what the image has there, and is no part of it; it was not looked at",
    fix: "unmount it before the image is made",
};

static TREE_OWNER: Rule = Rule {
    id: "tree-owner",
    severity: Severity::Warning,
    wants: "a root directory that belongs to root",
    reason: "sshd and sudo refuse files of others; owners are not judged in a tree of somebody else",
    fix: "pack the tree with root as owner of it, and look at the image again",
};

pub(super) static RULES: &[&Rule] = &[&EXT4_CLEAN, &UNREADABLE, &TOO_LARGE, &MOUNTED, &TREE_OWNER];

pub(super) fn check_medium(medium: &Medium, found: &mut Findings) {
    for fault in &medium.faults {
        found.add(&EXT4_CLEAN, "/", format_args!("{fault}"));
    }
    if let Some(why) = &medium.unreadable {
        found.add(
            &UNREADABLE,
            "/",
            format_args!("the file system cannot be read, and nothing else was looked at: {why}"),
        );
    }
}

pub(super) fn check_tree(tree: &Tree, found: &mut Findings) {
    let (troubles, more) = tree.troubles();
    for trouble in troubles {
        found.add(&UNREADABLE, &trouble.path, format_args!("{}", trouble.why));
    }
    if more > 0 {
        found.add(&UNREADABLE, "/", format_args!("{more} more could not be read"));
    }
    for bound in tree.bounds() {
        found.add(&TOO_LARGE, &bound.path, format_args!("{}", &bound.why));
    }
    tree.root().walk(&mut |place| {
        if place.facts().mounted {
            found.at(&MOUNTED, place, format_args!("another file system is mounted here"));
        }
        true
    });
    let owner = tree.root().facts().uid;
    if owner != 0 {
        found.add(&TREE_OWNER, "/", format_args!("it belongs to uid {owner}"));
    }
}
