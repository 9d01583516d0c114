//! A directory into a tar stream, depth first.
//!
//! Of a tree that changes meanwhile, what vanished is left out; a file that became shorter is an error, since its size was
//! already said, and of one that grew the first bytes are sent. Sockets are left out, as by tar. Mount points are entered, but
//! for file systems that the kernel makes up (proc, sysfs): of these the empty directory is sent.

use std::{
    collections::HashMap,
    ffi::OsStr,
    fs::File,
    io::{self, Write},
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
};

use nix::sys::stat::{major, minor};

use super::{
    entry::{Entry, EntryKind},
    error::ArchiveError,
    writer::Writer,
};
use crate::{
    limits,
    sys::files::{Dir, Kind, Names, Stat, bytes_of, segments, stat, xattrs},
};

/// Packs a directory: itself as `./`, and what is in it by names relative to it.
///
/// # Errors
/// Something cannot be read, or the stream cannot be written. Between two entries, the reason is the stream's last record.
pub fn pack(dir: &Dir, output: impl Write) -> Result<(), PackFailure> {
    run(output, |packer| packer.tree(dir))
}

/// Packs the one entry `name` of a directory, which is no directory itself.
///
/// # Errors
/// As [`pack`].
pub fn pack_one(dir: &Dir, name: &OsStr, output: impl Write) -> Result<(), PackFailure> {
    run(output, |packer| packer.entry(dir, name, Path::new(name)).map(drop))
}

/// Why a tree was not packed to its end.
#[derive(Debug, thiserror::Error)]
#[error("{error}")]
pub struct PackFailure {
    /// What went wrong.
    #[source]
    pub error: ArchiveError,
    /// The stream says so itself; else it must be cut off, for there its last bytes would be taken for content.
    pub told: bool,
}

struct Packer<W> {
    writer: Writer<W>,
    /// Names of files that have more, by device and inode, and how many of their links are still to come.
    links: HashMap<(u64, u64), (PathBuf, u64)>,
    buffer: Vec<u8>,
    /// Between two entries, a reason can be written into the stream.
    between: bool,
}

/// A directory whose names are being gone through.
struct Level {
    dir: Dir,
    names: Names,
    path: PathBuf,
    device: u64,
}

fn run<W: Write>(output: W, work: impl FnOnce(&mut Packer<W>) -> Result<(), ArchiveError>) -> Result<(), PackFailure> {
    let buffer = vec![0; limits::FILE_CHUNK_BYTES];
    let mut packer = Packer { writer: Writer::new(output), links: HashMap::new(), buffer, between: true };
    match work(&mut packer) {
        Ok(()) => {
            let ended = packer.writer.finish().map_err(stream_error(Path::new("the end")));
            ended.map_err(|error| PackFailure { error, told: false })
        }
        Err(error) => {
            let can_tell = packer.between && !matches!(error, ArchiveError::Stream { .. });
            let told = can_tell && packer.writer.abort(&error.to_string()).is_ok();
            Err(PackFailure { error, told })
        }
    }
}

impl<W: Write> Packer<W> {
    fn tree(&mut self, dir: &Dir) -> Result<(), ArchiveError> {
        let top = Path::new(".");
        let found = dir.stat().map_err(ArchiveError::call("look at", top))?;
        self.directory(dir, top, &found)?;
        let again = dir.again().map_err(ArchiveError::call("open", top))?;
        let mut levels = vec![level(again, PathBuf::new(), found.dev)?];
        while let Some(level) = levels.last_mut() {
            let Some(name) = level.names.next() else {
                levels.pop();
                continue;
            };
            let name = name.map_err(ArchiveError::call("list", &level.path))?;
            let path = level.path.join(&name);
            let Some((inner, device)) = self.entry_at(level, &name, &path)? else { continue };
            if levels.len() >= limits::TREE_DEPTH {
                return Err(ArchiveError::Limit { entry: path, what: "its depth", limit: limits::TREE_DEPTH });
            }
            levels.push(self::level(inner, path, device)?);
        }
        Ok(())
    }

