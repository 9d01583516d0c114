//! Files and trees of them.

use std::time::Duration;

/// Content that a JSON answer or request of `/v1/files` carries, in bytes: in base64 it fits a request's body. More goes as
/// `application/octet-stream`, which has no bound but the disk.
pub const FILE_JSON_BYTES: usize = 3 * 1024 * 1024 - 64 * 1024;

/// A piece of a file or of a tree on its way, in bytes. Larger ones gain nothing; a transfer holds a few of them.
pub const FILE_CHUNK_BYTES: usize = 256 * 1024;

/// Pieces of a tree between the disk and the connection; then the faster side waits.
pub const TREE_QUEUED_CHUNKS: usize = 4;

/// Trees packed or extracted at once. Each has a thread and about 2 MiB of pieces; the threads that are left serve all else.
pub const TREE_TRANSFERS: usize = 4;

/// Silence on a connection that carries a tree, after which the transfer ends: it holds one of few places. A file that is
/// uploaded holds none, and may come from somebody who types.
pub const TREE_STALL_TIME: Duration = Duration::from_secs(120);

/// Entries in one answer of a directory's listing; the next page begins `after` its last name.
pub const FILE_LIST_ENTRIES: usize = 1000;

/// A path, in bytes with its end (PATH_MAX of Linux).
pub const PATH_BYTES: usize = 4096;

/// Symbolic links in one path (MAXSYMLINKS of Linux).
pub const PATH_LINKS: usize = 40;

/// Directories inside each other in a tree that is packed, extracted or removed: a descriptor each, of 1024 that a process
/// usually has.
pub const TREE_DEPTH: usize = 512;

/// Names of files with several hard links that are kept while a tree is packed, about 100 bytes each. A file's name is
/// forgotten when its last link was seen.
pub const TREE_HARD_LINKS: usize = 262_144;

/// An extended attribute, or the names of all of a file, in bytes: Linux's own limit (XATTR_SIZE_MAX).
pub const XATTR_BYTES: usize = 64 * 1024;

/// Extended headers of a tar entry together (long names, extended attributes), in bytes.
pub const TAR_HEADER_BYTES: usize = 1024 * 1024;

/// Ranges of data of one sparse file in a tree, 16 bytes each. Beyond it, holes are sent as zeros.
pub const TAR_SEGMENTS: usize = 65_536;

/// Padding after the end of a tar stream that is read and thrown away, in bytes. GNU tar pads to 10 KiB, or as asked.
pub const TAR_PADDING_BYTES: u64 = 16 * 1024 * 1024;
