//! Processes of a cgroup that is known by its id, as sock_diag tells the cgroup of a socket's maker.

#![expect(unsafe_code, reason = "open_by_handle_at(2) has no wrapper among our crates")]

use std::{
    fs::File,
    io::{self, Read},
    os::{
        fd::{AsRawFd, FromRawFd, OwnedFd},
        unix::fs::OpenOptionsExt,
    },
};

use nix::{
    fcntl::{OFlag, openat},
    sys::stat::Mode,
};

use super::root;

/// Kind of a handle that is the id of a file of kernfs (`enum fid_type` of `linux/exportfs.h`), from Linux 5.5 on.
const FILEID_KERNFS: libc::c_int = 0xfe;

/// Digits of a pid and a line feed.
const PID_BYTES: u64 = 11;

/// `struct file_handle` (open_by_handle_at(2)) around the id of a cgroup.
#[repr(C)]
struct Handle {
    bytes: libc::c_uint,
    kind: libc::c_int,
    id: [u8; size_of::<u64>()],
}

/// The whole cgroup2 tree. It is held open, so it is not unmounted meanwhile.
#[derive(Debug)]
pub struct CgroupTree(File);

impl CgroupTree {
    /// Opens it.
    ///
    /// # Errors
    /// It is not mounted, or may not be read.
    pub fn open() -> io::Result<Self> {
        let root = root().map_err(io::Error::other)?;
        let directory = File::options().read(true).custom_flags(libc::O_DIRECTORY).open(root)?;
        Ok(Self(directory))
    }

    /// Processes of the cgroup with this id (the inode number of its directory), those of cgroups below it left out; none where they are
    /// more than `most`.
    ///
    /// # Errors
    /// ESTALE where there is no such cgroup any more, EPERM without CAP_DAC_READ_SEARCH, EOPNOTSUPP for a threaded cgroup.
    pub fn members(&self, id: u64, most: usize) -> io::Result<Vec<i32>> {
        let directory = self.directory(id)?;
        let procs = openat(&directory, "cgroup.procs", OFlag::O_RDONLY | OFlag::O_CLOEXEC, Mode::empty())?;
        let (mut text, limit) = (String::new(), (most as u64 + 1).saturating_mul(PID_BYTES));
        File::from(procs).take(limit).read_to_string(&mut text)?;
        let pids: Vec<i32> = text.lines().filter_map(|line| line.parse().ok()).collect();
        Ok(if pids.len() > most { Vec::new() } else { pids })
    }

    fn directory(&self, id: u64) -> io::Result<OwnedFd> {
        let id = id.to_ne_bytes();
        let handle = Handle { bytes: id.len() as libc::c_uint, kind: FILEID_KERNFS, id };
        let flags = libc::O_RDONLY | libc::O_DIRECTORY | libc::O_CLOEXEC;
        let at = self.0.as_raw_fd();
        // SAFETY: the handle says how many bytes follow its head, and lives through the call.
        let result = unsafe { libc::syscall(libc::SYS_open_by_handle_at, at, &raw const handle, flags) };
        match i32::try_from(result) {
            // SAFETY: a new descriptor, which nobody else knows.
            Ok(descriptor) if descriptor >= 0 => Ok(unsafe { OwnedFd::from_raw_fd(descriptor) }),
            _ => Err(io::Error::last_os_error()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{os::unix::fs::MetadataExt, process};

    use super::*;
    use crate::sys::cgroup::CgroupParent;

    #[test]
    fn processes_of_a_cgroup_are_found_by_its_id() {
        let name = format!("guestd-test-tree-{}", process::id());
        let cgroup = CgroupParent::detect().unwrap().create(&name).unwrap();
        let id = std::fs::metadata(cgroup.path()).unwrap().ino();
        let tree = CgroupTree::open().unwrap();
        assert!(tree.members(id, 8).unwrap().is_empty());
        let mut children: Vec<_> = (0..3)
            .map(|_| process::Command::new("sleep").arg("60").spawn().unwrap())
            .inspect(|child| std::fs::write(cgroup.path().join("cgroup.procs"), child.id().to_string()).unwrap())
            .collect();
        let mut members = tree.members(id, 3).unwrap();
        members.sort_unstable();
        assert_eq!(members, children.iter().map(|child| child.id() as i32).collect::<Vec<_>>());
        assert!(tree.members(id, 2).unwrap().is_empty());
        for child in &mut children {
            child.kill().unwrap();
            child.wait().unwrap();
        }
        cgroup.remove().unwrap();
        assert_eq!(tree.members(id, 8).unwrap_err().raw_os_error(), Some(libc::ESTALE));
    }
}
