//! mount(2) and umount(2).

use std::{fs, io, os::unix::fs::MetadataExt, path::Path};

use nix::mount::{MntFlags, MsFlags};

/// How something is mounted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MountFlags(MsFlags);

impl MountFlags {
    /// Set-user-id bits mean nothing.
    pub const NO_SUID: Self = Self(MsFlags::MS_NOSUID);
    /// Device files are none.
    pub const NO_DEV: Self = Self(MsFlags::MS_NODEV);
    /// Nothing can be executed.
    pub const NO_EXEC: Self = Self(MsFlags::MS_NOEXEC);
    /// Times of access are kept.
    pub const STRICT_ATIME: Self = Self(MsFlags::MS_STRICTATIME);

    /// Both.
    #[must_use]
    pub const fn and(self, other: Self) -> Self {
        Self(self.0.union(other.0))
    }

    /// Are all of these in it?
    pub const fn has(self, other: Self) -> bool {
        self.0.contains(other.0)
    }
}

/// Mounts a file system of this kind.
///
/// # Errors
/// Those of mount(2): `ENODEV` where the kernel does not have it, `EINVAL` for an option that it does not know, `ENOENT` without
/// a target, `EBUSY` where it is mounted already.
pub fn mount(kind: &str, target: &Path, flags: MountFlags, options: &str) -> io::Result<()> {
    let options = Some(options).filter(|options| !options.is_empty());
    Ok(nix::mount::mount(Some(kind), target, Some(kind), flags.0, options)?)
}

/// Is something mounted here, another file system than that of the directory above?
///
/// # Errors
/// Those of stat(2).
pub fn is_mount_point(path: &Path) -> io::Result<bool> {
    let (itself, above) = (fs::symlink_metadata(path)?, fs::metadata(path.join(".."))?);
    Ok(itself.dev() != above.dev())
}

/// Makes the root file system writable.
///
/// # Errors
/// `EROFS` and `EACCES` where its device is read-only.
pub fn remount_read_write(path: &Path) -> io::Result<()> {
    remount(path, MsFlags::empty())
}

/// Makes a file system read-only, which leaves it clean.
///
/// # Errors
/// `EBUSY` while something is open for writing.
pub fn remount_read_only(path: &Path) -> io::Result<()> {
    remount(path, MsFlags::MS_RDONLY)
}

fn remount(path: &Path, flags: MsFlags) -> io::Result<()> {
    let none = None::<&str>;
    Ok(nix::mount::mount(none, path, none, MsFlags::MS_REMOUNT | flags, none)?)
}

/// Has mounts below this one be seen in namespaces that are made from ours, as container engines expect.
///
/// # Errors
/// Those of mount(2).
pub fn share(path: &Path) -> io::Result<()> {
    let none = None::<&str>;
    Ok(nix::mount::mount(none, path, none, MsFlags::MS_REC | MsFlags::MS_SHARED, none)?)
}

/// Unmounts what is mounted last at a path; links are not followed.
///
/// # Errors
/// `EBUSY` while it is in use.
pub fn unmount(path: &Path) -> io::Result<()> {
    Ok(nix::mount::umount2(path, MntFlags::UMOUNT_NOFOLLOW)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mount_is_told_from_a_directory() {
        assert!(is_mount_point(Path::new("/proc")).unwrap());
        assert!(!is_mount_point(Path::new("/usr/bin")).unwrap());
        assert!(is_mount_point(Path::new("/nonexistent")).is_err());
    }
}
