//! A directory tree that no path can leave: reading, atomic writing and making directories and links in it.
//!
//! Paths are resolved by openat2(2) with `RESOLVE_IN_ROOT`, so that a link in a root file system, absolute (`/bin` ->
//! `/usr/bin`) or hostile (`etc` -> `../../..`), means what it would mean in a chroot. The last component is never
//! followed where something is written or judged. A file comes into being whole or not at all: exclusive temporary,
//! mode, owner, fsync, then one rename or link. Needs Linux 5.6. Nothing here decides what belongs into a tree.

mod entries;
mod error;
mod temporary;

use std::{
    ffi::{OsStr, OsString},
    fs::File,
    io::{self, Read},
    os::{fd::OwnedFd, unix::ffi::OsStrExt},
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use nix::{
    dir::Dir,
    errno::Errno,
    fcntl::{AtFlags, OFlag, OpenHow, ResolveFlag, openat, openat2, readlinkat},
    sys::stat::{Mode, SFlag, fstat, fstatat, mkdirat},
    unistd::{Gid, Uid, fsync},
};

pub use error::RootDirError;
use temporary::{Temporary, is_temporary, set_access};

use crate::limits;

/// Between two tries to lock what another process has locked.
const LOCK_PAUSE: Duration = Duration::from_millis(1);

/// How often a resolution is tried again that raced with a rename elsewhere on the machine (EAGAIN of openat2(2)).
const RESOLUTION_TRIES: u32 = 64;

/// Owner of what is written; `None` leaves that to the kernel, as for a process without privileges.
pub type Owner = Option<(Uid, Gid)>;

/// What is at a path, its last component not followed.
#[derive(Debug)]
pub enum Entry {
    /// Nothing.
    Absent,
    /// A regular file, open for reading.
    File(OpenFile),
    /// A symbolic link and its target.
    Link(PathBuf),
    /// A directory.
    Directory,
    /// A device, socket or pipe.
    Special,
}

/// An open regular file or directory, and who may do what with it.
#[derive(Debug)]
pub struct OpenFile {
    file: File,
    path: PathBuf,
    /// Device and inode.
    identity: (u64, u64),
    /// Permission bits, set-id bits included.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
}

impl OpenFile {
    /// The whole content, which may be `limit` bytes long.
    pub fn read(&self, limit: u64) -> Result<Vec<u8>, RootDirError> {
        let mut content = Vec::new();
        (&self.file).take(limit + 1).read_to_end(&mut content).map_err(|source| RootDirError::Content {
            action: "read",
            path: self.path.clone(),
            source,
        })?;
        if content.len() as u64 > limit {
            return Err(RootDirError::TooLarge { path: self.path.clone(), limit });
        }
        Ok(content)
    }

    /// The content as a stream.
    pub fn reader(&self) -> impl Read + '_ {
        &self.file
    }

    /// Where it is, with the root's own path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Sets mode and owner.
    pub fn set_access(&self, mode: u32, owner: Owner) -> Result<(), RootDirError> {
        set_access(&self.file, mode, owner).map_err(|errno| RootDirError::Call {
            action: "set mode and owner of",
            path: self.path.clone(),
            errno,
        })
    }
}

/// What to do about a file that is there already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Existing {
    /// Put the new one in its place.
    Replace,
    /// Leave it and fail with EEXIST, also when it appeared a moment ago.
    Refuse,
}

/// The root of a directory tree. All paths given to it are relative to it; a leading `/` means the tree's root.
#[derive(Debug)]
pub struct RootDir {
    fd: OwnedFd,
    path: PathBuf,
}

impl RootDir {
    /// Opens a directory of the machine as a root.
    pub fn open(path: &Path) -> Result<Self, RootDirError> {
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        nix::fcntl::open(path, flags, Mode::empty())
            .map(|fd| Self { fd, path: path.to_owned() })
            .map_err(|errno| RootDirError::Call { action: "open the directory", path: path.to_owned(), errno })
    }

