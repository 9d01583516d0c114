//! One entry of an archive, as plain data.

use std::path::PathBuf;

use crate::sys::files::{Segment, Time, Xattr};

/// A file, directory, link or node, without its content.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Path in the archive.
    pub path: PathBuf,
    /// What it is.
    pub kind: EntryKind,
    /// Permission bits, set-id and sticky bits included.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Last change of the content.
    pub mtime: Time,
    /// Length in bytes, holes included; 0 for what is no regular file.
    pub size: u64,
    /// Its ranges of data, in order, if it has holes; the content in the stream is these one after the other.
    pub segments: Option<Vec<Segment>>,
    /// Extended attributes.
    pub xattrs: Vec<Xattr>,
}

impl Entry {
    /// Bytes of content in the stream.
    pub(super) fn stored(&self) -> u64 {
        match &self.segments {
            Some(segments) => segments.iter().map(|segment| segment.length).sum(),
            None => self.size,
        }
    }
}

/// What an entry stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EntryKind {
    /// A regular file.
    File,
    /// Another name of a file that came before, by its path in the archive.
    HardLink(PathBuf),
    /// A symbolic link and what it points to.
    Symlink(PathBuf),
    /// A directory.
    Directory,
    /// A named pipe.
    Fifo,
    /// A character device.
    CharDevice {
        /// Major number.
        major: u32,
        /// Minor number.
        minor: u32,
    },
    /// A block device.
    BlockDevice {
        /// Major number.
        major: u32,
        /// Minor number.
        minor: u32,
    },
}
