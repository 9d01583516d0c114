//! A file before it has its name: it appears whole or not at all.

use std::{
    fs::File,
    os::fd::{AsFd, OwnedFd},
    sync::atomic::{AtomicU32, Ordering},
};

use nix::{
    errno::Errno,
    fcntl::{AtFlags, OFlag, openat, renameat},
    sys::stat::{Mode, fchmod},
    unistd::{UnlinkatFlags, fchown, linkat, unlinkat},
};

use super::Owner;

/// Names tried for a temporary file; more than one only where a killed process left its own behind.
const TEMPORARY_TRIES: u32 = 64;

/// In the name of every temporary file.
const MARK: &str = ".guestd-tmp-";

/// Is this the name of one?
pub(super) fn is_temporary(name: &str) -> bool {
    name.starts_with('.') && name.contains(MARK)
}

/// A file under a name of its own, removed unless it got its real one.
pub(super) struct Temporary<'dir> {
    parent: &'dir OwnedFd,
    name: String,
    renamed: bool,
}

impl<'dir> Temporary<'dir> {
    pub(super) fn create(parent: &'dir OwnedFd, for_name: &str) -> nix::Result<(Self, File)> {
        let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let mut tries = 1;
        loop {
            let name = temporary_name(for_name);
            // Private until the real mode is set: a key must not be readable for a moment.
            match openat(parent, name.as_str(), flags, Mode::S_IRUSR | Mode::S_IWUSR) {
                Ok(fd) => return Ok((Self { parent, name, renamed: false }, File::from(fd))),
                Err(Errno::EEXIST) if tries < TEMPORARY_TRIES => tries += 1,
                Err(errno) => return Err(errno),
            }
        }
    }

    pub(super) fn rename_to(mut self, name: &str) -> nix::Result<()> {
        renameat(self.parent, self.name.as_str(), self.parent, name)?;
        self.renamed = true;
        Ok(())
    }

    /// link(2), unlike rename(2), never replaces; the temporary name goes when `self` is dropped.
    pub(super) fn link_to(self, name: &str) -> nix::Result<()> {
        linkat(self.parent, self.name.as_str(), self.parent, name, AtFlags::empty())
    }
}

impl Drop for Temporary<'_> {
    fn drop(&mut self) {
        if !self.renamed {
            // Best effort: the write that failed is what gets reported.
            let _ = unlinkat(self.parent, self.name.as_str(), UnlinkatFlags::NoRemoveDir);
        }
    }
}

/// A name that nothing has but what a killed process with this one's id left behind.
pub(super) fn temporary_name(for_name: &str) -> String {
    static COUNTER: AtomicU32 = AtomicU32::new(0);
    let number = COUNTER.fetch_add(1, Ordering::Relaxed);
    format!(".{for_name}{MARK}{}-{number}", std::process::id())
}

/// Sets owner and mode of an open file or directory.
pub(super) fn set_access(fd: impl AsFd, mode: u32, owner: Owner) -> nix::Result<()> {
    // Owner first: chown(2) clears set-id bits, and the mode must not open a file to its former group.
    if let Some((uid, gid)) = owner {
        fchown(&fd, Some(uid), Some(gid))?;
    }
    fchmod(&fd, Mode::from_bits_truncate(mode))
}