    /// Packs what is at a name; a directory that is to be entered is returned.
    fn entry_at(&mut self, level: &Level, name: &OsStr, path: &Path) -> Result<Option<(Dir, u64)>, ArchiveError> {
        let Some((dir, found)) = self.entry(&level.dir, name, path)? else { return Ok(None) };
        let kept_out = found.dev != level.device && dir.is_pseudo().map_err(ArchiveError::call("look at", path))?;
        Ok((!kept_out).then_some((dir, found.dev)))
    }

    fn entry(&mut self, dir: &Dir, name: &OsStr, path: &Path) -> Result<Option<(Dir, Stat)>, ArchiveError> {
        let failed = |action| ArchiveError::call(action, path);
        let Some(found) = unless_gone(dir.stat_of(name)).map_err(failed("look at"))? else { return Ok(None) };
        let device = || (number(major(found.rdev)), number(minor(found.rdev)));
        match found.kind {
            Kind::Directory => {
                let Some(inner) = unless_gone(dir.below(Path::new(name))).map_err(failed("open"))? else {
                    return Ok(None);
                };
                let found = inner.stat().map_err(failed("look at"))?;
                self.directory(&inner, path, &found)?;
                return Ok(Some((inner, found)));
            }
            Kind::File => {
                let Some(file) = unless_gone(dir.open_file(name)).map_err(failed("open"))? else { return Ok(None) };
                self.file(&file, path)?;
            }
            Kind::Symlink => {
                let Some((found, target)) = unless_gone(dir.link(name)).map_err(failed("read the link"))? else {
                    return Ok(None);
                };
                self.linked(path, &found, EntryKind::Symlink(target))?;
            }
            Kind::Fifo => self.linked(path, &found, EntryKind::Fifo)?,
            Kind::CharDevice => {
                let (major, minor) = device();
                self.linked(path, &found, EntryKind::CharDevice { major, minor })?;
            }
            Kind::BlockDevice => {
                let (major, minor) = device();
                self.linked(path, &found, EntryKind::BlockDevice { major, minor })?;
            }
            Kind::Socket => {}
        }
        Ok(None)
    }

    fn directory(&mut self, dir: &Dir, path: &Path, found: &Stat) -> Result<(), ArchiveError> {
        let mut entry = entry(path, EntryKind::Directory, found);
        entry.xattrs = xattrs(dir).map_err(ArchiveError::call("read the attributes of", path))?;
        self.write(&entry)
    }

    /// What has no content, but may have several names.
    fn linked(&mut self, path: &Path, found: &Stat, kind: EntryKind) -> Result<(), ArchiveError> {
        let kind = self.first_name(path, found)?.map_or(kind, EntryKind::HardLink);
        self.write(&entry(path, kind, found))
    }

    fn file(&mut self, file: &File, path: &Path) -> Result<(), ArchiveError> {
        // Looked at by its descriptor: between the two calls it may have become another file.
        let found = stat(file).map_err(ArchiveError::call("look at", path))?;
        if found.kind != Kind::File {
            return Err(ArchiveError::Changed { entry: path.to_owned() });
        }
        if let Some(first) = self.first_name(path, &found)? {
            return self.write(&entry(path, EntryKind::HardLink(first), &found));
        }
        let mut entry = entry(path, EntryKind::File, &found);
        entry.size = found.size;
        entry.xattrs = xattrs(file).map_err(ArchiveError::call("read the attributes of", path))?;
        let ranges = segments(file, found.size, limits::TAR_SEGMENTS);
        let ranges = ranges.map_err(ArchiveError::call("find the holes of", path))?;
        if ranges.iter().map(|range| range.length).sum::<u64>() < found.size {
            entry.segments = Some(ranges.clone());
        }
        // What was cut off meanwhile would be told as a hole.
        if stat(file).map_err(ArchiveError::call("look at", path))?.size < found.size {
            return Err(ArchiveError::Changed { entry: path.to_owned() });
        }
        self.write(&entry)?;
        self.between = false;
        for range in ranges {
            self.content(file, path, range.offset, range.length)?;
        }
        self.between = true;
        Ok(())
    }

