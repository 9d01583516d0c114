//! Files by a directory's descriptor and one name: what a path means cannot change between two calls on them.
//!
//! No call here follows a symbolic link, but for [`Dir::open`], and none decides anything. Needs Linux 5.6 (openat2(2)).

mod content;
mod memory;
mod xattr;

use std::{
    ffi::{CString, OsStr, OsString},
    fs::File,
    io,
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::ffi::{OsStrExt, OsStringExt},
    },
    path::{Path, PathBuf},
    sync::atomic::{AtomicU32, Ordering},
};

use nix::{
    dir::OwningIter,
    errno::Errno,
    fcntl::{AtFlags, OFlag, OpenHow, ResolveFlag, open, openat, openat2, readlinkat, renameat},
    sys::{
        stat::{FileStat, Mode, SFlag, UtimensatFlags, fchmod, fstat, fstatat, futimens, mkdirat, mknodat, utimensat},
        statfs::fstatfs,
        time::TimeSpec,
    },
    unistd::{Gid, Uid, UnlinkatFlags, fchown, fchownat, fsync, linkat, symlinkat, unlinkat},
};

pub use content::{Segment, segments};
pub use memory::in_memory;
pub use xattr::{Xattr, set_xattr, xattrs};

/// How often a resolution is tried again that raced with a rename elsewhere on the machine (EAGAIN of openat2(2)).
const RESOLUTION_TRIES: u32 = 64;

/// What is at a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A regular file.
    File,
    /// A directory.
    Directory,
    /// A symbolic link.
    Symlink,
    /// A named pipe.
    Fifo,
    /// A character device.
    CharDevice,
    /// A block device.
    BlockDevice,
    /// A socket.
    Socket,
}

/// A point in time, since 1970.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Time {
    /// Seconds; negative before 1970.
    pub secs: i64,
    /// Nanoseconds after that, below 1,000,000,000.
    pub nanos: u32,
}

/// stat(2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stat {
    /// What it is.
    pub kind: Kind,
    /// Permission bits, set-id and sticky bits included.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Length in bytes, holes included.
    pub size: u64,
    /// Bytes on the disk.
    pub allocated: u64,
    /// Last change of the content.
    pub mtime: Time,
    /// Device of the file system.
    pub dev: u64,
    /// Inode number.
    pub ino: u64,
    /// Hard links.
    pub links: u64,
    /// The device that a device node stands for.
    pub rdev: u64,
}

impl From<FileStat> for Stat {
    fn from(stat: FileStat) -> Self {
        let kind = match SFlag::from_bits_truncate(stat.st_mode & SFlag::S_IFMT.bits()) {
            SFlag::S_IFDIR => Kind::Directory,
            SFlag::S_IFLNK => Kind::Symlink,
            SFlag::S_IFIFO => Kind::Fifo,
            SFlag::S_IFCHR => Kind::CharDevice,
            SFlag::S_IFBLK => Kind::BlockDevice,
            SFlag::S_IFSOCK => Kind::Socket,
            _ => Kind::File,
        };
        Self {
            kind,
            mode: stat.st_mode & 0o7777,
            uid: stat.st_uid,
            gid: stat.st_gid,
            size: stat.st_size.try_into().unwrap_or(0),
            allocated: u64::try_from(stat.st_blocks).unwrap_or(0).saturating_mul(512),
            mtime: Time { secs: stat.st_mtime, nanos: stat.st_mtime_nsec.try_into().unwrap_or(0) },
            dev: stat.st_dev,
            ino: stat.st_ino,
            links: wide(stat.st_nlink),
            rdev: stat.st_rdev,
        }
    }
}

/// An open directory.
#[derive(Debug)]
pub struct Dir(OwnedFd);

impl Dir {
    /// Opens a directory of the machine, links followed.
    pub fn open(path: &Path) -> io::Result<Self> {
        Ok(Self(open(path, OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty())?))
    }

