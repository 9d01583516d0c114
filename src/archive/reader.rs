//! Entries out of a tar stream.

use std::{
    ffi::OsString,
    io::{self, Read},
    os::unix::ffi::OsStringExt,
    path::PathBuf,
};

use super::{
    entry::{Entry, EntryKind},
    error::ArchiveError,
    header::{self, BLOCK, Header, padding},
    pax, sparse,
};
use crate::{
    limits,
    sys::files::{Segment, Time, Xattr},
};

/// Reads a tar stream: an entry, its content, the next entry. Content that is not read is skipped.
#[derive(Debug)]
pub struct Reader<R> {
    input: R,
    /// Content of the present entry that is still to come.
    remaining: u64,
    /// Zeros after it.
    padding: usize,
    /// The present entry.
    place: Option<PathBuf>,
}

/// What extended headers say of the entry that follows them.
#[derive(Default)]
struct Extended {
    path: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    size: Option<u64>,
    uid: Option<u32>,
    gid: Option<u32>,
    mtime: Option<Time>,
    xattrs: Vec<Xattr>,
    sparse_name: Option<Vec<u8>>,
    sparse_size: Option<u64>,
    sparse_map: Option<Vec<Segment>>,
    /// The map stands before the content.
    sparse_1_0: bool,
}

impl<R: Read> Reader<R> {
    /// Nothing is read yet.
    pub fn new(input: R) -> Self {
        Self { input, remaining: 0, padding: 0, place: None }
    }

    /// The next entry; none after the end mark.
    ///
    /// # Errors
    /// The stream is cut off, broken, aborted by its sender, or no tar stream.
    pub fn next_entry(&mut self) -> Result<Option<Entry>, ArchiveError> {
        self.skip_content()?;
        let mut extended = Extended::default();
        // For all extended headers of an entry together: a sender could go on with them for ever.
        let mut room = limits::TAR_HEADER_BYTES;
        loop {
            let mut block = [0; BLOCK];
            self.fill(&mut block)?;
            let header = Header(block);
            if header.is_zero() {
                self.read_padding()?;
                return Ok(None);
            }
            if !header.is_valid() {
                return Err(self.wrong("a header's checksum is wrong"));
            }
            let size = header.number(header::SIZE).and_then(|size| u64::try_from(size).ok());
            let size = size.ok_or_else(|| self.wrong("an entry's size is no number"))?;
            match header.kind() {
                b'x' => extended.read(&self.special(size, &mut room)?).map_err(|why| self.wrong(why))?,
                b'g' => {
                    // Read for one record and forgotten.
                    let content = self.special(size, &mut { limits::TAR_HEADER_BYTES })?;
                    let records = pax::parse(&content).map_err(|why| self.wrong(why))?;
                    if let Some((_, reason)) = records.iter().find(|(key, _)| *key == pax::ABORT.as_bytes()) {
                        return Err(ArchiveError::Sender { reason: String::from_utf8_lossy(reason).into_owned() });
                    }
                }
                b'L' => extended.path = Some(until_nul(self.special(size, &mut room)?)),
                b'K' => extended.link = Some(until_nul(self.special(size, &mut room)?)),
                _ => return self.entry(&header, size, extended).map(Some),
            }
        }
    }

