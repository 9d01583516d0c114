//! A tar stream into a directory, which nothing of it can leave.
//!
//! Every path is resolved below the target with no symbolic link followed. What an entry makes gets its name by rename(2) when
//! it is whole, and so takes the place of a file, link or node of that name; a directory takes the place of a directory alone,
//! and keeps what is in it. Modes and times of directories are set when their entries are through, because entries change them.
//!
//! As root everything is restored; as another user, owners are one's own, set-id bits and attributes outside of `user.` are
//! left out, and devices are an error.

use std::{
    ffi::{OsStr, OsString},
    fs::File,
    io::{self, Read},
    os::unix::fs::FileExt,
    path::{Component, Path, PathBuf},
};

use nix::sys::stat::makedev;

use super::{
    entry::{Entry, EntryKind},
    error::ArchiveError,
    reader::Reader,
};
use crate::{
    limits,
    sys::files::{
        self, Dir, Kind, Segment, Time, Xattr, bytes_of, set_mode, set_mtime, set_owner, set_xattr, temporary_name,
    },
};

/// What was extracted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Totals {
    /// Entries.
    pub entries: u64,
    /// Content, in bytes, holes left out.
    pub bytes: u64,
    /// Extended attributes that the file system or the user cannot have.
    pub xattrs_skipped: u64,
}

/// Extracts a tar stream into `target`.
///
/// # Errors
/// The first entry that cannot be extracted, or a stream that does not come to its end mark. What was extracted stays.
pub fn unpack(target: &Dir, input: impl Read) -> Result<Totals, ArchiveError> {
    let mut unpacker = Unpacker {
        target,
        root: files::is_root(),
        open: None,
        pending: Vec::new(),
        totals: Totals::default(),
        buffer: vec![0; limits::FILE_CHUNK_BYTES],
    };
    let result = unpacker.run(&mut Reader::new(input));
    // After an error, too: its directories must not stay closed to their owners.
    let closed = unpacker.close_all();
    result?;
    closed?;
    Ok(unpacker.totals)
}

/// See acl(5).
const DEFAULT_ACL: &[u8] = b"system.posix_acl_default";

struct Unpacker<'a> {
    target: &'a Dir,
    /// May files be given to others?
    root: bool,
    /// The directory of the last entry: the next one is mostly beside it.
    open: Option<(PathBuf, Dir)>,
    /// Directories that entries may still be put into, each below the one before.
    pending: Vec<Pending>,
    totals: Totals,
    buffer: Vec<u8>,
}

/// A directory that gets its mode and time when all that is in it is there.
struct Pending {
    path: PathBuf,
    dir: Dir,
    mode: u32,
    mtime: Time,
    /// What is made in it would inherit these entries, which it had not where it comes from.
    default_acl: Vec<Xattr>,
}

/// A name in the target.
struct Place<'a> {
    /// As it was in the archive.
    entry: &'a Path,
    parent: Dir,
    name: OsString,
}

