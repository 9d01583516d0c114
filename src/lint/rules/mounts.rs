//! Where file systems are mounted at boot.

use super::{Findings, Rule, Tree, lines};
use crate::lint::{finding::Severity, tree::Place};

static MOUNT_POINT: Rule = Rule {
    id: "mount-point",
    severity: Severity::Error,
    wants: "/proc, /sys, /dev, /run and /tmp as directories; the first four for root alone to write to",
    reason: "the kernel and init mount there and cannot make the directory first",
    fix: "`mkdir -p` it, and `chmod 0755`",
};

static TMP_MODE: Rule = Rule {
    id: "tmp-mode",
    severity: Severity::Error,
    wants: "/tmp and /var/tmp with mode 1777",
    reason: "programs of users cannot make their files there, or users can remove each other's",
    fix: "`chmod 1777` it",
};

static HIDDEN_FILES: Rule = Rule {
    id: "hidden-files",
    severity: Severity::Warning,
    wants: "no files in /proc, /sys, /dev and /run",
    reason: "what is mounted there hides them: they take space and nobody ever sees them",
    fix: "remove them, or put them where they were meant to be",
};

static FSTAB: Rule = Rule {
    id: "fstab",
    severity: Severity::Warning,
    wants: "nothing in /etc/fstab that a VM does not have",
    reason: "a boot waits 90 seconds for a disk that is not there, and then goes to the emergency console",
    fix: "remove the line, or add `nofail` to its options",
};

pub(super) static RULES: &[&Rule] = &[&MOUNT_POINT, &TMP_MODE, &HIDDEN_FILES, &FSTAB];

pub(super) fn check(tree: &Tree, found: &mut Findings) {
    for path in ["/proc", "/sys", "/dev", "/run", "/tmp"] {
        match tree.follow(path) {
            None => found.add(&MOUNT_POINT, path, format_args!("it is missing, or a link to nothing")),
            Some(place) if !place.is_directory() => found.add(&MOUNT_POINT, path, format_args!("it is no directory")),
            Some(place) => directory(place, path, found),
        }
    }
    if let Some(place) = tree.follow("/var/tmp").filter(|place| place.is_directory()) {
        directory(place, "/var/tmp", found);
    }
    for place in ["/proc", "/sys", "/dev", "/run"].iter().filter_map(|path| tree.look(path)) {
        let (files, bytes) = if place.is_directory() { place.extent() } else { (0, 0) };
        if files > 0 {
            let first = first_file(place).map(Place::path).unwrap_or_default();
            found.sized(&HIDDEN_FILES, place, format_args!("{files} files, such as {first}"), bytes);
        }
    }
    fstab(tree, found);
}

/// The mode of a mount point, or of a directory for all.
fn directory(place: Place<'_>, path: &str, found: &mut Findings) {
    let mode = place.facts().mode;
    match path {
        // What is mounted there is not the image's.
        _ if place.facts().mounted => {}
        "/tmp" | "/var/tmp" if mode == 0o1777 => {}
        "/tmp" | "/var/tmp" => found.add(&TMP_MODE, path, format_args!("its mode is {mode:04o}")),
        _ if mode & 0o022 == 0 => {}
        _ => found.add(&MOUNT_POINT, path, format_args!("others than root can write to it: mode {mode:04o}")),
    }
}

fn first_file(directory: Place<'_>) -> Option<Place<'_>> {
    let mut first = None;
    directory.walk(&mut |place| {
        if first.is_none() && place.is_file() {
            first = Some(place);
        }
        first.is_none()
    });
    first
}

/// Devices other than the root's; a VM has one disk.
fn fstab(tree: &Tree, found: &mut Findings) {
    let text = tree.text("/etc/fstab").unwrap_or_default();
    for line in lines(&text) {
        let mut fields = line.split_ascii_whitespace();
        let (Some(device), Some(point)) = (fields.next(), fields.next()) else { continue };
        let options = fields.nth(1).unwrap_or_default();
        let is_device = device.starts_with("/dev/") || device.contains("UUID=") || device.contains("LABEL=");
        let may_be_missing = options.split(',').any(|option| matches!(option, "nofail" | "noauto"));
        if is_device && point != "/" && !may_be_missing {
            found.add(&FSTAB, "/etc/fstab", format_args!("{device} is to be there, for {point}"));
        }
    }
}
