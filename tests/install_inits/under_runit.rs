//! Debian's runit as process 1.

use crate::booted::Rootfs;

#[test]
fn the_agent_is_one_of_its_services_and_started_again_whenever_it_is_killed() {
    let rootfs = Rootfs::with_init("/lib/runit/runit-init");
    let report = rootfs.install();
    assert!(report.outcome("/etc/runit/runsvdir/default/guestd").is_some(), "{report}");
    let booted = rootfs.boot();
    booted.assert_prepared();
    for _ in 0..3 {
        booted.kill_agent();
    }
    let sv = |argument| {
        let output = booted.run(&["sv", argument, "/etc/service/guestd"]);
        (output.status.success(), String::from_utf8_lossy(&output.stdout).into_owned())
    };
    let (is_up, said) = sv("status");
    assert!(is_up && said.starts_with("run: "), "{said}");
    assert!(booted.console().contains("guestd::agent: ready"), "{}", booted.console());

    let before = booted.agent();
    let (is_down, said) = sv("stop");
    assert!(is_down && said.starts_with("ok: down"), "{said}");
    assert!(!std::path::Path::new(&format!("/proc/{before}")).exists());
    assert!(sv("start").0);
    assert!(booted.agent() != before);
}