impl Unpacker<'_> {
    fn run(&mut self, reader: &mut Reader<impl Read>) -> Result<(), ArchiveError> {
        while let Some(entry) = reader.next_entry()? {
            let path = inside(&entry.path, &entry.path)?;
            self.close_others(&path)?;
            match &entry.kind {
                EntryKind::Directory => self.directory(&entry, path)?,
                _ => {
                    let place = self.place(&entry.path, &path)?;
                    self.file_or_node(reader, &entry, &place)?;
                }
            }
            self.totals.entries += 1;
        }
        Ok(())
    }

    fn directory(&mut self, entry: &Entry, path: PathBuf) -> Result<(), ArchiveError> {
        let failed = |action| ArchiveError::call(action, &entry.path);
        let dir = if path.as_os_str().is_empty() {
            self.target.again().map_err(failed("open"))?
        } else {
            let place = self.place(&entry.path, &path)?;
            match place.parent.create_directory(&place.name) {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                    place.parent.below(Path::new(&place.name)).map_err(|error| not_through(&entry.path, error))?
                }
                made => made.map_err(failed("make the directory"))?,
            }
        };
        if self.root {
            set_owner(&dir, Some(entry.uid), Some(entry.gid)).map_err(failed("set the owner of"))?;
        }
        let (default_acl, xattrs): (Vec<_>, Vec<_>) =
            entry.xattrs.iter().cloned().partition(|xattr| xattr.name == DEFAULT_ACL);
        self.set_xattrs(&dir, &entry.path, &xattrs)?;
        if self.pending.len() >= limits::TREE_DEPTH {
            return Err(ArchiveError::Limit {
                entry: entry.path.clone(),
                what: "its depth",
                limit: limits::TREE_DEPTH,
            });
        }
        self.pending.push(Pending { path, dir, mode: self.mode(entry), mtime: entry.mtime, default_acl });
        Ok(())
    }

    fn file_or_node(
        &mut self,
        reader: &mut Reader<impl Read>,
        entry: &Entry,
        place: &Place<'_>,
    ) -> Result<(), ArchiveError> {
        let temporary = self.make(reader, entry, place)?;
        if let Err(error) = place.parent.rename(&temporary, &place.name) {
            let _ = place.parent.remove(&temporary);
            return Err(ArchiveError::call("put in its place", &entry.path)(error));
        }
        if matches!(entry.kind, EntryKind::HardLink(_)) {
            // rename(2) does nothing where both names are of one file.
            let _ = place.parent.remove(&temporary);
        }
        Ok(())
    }

    /// Makes what the entry is under a temporary name; on an error, nothing is left of it.
    fn make(
        &mut self,
        reader: &mut Reader<impl Read>,
        entry: &Entry,
        place: &Place<'_>,
    ) -> Result<OsString, ArchiveError> {
        let failed = |action| ArchiveError::call(action, place.entry);
        let parent = &place.parent;
        let source = match &entry.kind {
            EntryKind::HardLink(target) => Some(self.place(place.entry, &inside(target, place.entry)?)?),
            _ => None,
        };
        if matches!(entry.kind, EntryKind::CharDevice { .. } | EntryKind::BlockDevice { .. }) && !self.root {
            return Err(ArchiveError::Unsafe { entry: entry.path.clone(), why: "only root may make devices" });
        }
        let (temporary, file) = loop {
            let name = temporary_name();
            let made = match &entry.kind {
                EntryKind::File | EntryKind::Directory => parent.create_file(&name).map(Some),
                EntryKind::HardLink(_) => source.as_ref().map_or(Ok(None), |source| {
                    parent.create_hard_link(&name, &source.parent, &source.name).map(|()| None)
                }),
                EntryKind::Symlink(target) => parent.create_link(&name, target).map(|()| None),
                EntryKind::Fifo => parent.create_node(&name, Kind::Fifo, 0).map(|()| None),
                EntryKind::CharDevice { major, minor } => {
                    let device = makedev((*major).into(), (*minor).into());
                    parent.create_node(&name, Kind::CharDevice, device).map(|()| None)
                }
                EntryKind::BlockDevice { major, minor } => {
                    let device = makedev((*major).into(), (*minor).into());
                    parent.create_node(&name, Kind::BlockDevice, device).map(|()| None)
                }
            };
            match made {
                // Left behind by a process that was killed.
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                made => break (name, made.map_err(failed("make"))?),
            }
        };
        let finished = match file {
            Some(file) => self.fill(reader, entry, &file),
            None => self.dress(entry, parent, &temporary),
        };
        if let Err(error) = finished {
            let _ = parent.remove(&temporary);
            return Err(error);
        }
        Ok(temporary)
    }

    /// Content, owner, attributes, mode and time of a regular file.
    fn fill(&mut self, reader: &mut Reader<impl Read>, entry: &Entry, file: &File) -> Result<(), ArchiveError> {
        let failed = |action| ArchiveError::call(action, &entry.path);
        let whole = [Segment { offset: 0, length: entry.size }];
        for segment in entry.segments.as_deref().unwrap_or(&whole) {
            let (mut position, end) = (segment.offset, segment.offset + segment.length);
            while position < end {
                let most = usize::try_from(end - position).unwrap_or(usize::MAX).min(self.buffer.len());
                let read = reader.content(&mut self.buffer[..most])?;
                if read == 0 {
                    break;
                }
                file.write_all_at(&self.buffer[..read], position).map_err(failed("write"))?;
                position += read as u64;
                self.totals.bytes += read as u64;
            }
        }
        file.set_len(entry.size).map_err(failed("set the length of"))?;
        if self.root {
            set_owner(file, Some(entry.uid), Some(entry.gid)).map_err(failed("set the owner of"))?;
        }
        // After the owner, which clears file capabilities, and before a mode that may forbid it.
        self.set_xattrs(file, &entry.path, &entry.xattrs)?;
        set_mode(file, self.mode(entry)).map_err(failed("set the mode of"))?;
        set_mtime(file, entry.mtime).map_err(failed("set the time of"))
    }

    /// Owner, mode and time of what has no content.
    fn dress(&self, entry: &Entry, parent: &Dir, name: &OsStr) -> Result<(), ArchiveError> {
        let failed = |action| ArchiveError::call(action, &entry.path);
        let kind = match entry.kind {
            // It has what its first name has.
            EntryKind::HardLink(_) | EntryKind::File | EntryKind::Directory => return Ok(()),
            EntryKind::Symlink(_) => Kind::Symlink,
            EntryKind::Fifo => Kind::Fifo,
            EntryKind::CharDevice { .. } => Kind::CharDevice,
            EntryKind::BlockDevice { .. } => Kind::BlockDevice,
        };
        let owner = self.root.then_some((entry.uid, entry.gid));
        parent.dress(name, kind, owner, self.mode(entry)).map_err(failed("set owner and mode of"))?;
        parent.set_mtime_of(name, entry.mtime).map_err(failed("set the time of"))
    }

    fn set_xattrs(&mut self, fd: impl std::os::fd::AsFd, path: &Path, xattrs: &[Xattr]) -> Result<(), ArchiveError> {
        for xattr in xattrs {
            let wanted = self.root || xattr.name.starts_with(b"user.");
            match if wanted { set_xattr(&fd, xattr) } else { Err(io::ErrorKind::Unsupported.into()) } {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::Unsupported => self.totals.xattrs_skipped += 1,
                Err(error) => return Err(ArchiveError::call("set an attribute of", path)(error)),
            }
        }
        Ok(())
    }

    fn mode(&self, entry: &Entry) -> u32 {
        if self.root { entry.mode } else { entry.mode & 0o1777 }
    }

    /// The parent of `path`, made where it is missing, and the name in it.
    fn place<'a>(&mut self, entry: &'a Path, path: &Path) -> Result<Place<'a>, ArchiveError> {
        let no_name = ArchiveError::Unsafe { entry: entry.to_owned(), why: "it names the target directory itself" };
        let name = path.file_name().ok_or(no_name)?.to_owned();
        let parent = path.parent().unwrap_or(Path::new(""));
        if self.open.as_ref().is_none_or(|(open, _)| open != parent) {
            self.open = Some((parent.to_owned(), self.parent(entry, parent)?));
        }
        // Always there by now.
        let dir = self.open.as_ref().map_or(self.target, |(_, dir)| dir);
        Ok(Place { entry, parent: dir.again().map_err(ArchiveError::call("open the directory of", entry))?, name })
    }

    fn parent(&self, entry: &Path, path: &Path) -> Result<Dir, ArchiveError> {
        match self.target.below(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            found => return found.map_err(|error| not_through(entry, error)),
        }
        let mut dir = self.target.again().map_err(ArchiveError::call("open the directory of", entry))?;
        for name in path {
            dir = match dir.create_directory(name) {
                Ok(made) => {
                    set_mode(&made, 0o755).map_err(ArchiveError::call("make the directory of", entry))?;
                    made
                }
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                    dir.below(Path::new(name)).map_err(|error| not_through(entry, error))?
                }
                Err(error) => return Err(ArchiveError::call("make the directory of", entry)(error)),
            };
        }
        Ok(dir)
    }

    /// Completes the directories that `path` is not in.
    fn close_others(&mut self, path: &Path) -> Result<(), ArchiveError> {
        while self.pending.last().is_some_and(|last| !path.starts_with(&last.path) || path == last.path) {
            self.close_last()?;
        }
        Ok(())
    }

    fn close_all(&mut self) -> Result<(), ArchiveError> {
        let mut result = Ok(());
        while !self.pending.is_empty() {
            result = result.and(self.close_last());
        }
        result
    }

    fn close_last(&mut self) -> Result<(), ArchiveError> {
        let Some(last) = self.pending.pop() else { return Ok(()) };
        self.set_xattrs(&last.dir, &last.path, &last.default_acl)?;
        set_mode(&last.dir, last.mode).map_err(ArchiveError::call("set the mode of", &last.path))?;
        set_mtime(&last.dir, last.mtime).map_err(ArchiveError::call("set the time of", &last.path))
    }
}

