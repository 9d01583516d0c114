//! Who may log in.

use super::{Case, case, nothing};

pub(super) const CASES: &[Case] = &[
    case(
        "empty-password",
        "/etc/shadow",
        |it| it.replace("etc/shadow", "root:*:", "root::"),
        |it| {
            it.replace("etc/shadow", "root:*:", "root:!:");
        },
    ),
    case(
        "empty-password",
        "/etc/passwd",
        |it| it.replace("etc/passwd", "user:x:", "user::"),
        |it| {
            // NIS's, and what is no account.
            it.append("etc/passwd", "+::::::\n+\nnobody\n");
        },
    ),
    case(
        "shared-password",
        "/etc/shadow",
        |it| it.replace("etc/shadow", "user:!:", "user:$y$j9T$salt$hash:"),
        |it| {
            it.replace("etc/shadow", "user:!:", "user:!$y$j9T$salt$hash:");
        },
    ),
    case("shared-password", "/etc/passwd", |it| it.replace("etc/passwd", "user:x:", "user:$6$salt$hash:"), nothing),
    case(
        "uid-zero",
        "/etc/passwd",
        |it| it.append("etc/passwd", "toor:x:0:0::/root:/bin/sh\n"),
        |it| {
            it.append("etc/passwd", "daemon:x:1:0::/:/usr/sbin/nologin\n");
        },
    ),
    case("empty-password", "/etc/shadow", |it| it.append("etc/shadow", "guest::19000:0:99999:7:::\n"), nothing),
];

#[test]
fn accounts_that_let_anybody_in_are_found() {
    super::hold(CASES);
}