    fn content(&mut self, file: &File, path: &Path, offset: u64, length: u64) -> Result<(), ArchiveError> {
        let end = offset + length;
        let mut position = offset;
        while position < end {
            let most = usize::try_from(end - position).unwrap_or(usize::MAX).min(self.buffer.len());
            let read = match file.read_at(&mut self.buffer[..most], position) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                result => result.map_err(ArchiveError::call("read", path))?,
            };
            if read == 0 {
                return Err(ArchiveError::Changed { entry: path.to_owned() });
            }
            self.writer.content(&self.buffer[..read]).map_err(stream_error(path))?;
            position += read as u64;
        }
        Ok(())
    }

    /// The name under which this file was packed already.
    fn first_name(&mut self, path: &Path, found: &Stat) -> Result<Option<PathBuf>, ArchiveError> {
        if found.links < 2 {
            return Ok(None);
        }
        let key = (found.dev, found.ino);
        if let Some((first, to_come)) = self.links.get_mut(&key) {
            let first = first.clone();
            *to_come -= 1;
            if *to_come == 0 {
                self.links.remove(&key);
            }
            return Ok(Some(first));
        }
        if self.links.len() >= limits::TREE_HARD_LINKS {
            let (what, limit) = ("the number of files with several names", limits::TREE_HARD_LINKS);
            return Err(ArchiveError::Limit { entry: path.to_owned(), what, limit });
        }
        self.links.insert(key, (path.to_owned(), found.links - 1));
        Ok(None)
    }

    fn write(&mut self, entry: &Entry) -> Result<(), ArchiveError> {
        let path = &entry.path;
        if bytes_of(path).len() > limits::PATH_BYTES {
            let (what, limit) = ("its path, in bytes,", limits::PATH_BYTES);
            return Err(ArchiveError::Limit { entry: path.clone(), what, limit });
        }
        self.writer.entry(entry).map_err(|error| match error.kind() {
            io::ErrorKind::InvalidInput => {
                let (what, limit) = ("its header, in bytes,", limits::TAR_HEADER_BYTES);
                ArchiveError::Limit { entry: path.clone(), what, limit }
            }
            _ => stream_error(path)(error),
        })
    }
}

fn level(dir: Dir, path: PathBuf, device: u64) -> Result<Level, ArchiveError> {
    let names = dir.names().map_err(ArchiveError::call("list", &path))?;
    Ok(Level { dir, names, path, device })
}

fn entry(path: &Path, kind: EntryKind, found: &Stat) -> Entry {
    Entry {
        path: path.to_owned(),
        kind,
        mode: found.mode,
        uid: found.uid,
        gid: found.gid,
        mtime: found.mtime,
        size: 0,
        segments: None,
        xattrs: Vec::new(),
    }
}

/// None for what was removed, or replaced by something of another type, since it was listed.
fn unless_gone<T>(result: io::Result<T>) -> io::Result<Option<T>> {
    use nix::libc::{EINVAL, ELOOP, ENOENT, ENOTDIR};
    match result {
        Err(error) if matches!(error.raw_os_error(), Some(ENOENT | ENOTDIR | ELOOP | EINVAL)) => Ok(None),
        result => result.map(Some),
    }
}

fn number(part: u64) -> u32 {
    // Linux has 12 bits of major and 20 of minor.
    u32::try_from(part).unwrap_or(u32::MAX)
}

fn stream_error(after: &Path) -> impl FnOnce(io::Error) -> ArchiveError {
    let after = Some(after.to_owned());
    move |source| ArchiveError::Stream { after, source }
}
