//! Entries into a tar stream.

use std::{io, io::Write, os::unix::ffi::OsStrExt, path::Path};

use super::{
    entry::{Entry, EntryKind},
    header::{self, BLOCK, NewHeader, padding},
    pax, sparse,
};
use crate::limits;

/// Writes a tar stream in PAX format. Whoever uses it writes as much content after an entry as the entry says.
#[derive(Debug)]
pub struct Writer<W> {
    output: W,
    /// Zeros due after the content that is being written.
    padding: usize,
}

impl<W: Write> Writer<W> {
    /// Nothing is written yet.
    pub fn new(output: W) -> Self {
        Self { output, padding: 0 }
    }

    /// Begins an entry.
    ///
    /// # Errors
    /// InvalidInput where its names and attributes need more than `limits::TAR_HEADER_BYTES`; else those of the output.
    pub fn entry(&mut self, entry: &Entry) -> io::Result<()> {
        self.pad()?;
        let records = records(entry);
        if records.len() > limits::TAR_HEADER_BYTES {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        if !records.is_empty() {
            self.special(b'x', &records)?;
        }
        let map = entry.segments.as_ref().map(|segments| sparse::map(segments, entry.size)).unwrap_or_default();
        let stored = map.len() as u64 + entry.stored();
        self.output.write_all(&header(entry, stored))?;
        self.output.write_all(&map)?;
        self.padding = padding(stored);
        Ok(())
    }

    /// Writes content of the entry.
    pub fn content(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.output.write_all(bytes)
    }

    /// Says that this is all.
    pub fn finish(mut self) -> io::Result<()> {
        self.pad()?;
        self.output.write_all(&[0; 2 * BLOCK])?;
        self.output.flush()
    }

    /// Says that there is no more, and why; only between two entries, or the reason is taken for content.
    pub fn abort(mut self, reason: &str) -> io::Result<()> {
        self.pad()?;
        let mut records = Vec::new();
        pax::push(&mut records, pax::ABORT.as_bytes(), reason.as_bytes());
        self.special(b'g', &records)?;
        self.output.flush()
    }

    /// An extended header.
    fn special(&mut self, kind: u8, content: &[u8]) -> io::Result<()> {
        let mut header = NewHeader::new(kind);
        header.text(header::NAME, b"././@PaxHeader");
        header.number(header::MODE, 0o644);
        header.number(header::UID, 0);
        header.number(header::GID, 0);
        header.number(header::SIZE, content.len().try_into().unwrap_or(i64::MAX));
        header.number(header::MTIME, 0);
        self.output.write_all(&header.finish())?;
        self.output.write_all(content)?;
        self.padding = padding(content.len() as u64);
        self.pad()
    }

    fn pad(&mut self) -> io::Result<()> {
        let due = std::mem::take(&mut self.padding);
        self.output.write_all(&[0; BLOCK][..due])
    }
}

/// What the header has no room for.
fn records(entry: &Entry) -> Vec<u8> {
    let mut records = Vec::new();
    let mut record = |key: &str, value: &[u8]| pax::push(&mut records, key.as_bytes(), value);
    let path = name(entry);
    if path.len() > 100 {
        record("path", &path);
    }
    if let Some(target) = target(entry).map(|target| target.as_os_str().as_bytes()).filter(|target| target.len() > 100)
    {
        record("linkpath", target);
    }
    for (key, id) in [("uid", entry.uid), ("gid", entry.gid)] {
        if u64::from(id) > header::OCTAL_7 {
            record(key, id.to_string().as_bytes());
        }
    }
    if entry.mtime.nanos != 0 || entry.mtime.secs < 0 {
        record("mtime", pax::time_text(entry.mtime.secs, entry.mtime.nanos).as_bytes());
    }
    if entry.segments.is_some() {
        record("GNU.sparse.major", b"1");
        record("GNU.sparse.minor", b"0");
        record("GNU.sparse.name", &path);
        record("GNU.sparse.realsize", entry.size.to_string().as_bytes());
    }
    for xattr in &entry.xattrs {
        let key = [pax::XATTR.as_bytes(), &pax::encode_name(&xattr.name)].concat();
        pax::push(&mut records, &key, &xattr.value);
    }
    records
}

fn header(entry: &Entry, stored: u64) -> header::Block {
    let kind = match &entry.kind {
        EntryKind::File => b'0',
        EntryKind::HardLink(_) => b'1',
        EntryKind::Symlink(_) => b'2',
        EntryKind::CharDevice { .. } => b'3',
        EntryKind::BlockDevice { .. } => b'4',
        EntryKind::Directory => b'5',
        EntryKind::Fifo => b'6',
    };
    let mut header = NewHeader::new(kind);
    header.text(header::NAME, &name(entry));
    header.number(header::MODE, entry.mode.into());
    header.number(header::UID, entry.uid.into());
    header.number(header::GID, entry.gid.into());
    header.number(header::SIZE, stored.try_into().unwrap_or(i64::MAX));
    header.number(header::MTIME, entry.mtime.secs.max(0));
    if let Some(target) = target(entry) {
        header.text(header::LINK, target.as_os_str().as_bytes());
    }
    if let EntryKind::CharDevice { major, minor } | EntryKind::BlockDevice { major, minor } = entry.kind {
        header.number(header::MAJOR, major.into());
        header.number(header::MINOR, minor.into());
    }
    header.finish()
}

/// The name as tar has it: that of a directory ends by a slash.
fn name(entry: &Entry) -> Vec<u8> {
    let mut name = entry.path.as_os_str().as_bytes().to_vec();
    if entry.kind == EntryKind::Directory && !name.ends_with(b"/") {
        name.push(b'/');
    }
    name
}

fn target(entry: &Entry) -> Option<&Path> {
    match &entry.kind {
        EntryKind::HardLink(target) | EntryKind::Symlink(target) => Some(target),
        _ => None,
    }
}
