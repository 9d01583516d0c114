//! Files and trees of the guest, for a host that asks as root.
//!
//! Owns the way from an absolute path to a file, whole and atomic writes, listings, removal, and the two ends of tree
//! transfers. Refuses to be led astray: see below.
//!
//! ```text
//!   PUT:  path ──walk──> directory, name ──> temporary in it, private ──content──> owner, mode, fsync, rename
//!                                                      └── cut off, killed client, full disk ──> removed; the old file stays
//! ```
//!
//! **Links.** Reading follows links, as open(2) does. Writing follows them too, the last one as well, so that a PUT to
//! `/etc/resolv.conf` replaces what that link leads to and leaves the link, as `cp` and `scp` do. But a link of another user than
//! root counts for writing only where it leads to that user's own directory: else whoever owns a directory on the path could
//! have root write where he cannot (the rule of systemd's `CHASE_SAFE`). Each step is taken on a descriptor, so that a directory
//! which is swapped for a link meanwhile changes nothing. Deleting never follows the last component.
//!
//! A file that is replaced hands on its mode and owner, and neither its extended attributes nor its other names. Temporary files
//! are named `.guestd-tmp-PID-N`; only a kill of the agent itself leaves one behind.

mod error;
mod owner;
mod read;
mod remove;
mod tree;
mod walk;
mod write;

pub use error::FileError;
pub use owner::Owner;
pub use read::{OpenFile, list, stat};
pub use remove::remove;
pub use tree::{TreeIn, TreeOut, Trees};
pub use write::{Upload, WriteOptions, make_directory};