    /// Locks the root for this process, until this value is dropped. `false` if another one has it locked.
    pub fn lock(&self) -> Result<bool, RootDirError> {
        let failed = |source| RootDirError::Content { action: "lock", path: self.path.clone(), source };
        let file = File::from(self.fd.try_clone().map_err(failed)?);
        match file.try_lock() {
            Ok(()) => Ok(true),
            Err(std::fs::TryLockError::WouldBlock) => Ok(false),
            // Not every file system has locks; one without is not shared by many.
            Err(std::fs::TryLockError::Error(_)) => Ok(true),
        }
    }

    /// The same, but waits for whoever has it locked, up to [`limits::ROOT_LOCK_WAIT`]. `false` without the lock: whoever may read a
    /// directory can lock it, so nobody's work may depend on getting it.
    pub fn wait_and_lock(&self) -> Result<bool, RootDirError> {
        let give_up = Instant::now() + limits::ROOT_LOCK_WAIT;
        loop {
            let is_ours = self.lock()?;
            if is_ours || Instant::now() >= give_up {
                return Ok(is_ours);
            }
            thread::sleep(LOCK_PAUSE);
        }
    }

    /// The directory `path` as a root of its own, to which no link leads, on the way to it neither; None when there is none.
    pub fn descend(&self, path: &str) -> Result<Option<Self>, RootDirError> {
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY;
        match self.resolve_by(path, flags, ResolveFlag::RESOLVE_NO_SYMLINKS) {
            Ok(fd) => Ok(Some(Self { fd, path: self.shown(path) })),
            Err(Errno::ENOENT) => Ok(None),
            Err(Errno::ELOOP) => Err(RootDirError::Linked { path: self.shown(path) }),
            Err(errno) => Err(self.failed("open the directory", path, errno)),
        }
    }

    /// The path that was opened.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What is at `path`. A parent that is missing makes it absent.
    pub fn look(&self, path: &str) -> Result<Entry, RootDirError> {
        let failed = |errno| self.failed("look at", path, errno);
        let (parent, name) = split(path);
        let parent = match self.directory(parent) {
            Ok(parent) => parent,
            Err(Errno::ENOENT) => return Ok(Entry::Absent),
            Err(errno) => return Err(failed(errno)),
        };
        let stat = match fstatat(&parent, name, AtFlags::AT_SYMLINK_NOFOLLOW) {
            Ok(stat) => stat,
            Err(Errno::ENOENT) => return Ok(Entry::Absent),
            Err(errno) => return Err(failed(errno)),
        };
        match kind(stat.st_mode) {
            SFlag::S_IFLNK => Ok(Entry::Link(readlinkat(&parent, name).map_err(failed)?.into())),
            SFlag::S_IFDIR => Ok(Entry::Directory),
            SFlag::S_IFREG => {
                // Looked at again through the descriptor: between the two calls it may have become something else.
                let flags = OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
                let fd = openat(&parent, name, flags, Mode::empty()).map_err(failed)?;
                match self.opened(fd, path).map_err(failed)? {
                    (SFlag::S_IFREG, file) => Ok(Entry::File(file)),
                    _ => Ok(Entry::Special),
                }
            }
            _ => Ok(Entry::Special),
        }
    }

    /// The regular file that `path` leads to, links followed inside the root; `None` when there is none.
    pub fn follow(&self, path: &str) -> Result<Option<OpenFile>, RootDirError> {
        let failed = |errno| self.failed("open", path, errno);
        match self.resolve(path, OFlag::O_RDONLY | OFlag::O_NONBLOCK) {
            Ok(fd) => {
                let (kind, file) = self.opened(fd, path).map_err(failed)?;
                Ok((kind == SFlag::S_IFREG).then_some(file))
            }
            Err(Errno::ENOENT | Errno::ENOTDIR | Errno::ENXIO) => Ok(None),
            Err(errno) => Err(failed(errno)),
        }
    }

