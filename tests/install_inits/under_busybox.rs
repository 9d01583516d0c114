//! busybox's init, with an inittab and without.

use guestd::install::Outcome;

use crate::booted::{Booted, Rootfs};

/// Calls the scripts as Buildroot's does.
const RCS: &str = "#!/bin/sh\nfor script in /etc/init.d/S??*; do\n    [ -x \"$script\" ] && \"$script\" start\ndone\n";

fn booted(inittab: Option<&str>) -> Booted {
    let rootfs = Rootfs::with_init("/bin/busybox");
    rootfs.remove("/sbin/openrc-run");
    rootfs.write("/etc/init.d/rcS", RCS, 0o755);
    // Stands for sshd: whether the host key is there when its turn comes.
    rootfs.write(
        "/etc/init.d/S50sshd",
        "#!/bin/sh\ntest -s /etc/ssh/ssh_host_ed25519_key && echo >/key-was-there\n",
        0o755,
    );
    if let Some(inittab) = inittab {
        rootfs.write("/etc/inittab", inittab, 0o644);
    }
    let report = rootfs.install();
    assert_eq!(report.outcome("/etc/inittab"), inittab.map(|_| Outcome::Updated), "{report}");
    rootfs.boot()
}

#[test]
fn with_an_inittab_init_itself_keeps_the_agent_running() {
    let booted = booted(Some("::sysinit:/etc/init.d/rcS\n::shutdown:/bin/umount -a -r"));
    booted.assert_prepared();
    booted.eventually("rcS has come to sshd", |booted| booted.path("/key-was-there").exists().then_some(()));
    for _ in 0..3 {
        let agent = booted.kill_agent();
        let status = std::fs::read_to_string(format!("/proc/{agent}/status")).unwrap();
        assert!(status.contains(&format!("\nPPid:\t{}\n", booted.init())), "its parent is process 1: {status}");
    }
    // The script knows that it has nothing to start.
    let start = booted.run(&["/etc/init.d/S05guestd", "start"]);
    assert!(start.status.success(), "{start:?}");
    assert_eq!(booted.agents(), 1);
    let stop = booted.run(&["/etc/init.d/S05guestd", "stop"]);
    assert!(String::from_utf8_lossy(&stop.stdout).contains("take its line out of /etc/inittab"), "{stop:?}");
}

#[test]
fn without_an_inittab_a_loop_of_the_script_keeps_it_running() {
    let booted = booted(None);
    booted.assert_prepared();
    booted.eventually("rcS has come to sshd", |booted| booted.path("/key-was-there").exists().then_some(()));
    for _ in 0..3 {
        booted.kill_agent();
    }
    let script = |argument| booted.run(&["/etc/init.d/S05guestd", argument]);
    let again = script("start");
    assert!(String::from_utf8_lossy(&again.stdout).contains("guestd runs already"), "{again:?}");
    assert_eq!(booted.agents(), 1);

    let before = booted.agent();
    assert!(script("restart").status.success());
    assert!(booted.agent() != before);
    assert_eq!(booted.agents(), 1);

    assert!(script("stop").status.success());
    assert_eq!(booted.agents(), 0, "{}", booted.console());
    assert!(!booted.path("/run/guestd-keeper.pid").exists());
    assert!(script("stop").status.success(), "again");
    assert!(script("start").status.success());
    booted.agent();
}
