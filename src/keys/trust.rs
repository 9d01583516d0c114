//! Whose a file of keys may be: what sshd would pass over (its StrictModes), guestd neither believes nor writes anew, which would give
//! it to root.

use std::fmt;

use super::KeysError;
use crate::sys::root_dir::{Entry, OpenFile, RootDir};

/// Who may own such a file: root, or who owns the whole tree where it is not a running system.
pub(super) struct Trusted {
    uids: [u32; 2],
}

/// What is wrong with the owner or mode of a file.
pub(super) enum Objection {
    /// It belongs to this user.
    Owner(u32),
    /// Others can write it.
    Mode(u32),
}

impl Trusted {
    /// By the owner of the tree.
    pub(super) fn of(root: &RootDir) -> Self {
        let owner = root.follow_directory("").ok().flatten().map_or(0, |root| root.uid);
        Self { uids: [0, owner] }
    }

    /// What sshd would refuse about a file or directory.
    pub(super) fn objection(&self, file: &OpenFile) -> Option<Objection> {
        if !self.uids.contains(&file.uid) {
            return Some(Objection::Owner(file.uid));
        }
        (file.mode & 0o022 != 0).then_some(Objection::Mode(file.mode))
    }

    /// The file at a path, if there is one and it is nobody else's.
    ///
    /// # Errors
    /// [`KeysError::Untrusted`], also for what is no file.
    pub(super) fn file(&self, dir: &RootDir, name: &str) -> Result<Option<OpenFile>, KeysError> {
        let refused = |why: &str| KeysError::Untrusted { path: dir.path().join(name), why: why.to_owned() };
        match dir.look(name)? {
            Entry::Absent => Ok(None),
            Entry::File(file) => {
                self.check(&file)?;
                Ok(Some(file))
            }
            Entry::Link(_) => Err(refused("it is a symbolic link; remove it, keys are in files of guestd's own")),
            Entry::Directory | Entry::Special => Err(refused("it is no regular file; remove it")),
        }
    }

    /// # Errors
    /// [`KeysError::Untrusted`] where there is an objection.
    pub(super) fn check(&self, file: &OpenFile) -> Result<(), KeysError> {
        let refused = |objection: Objection| {
            let path = file.path();
            KeysError::Untrusted { path: path.to_owned(), why: format!("it {objection}; `{}`", objection.cure(path)) }
        };
        self.objection(file).map(refused).map_or(Ok(()), Err)
    }
}

impl Objection {
    /// What mends it.
    pub(super) fn cure(&self, path: &std::path::Path) -> String {
        let path = path.display();
        match self {
            Self::Owner(_) => format!("chown root:root {path}"),
            Self::Mode(_) => format!("chmod go-w {path}"),
        }
    }
}

impl fmt::Display for Objection {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Owner(uid) => write!(formatter, "belongs to uid {uid}"),
            Self::Mode(mode) => write!(formatter, "has mode {mode:04o}"),
        }
    }
}
