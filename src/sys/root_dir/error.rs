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
    #[error("cannot {action} {path}: {source}", path = path.display())]
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
    /// A file is larger than what its kind of file may be.
    #[error("cannot read {path}: it is larger than {limit} bytes", path = path.display())]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// The bound, in bytes.
        limit: u64,
    },
}

fn reason(errno: Errno) -> String {
    let advice = match errno {
        Errno::ENOSYS => "; openat2(2) is needed: Linux 5.6 or newer, and no seccomp filter that hides it",
        Errno::EACCES | Errno::EPERM => "; run it as root or as the owner of the directory",
        Errno::ELOOP => "; there are symbolic links that lead in a circle",
        _ => "",
    };
    format!("{}{advice}", errno.desc())
}
