//! How sshd and ssh are set up.

use super::{Case, case, nothing};

const SSHD: &str = "etc/ssh/sshd_config";
const SSH: &str = "etc/ssh/ssh_config";
const PART: &str = "etc/ssh/sshd_config.d/10-guestd.conf";

/// Before guestd's part, and so stronger.
const BEFORE: &str = "etc/ssh/sshd_config.d/00-mine.conf";

pub(super) const CASES: &[Case] = &[
    case(
        "ssh-include",
        "/etc/ssh/sshd_config",
        |it| it.write(SSHD, "UsePAM yes\n"),
        |it| {
            it.write(SSHD, "Include sshd_config.d/*.conf\n");
        },
    )
    .also(&["sshd-password", "sshd-authorized-keys"]),
    case(
        "ssh-include",
        "/etc/ssh/ssh_config",
        |it| it.write(SSH, "Host *\n"),
        |it| {
            it.write(SSH, "include \"/etc/ssh/ssh_config.d/*.conf\"\nHost *\n");
        },
    ),
    case(
        "ssh-include",
        "/etc/ssh/ssh_config",
        |it| it.remove(SSH),
        |it| {
            for path in [SSH, SSHD, "usr/bin/ssh", "usr/sbin/sshd"] {
                it.remove(path);
            }
        },
    ),
    case(
        "sshd-authorized-keys",
        "/etc/ssh/sshd_config.d/00-mine.conf",
        |it| it.write(BEFORE, "AuthorizedKeysFile .ssh/authorized_keys\n"),
        |it| it.write("etc/ssh/sshd_config.d/20-mine.conf", "AuthorizedKeysFile .ssh/authorized_keys\n"),
    ),
    case(
        "sshd-authorized-keys",
        "/etc/ssh/sshd_config",
        |it| it.replace(PART, "AuthorizedKeysFile", "#AuthorizedKeysFile"),
        |it| it.write(BEFORE, "Match User somebody\nAuthorizedKeysFile .ssh/authorized_keys\n"),
    ),
    case(
        "sshd-password",
        "/etc/ssh/sshd_config.d/00-mine.conf",
        |it| it.write(BEFORE, "PasswordAuthentication yes\n"),
        |it| {
            it.write("etc/ssh/sshd_config.d/20-mine.conf", "PasswordAuthentication yes\n");
        },
    ),
    case(
        "sshd-password",
        "/etc/ssh/sshd_config",
        |it| it.replace(PART, "KbdInteractiveAuthentication no", ""),
        |it| it.replace(PART, "KbdInteractiveAuthentication no", "ChallengeResponseAuthentication=no"),
    ),
    case(
        "sshd-password",
        "/etc/ssh/sshd_config",
        |it| it.append(SSHD, "Match Address 10.0.0.0/8\n  PasswordAuthentication yes\n"),
        |it| it.append(SSHD, "Match Address 10.0.0.0/8\n  PasswordAuthentication no\n"),
    ),
    case(
        "sshd-password",
        "/etc/ssh/sshd_config.d/00-mine.conf",
        |it| it.write(BEFORE, "PermitEmptyPasswords yes\n"),
        nothing,
    ),
    case(
        "sshd-config",
        "/etc/ssh/sshd_config",
        |it| it.append(SSHD, "Prot 22\n"),
        |it| it.append(SSHD, "PORT=22 # the usual\n"),
    ),
    case("sshd-config", "/etc/ssh/sshd_config", |it| it.append(SSHD, "Banner \"/etc/issue\n"), nothing),
    case(
        "sshd-config",
        "/etc/ssh/sshd_config.d/00-mine.conf",
        |it| it.write(BEFORE, "Include sshd_config.d/00-*.conf\n"),
        nothing,
    ),
    case("sshd-config", "/etc/ssh/sshd_config", |it| it.remove(SSHD), |it| it.remove("usr/sbin/sshd"))
        .also(&["ssh-include"]),
];

#[test]
fn settings_of_ssh_that_let_nobody_or_everybody_in_are_found() {
    super::hold(CASES);
}