/// A path of the archive as one relative to the target; empty for the target itself.
fn inside(path: &Path, entry: &Path) -> Result<PathBuf, ArchiveError> {
    let refused = |why| ArchiveError::Unsafe { entry: entry.to_owned(), why };
    if bytes_of(path).len() >= limits::PATH_BYTES {
        let (what, limit) = ("its path, in bytes,", limits::PATH_BYTES);
        return Err(ArchiveError::Limit { entry: entry.to_owned(), what, limit });
    }
    if bytes_of(path).contains(&0) {
        return Err(refused("its name has a NUL byte"));
    }
    let mut relative = PathBuf::new();
    for component in path.components() {
        match component {
            Component::Normal(name) => relative.push(name),
            Component::CurDir => {}
            Component::RootDir | Component::Prefix(_) => return Err(refused("its path is absolute")),
            Component::ParentDir => return Err(refused("its path has `..` in it")),
        }
    }
    Ok(relative)
}

/// Why the way to an entry cannot be gone: mostly by a link, which openat2(2) answers with ELOOP.
fn not_through(entry: &Path, error: io::Error) -> ArchiveError {
    use nix::libc::{ELOOP, ENOTDIR};
    match error.raw_os_error() {
        Some(ELOOP | ENOTDIR) => {
            let why = "its path leads through a symbolic link or a file, where a directory should be";
            ArchiveError::Unsafe { entry: entry.to_owned(), why }
        }
        _ => ArchiveError::call("open the directory of", entry)(error),
    }
}
