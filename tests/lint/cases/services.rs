//! What is started.

use super::{Case, case, nothing};
use crate::fixture::Fixture;

const WANTS: &str = "etc/systemd/system/multi-user.target.wants";

/// A unit of its own that is wanted.
fn unit(it: &Fixture, settings: &str) {
    it.write("etc/systemd/system/app.service", settings);
    it.link(&format!("{WANTS}/app.service"), "/etc/systemd/system/app.service");
}

/// Without systemd, and with a program of busybox's in init's place.
fn without_systemd(it: &Fixture) {
    it.remove("usr/lib/systemd/systemd");
    it.program("usr/sbin/init", 62, None);
}

pub(super) const CASES: &[Case] = &[
    case(
        "guestd-enabled",
        "/etc/systemd/system/guestd.service",
        |it| it.link("etc/systemd/system/guestd.service", "/dev/null"),
        nothing,
    ),
    case(
        "guestd-enabled",
        "/etc/systemd/system/guestd.service",
        |it| it.remove("etc/systemd/system/sysinit.target.wants/guestd.service"),
        |it| {
            it.remove("etc/systemd/system/sysinit.target.wants/guestd.service");
            it.link(&format!("{WANTS}/guestd.service"), "../guestd.service");
        },
    ),
    case("guestd-enabled", "/usr/local/bin/guestd", without_systemd, |it| {
        without_systemd(it);
        it.write("etc/inittab", "::respawn:/usr/local/bin/guestd agent\n");
    }),
    case(
        "guestd-enabled",
        "/usr/local/bin/guestd",
        |it| {
            without_systemd(it);
            it.write("etc/init.d/guestd", "#!/sbin/openrc-run\n");
            it.write("etc/inittab", "# guestd\n");
        },
        |it| {
            without_systemd(it);
            it.write("etc/init.d/guestd", "#!/sbin/openrc-run\n");
            it.link("etc/runlevels/default/guestd", "/etc/init.d/guestd");
        },
    ),
    case("guestd-enabled", "/usr/local/bin/guestd", without_systemd, |it| {
        it.remove("usr/lib/systemd/systemd");
        it.link("usr/sbin/init", "/usr/local/bin/guestd");
    }),
    // systemd is there, and another program is the init.
    case(
        "guestd-enabled",
        "/usr/local/bin/guestd",
        |it| {
            it.program("usr/bin/busybox", 62, None);
            it.link("usr/sbin/init", "/usr/bin/busybox");
        },
        |it| {
            it.remove("etc/systemd/system/guestd.service");
            it.link("usr/sbin/init", "/usr/local/bin/guestd");
        },
    ),
    case(
        "unit-dangling",
        "/etc/systemd/system/multi-user.target.wants/gone.service",
        |it| {
            it.link(&format!("{WANTS}/gone.service"), "/lib/systemd/system/gone.service");
        },
        |it| {
            // systemd goes by the name, wherever the link leads.
            it.write("usr/lib/systemd/system/there.service", "[Service]\nExecStart=/bin/sh\n");
            it.link(&format!("{WANTS}/there.service"), "/nowhere/there.service");
            it.write("usr/lib/systemd/system/one@.service", "[Service]\nExecStart=/bin/sh\n");
            it.link(&format!("{WANTS}/one@two.service"), "/lib/systemd/system/one@.service");
            it.link(&format!("{WANTS}/masked.service"), "/nowhere");
            it.link("etc/systemd/system/masked.service", "/dev/null");
        },
    ),
    case(
        "unit-dangling",
        "/etc/systemd/system/alias.service",
        |it| {
            it.link("etc/systemd/system/alias.service", "/usr/lib/systemd/system/gone.service");
        },
        |it| {
            it.write("usr/lib/systemd/system/there.service", "[Service]\nExecStart=/bin/sh\n");
            it.link("etc/systemd/system/alias.service", "/usr/lib/systemd/system/there.service");
        },
    ),
    case(
        "unit-program",
        "/etc/systemd/system/app.service",
        |it| unit(it, "[Service]\nExecStart=/usr/bin/gone --now\n"),
        |it| {
            unit(it, "[Service]\nExecStartPre=-/usr/bin/gone\nExecStart=@sh name\nExecStop=/usr/bin/gone\n");
        },
    ),
    case(
        "unit-program",
        "/etc/systemd/system/app.service",
        |it| {
            unit(it, "[Service]\nExecStart=/srv/app\n");
            it.write("srv/app", "#!/bin/sh\n");
        },
        |it| {
            unit(it, "[Service]\nExecStart=/srv/app\n");
            it.program("srv/app", 62, None);
        },
    ),
    case(
        "unit-program",
        "/etc/systemd/system/app.service",
        |it| unit(it, "[Service]\nExecStart=/srv\n"),
        |it| {
            unit(it, "[Unit]\nConditionFileIsExecutable=/usr/bin/gone\n[Service]\nExecStart=/usr/bin/gone\n");
        },
    )
    .also(&[]),
    case(
        "unit-program",
        "/usr/lib/systemd/system/job.service",
        |it| {
            it.write("usr/lib/systemd/system/job.timer", "[Timer]\nOnCalendar=daily\n");
            it.write("usr/lib/systemd/system/job.service", "[Service]\nExecStart=/usr/bin/gone\n");
            it.link(&format!("{WANTS}/job.timer"), "/lib/systemd/system/job.timer");
        },
        |it| {
            // A drop-in that starts something else.
            it.write("usr/lib/systemd/system/job.service", "[Service]\nExecStart=/usr/bin/gone\n");
            it.write("etc/systemd/system/job.service.d/mine.conf", "[Service]\nExecStart=\nExecStart=/bin/sh\n");
            it.link(&format!("{WANTS}/job.service"), "/lib/systemd/system/job.service");
        },
    ),
];

#[test]
fn services_that_would_not_start_are_found() {
    super::hold(CASES);
}