    /// The directory `relative` to this one: below it, and no component of the path a link.
    pub fn below(&self, relative: &Path) -> io::Result<Self> {
        let relative = if relative.as_os_str().is_empty() { Path::new(".") } else { relative };
        let how = OpenHow::new().flags(OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC).resolve(
            ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_SYMLINKS | ResolveFlag::RESOLVE_NO_MAGICLINKS,
        );
        let mut tries = 1;
        loop {
            match openat2(&self.0, relative, how) {
                Err(Errno::EAGAIN) if tries < RESOLUTION_TRIES => tries += 1,
                result => return Ok(Self(result?)),
            }
        }
    }

    /// The directory above this one.
    pub fn above(&self) -> io::Result<Self> {
        Ok(Self(openat(&self.0, "..", OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty())?))
    }

    /// Another descriptor of the same directory.
    pub fn again(&self) -> io::Result<Self> {
        self.0.try_clone().map(Self)
    }

    /// stat(2) of this directory.
    pub fn stat(&self) -> io::Result<Stat> {
        stat(&self.0)
    }

    /// stat(2) of a name in it.
    pub fn stat_of(&self, name: &OsStr) -> io::Result<Stat> {
        Ok(fstatat(&self.0, name, AtFlags::AT_SYMLINK_NOFOLLOW)?.into())
    }

    /// Owner and target of the link `name`, both of one inode, however often the name is swapped; EINVAL where it is no link.
    pub fn link(&self, name: &OsStr) -> io::Result<(Stat, PathBuf)> {
        let link = openat(&self.0, name, OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC, Mode::empty())?;
        let found = stat(&link)?;
        if found.kind != Kind::Symlink {
            return Err(Errno::EINVAL.into());
        }
        Ok((found, readlinkat(&link, "")?.into()))
    }

    /// Opens a file for reading. It neither waits for the other end of a pipe nor takes a terminal.
    pub fn open_file(&self, name: &OsStr) -> io::Result<File> {
        let flags = OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_NOCTTY | OFlag::O_CLOEXEC;
        Ok(openat(&self.0, name, flags, Mode::empty())?.into())
    }

    /// Makes a file for writing where nothing is, mode 0600.
    pub fn create_file(&self, name: &OsStr) -> io::Result<File> {
        let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        Ok(openat(&self.0, name, flags, Mode::S_IRUSR | Mode::S_IWUSR)?.into())
    }

    /// Makes a directory where nothing is, mode 0700, and opens it.
    pub fn create_directory(&self, name: &OsStr) -> io::Result<Self> {
        mkdirat(&self.0, name, Mode::S_IRWXU)?;
        self.below(Path::new(name))
    }

    /// Makes a symbolic link where nothing is.
    pub fn create_link(&self, name: &OsStr, target: &Path) -> io::Result<()> {
        Ok(symlinkat(target, &self.0, name)?)
    }

    /// Makes a pipe or a device where nothing is, mode 0600.
    pub fn create_node(&self, name: &OsStr, kind: Kind, rdev: u64) -> io::Result<()> {
        let kind = match kind {
            Kind::Fifo => SFlag::S_IFIFO,
            Kind::CharDevice => SFlag::S_IFCHR,
            Kind::BlockDevice => SFlag::S_IFBLK,
            Kind::File | Kind::Directory | Kind::Symlink | Kind::Socket => return Err(Errno::EINVAL.into()),
        };
        Ok(mknodat(&self.0, name, kind, Mode::S_IRUSR | Mode::S_IWUSR, rdev)?)
    }

    /// Gives the file `name` of `other` a second name here, where nothing is.
    pub fn create_hard_link(&self, name: &OsStr, other: &Self, other_name: &OsStr) -> io::Result<()> {
        Ok(linkat(&other.0, other_name, &self.0, name, AtFlags::empty())?)
    }

