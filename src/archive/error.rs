//! What can go wrong with an archive, with the entry that it went wrong at.

use std::{
    io,
    path::{Path, PathBuf},
};

/// Why a tree was not packed or not extracted to its end.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ArchiveError {
    /// The stream ended before its end mark.
    #[error(
        "the tar stream was cut off {}; what came before it is extracted and stays: send it again whole", place(.after.as_deref())
    )]
    CutOff {
        /// The entry in or after which it ended.
        after: Option<PathBuf>,
    },
    /// The stream is no tar stream, or one of a kind that is not understood.
    #[error("cannot read the tar stream {}: {why}; send POSIX (PAX), GNU or ustar format, uncompressed", place(.after.as_deref()))]
    Format {
        /// The entry in or after which it is wrong.
        after: Option<PathBuf>,
        /// What is wrong.
        why: String,
    },
    /// An entry that would be written outside of the target, or could be.
    #[error("refused to extract `{}`: {why}; nothing was written for it", .entry.display())]
    Unsafe {
        /// The entry.
        entry: PathBuf,
        /// Why it is dangerous.
        why: &'static str,
    },
    /// An entry over a limit.
    #[error("cannot transfer `{}`: {what} is over the limit of {limit}; leave it out, or use tar in the VM by `exec`", .entry.display())]
    Limit {
        /// The entry.
        entry: PathBuf,
        /// What is too large.
        what: &'static str,
        /// The bound.
        limit: usize,
    },
    /// A system call on an entry failed.
    #[error("cannot {action} `{}`: {source}", .entry.display())]
    Call {
        /// What was tried.
        action: &'static str,
        /// On what.
        entry: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// A file became shorter while it was read.
    #[error("`{}` became shorter while it was read; stop what writes to it, or send it again", .entry.display())]
    Changed {
        /// The file.
        entry: PathBuf,
    },
    /// The stream cannot be read or written on: the other side has gone.
    #[error("the tar stream broke {}: {source}", place(.after.as_deref()))]
    Stream {
        /// The entry in or after which it broke.
        after: Option<PathBuf>,
        /// Why.
        source: io::Error,
    },
    /// The sender said that it failed.
    #[error("the sender of the tar stream failed: {reason}")]
    Sender {
        /// Its own words.
        reason: String,
    },
}

impl ArchiveError {
    pub(super) fn call(action: &'static str, entry: &Path) -> impl FnOnce(io::Error) -> Self {
        let entry = entry.to_owned();
        move |source| Self::Call { action, entry, source }
    }
}

fn place(after: Option<&Path>) -> String {
    match after {
        Some(entry) => format!("in or after `{}`", entry.display()),
        None => "before its first entry".to_owned(),
    }
}
