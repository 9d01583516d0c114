//! Directory trees as tar streams, both ways: the same code packs and unpacks on the host and in the guest.
//!
//! Owns the format (ustar headers with PAX extended headers as POSIX.1-2001 has them, GNU's long names and sparse files) and
//! the way of a tree into it and out of it. Round-trips types, modes, numeric owners, times in nanoseconds, extended
//! attributes of files and directories, hard links, holes, and names of any bytes. Refuses to write outside of the directory
//! that it is given: absolute names, `..`, and every path that leads through a symbolic link, extracted or there before.
//!
//! ```text
//!   entry header ──> content ──┬──> next entry header …──> end mark: complete
//!                              ├──> end of stream: cut off
//!                              └──> abort record with a reason: failed on the other side
//! ```
//! A stream has an end mark of its own, because the end of a connection says nothing. Extraction is not atomic as a whole:
//! each file appears whole or not at all, and what was extracted before an error stays.
//!
//! The `tar` crate is not used: it reads holes as zeros, sets attributes and makes links by path, and so would leave the header's
//! layout alone as its part.

mod entry;
mod error;
mod header;
mod pack;
mod pax;
mod pipe;
mod reader;
mod sparse;
mod unpack;
mod writer;

#[cfg(test)]
mod tests;

pub use entry::{Entry, EntryKind};
pub use error::ArchiveError;
pub use pack::{PackFailure, pack, pack_one};
pub use pipe::{Chunk, ChunkReader, ChunkWriter};
pub use reader::{Reader, check};
pub use unpack::{Totals, unpack};
pub use writer::Writer;
