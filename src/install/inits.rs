//! Where images have the programs that can be their init.

/// Where the kernel looks for an init, in its order (init/main.c of Linux).
pub(crate) const KERNELS: [&str; 3] = ["/sbin/init", "/etc/init", "/bin/init"];

/// systemd itself, in the order in which distributions have it.
pub(crate) const SYSTEMD: [&str; 2] = ["/usr/lib/systemd/systemd", "/lib/systemd/systemd"];

/// runit as process 1: Debian's, Void's, upstream's.
pub(crate) const RUNIT: [&str; 4] = ["/lib/runit/runit-init", "/usr/bin/runit-init", "/sbin/runit-init", "/sbin/runit"];

/// What runs OpenRC's services.
pub(crate) const OPENRC: [&str; 3] = ["/sbin/openrc-run", "/usr/sbin/openrc-run", "/usr/bin/openrc-run"];

/// busybox, which is an init among others.
pub(crate) const BUSYBOX: [&str; 4] = ["/bin/busybox", "/usr/bin/busybox", "/sbin/busybox", "/bin/busybox.static"];
