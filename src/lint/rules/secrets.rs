//! Secrets that were left in an image: keys, tokens, passwords. Only where they are is ever said, never what they are.
//!
//! Looked for everywhere but in what packages bring ([`searched`]): their example keys are no secrets, and there are many of them.

mod known;
mod scan;

use super::{Findings, Rule, Tree, assignments, lines};
use crate::{
    keys::GOLDEN_IDENTITY,
    limits,
    lint::{finding::Severity, tree::Place},
};

static PRIVATE_KEY: Rule = Rule {
    id: "private-key",
    severity: Severity::Error,
    wants: "no private keys but the golden one",
    reason: "every VM of the image has it, and so has whoever reads the image",
    fix: "remove it, and bring it into the VM when it runs",
};

static GOLDEN_KEY: Rule = Rule {
    id: "golden-key",
    severity: Severity::Error,
    wants: "the golden identity to be root's, mode 0600",
    reason: "ssh refuses a key that others can read, and whoever can read it can log in to all VMs of the image",
    fix: "`chown root:root` and `chmod 0600` it, or run `guestd install --keys` again",
};

static CREDENTIALS: Rule = Rule {
    id: "credentials",
    severity: Severity::Error,
    wants: "no files in which programs keep tokens and passwords",
    reason: "every VM of the image can act as the one who built it",
    fix: "remove it, and log in where it is needed, in the VM",
};

static TOKEN: Rule = Rule {
    id: "token",
    severity: Severity::Error,
    wants: "no tokens of known services in any file",
    reason: "every VM of the image has it, and so has whoever reads the image",
    fix: "remove it, and have it made invalid: it has been in an image",
};

static SECRET_VARIABLE: Rule = Rule {
    id: "secret-variable",
    severity: Severity::Error,
    wants: "no variables in environments and units that are called like a secret and have a value",
    reason: "what is in the environment of all VMs is no secret",
    fix: "remove the line; the platform sets a VM's environment",
};

static SCAN_BOUND: Rule = Rule {
    id: "not-searched",
    severity: Severity::Error,
    wants: "all files to be searched for secrets",
    reason: "what was not looked at cannot be vouched for",
    fix: "leave out what a VM does not need; the bounds are in src/limits",
};

pub(super) static RULES: &[&Rule] = &[&PRIVATE_KEY, &GOLDEN_KEY, &CREDENTIALS, &TOKEN, &SECRET_VARIABLE, &SCAN_BOUND];

/// Directories of packages, or of nothing that lasts.
const PACKAGES: &[&str] = &[
    "/bin",
    "/boot",
    "/dev",
    "/lib",
    "/lib32",
    "/lib64",
    "/libx32",
    "/nix/store",
    "/proc",
    "/run",
    "/sbin",
    "/snap",
    "/sys",
    "/usr/bin",
    "/usr/include",
    "/usr/lib",
    "/usr/lib32",
    "/usr/lib64",
    "/usr/libexec",
    "/usr/libx32",
    "/usr/local/go",
    "/usr/sbin",
    "/usr/share",
    "/usr/src",
    "/var/cache/apt",
    "/var/lib/apt",
    "/var/lib/dpkg",
    "/var/lib/pacman",
    "/var/lib/rpm",
];

/// Names of directories with packages of languages.
const LANGUAGE_PACKAGES: &[&[u8]] =
    &[b"node_modules", b"site-packages", b"dist-packages", b"gems", b"mod", b"registry"];

/// Files that set environments, by the last part of their name.
const PROFILES: &[&str] = &[
    "/.env",
    "/.profile",
    "/.bashrc",
    "/.bash_profile",
    "/.bash_login",
    "/.zshrc",
    "/.zprofile",
    "/.zshenv",
    "/.ashrc",
    "/.config/fish/config.fish",
];

/// Ends of variables' names that say what they hold.
const SECRET_NAMES: &[&str] = &[
    "TOKEN",
    "SECRET",
    "PASSWORD",
    "PASSWD",
    "API_KEY",
    "APIKEY",
    "ACCESS_KEY",
    "SECRET_KEY",
    "PRIVATE_KEY",
    "CREDENTIALS",
];

pub(super) fn check(tree: &Tree, found: &mut Findings) {
    golden(tree, found);
    search(tree, limits::LINT_SCAN_TOTAL_BYTES, found);
}

/// Searches files until so many bytes have been read.
fn search(tree: &Tree, mut budget: u64, found: &mut Findings) {
    let mut left = 0_u64;
    tree.root().walk(&mut |place| {
        if place.is_directory() {
            return searched(place);
        }
        if place.is_file() && place.facts().size > 0 {
            if budget > 0 {
                file(place, found);
                budget = budget.saturating_sub(place.facts().size.min(limits::LINT_SCAN_BYTES));
            } else {
                left += 1;
            }
        }
        false
    });
    if left > 0 {
        found.add(&SCAN_BOUND, "/", format_args!("{left} files: there is more to be searched than the bound allows"));
    }
}