    /// Reads content of the present entry; 0 at its end.
    ///
    /// # Errors
    /// The stream is cut off or broken.
    pub fn content(&mut self, buffer: &mut [u8]) -> Result<usize, ArchiveError> {
        let most = usize::try_from(self.remaining).unwrap_or(usize::MAX).min(buffer.len());
        if most == 0 {
            return Ok(0);
        }
        let read = loop {
            match self.input.read(&mut buffer[..most]) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                result => break result.map_err(|source| self.broken(source))?,
            }
        };
        if read == 0 {
            return Err(self.cut_off());
        }
        self.remaining -= read as u64;
        Ok(read)
    }

    fn entry(&mut self, header: &Header, size: u64, extended: Extended) -> Result<Entry, ArchiveError> {
        let size = extended.size.unwrap_or(size);
        let path = extended.sparse_name.or(extended.path).unwrap_or_else(|| header.name());
        self.place = Some(path_of(path.clone()));
        let link = || path_of(extended.link.clone().unwrap_or_else(|| header.text(header::LINK).to_vec()));
        let number = |field| header.number(field).and_then(|number| u32::try_from(number).ok());
        let device = || Some((number(header::MAJOR)?, number(header::MINOR)?));
        let no_device = || self.wrong("a device has no numbers");
        let kind = match header.kind() {
            // The oldest tars knew no directories: a slash at the end was one.
            b'0' | 0 if path.ends_with(b"/") => EntryKind::Directory,
            b'0' | 0 | b'7' | b'S' => EntryKind::File,
            b'1' => EntryKind::HardLink(link()),
            b'2' => EntryKind::Symlink(link()),
            b'3' => device().map(|(major, minor)| EntryKind::CharDevice { major, minor }).ok_or_else(no_device)?,
            b'4' => device().map(|(major, minor)| EntryKind::BlockDevice { major, minor }).ok_or_else(no_device)?,
            b'5' => EntryKind::Directory,
            b'6' => EntryKind::Fifo,
            other => return Err(self.wrong(&format!("entries of type {:?} are not known", char::from(other)))),
        };
        let secs = header.number(header::MTIME).ok_or_else(|| self.wrong("an entry's time is no number"))?;
        let mut entry = Entry {
            path: path_of(path),
            kind,
            mode: number(header::MODE).ok_or_else(|| self.wrong("an entry's mode is no number"))? & 0o7777,
            uid: extended.uid.or_else(|| number(header::UID)).ok_or_else(|| self.wrong("an owner is no number"))?,
            gid: extended.gid.or_else(|| number(header::GID)).ok_or_else(|| self.wrong("a group is no number"))?,
            mtime: extended.mtime.unwrap_or(Time { secs, nanos: 0 }),
            size: 0,
            segments: None,
            xattrs: extended.xattrs,
        };
        // Nothing but a file has content (POSIX.1-2001, pax, "ustar Interchange Format"), whatever old writers say of its size.
        let size = if entry.kind == EntryKind::File { size } else { 0 };
        (self.remaining, self.padding) = (size, padding(size));
        if entry.kind == EntryKind::File {
            entry.size = extended.sparse_size.unwrap_or(size);
            entry.segments = match header.kind() {
                b'S' => Some(self.old_sparse(header, &mut entry.size)?),
                _ if extended.sparse_1_0 => Some(self.sparse_1_0()?),
                _ => extended.sparse_map,
            };
        }
        if let Some(segments) = &entry.segments
            && !sparse::is_sound(segments, entry.size, self.remaining)
        {
            return Err(self.wrong("the map of a sparse file does not fit its content"));
        }
        Ok(entry)
    }

    fn old_sparse(&mut self, header: &Header, size: &mut u64) -> Result<Vec<Segment>, ArchiveError> {
        let wrong = "the map of a sparse file is malformed";
        let real = header.number(header::GNU_REAL_SIZE).and_then(|size| u64::try_from(size).ok());
        *size = real.ok_or_else(|| self.wrong(wrong))?;
        let read = |block: &Header, field| sparse::from_header(block.bytes(field));
        let mut segments = read(header, header::GNU_SEGMENTS).ok_or_else(|| self.wrong(wrong))?;
        let mut more = header.0[header::GNU_MORE] != 0;
        while more {
            let mut block = [0; BLOCK];
            self.fill(&mut block)?;
            let block = Header(block);
            segments.extend(read(&block, header::GNU_MORE_SEGMENTS).ok_or_else(|| self.wrong(wrong))?);
            if segments.len() > limits::TAR_SEGMENTS + 1 {
                return Err(self.wrong("the map of a sparse file has too many ranges"));
            }
            more = block.0[header::GNU_STILL_MORE] != 0;
        }
        Ok(segments)
    }

    fn sparse_1_0(&mut self) -> Result<Vec<Segment>, ArchiveError> {
        let mut map = sparse::MapReader::default();
        loop {
            let mut block = [0; BLOCK];
            self.remaining = self
                .remaining
                .checked_sub(BLOCK as u64)
                .ok_or_else(|| self.wrong("the map of a sparse file is longer than its content"))?;
            self.fill(&mut block)?;
            if let Some(segments) = map.push(&block).map_err(|why| self.wrong(why))? {
                return Ok(segments);
            }
        }
    }

    /// The content of an extended header, which takes from the room for those of its entry.
    fn special(&mut self, size: u64, room: &mut usize) -> Result<Vec<u8>, ArchiveError> {
        let length = usize::try_from(size).ok().filter(|length| *length <= *room).ok_or_else(|| {
            self.wrong(&format!("extended headers are longer than {} bytes", limits::TAR_HEADER_BYTES))
        })?;
        *room -= length;
        let mut content = vec![0; length + padding(size)];
        self.fill(&mut content)?;
        content.truncate(length);
        Ok(content)
    }

    fn skip_content(&mut self) -> Result<(), ArchiveError> {
        let mut buffer = [0; 8 * BLOCK];
        while self.content(&mut buffer)? > 0 {}
        let due = std::mem::take(&mut self.padding);
        self.fill(&mut buffer[..due])
    }

    /// Reads what follows the end mark, so that the sender is not cut off while it still pads.
    fn read_padding(&mut self) -> Result<(), ArchiveError> {
        let rest = self.input.by_ref().take(limits::TAR_PADDING_BYTES);
        io::copy(&mut { rest }, &mut io::sink()).map(drop).map_err(|source| self.broken(source))
    }

    fn fill(&mut self, buffer: &mut [u8]) -> Result<(), ArchiveError> {
        self.input.read_exact(buffer).map_err(|error| match error.kind() {
            io::ErrorKind::UnexpectedEof => self.cut_off(),
            _ => self.broken(error),
        })
    }

    fn cut_off(&self) -> ArchiveError {
        ArchiveError::CutOff { after: self.place.clone() }
    }

    fn broken(&self, source: io::Error) -> ArchiveError {
        ArchiveError::Stream { after: self.place.clone(), source }
    }

    fn wrong(&self, why: &str) -> ArchiveError {
        ArchiveError::Format { after: self.place.clone(), why: why.to_owned() }
    }
}

