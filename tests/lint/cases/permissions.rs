//! Who may read and write what.

use super::{Case, case, nothing};
use crate::fixture::Fixture;

/// A user's .ssh with keys that sshd accepts; whose keys they are is another rule's business.
fn dot_ssh(it: &Fixture) {
    it.write("home/user/.ssh/authorized_keys", "ssh-ed25519 AAAA user\n");
    it.mode("home/user/.ssh", 0o700);
    for path in ["home/user/.ssh", "home/user/.ssh/authorized_keys"] {
        it.owner(path, 1000);
    }
}

pub(super) const CASES: &[Case] = &[
    case("root-home", "/root", |it| it.mode("root", 0o755), |it| it.mode("root", 0o500)),
    case(
        "ssh-permissions",
        "/home/user/.ssh",
        |it| {
            dot_ssh(it);
            it.mode("home/user/.ssh", 0o755);
        },
        dot_ssh,
    )
    .also(&["authorized-keys"]),
    case(
        "ssh-permissions",
        "/home/user/.ssh/authorized_keys",
        |it| {
            dot_ssh(it);
            it.mode("home/user/.ssh/authorized_keys", 0o664);
        },
        |it| {
            dot_ssh(it);
            it.mode("home/user/.ssh/authorized_keys", 0o644);
        },
    )
    .also(&["authorized-keys"]),
    case(
        "ssh-permissions",
        "/home/user/.ssh/authorized_keys",
        |it| {
            dot_ssh(it);
            it.owner("home/user/.ssh/authorized_keys", 1001);
        },
        nothing,
    )
    .also(&["authorized-keys"]),
    case(
        "ssh-permissions",
        "/home/user",
        |it| {
            dot_ssh(it);
            it.mode("home/user", 0o775);
        },
        |it| {
            // Without keys it is the user's own business.
            it.mode("home/user", 0o775);
        },
    )
    .also(&["authorized-keys"]),
    case(
        "ssh-permissions",
        "/etc/guestd/ssh/authorized_keys/root",
        |it| it.mode("etc/guestd/ssh/authorized_keys/root", 0o664),
        nothing,
    ),
    case(
        "world-writable-directory",
        "/srv/app",
        |it| {
            it.directory("srv/app");
            it.mode("srv/app", 0o777);
        },
        |it| {
            it.directory("srv/app");
            it.mode("srv/app", 0o1777);
            it.link("srv/link", "app");
        },
    ),
    case(
        "world-writable-file",
        "/srv/file",
        |it| {
            it.write("srv/file", "");
            it.mode("srv/file", 0o666);
        },
        |it| {
            it.write("srv/file", "");
            it.mode("srv/file", 0o664);
        },
    ),
    case(
        "setuid",
        "/usr/local/bin/helper",
        |it| {
            it.program("usr/local/bin/helper", 62, None);
            it.mode("usr/local/bin/helper", 0o4755);
        },
        |it| {
            for (path, mode) in [("usr/bin/sudo", 0o4755), ("usr/bin/ssh-agent", 0o2755)] {
                it.program(path, 62, None);
                it.mode(path, mode);
            }
            it.directory("srv/shared");
            it.mode("srv/shared", 0o2775);
        },
    ),
    case("shadow-mode", "/etc/shadow", |it| it.mode("etc/shadow", 0o644), |it| it.mode("etc/shadow", 0o600)),
    case(
        "shadow-mode",
        "/etc/shadow-",
        |it| it.write("etc/shadow-", "root:*:::::::\n"),
        |it| {
            it.write("etc/gshadow", "root:*::\n");
            it.mode("etc/gshadow", 0o000);
        },
    ),
    case(
        "system-owner",
        "/etc/sudoers",
        |it| {
            it.write("etc/sudoers", "root ALL=(ALL) ALL\n");
            it.owner("etc/sudoers", 1000);
        },
        |it| {
            it.write("etc/sudoers", "root ALL=(ALL) ALL\n");
            it.mode("etc/sudoers", 0o440);
        },
    ),
    case(
        "system-owner",
        "/etc/systemd/system/guestd.service",
        |it| it.mode("etc/systemd/system/guestd.service", 0o664),
        nothing,
    ),
    case("system-owner", "/usr/bin", |it| it.mode("usr/bin", 0o775), nothing),
];

#[test]
fn files_that_others_can_write_or_read_are_found() {
    super::hold(CASES);
}