/// Whether to look into a directory.
fn searched(directory: Place<'_>) -> bool {
    let path = directory.path();
    let of_a_language = LANGUAGE_PACKAGES.contains(&directory.name())
        && (!matches!(directory.name(), b"mod" | b"registry")
            || path.ends_with("/pkg/mod")
            || path.ends_with("cargo/registry"));
    !PACKAGES.contains(&path.as_str()) && !of_a_language && !path.ends_with("/.git/objects")
}

fn file(place: Place<'_>, found: &mut Findings) {
    let path = place.path();
    let path = path.as_str();
    // Host keys have a rule of their own, and so does the golden identity.
    if path == GOLDEN_IDENTITY || (path.starts_with("/etc/ssh/ssh_host_") && path.ends_with("_key")) {
        return;
    }
    if let Some(what) = known::key_store(path) {
        return found.at(&PRIVATE_KEY, place, format_args!("{what}"));
    }
    let Some(content) = place.read(limits::LINT_SCAN_BYTES) else { return };
    if let Some(program) = known::credentials(path, &content) {
        found.at(&CREDENTIALS, place, format_args!("{program} keeps a token or password there"));
    }
    // Programs have marks of keys and tokens in them, to know them by.
    if content.starts_with(b"\x7fELF") {
        return;
    }
    if let Some(kind) = scan::private_key(&content) {
        found.at(&PRIVATE_KEY, place, format_args!("{kind}"));
    }
    if let Some(service) = scan::token(&content) {
        found.at(&TOKEN, place, format_args!("there is what looks like a token of {service} in it"));
    }
    let is_unit = path.starts_with("/etc/systemd/system/") && (path.ends_with(".service") || path.ends_with(".conf"));
    if path == super::ENVIRONMENT
        || path.starts_with("/etc/profile.d/")
        || PROFILES.iter().any(|end| path.ends_with(end))
    {
        variables(place, assignments(&String::from_utf8_lossy(&content)), found);
    } else if is_unit {
        let text = String::from_utf8_lossy(&content);
        let set = lines(&text).filter_map(|line| line.split_once('=').filter(|(key, _)| key.trim() == "Environment"));
        let set = set.map(|(_, set)| set);
        let words = set.flat_map(|line| line.split([' ', '"', '\'']));
        variables(place, words.filter_map(|word| word.split_once('=')), found);
    }
}

fn variables<'text>(place: Place<'_>, set: impl Iterator<Item = (&'text str, &'text str)>, found: &mut Findings) {
    for (key, value) in set {
        // Those have a rule of their own.
        let guestds = matches!(key, "VERS_AUTH_TOKEN" | "GUESTD_AUTH_TOKEN");
        let upper = key.to_ascii_uppercase();
        let is_secret = SECRET_NAMES.iter().any(|name| upper.ends_with(name));
        // What begins with $ or ` is found out when the line is run; a path is where the secret is to be.
        if is_secret && !guestds && !value.is_empty() && !value.starts_with(['$', '`', '/']) {
            found.at(&SECRET_VARIABLE, place, format_args!("`{key}` has a value"));
        }
    }
}

fn golden(tree: &Tree, found: &mut Findings) {
    let Some(place) = tree.look(GOLDEN_IDENTITY) else { return };
    let facts = place.facts();
    if !place.is_file() {
        found.at(&GOLDEN_KEY, place, format_args!("it is no regular file"));
    } else if facts.mode != 0o600 {
        found.at(&GOLDEN_KEY, place, format_args!("its mode is {:04o}", facts.mode));
    } else if !tree.is_roots(place) {
        found.at(&GOLDEN_KEY, place, format_args!("it belongs to uid {}", facts.uid));
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::lint::{tree, waivers::Waivers};

    #[test]
    fn files_beyond_the_bound_are_named_as_not_searched() {
        let directory = tempfile::tempdir().unwrap();
        for name in ["a", "b", "c"] {
            fs::write(directory.path().join(name), "0123456789").unwrap();
        }
        let tree = tree::open(directory.path()).unwrap().tree.unwrap();
        let searched = |budget| {
            let mut found = Findings::new(Waivers::default());
            search(&tree, budget, &mut found);
            found.finish().into_iter().map(|finding| (finding.rule.id, finding.message)).collect::<Vec<_>>()
        };
        let message = "1 files: there is more to be searched than the bound allows";
        assert_eq!(searched(11), [("not-searched", message.to_owned())]);
        assert_eq!(searched(30), []);
    }
}
