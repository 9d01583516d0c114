//! What ends a copy on this side.

use std::io;
use std::path::PathBuf;

use crate::archive::ArchiveError;

/// Why something was not copied, where neither the VM nor the way to it is the reason.
#[derive(Debug, thiserror::Error)]
#[error("{}; {}", self.cause(), self.advice())]
pub(crate) enum CopyFailure {
    /// Not one side in the VM and one here.
    Sides,
    /// There is nothing at a path of the VM.
    NoSource { path: PathBuf },
    /// A directory without `-r`.
    Directory { path: PathBuf },
    /// A pipe, socket or device.
    Special { path: PathBuf },
    /// A file where `-r` has a directory to copy into.
    InTheWay { path: PathBuf },
    /// A system call here failed.
    Here { action: &'static str, path: PathBuf, source: io::Error },
    /// A tree could not be packed or extracted here.
    Tree(#[source] ArchiveError),
    /// A signal asked guestctl to go.
    Asked { signal: i32 },
    /// A thread of guestctl panicked.
    Lost,
}

impl CopyFailure {
    pub(super) fn here(action: &'static str, path: &std::path::Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Here { action, path, source }
    }

    /// Is it the command line that is wrong?
    pub(crate) fn is_usage(&self) -> bool {
        matches!(self, Self::Sides)
    }

    pub(crate) fn cause(&self) -> String {
        match self {
            Self::Sides => "one of the two paths, and not both, is in the VM".into(),
            Self::NoSource { path } => format!("there is no {} in the VM", path.display()),
            Self::Directory { path } => format!("{} is a directory", path.display()),
            Self::Special { path } => format!("{} is a pipe, socket or device, which has no content", path.display()),
            Self::InTheWay { path } => format!("{} is there and no directory", path.display()),
            Self::Here { action, path, source } => format!("cannot {action} {}: {source}", path.display()),
            Self::Tree(error) => error.to_string(),
            Self::Asked { signal } => format!("ended by signal {signal} before all was copied"),
            Self::Lost => "a thread of guestctl failed".into(),
        }
    }

    pub(crate) fn advice(&self) -> &'static str {
        match self {
            Self::Sides => "write the one in the VM as vm:/PATH",
            Self::NoSource { .. } => "check the path; it is taken as it is, with no wildcards",
            Self::Directory { .. } => "copy it with -r",
            Self::Special { .. } => "read or write it by guestctl exec",
            Self::InTheWay { .. } => "remove it first, or give another name",
            Self::Here { .. } => "check the path on this side, its permissions, and that its disk is not full",
            Self::Tree(_) => "what was copied before it stays; mend that entry and copy again",
            Self::Asked { .. } => "copy again; files that were complete by then are there",
            Self::Lost => "report this with what was printed above",
        }
    }
}