    /// rename(2) within this directory: replaces what has the name.
    pub fn rename(&self, from: &OsStr, to: &OsStr) -> io::Result<()> {
        Ok(renameat(&self.0, from, &self.0, to)?)
    }

    /// Removes a name that is no directory.
    pub fn remove(&self, name: &OsStr) -> io::Result<()> {
        Ok(unlinkat(&self.0, name, UnlinkatFlags::NoRemoveDir)?)
    }

    /// Removes an empty directory.
    pub fn remove_directory(&self, name: &OsStr) -> io::Result<()> {
        Ok(unlinkat(&self.0, name, UnlinkatFlags::RemoveDir)?)
    }

    /// Owner and mode of a link or node that was just made under a name of the caller's own; a link has no mode.
    ///
    /// By its descriptor, and ESTALE for what has another kind or a second name: whoever owns the directory can have put a hard
    /// link to somebody else's file in its place.
    pub fn dress(&self, name: &OsStr, kind: Kind, owner: Option<(u32, u32)>, mode: u32) -> io::Result<()> {
        let flags = OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let fd = openat(&self.0, name, flags, Mode::empty())?;
        let found = stat(&fd)?;
        if found.kind != kind || found.links != 1 {
            return Err(Errno::ESTALE.into());
        }
        if let Some((uid, gid)) = owner {
            fchownat(&fd, "", Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)), AtFlags::AT_EMPTY_PATH)?;
        }
        if kind == Kind::Symlink {
            return Ok(());
        }
        // fchmod(2) takes no descriptor of this kind.
        let path = xattr::descriptor_path(fd.as_fd());
        Ok(nix::sys::stat::fchmodat(
            nix::fcntl::AT_FDCWD,
            path.as_c_str(),
            Mode::from_bits_truncate(mode),
            nix::sys::stat::FchmodatFlags::FollowSymlink,
        )?)
    }

    /// Sets the time of the last change of a name.
    pub fn set_mtime_of(&self, name: &OsStr, mtime: Time) -> io::Result<()> {
        Ok(utimensat(&self.0, name, &TimeSpec::UTIME_OMIT, &timespec(mtime), UtimensatFlags::NoFollowSymlink)?)
    }

    /// The names in it, but for `.` and `..`, in no order.
    pub fn names(&self) -> io::Result<Names> {
        // A descriptor of its own: the position in a directory belongs to the open file.
        let fd = openat(&self.0, ".", OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty())?;
        Ok(Names(nix::dir::Dir::from_fd(fd)?.into_iter()))
    }

    /// Writes what it holds to the disk.
    pub fn sync(&self) -> io::Result<()> {
        Ok(fsync(&self.0)?)
    }

    /// As [`is_pseudo`].
    pub fn is_pseudo(&self) -> io::Result<bool> {
        is_pseudo(&self.0)
    }
}

/// Is the file system that it is on made up by the kernel (proc, sysfs, cgroup and the like)?
pub fn is_pseudo(fd: impl AsFd) -> io::Result<bool> {
    /// `PROC_SUPER_MAGIC` and its like, of linux/magic.h.
    const PSEUDO: [u64; 14] = [
        0x9fa0,
        0x6265_6572,
        0x1cd1,
        0x0027_e0eb,
        0x6367_7270,
        0x6462_6720,
        0x7472_6163,
        0x7363_6673,
        0xcafe_4a11,
        0x6165_676c,
        0x1980_0202,
        0x6265_6570,
        0x4249_4e4d,
        0xde5e_81e4,
    ];
    // Signed with glibc, unsigned with musl; the numbers have 32 bits.
    let kind = fstatfs(fd)?.filesystem_type().0 as u64 & 0xffff_ffff;
    Ok(PSEUDO.contains(&kind))
}

impl AsFd for Dir {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Names in a directory.
#[derive(Debug)]
pub struct Names(OwningIter);

impl Iterator for Names {
    type Item = io::Result<OsString>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let name = match self.0.next()? {
                Ok(entry) => entry.file_name().to_bytes().to_vec(),
                Err(errno) => return Some(Err(errno.into())),
            };
            if name != b"." && name != b".." {
                return Some(Ok(OsString::from_vec(name)));
            }
        }
    }
}