    /// The directory that `path` leads to, links followed inside the root; `None` when there is none.
    pub fn follow_directory(&self, path: &str) -> Result<Option<OpenFile>, RootDirError> {
        let failed = |errno| self.failed("open the directory", path, errno);
        match self.directory(path) {
            Ok(fd) => Ok(Some(self.opened(fd, path).map_err(failed)?.1)),
            Err(Errno::ENOENT) => Ok(None),
            Err(errno) => Err(failed(errno)),
        }
    }

    /// Names in the directory `path`, sorted; empty when there is no such directory. At most `limit` are read.
    pub fn names(&self, path: &str, limit: usize) -> Result<Vec<OsString>, RootDirError> {
        let failed = |errno| self.failed("list", path, errno);
        let fd = match self.directory(path) {
            Ok(fd) => fd,
            Err(Errno::ENOENT) => return Ok(Vec::new()),
            Err(errno) => return Err(failed(errno)),
        };
        let mut names = Vec::new();
        for entry in Dir::from_fd(fd).map_err(failed)?.iter() {
            let entry = entry.map_err(failed)?;
            let name = OsStr::from_bytes(entry.file_name().to_bytes());
            if name != "." && name != ".." && names.len() < limit {
                names.push(name.to_owned());
            }
        }
        names.sort();
        Ok(names)
    }

    /// Makes the directory `path` and what is missing above it; those that exist are left as they are.
    /// Returns whether `path` itself was made.
    pub fn make_directories(&self, path: &str, mode: u32, owner: Owner) -> Result<bool, RootDirError> {
        let mut made = false;
        let mut parent = self.directory("").map_err(|errno| self.failed("open", "", errno))?;
        let mut so_far = String::new();
        for name in path.split('/').filter(|name| !name.is_empty()) {
            so_far.push('/');
            so_far.push_str(name);
            let failed = |errno| self.failed("make the directory", &so_far, errno);
            made = false;
            let next = match self.directory(&so_far) {
                Err(Errno::ENOENT) => {
                    match mkdirat(&parent, name, Mode::from_bits_truncate(mode)) {
                        Ok(()) => made = true,
                        Err(Errno::EEXIST) => self.refuse_dangling(&parent, name, &so_far)?,
                        Err(errno) => return Err(failed(errno)),
                    }
                    self.directory(&so_far).map_err(failed)?
                }
                found => found.map_err(failed)?,
            };
            if made {
                // The mode given to mkdir(2) went through the umask.
                set_access(&next, mode, owner).map_err(failed)?;
            }
            parent = next;
        }
        Ok(made)
    }

    /// Writes a file whole, in a directory that exists.
    pub fn write(
        &self,
        path: &str,
        content: &mut dyn Read,
        mode: u32,
        owner: Owner,
        existing: Existing,
    ) -> Result<(), RootDirError> {
        let failed = |errno| self.failed("write", path, errno);
        let (parent, name) = split(path);
        let parent = self.directory(parent).map_err(failed)?;
        let (temporary, mut file) = Temporary::create(&parent, name).map_err(failed)?;
        io::copy(content, &mut file).map_err(|source| RootDirError::Content {
            action: "write",
            path: self.shown(path),
            source,
        })?;
        set_access(&file, mode, owner).map_err(failed)?;
        fsync(&file).map_err(failed)?;
        match existing {
            Existing::Replace => temporary.rename_to(name),
            Existing::Refuse => temporary.link_to(name),
        }
        .map_err(failed)?;
        fsync(&parent).map_err(failed)
    }

