//! What a VM has mounted before anything else runs. Data; `early` carries it out.
//!
//! Flags are those of systemd 252's `mount_table` and of its `tmp.mount`, so that a program sees the same under either init. What is mounted already, by
//! the kernel or an initramfs, stays as it is.

use crate::sys::boot::MountFlags;

/// A file system to be mounted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Mount {
    /// Where. Made when it is absent.
    pub(super) target: &'static str,
    /// Type; the source has the same name.
    pub(super) kind: &'static str,
    pub(super) flags: MountFlags,
    /// Options, the best first: the next is tried where the kernel does not know one.
    pub(super) options: &'static [&'static str],
    /// What a VM lacks without it, for health.
    pub(super) loss: &'static str,
}

const NO_SUID: MountFlags = MountFlags::NO_SUID;
const NO_DEV: MountFlags = MountFlags::NO_DEV;
const NO_EXEC: MountFlags = MountFlags::NO_EXEC;
const STRICT_ATIME: MountFlags = MountFlags::STRICT_ATIME;

/// In this order: each target is in what was mounted before it.
pub(super) const MOUNTS: [Mount; 10] = [
    Mount {
        target: "/proc",
        kind: "proc",
        flags: NO_SUID.and(NO_EXEC).and(NO_DEV),
        options: &[""],
        loss: "nothing can look at processes or settings of the kernel",
    },
    Mount {
        target: "/sys",
        kind: "sysfs",
        flags: NO_SUID.and(NO_EXEC).and(NO_DEV),
        options: &[""],
        loss: "there are no cgroups, and devices cannot be looked at",
    },
    Mount {
        target: "/dev",
        kind: "devtmpfs",
        flags: NO_SUID.and(STRICT_ATIME),
        options: &["mode=0755"],
        loss: "there are no devices but those that the image has",
    },
    Mount {
        target: "/dev/pts",
        kind: "devpts",
        flags: NO_SUID.and(NO_EXEC),
        // Group 5 is tty in every distribution.
        options: &["mode=0620,gid=5,ptmxmode=0000"],
        loss: "there are no terminals for shells",
    },
    Mount {
        target: "/dev/shm",
        kind: "tmpfs",
        flags: NO_SUID.and(NO_DEV).and(STRICT_ATIME),
        options: &["mode=1777"],
        loss: "shared memory by name does not work",
    },
    Mount {
        target: "/dev/mqueue",
        kind: "mqueue",
        flags: NO_SUID.and(NO_DEV).and(NO_EXEC),
        options: &[""],
        loss: "POSIX message queues cannot be looked at",
    },
    Mount {
        target: "/run",
        kind: "tmpfs",
        flags: NO_SUID.and(NO_DEV).and(STRICT_ATIME),
        options: &["mode=0755,size=20%,nr_inodes=800k", "mode=0755"],
        loss: "sockets and state of services are on the disk",
    },
    Mount {
        target: "/run/lock",
        kind: "tmpfs",
        flags: NO_SUID.and(NO_DEV).and(NO_EXEC),
        options: &["mode=1777,size=5M"],
        loss: "any user's locks may fill /run",
    },
    Mount {
        target: "/sys/fs/cgroup",
        kind: "cgroup2",
        flags: NO_SUID.and(NO_EXEC).and(NO_DEV),
        options: &["nsdelegate,memory_recursiveprot", "nsdelegate", ""],
        loss: "what a service or an exec leaves behind is found by process group alone",
    },
    Mount {
        target: "/tmp",
        kind: "tmpfs",
        flags: NO_SUID.and(NO_DEV).and(STRICT_ATIME),
        options: &["mode=1777,size=50%,nr_inodes=1m", "mode=1777"],
        loss: "temporary files are on the disk",
    },
];

/// Links in /dev that the kernel does not make, and their targets.
pub(super) const DEV_LINKS: [(&str, &str); 5] = [
    ("/dev/fd", "/proc/self/fd"),
    ("/dev/stdin", "/proc/self/fd/0"),
    ("/dev/stdout", "/proc/self/fd/1"),
    ("/dev/stderr", "/proc/self/fd/2"),
    ("/dev/core", "/proc/kcore"),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_inside_of_another_mount_comes_after_it() {
        for (index, inner) in MOUNTS.iter().enumerate() {
            let later = &MOUNTS[index + 1..];
            let hidden = later.iter().find(|outer| inner.target.starts_with(&format!("{}/", outer.target)));
            assert_eq!(hidden, None, "it would hide {}", inner.target);
        }
    }

    #[test]
    fn nothing_that_services_write_to_can_hold_devices_or_set_ids() {
        for mount in MOUNTS.iter().filter(|mount| mount.kind == "tmpfs") {
            assert!(mount.flags.has(NO_SUID) && mount.flags.has(NO_DEV), "{}", mount.target);
        }
    }
}
