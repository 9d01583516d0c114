//! guestd's own program.

use super::{Case, case, nothing};

const PROGRAM: &str = "usr/local/bin/guestd";
const LOADER: Option<&str> = Some("/lib64/ld-linux-x86-64.so.2");

pub(super) const CASES: &[Case] = &[
    case(
        "guestd-program",
        "/usr/local/bin/guestd",
        |it| it.remove(PROGRAM),
        |it| {
            it.program("opt/guestd", 62, None);
            it.link(PROGRAM, "/opt/guestd");
        },
    )
    .also(&["unit-program"]),
    case("guestd-program", "/usr/local/bin/guestd", |it| it.write(PROGRAM, "#!/bin/sh\n"), nothing),
    case("guestd-program", "/usr/local/bin/guestd", |it| it.mode(PROGRAM, 0o644), |it| it.mode(PROGRAM, 0o555))
        .also(&["unit-program"]),
    case("guestd-program", "/usr/local/bin/guestd", |it| it.mode(PROGRAM, 0o775), nothing),
    case("guestd-static", "/usr/local/bin/guestd", |it| it.program(PROGRAM, 62, LOADER), nothing),
    case(
        "guestd-machine",
        "/usr/local/bin/guestd",
        |it| it.program(PROGRAM, 183, None),
        |it| {
            it.program(PROGRAM, 183, None);
            for path in ["usr/bin/sh", "usr/lib/systemd/systemd"] {
                it.program(path, 183, LOADER);
            }
        },
    ),
    case(
        "guestctl-link",
        "/usr/local/bin/guestctl",
        |it| it.remove("usr/local/bin/guestctl"),
        |it| {
            it.link("usr/local/bin/guestctl", "/usr/local/bin/guestd");
        },
    ),
    case("guestctl-link", "/usr/local/bin/guestctl", |it| it.link("usr/local/bin/guestctl", "/bin/sh"), nothing),
];

#[test]
fn a_guestd_that_could_not_run_is_found() {
    super::hold(CASES);
}
