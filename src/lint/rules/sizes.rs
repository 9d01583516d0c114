//! What could go: space that each VM's disk has for nothing. Lengths of files, as a directory and an image both know them.

use super::{Findings, Rule, Tree};
use crate::{
    display::text::bytes as shown,
    lint::{finding::Severity, tree::Place},
};

macro_rules! rule {
    ($name:ident, $id:literal, $wants:literal, $reason:literal, $fix:literal) => {
        static $name: Rule = Rule { id: $id, severity: Severity::Info, wants: $wants, reason: $reason, fix: $fix };
    };
}

rule!(
    PACKAGE_LISTS,
    "package-lists",
    "no lists of packages",
    "they are outdated in a day and fetched again before an installation",
    "`rm -rf /var/lib/apt/lists/*`, or the like of another package manager"
);
rule!(
    PACKAGE_CACHE,
    "package-cache",
    "no downloaded packages",
    "they are installed already",
    "`apt-get clean`, or the like of another package manager"
);
rule!(
    DOCUMENTATION,
    "documentation",
    "no manuals and translations",
    "nobody reads them in a VM; licences are worth keeping",
    "leave them out of the installation (dpkg's `path-exclude`)"
);
rule!(CACHE, "cache", "no caches", "what is needed of them is made again", "remove what is in it");
rule!(
    PYTHON_CACHE,
    "python-cache",
    "no bytecode of Python",
    "Python makes it again, unless start times matter more than space",
    "`find / -name __pycache__ -exec rm -r {} +`; `PYTHONDONTWRITEBYTECODE=1` in the build"
);
rule!(LOGS, "logs", "empty log files", "they are of the build and not of the VM", "empty them");
rule!(TEMPORARY, "temporary-files", "empty /tmp and /var/tmp", "the build has left them", "remove them");
rule!(
    BOOT_FILES,
    "boot-files",
    "no kernel and no boot loader",
    "the platform brings the kernel, and boots nothing from the disk",
    "do not install a kernel package"
);

pub(super) static RULES: &[&Rule] =
    &[&PACKAGE_LISTS, &PACKAGE_CACHE, &DOCUMENTATION, &CACHE, &PYTHON_CACHE, &LOGS, &TEMPORARY, &BOOT_FILES];

/// Below this much nobody gains anything, in bytes.
const WORTH_IT: u64 = 64 * 1024;

const LISTS: &[&str] = &["/var/lib/apt/lists", "/var/cache/apk", "/var/lib/dnf", "/var/lib/pacman/sync"];
const PACKAGES: &[&str] =
    &["/var/cache/apt", "/var/cache/dnf", "/var/cache/yum", "/var/cache/pacman/pkg", "/var/cache/zypp"];
const DOCUMENTS: &[&str] =
    &["/usr/share/doc", "/usr/share/info", "/usr/share/locale", "/usr/share/man", "/usr/share/help"];
const HOME_CACHES: &[&[u8]] = &[b".cache", b".npm", b".pnpm-store", b".m2", b".gradle", b".bundle"];

/// In /var/cache, and something else: packages, which have a rule of their own, and debconf's answers.
const NO_CACHES: &[&[u8]] = &[b"apk", b"apt", b"debconf", b"dnf", b"pacman", b"yum", b"zypp"];

const TEMPORARIES: &[&str] = &["/tmp", "/var/tmp"];

pub(super) fn check(tree: &Tree, found: &mut Findings) {
    let mut of = |rule: &'static Rule, paths: &[&str], counts: &dyn Fn(Place<'_>) -> bool, worth: u64| {
        for place in paths.iter().filter_map(|path| tree.look(path)).filter(|place| place.is_directory()) {
            let (mut files, mut bytes) = (0_u64, 0_u64);
            place.walk(&mut |place| {
                if place.is_file() && counts(place) {
                    files += 1;
                    bytes = bytes.saturating_add(place.facts().size);
                }
                true
            });
            tell(rule, place, files, bytes, worth, found);
        }
    };
    let all = |_: Place<'_>| true;
    of(&PACKAGE_LISTS, LISTS, &all, WORTH_IT);
    of(&PACKAGE_CACHE, PACKAGES, &all, WORTH_IT);
    of(&DOCUMENTATION, DOCUMENTS, &|place| place.name() != b"copyright", WORTH_IT);
    of(&LOGS, &["/var/log"], &|place| !place.path().starts_with("/var/log/journal/"), 1);
    of(&TEMPORARY, TEMPORARIES, &all, 1);
    of(&BOOT_FILES, &["/boot"], &all, WORTH_IT);
    caches(tree, found);
}

fn tell(rule: &'static Rule, place: Place<'_>, files: u64, bytes: u64, worth: u64, found: &mut Findings) {
    if bytes >= worth {
        found.sized(rule, place, format_args!("{files} files, {}", shown(bytes)), bytes);
    }
}

/// Caches of homes and of services, and all of Python's as one.
fn caches(tree: &Tree, found: &mut Findings) {
    for place in tree.look("/var/cache").into_iter().flat_map(Place::children) {
        if place.is_directory() && !NO_CACHES.contains(&place.name()) {
            let (files, bytes) = place.extent();
            tell(&CACHE, place, files, bytes, WORTH_IT, found);
        }
    }
    let homes = tree.look("/home").into_iter().flat_map(Place::children).chain(tree.look("/root"));
    for place in
        homes.flat_map(Place::children).filter(|place| place.is_directory() && HOME_CACHES.contains(&place.name()))
    {
        let (files, bytes) = place.extent();
        tell(&CACHE, place, files, bytes, WORTH_IT, found);
    }
    let (mut directories, mut files, mut bytes) = (0_u64, 0_u64, 0_u64);
    tree.root().walk(&mut |place| {
        if !place.is_directory() {
            return false;
        }
        if place.name() != b"__pycache__" {
            return true;
        }
        let (more, larger) = place.extent();
        directories += 1;
        files += more;
        bytes = bytes.saturating_add(larger);
        false
    });
    if bytes >= WORTH_IT {
        let size = shown(bytes);
        let message = format_args!("{files} files, {size}, in {directories} directories `__pycache__`");
        found.sized(&PYTHON_CACHE, tree.root(), message, bytes);
    }
}