    /// Writes files that belong together, with the mode of each, into the directory itself. They appear whole, in their order, and when all are on the
    /// disk; no old one is ever beside a new one, but for a moment some are missing, the first not among them. Waiting for the disk takes
    /// longer than all else, and this waits once less for each.
    pub fn write_all(&self, files: &[(&str, &str, u32)], owner: Owner) -> Result<(), RootDirError> {
        let parent = self.directory("").map_err(|errno| self.failed("write", "", errno))?;
        let mut written = Vec::with_capacity(files.len());
        for (name, content, mode) in files {
            let failed = |errno| self.failed("write", name, errno);
            let (temporary, mut file) = Temporary::create(&parent, name).map_err(failed)?;
            io::Write::write_all(&mut file, content.as_bytes()).map_err(|source| RootDirError::Content {
                action: "write",
                path: self.shown(name),
                source,
            })?;
            set_access(&file, *mode, owner).map_err(failed)?;
            fsync(&file).map_err(failed)?;
            written.push((temporary, *name));
        }
        for (_, name) in written.iter().skip(1) {
            entries::unlink(&parent, name).map_err(|errno| self.failed("remove", name, errno))?;
        }
        for (temporary, name) in written {
            temporary.rename_to(name).map_err(|errno| self.failed("write", name, errno))?;
        }
        fsync(&parent).map_err(|errno| self.failed("write", "", errno))
    }

    /// Puts a file into its place, whole for whoever reads it, without waiting for the disk: for what can be made again after a crash.
    pub fn place(&self, path: &str, content: &[u8], mode: u32, owner: Owner) -> Result<(), RootDirError> {
        let failed = |errno| self.failed("write", path, errno);
        let (parent, name) = split(path);
        let parent = self.directory(parent).map_err(failed)?;
        let (temporary, mut file) = Temporary::create(&parent, name).map_err(failed)?;
        io::Write::write_all(&mut file, content).map_err(|source| RootDirError::Content {
            action: "write",
            path: self.shown(path),
            source,
        })?;
        set_access(&file, mode, owner).map_err(failed)?;
        temporary.rename_to(name).map_err(failed)
    }

    /// Removes what writers that were killed have left in the directory itself, which nobody else may be writing to. Gives how many.
    pub fn remove_leftovers(&self, limit: usize) -> Result<usize, RootDirError> {
        let mut removed = 0;
        for name in self.names("", limit)? {
            if let Some(name) = name.to_str().filter(|name| is_temporary(name)) {
                removed += usize::from(self.remove(name)?);
            }
        }
        Ok(removed)
    }

    fn directory(&self, path: &str) -> nix::Result<OwnedFd> {
        self.resolve(path, OFlag::O_RDONLY | OFlag::O_DIRECTORY)
    }

    fn resolve(&self, path: &str, flags: OFlag) -> nix::Result<OwnedFd> {
        self.resolve_by(path, flags, ResolveFlag::RESOLVE_NO_MAGICLINKS)
    }

    fn resolve_by(&self, path: &str, flags: OFlag, how: ResolveFlag) -> nix::Result<OwnedFd> {
        let path = if path.is_empty() { "." } else { path };
        let how = OpenHow::new().flags(flags | OFlag::O_CLOEXEC).resolve(ResolveFlag::RESOLVE_IN_ROOT | how);
        let mut tries = 1;
        loop {
            match openat2(&self.fd, path, how) {
                Err(Errno::EAGAIN) if tries < RESOLUTION_TRIES => tries += 1,
                result => return result,
            }
        }
    }

    fn opened(&self, fd: OwnedFd, path: &str) -> nix::Result<(SFlag, OpenFile)> {
        let stat = fstat(&fd)?;
        let file = OpenFile {
            file: File::from(fd),
            path: self.shown(path),
            identity: (stat.st_dev, stat.st_ino),
            mode: stat.st_mode & 0o7777,
            uid: stat.st_uid,
            gid: stat.st_gid,
        };
        Ok((kind(stat.st_mode), file))
    }

    fn failed(&self, action: &'static str, path: &str, errno: Errno) -> RootDirError {
        RootDirError::Call { action, path: self.shown(path), errno }
    }

    fn shown(&self, path: &str) -> PathBuf {
        self.path.join(path.trim_start_matches('/'))
    }
}

fn split(path: &str) -> (&str, &str) {
    path.rsplit_once('/').unwrap_or(("", path))
}

fn kind(mode: u32) -> SFlag {
    SFlag::from_bits_truncate(mode & SFlag::S_IFMT.bits())
}

#[cfg(test)]
mod tests;
