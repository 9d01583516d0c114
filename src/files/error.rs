//! What can go wrong with a file, said so that whoever asked can mend it.

use std::{
    io,
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
};

use nix::errno::Errno;

use crate::{api::ErrorCode, archive::ArchiveError, limits};

/// Why something was not done with a file or tree.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// The path cannot be one.
    #[error("`{}` is no path for this call: {why}", .path.display())]
    BadPath {
        /// What was given.
        path: PathBuf,
        /// Why not.
        why: &'static str,
    },
    /// A system call failed.
    #[error("cannot {action} {}: {source}{}", .path.display(), advice(.source))]
    Call {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// A file was expected.
    #[error("{} is a directory; use `list=true` or /v1/tree for it, or name a file in it", .path.display())]
    IsDirectory {
        /// The directory.
        path: PathBuf,
    },
    /// A regular file was expected.
    #[error("{} is a pipe, socket or device, which has no content to copy; use it by an exec", .path.display())]
    NotRegular {
        /// What it is.
        path: PathBuf,
    },
    /// A link on the path that its owner could have set as a trap.
    #[error(
        "refused to write through the link {}: it belongs to uid {uid} and leads to what does not; give the path that it leads to",
        .link.display()
    )]
    LinkRefused {
        /// The link.
        link: PathBuf,
        /// Its owner.
        uid: u32,
    },
    /// Content that JSON shall carry is over the limit.
    #[error(
        "{} has more than {} bytes, the most that JSON carries; ask with `Accept: application/octet-stream` for a stream",
        .path.display(), limits::FILE_JSON_BYTES
    )]
    TooLarge {
        /// The file.
        path: PathBuf,
    },
    /// No such user or group.
    #[error("`{owner}` is no owner: give UID, UID:GID, or names of the VM's /etc/passwd and /etc/group")]
    UnknownOwner {
        /// What was given.
        owner: String,
    },
    /// All places are taken.
    #[error("{} trees are being transferred, the limit; try again when one is done", limits::TREE_TRANSFERS)]
    Busy,
    /// The request's body broke off.
    #[error("the content for {} was cut off: {why}; what was there before is unchanged, send it again whole", .path.display())]
    CutOff {
        /// The file.
        path: PathBuf,
        /// How.
        why: String,
    },
    /// An archive went wrong.
    #[error(transparent)]
    Archive(#[from] ArchiveError),
    /// A worker of guestd panicked.
    #[error("guestd failed while it worked on {}; see its log", .path.display())]
    Lost {
        /// The file.
        path: PathBuf,
    },
}

impl FileError {
    pub(super) fn call(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Call { action, path, source }
    }

    /// The code for the wire.
    #[must_use]
    pub fn code(&self) -> ErrorCode {
        match self {
            Self::BadPath { path, .. } if path.as_os_str().as_bytes().contains(&0) => ErrorCode::NulByte,
            Self::BadPath { .. } => ErrorCode::InvalidField,
            Self::Call { source, .. } => code_of(source),
            Self::IsDirectory { .. } => ErrorCode::IsDirectory,
            Self::NotRegular { .. } => ErrorCode::NotRegular,
            Self::LinkRefused { .. } => ErrorCode::Permission,
            Self::TooLarge { .. } => ErrorCode::PayloadTooLarge,
            Self::UnknownOwner { .. } => ErrorCode::UserNotFound,
            Self::Busy => ErrorCode::LimitReached,
            Self::CutOff { .. } => ErrorCode::CutOff,
            Self::Archive(error) => match error {
                ArchiveError::CutOff { .. } | ArchiveError::Stream { .. } => ErrorCode::CutOff,
                ArchiveError::Call { source, .. } => code_of(source),
                ArchiveError::Limit { .. } => ErrorCode::LimitReached,
                _ => ErrorCode::BadArchive,
            },
            Self::Lost { .. } => ErrorCode::Internal,
        }
    }
}

fn code_of(error: &io::Error) -> ErrorCode {
    match Errno::from_raw(error.raw_os_error().unwrap_or(0)) {
        Errno::ENOENT => ErrorCode::NotFound,
        Errno::EISDIR => ErrorCode::IsDirectory,
        Errno::ENOTDIR => ErrorCode::NotDirectory,
        Errno::EACCES | Errno::EPERM | Errno::EROFS | Errno::ETXTBSY => ErrorCode::Permission,
        Errno::ENOSPC | Errno::EDQUOT | Errno::EFBIG => ErrorCode::NoSpace,
        Errno::EEXIST => ErrorCode::Exists,
        Errno::ENOTEMPTY => ErrorCode::NotEmpty,
        Errno::ENXIO | Errno::ENODEV => ErrorCode::NotRegular,
        Errno::ENAMETOOLONG | Errno::ELOOP | Errno::EINVAL => ErrorCode::InvalidField,
        _ => ErrorCode::Internal,
    }
}

fn advice(error: &io::Error) -> &'static str {
    match Errno::from_raw(error.raw_os_error().unwrap_or(0)) {
        Errno::ENOSPC | Errno::EDQUOT => "; make room or grow the disk",
        Errno::EROFS => "; it is mounted read-only",
        Errno::ENOTEMPTY => "; `recursive=true` removes what is in it, too",
        _ => "",
    }
}