impl Extended {
    fn read(&mut self, content: &[u8]) -> Result<(), &'static str> {
        const NUMBER: &str = "a number in an extended header is none";
        for (key, value) in pax::parse(content)? {
            let number = || str::from_utf8(value).ok().and_then(|text| text.parse::<u64>().ok()).ok_or(NUMBER);
            let id = || number().and_then(|id| u32::try_from(id).map_err(|_| NUMBER));
            match key {
                b"path" => self.path = Some(value.to_vec()),
                b"linkpath" => self.link = Some(value.to_vec()),
                b"size" => self.size = Some(number()?),
                b"uid" => self.uid = Some(id()?),
                b"gid" => self.gid = Some(id()?),
                b"mtime" => {
                    let (secs, nanos) = pax::time(value).ok_or("a time in an extended header is none")?;
                    self.mtime = Some(Time { secs, nanos });
                }
                b"GNU.sparse.major" => self.sparse_1_0 = value == b"1",
                b"GNU.sparse.name" => self.sparse_name = Some(value.to_vec()),
                b"GNU.sparse.realsize" | b"GNU.sparse.size" => self.sparse_size = Some(number()?),
                b"GNU.sparse.map" => {
                    self.sparse_map = Some(sparse::from_record(value).ok_or("the map of a sparse file is malformed")?);
                }
                b"GNU.sparse.offset" => {
                    return Err("sparse files of GNU's format 0.0 are not known; use --sparse-version=1.0");
                }
                _ => {
                    if let Some(name) = key.strip_prefix(pax::XATTR.as_bytes()) {
                        self.xattrs.push(Xattr { name: pax::decode_name(name), value: value.to_vec() });
                    }
                }
            }
        }
        Ok(())
    }
}

/// Reads a tar stream to its end mark and gives the number of entries.
///
/// # Errors
/// As [`Reader::next_entry`].
pub fn check(input: impl Read) -> Result<u64, ArchiveError> {
    let mut reader = Reader::new(input);
    let mut entries = 0;
    while reader.next_entry()?.is_some() {
        entries += 1;
    }
    Ok(entries)
}

fn until_nul(mut bytes: Vec<u8>) -> Vec<u8> {
    if let Some(end) = bytes.iter().position(|byte| *byte == 0) {
        bytes.truncate(end);
    }
    bytes
}

fn path_of(bytes: Vec<u8>) -> PathBuf {
    OsString::from_vec(bytes).into()
}
