//! Links, second names and removals: changes to a directory's entries that write no file. The last component of a path is never
//! followed.

use std::os::fd::OwnedFd;

use nix::{
    errno::Errno,
    fcntl::{AtFlags, OFlag, readlinkat, renameat},
    sys::stat::fstatat,
    unistd::{UnlinkatFlags, fsync, linkat, symlinkat, unlinkat},
};

use super::{OpenFile, RootDir, RootDirError, split, temporary::temporary_name};

impl RootDir {
    /// Makes the symbolic link `path`, where nothing is, in a directory that exists.
    pub fn make_link(&self, path: &str, target: &str) -> Result<(), RootDirError> {
        self.in_parent("make the link", path, |parent, name| symlinkat(target, parent, name))
    }

    /// Makes the symbolic link `path` in the place of the link or file that is there, in one step.
    pub fn replace_link(&self, path: &str, target: &str) -> Result<(), RootDirError> {
        self.in_parent("make the link", path, |parent, name| {
            let temporary = temporary_name(name);
            symlinkat(target, parent, temporary.as_str())?;
            renameat(parent, temporary.as_str(), parent, name).inspect_err(|_| {
                // Best effort: the step that failed is what gets reported.
                let _ = unlinkat(parent, temporary.as_str(), UnlinkatFlags::NoRemoveDir);
            })
        })
    }

    /// Gives the file or link `path` a second name in its directory, where nothing is.
    pub fn add_name(&self, path: &str, second: &str) -> Result<(), RootDirError> {
        self.in_parent("give a second name to", path, |parent, name| {
            linkat(parent, name, parent, second, AtFlags::empty())
        })
    }

    /// Gives the file or link `path` the name `name` in its directory instead, in the place of what has that name.
    pub fn rename(&self, path: &str, name: &str) -> Result<(), RootDirError> {
        self.in_parent("rename", path, |parent, old| renameat(parent, old, parent, name))
    }

    /// Removes a file or link; false when there was none.
    pub fn remove(&self, path: &str) -> Result<bool, RootDirError> {
        let mut was_there = true;
        self.in_parent("remove", path, |parent, name| {
            was_there = unlink(parent, name)?;
            Ok(())
        })?;
        Ok(was_there)
    }

    /// The same in the directory itself, without waiting for the disk: for what is written there next.
    pub fn remove_before_write(&self, name: &str) -> Result<bool, RootDirError> {
        let failed = |errno| self.failed("remove", name, errno);
        unlink(&self.directory("").map_err(failed)?, name).map_err(failed)
    }

    /// Removes an empty directory. Says whether it is gone: one with something in it stays.
    pub fn remove_directory(&self, path: &str) -> Result<bool, RootDirError> {
        let mut gone = true;
        self.in_parent("remove the directory", path, |parent, name| {
            match unlinkat(parent, name, UnlinkatFlags::RemoveDir) {
                Err(Errno::ENOTEMPTY | Errno::EEXIST) => {
                    gone = false;
                    Ok(())
                }
                Err(Errno::ENOENT) => Ok(()),
                result => result,
            }
        })?;
        Ok(gone)
    }

    /// Whether two paths are names of one file or link.
    pub fn is_one(&self, path: &str, other: &str) -> Result<bool, RootDirError> {
        let identity = |path| {
            let (parent, name) = split(path);
            let stat = self.directory(parent).and_then(|parent| fstatat(parent, name, AtFlags::AT_SYMLINK_NOFOLLOW));
            match stat {
                Ok(stat) => Ok(Some((stat.st_dev, stat.st_ino))),
                Err(Errno::ENOENT | Errno::ENOTDIR) => Ok(None),
                Err(errno) => Err(self.failed("look at", path, errno)),
            }
        };
        let (one, other) = (identity(path)?, identity(other)?);
        Ok(one.is_some() && one == other)
    }

    /// Whether `path` leads to anything at all, links followed inside the root.
    pub fn leads_somewhere(&self, path: &str) -> Result<bool, RootDirError> {
        match self.resolve(path, OFlag::O_PATH) {
            Ok(_) => Ok(true),
            Err(Errno::ENOENT | Errno::ENOTDIR) => Ok(false),
            Err(errno) => Err(self.failed("follow", path, errno)),
        }
    }

    /// Which directories [`RootDir::make_directories`] would make for `path`, the highest first.
    pub fn missing_directories(&self, path: &str) -> Result<Vec<String>, RootDirError> {
        let mut missing = Vec::new();
        let mut so_far = String::new();
        for name in path.split('/').filter(|name| !name.is_empty()) {
            let parent = so_far.clone();
            so_far.push('/');
            so_far.push_str(name);
            if missing.is_empty() {
                match self.directory(&so_far) {
                    Ok(_) => continue,
                    Err(Errno::ENOENT) => {
                        let parent = self.directory(&parent).map_err(|errno| self.failed("open", &parent, errno))?;
                        self.refuse_dangling(&parent, name, &so_far)?;
                    }
                    Err(errno) => return Err(self.failed("open the directory", &so_far, errno)),
                }
            }
            missing.push(so_far.clone());
        }
        Ok(missing)
    }

    /// A link to nothing is in the way of a directory.
    pub(super) fn refuse_dangling(&self, parent: &OwnedFd, name: &str, path: &str) -> Result<(), RootDirError> {
        match readlinkat(parent, name) {
            Ok(target) => Err(RootDirError::DanglingLink {
                path: self.shown(path),
                target: target.into(),
                root: self.path.clone(),
            }),
            // There is nothing, or somebody made the directory at this moment.
            Err(_) => Ok(()),
        }
    }

    fn in_parent(
        &self,
        action: &'static str,
        path: &str,
        change: impl FnOnce(&OwnedFd, &str) -> nix::Result<()>,
    ) -> Result<(), RootDirError> {
        let (parent, name) = split(path);
        let failed = |errno| self.failed(action, path, errno);
        let parent = self.directory(parent).map_err(failed)?;
        change(&parent, name).map_err(failed)?;
        fsync(&parent).map_err(failed)
    }
}

pub(super) fn unlink(parent: &OwnedFd, name: &str) -> nix::Result<bool> {
    match unlinkat(parent, name, UnlinkatFlags::NoRemoveDir) {
        Err(Errno::ENOENT) => Ok(false),
        result => result.map(|()| true),
    }
}

impl OpenFile {
    /// Whether both are the same file, by whatever name.
    pub fn is_same_file(&self, other: &Self) -> bool {
        self.identity == other.identity
    }
}
