//! What can go wrong with keys, said so that whoever asked can mend it. Never with a key's text.

use std::{io, path::PathBuf};

use nix::errno::Errno;

use crate::{api::ErrorCode, limits, sys::root_dir::RootDirError};

/// Why keys were not listed, set or made.
#[derive(Debug, thiserror::Error)]
pub enum KeysError {
    /// This system was not made by `guestd install`.
    #[error(
        "there are no managed keys in this system: it has no {directory}; `guestd install --root /` makes it, and the part of \
         sshd's configuration that reads it"
    )]
    NotInstalled {
        /// What is missing.
        directory: &'static str,
    },
    /// A key that was given is none that sshd would take.
    #[error("key {number} of those given {why}")]
    BadKey {
        /// Which of them, from 1.
        number: usize,
        /// What is wrong with it, as the rest of a sentence.
        why: String,
    },
    /// A field of a request is wrong.
    #[error("field `{field}` of the request is wrong: {why}")]
    BadField {
        /// The field.
        field: &'static str,
        /// What is wrong with it.
        why: String,
    },
    /// There is no such account.
    #[error("there is no user `{user}` in /etc/passwd; give one who is, by name")]
    NoUser {
        /// What was given.
        user: String,
    },
    /// No line has this id.
    #[error("no managed key has the id `{id}`; `guestctl keys list` has those that there are")]
    NoKey {
        /// What was given.
        id: String,
    },
    /// A file would become too large.
    #[error(
        "the keys of {user} would have more than {} bytes, which is the limit; remove some first",
        limits::AUTHORIZED_KEYS_BYTES
    )]
    TooMany {
        /// Whose keys.
        user: String,
    },
    /// There are too many files.
    #[error(
        "{} users have managed keys, which is the limit; remove the keys of another first",
        limits::AUTHORIZED_KEYS_USERS
    )]
    TooManyUsers,
    /// A file or directory that somebody else could have made or changed.
    #[error("{path} is not touched: {why}", path = path.display())]
    Untrusted {
        /// What it is.
        path: PathBuf,
        /// What is wrong, and what to do.
        why: String,
    },
    /// A key pair could not be made.
    #[error("cannot generate an ed25519 key pair: {0}")]
    Generate(ssh_key::Error),
    /// A program of the image could not be run to its end.
    #[error("cannot run {program}: {source}", program = program.display())]
    Program {
        /// The program.
        program: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// A file could not be read or written.
    #[error("{0}{advice}", advice = advice(.0))]
    Files(#[from] RootDirError),
    /// guestd ends, or its worker panicked.
    #[error("the keys' task has ended; try again when the agent is back")]
    Stopped,
}

impl KeysError {
    /// The code for the wire.
    #[must_use]
    pub fn code(&self) -> ErrorCode {
        match self {
            Self::NotInstalled { .. } | Self::NoKey { .. } => ErrorCode::NotFound,
            Self::BadKey { .. } | Self::BadField { .. } => ErrorCode::InvalidField,
            Self::NoUser { .. } => ErrorCode::UserNotFound,
            Self::TooMany { .. } | Self::TooManyUsers => ErrorCode::LimitReached,
            Self::Untrusted { .. } => ErrorCode::Permission,
            Self::Files(error) => match errno(error) {
                Errno::ENOSPC | Errno::EDQUOT => ErrorCode::NoSpace,
                Errno::EACCES | Errno::EPERM | Errno::EROFS => ErrorCode::Permission,
                _ => ErrorCode::Internal,
            },
            Self::Generate(_) | Self::Program { .. } => ErrorCode::Internal,
            Self::Stopped => ErrorCode::Unavailable,
        }
    }
}

fn errno(error: &RootDirError) -> Errno {
    match error {
        RootDirError::Call { errno, .. } => *errno,
        RootDirError::Content { source, .. } => Errno::from_raw(source.raw_os_error().unwrap_or(0)),
        RootDirError::DanglingLink { .. } => Errno::ENOENT,
        RootDirError::Linked { .. } => Errno::EPERM,
        RootDirError::TooLarge { .. } => Errno::EFBIG,
    }
}

fn advice(error: &RootDirError) -> &'static str {
    match errno(error) {
        Errno::ENOSPC | Errno::EDQUOT => "; all keys are as they were, make room or grow the disk",
        Errno::EROFS => "; all keys are as they were, it is mounted read-only",
        _ => "",
    }
}
