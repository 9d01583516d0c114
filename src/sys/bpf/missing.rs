//! Why programs do not run here, as a whole.

use std::{
    fs::{File, OpenOptions},
    io,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use super::{AssemblyError, BpfError};

/// Why there are no events, or no steering.
#[derive(Debug, thiserror::Error)]
pub enum Missing {
    /// The cgroup is not to be had.
    #[error("opening the cgroup {} failed: {source}", path.display())]
    Cgroup {
        /// Its directory.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// BPF does not do it.
    #[error(transparent)]
    Bpf(#[from] BpfError),
    /// What programs write cannot be read.
    #[error("mapping the memory of a BPF map failed: {0}")]
    Mapping(io::Error),
    /// The network namespace is not to be had.
    #[error(
        "opening the own network namespace, /proc/thread-self/ns/net, failed: {0}; it takes /proc, and a kernel with CONFIG_NET_NS"
    )]
    Namespace(io::Error),
    /// The kernel does not let connections be given to this socket.
    #[error(
        "putting the bridge's listening socket into a BPF socket map failed: {0}; it takes Linux 5.9 with CONFIG_BPF_STREAM_PARSER"
    )]
    Listener(io::Error),
}

impl From<AssemblyError> for Missing {
    fn from(error: AssemblyError) -> Self {
        Self::Bpf(error.into())
    }
}

/// A cgroup's directory, to attach programs to.
pub(super) fn open_cgroup(path: &Path) -> Result<File, Missing> {
    let opened = OpenOptions::new().read(true).custom_flags(libc::O_DIRECTORY).open(path);
    opened.map_err(|source| Missing::Cgroup { path: path.to_owned(), source })
}
