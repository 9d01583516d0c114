//! Debian's OpenRC, run by busybox's init as Alpine does it.

use crate::{
    booted::{Booted, Rootfs},
    images::ALPINE_INITTAB,
};

fn booted() -> Booted {
    let rootfs = Rootfs::with_init("/bin/busybox");
    rootfs.write("/etc/inittab", ALPINE_INITTAB, 0o644);
    rootfs.install();
    rootfs.boot()
}

#[test]
fn the_agent_is_started_early_and_again_whenever_it_is_killed() {
    let booted = booted();
    booted.assert_prepared();
    for _ in 0..3 {
        booted.kill_agent();
    }
    let status = booted.run(&["rc-service", "guestd", "status"]);
    assert!(status.status.success(), "{status:?}");
    // What it says goes to the console, as nobody else would see it.
    assert!(booted.console().contains("guestd::agent: ready"), "{}", booted.console());
}

#[test]
fn the_service_can_be_stopped_started_and_restarted() {
    let booted = booted();
    let first = booted.agent();
    let stop = booted.run(&["rc-service", "guestd", "stop"]);
    assert!(stop.status.success(), "{stop:?}");
    assert!(!std::path::Path::new(&format!("/proc/{first}")).exists(), "the agent has ended with the command");
    assert!(booted.console().contains("guestd::agent: stopped"), "it was asked to, and drained: {}", booted.console());
    let start = booted.run(&["rc-service", "guestd", "start"]);
    assert!(start.status.success(), "{start:?}");
    let second = booted.agent();
    let restart = booted.run(&["rc-service", "guestd", "restart"]);
    assert!(restart.status.success(), "{restart:?}");
    assert!(booted.agent() != second);
}

#[test]
fn it_comes_before_the_network_and_sshd() {
    let rootfs = Rootfs::with_init("/bin/busybox");
    rootfs.write("/etc/inittab", ALPINE_INITTAB, 0o644);
    let script = |provides: &str, name: &str| {
        format!(
            "#!/sbin/openrc-run\ndepend() {{ {provides}; }}\n\
             start() {{ if service_started guestd; then echo '{name} after guestd' >>/order; else echo {name} >>/order; fi }}\n"
        )
    };
    rootfs.write("/etc/init.d/networking", &script("provide net", "networking"), 0o755);
    rootfs.write("/etc/init.d/sshd", &script("need net", "sshd"), 0o755);
    for (runlevel, name) in [("boot", "networking"), ("boot", "sshd")] {
        rootfs.link(&format!("/etc/init.d/{name}"), &format!("/etc/runlevels/{runlevel}/{name}"));
    }
    rootfs.install();
    let booted = rootfs.boot();
    let order = booted.eventually("both services have started", |booted| {
        let order = std::fs::read_to_string(booted.path("/order")).ok()?;
        (order.lines().count() == 2).then_some(order)
    });
    assert_eq!(order, "networking after guestd\nsshd after guestd\n");
}
