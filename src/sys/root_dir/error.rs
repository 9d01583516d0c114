//! What can go wrong in a root file system, said so that its builder can mend it.

use std::{io, path::PathBuf};

use nix::errno::Errno;

/// Why something below a [`RootDir`](super::RootDir) could not be done.
#[derive(Debug, thiserror::Error)]
pub enum RootDirError {
    /// A system call failed.
    #[error("cannot {action} {path}: {reason}", path = path.display(), reason = reason(*errno))]
    Call {
        /// What was tried.
        action: &'static str,
        /// On what, with the root's own path.
        path: PathBuf,
        /// Why not.
        errno: Errno,
    },
    /// Reading or writing a file's content failed.
    #[error("cannot {action} {path}: {reason}", path = path.display(), reason = content_reason(source))]
    Content {
        /// What was tried.
        action: &'static str,
        /// On what, with the root's own path.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// A directory of the path is a link to nothing.
    #[error(
        "cannot make the directory {path}: it is a symbolic link to {target}, which does not exist inside {root}; \
         make that directory or remove the link",
        path = path.display(), target = target.display(), root = root.display()
    )]
    DanglingLink {
        /// The link.
        path: PathBuf,
        /// What it points to.
        target: PathBuf,
        /// The tree in which it was resolved.
        root: PathBuf,
    },
    /// A directory is reached by a link, where none is followed.
    #[error(
        "cannot open the directory {path}: it is a symbolic link, or there is one on the way to it, and none is followed there; \
         put the directory itself in its place",
        path = path.display()
    )]
    Linked {
        /// The directory.
        path: PathBuf,
    },
    /// A file is larger than what its kind of file may be.
    #[error("cannot read {path}: it is larger than {limit} bytes", path = path.display())]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// The bound, in bytes.
        limit: u64,
    },
}

impl RootDirError {
    /// What the kernel said, where it was that.
    pub fn errno(&self) -> Option<Errno> {
        match self {
            Self::Call { errno, .. } => Some(*errno),
            Self::Content { source, .. } => source.raw_os_error().map(Errno::from_raw),
            Self::DanglingLink { .. } | Self::Linked { .. } | Self::TooLarge { .. } => None,
        }
    }
}

fn content_reason(source: &io::Error) -> String {
    source.raw_os_error().map_or_else(|| source.to_string(), |errno| reason(Errno::from_raw(errno)))
}

fn reason(errno: Errno) -> String {
    let advice = match errno {
        Errno::ENOSYS => "; openat2(2) is needed: Linux 5.6 or newer, and no seccomp filter that hides it",
        Errno::EACCES | Errno::EPERM => "; run it as root or as the owner of the directory",
        Errno::ENOSPC | Errno::EDQUOT => "; free some space, or make the file system larger",
        Errno::EROFS => "; mount the file system writable",
        Errno::ELOOP => "; there are symbolic links that lead in a circle",
        _ => "",
    };
    format!("{}{advice}", errno.desc())
}