/// Opens what a path of the machine leads to, for reading, links followed; those of proc(5) that jump to another
/// process's file are refused.
pub fn open_to_read(path: &Path) -> io::Result<File> {
    let how = OpenHow::new()
        .flags(OFlag::O_RDONLY | OFlag::O_NONBLOCK | OFlag::O_NOCTTY | OFlag::O_CLOEXEC)
        .resolve(ResolveFlag::RESOLVE_NO_MAGICLINKS);
    Ok(openat2(nix::fcntl::AT_FDCWD, path, how)?.into())
}

/// fstat(2).
pub fn stat(fd: impl AsFd) -> io::Result<Stat> {
    Ok(fstat(fd)?.into())
}

/// fchmod(2).
pub fn set_mode(fd: impl AsFd, mode: u32) -> io::Result<()> {
    Ok(fchmod(fd, Mode::from_bits_truncate(mode))?)
}

/// fchown(2). It clears set-id bits: the mode comes after it.
pub fn set_owner(fd: impl AsFd, uid: Option<u32>, gid: Option<u32>) -> io::Result<()> {
    Ok(fchown(fd, uid.map(Uid::from_raw), gid.map(Gid::from_raw))?)
}

/// Sets the time of the last change.
pub fn set_mtime(fd: impl AsFd, mtime: Time) -> io::Result<()> {
    Ok(futimens(fd, &TimeSpec::UTIME_OMIT, &timespec(mtime))?)
}

/// May this process give files to others and make devices?
pub fn is_root() -> bool {
    nix::unistd::geteuid().is_root()
}

/// A number whose width differs between architectures.
fn wide(number: impl Into<u64>) -> u64 {
    number.into()
}

fn timespec(time: Time) -> TimeSpec {
    TimeSpec::new(time.secs, time.nanos.into())
}

/// A path as C has it.
///
/// # Errors
/// EINVAL for a NUL in it.
fn c_string(bytes: &[u8]) -> io::Result<CString> {
    CString::new(bytes).map_err(|_| Errno::EINVAL.into())
}

/// A name that no other file of this directory has, for a file that gets its real name when it is whole. Each is given once: who removes such a
/// name removes nobody else's file.
pub fn temporary_name() -> OsString {
    static COUNTER: AtomicU32 = AtomicU32::new(0);
    OsString::from(format!(".guestd-tmp-{}-{}", std::process::id(), COUNTER.fetch_add(1, Ordering::Relaxed)))
}

/// Bytes of a path.
pub fn bytes_of(path: &Path) -> &[u8] {
    path.as_os_str().as_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_took_the_place_of_a_node_keeps_its_owner_and_mode() {
        let root = tempfile::tempdir().unwrap();
        let dir = Dir::open(root.path()).unwrap();
        let name = OsStr::new("node");
        dir.create_file(OsStr::new("secret")).unwrap();
        dir.create_hard_link(name, &dir, OsStr::new("secret")).unwrap();
        let refused = dir.dress(name, Kind::Fifo, Some((1000, 1000)), 0o666).unwrap_err();
        assert_eq!(refused.raw_os_error(), Some(Errno::ESTALE as i32));
        dir.remove(name).unwrap();
        dir.create_node(OsStr::new("other"), Kind::Fifo, 0).unwrap();
        dir.create_hard_link(name, &dir, OsStr::new("other")).unwrap();
        assert!(dir.dress(name, Kind::Fifo, Some((1000, 1000)), 0o666).is_err());
        for kept in ["secret", "other"] {
            let found = dir.stat_of(OsStr::new(kept)).unwrap();
            assert_eq!((found.uid, found.mode), (nix::unistd::geteuid().as_raw(), 0o600), "{kept}");
        }
    }
}
