//! Where file systems are mounted.

use super::{Case, case, nothing};

pub(super) const CASES: &[Case] = &[
    case("mount-point", "/proc", |it| it.remove("proc"), |it| it.mode("proc", 0o755)),
    case(
        "mount-point",
        "/sys",
        |it| {
            it.remove("sys");
            it.write("sys", "");
        },
        nothing,
    ),
    case("mount-point", "/run", |it| it.mode("run", 0o1777), nothing),
    case(
        "mount-point",
        "/tmp",
        |it| it.remove("tmp"),
        |it| {
            it.remove("tmp");
            it.link("tmp", "var/tmp");
        },
    ),
    case("tmp-mode", "/tmp", |it| it.mode("tmp", 0o755), |it| it.remove("var/tmp")),
    case("tmp-mode", "/var/tmp", |it| it.mode("var/tmp", 0o1755), nothing),
    case("hidden-files", "/run", |it| it.write("run/app/pid", "1\n"), |it| it.directory("run/lock")),
    case("hidden-files", "/dev", |it| it.write("dev/null", ""), |it| it.link("dev/fd", "/proc/self/fd")),
    case(
        "fstab",
        "/etc/fstab",
        |it| it.write("etc/fstab", "UUID=0123 / ext4 defaults 0 1\nUUID=4567-89AB /boot/efi vfat umask=0077 0 1\n"),
        |it| {
            it.write(
                "etc/fstab",
                "UUID=0123 / ext4 defaults 0 1\nLABEL=data /data ext4 nofail 0 2\ntmpfs /mnt tmpfs size=1m 0 0\n",
            )
        },
    ),
];

#[test]
fn mount_points_that_are_missing_or_in_use_are_found() {
    super::hold(CASES);
}
