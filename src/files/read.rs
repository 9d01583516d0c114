//! What is at a path, in a directory, in a file.

use std::{
    collections::BinaryHeap,
    ffi::OsString,
    fs::File,
    io,
    os::unix::{
        ffi::{OsStrExt, OsStringExt},
        fs::FileExt,
    },
    path::{Path, PathBuf},
    sync::Arc,
};

use base64::{Engine, engine::general_purpose::STANDARD};

use super::{FileError, walk::absolute};
use crate::{
    api::{FileList, FileStat, FileType},
    limits,
    sys::files::{self, Dir, Kind, Stat},
};

/// What is at a path, its last component not followed.
///
/// # Errors
/// There is nothing, or it cannot be looked at.
pub fn stat(path: Vec<u8>) -> Result<FileStat, FileError> {
    let path = absolute(path)?;
    let (dir, name) = parent_of(&path)?;
    let Some(name) = name else {
        let found = dir.stat().map_err(FileError::call("look at", &path))?;
        return Ok(report(path.as_os_str().as_bytes(), &found, None, false));
    };
    let mut report = look(&dir, &name).map_err(FileError::call("look at", &path))?;
    (report.path, report.path_b64) = text(path.as_os_str().as_bytes());
    report.leads_to_directory = report.kind == FileType::Symlink && Dir::open(&path).is_ok();
    Ok(report)
}

/// A page of what is in a directory, by name, after `after`.
///
/// # Errors
/// It is no directory, or cannot be read.
pub fn list(path: Vec<u8>, after: Option<Vec<u8>>) -> Result<FileList, FileError> {
    let path = absolute(path)?;
    let failed = |action| FileError::call(action, &path);
    let dir = Dir::open(&path).map_err(failed("list"))?;
    let after = after.map(OsString::from_vec);
    // The first names after it, one more than a page: memory does not grow with the directory.
    let mut first = BinaryHeap::new();
    for name in dir.names().map_err(failed("list"))? {
        let name = name.map_err(failed("list"))?;
        if after.as_ref().is_none_or(|after| name > *after) {
            first.push(name);
            if first.len() > limits::FILE_LIST_ENTRIES + 1 {
                first.pop();
            }
        }
    }
    let more = first.len() > limits::FILE_LIST_ENTRIES;
    let mut entries = Vec::new();
    for name in first.into_sorted_vec().into_iter().take(limits::FILE_LIST_ENTRIES) {
        match look(&dir, &name) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            found => entries.push(found.map_err(FileError::call("look at", &path.join(&name)))?),
        }
    }
    Ok(FileList { entries, more })
}

/// A regular file that is open for reading.
#[derive(Debug, Clone)]
pub struct OpenFile {
    file: Arc<File>,
    path: PathBuf,
    /// What it is.
    pub stat: Stat,
}

impl OpenFile {
    /// Opens a file, links followed.
    ///
    /// # Errors
    /// It is not there or no regular file.
    pub fn open(path: Vec<u8>) -> Result<Self, FileError> {
        let path = absolute(path)?;
        let file = files::open_to_read(&path).map_err(FileError::call("read", &path))?;
        let mut stat = files::stat(&file).map_err(FileError::call("look at", &path))?;
        if files::is_pseudo(&file).map_err(FileError::call("look at", &path))? {
            // sysfs says a page, of attributes that have a word.
            stat.size = 0;
        }
        match stat.kind {
            Kind::File => Ok(Self { file: Arc::new(file), path, stat }),
            Kind::Directory => Err(FileError::IsDirectory { path }),
            _ => Err(FileError::NotRegular { path }),
        }
    }

    /// Does it have a length before it is read? Files that the kernel makes up (proc, sysfs) have not.
    #[must_use]
    pub fn has_length(&self) -> bool {
        self.stat.size > 0
    }

    /// The next bytes at an offset, at most `most` and `limits::FILE_CHUNK_BYTES`; none at the end.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn read_at(&self, offset: u64, most: u64) -> Result<Vec<u8>, FileError> {
        let most = usize::try_from(most).unwrap_or(usize::MAX).min(limits::FILE_CHUNK_BYTES);
        let mut bytes = vec![0; most];
        let mut length = 0;
        while length < most {
            match self.file.read_at(&mut bytes[length..], offset + length as u64) {
                Ok(0) => break,
                Ok(read) => length += read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(FileError::call("read", &self.path)(error)),
            }
        }
        bytes.truncate(length);
        Ok(bytes)
    }

    /// The whole content, as far as JSON carries it.
    ///
    /// # Errors
    /// It cannot be read, or is over `limits::FILE_JSON_BYTES`.
    pub fn read_whole(&self) -> Result<Vec<u8>, FileError> {
        let too_large = || FileError::TooLarge { path: self.path.clone() };
        let mut content = Vec::new();
        if self.stat.size > limits::FILE_JSON_BYTES as u64 {
            return Err(too_large());
        }
        loop {
            let piece = self.read_at(content.len() as u64, u64::MAX)?;
            if piece.is_empty() {
                return Ok(content);
            }
            content.extend_from_slice(&piece);
            if content.len() > limits::FILE_JSON_BYTES {
                return Err(too_large());
            }
        }
    }
}

/// The directory above a path, and its name in it; links on the way are followed.
pub(super) fn parent_of(path: &Path) -> Result<(Dir, Option<OsString>), FileError> {
    let (parent, name) = match (path.parent(), path.file_name()) {
        (Some(parent), Some(name)) => (parent, Some(name.to_owned())),
        _ => (path, None),
    };
    Ok((Dir::open(parent).map_err(FileError::call("look at", path))?, name))
}

fn look(dir: &Dir, name: &OsString) -> io::Result<FileStat> {
    let found = dir.stat_of(name)?;
    let target = if found.kind == Kind::Symlink { dir.link(name).ok().map(|(_, target)| target) } else { None };
    Ok(report(name.as_bytes(), &found, target, false))
}

/// What the wire says of a file.
pub(super) fn report(path: &[u8], found: &Stat, target: Option<PathBuf>, leads_to_directory: bool) -> FileStat {
    let (path, path_b64) = text(path);
    let kind = match found.kind {
        Kind::File => FileType::File,
        Kind::Directory => FileType::Directory,
        Kind::Symlink => FileType::Symlink,
        Kind::Fifo => FileType::Fifo,
        Kind::CharDevice => FileType::CharDevice,
        Kind::BlockDevice => FileType::BlockDevice,
        Kind::Socket => FileType::Socket,
    };
    FileStat {
        path,
        path_b64,
        kind,
        size: found.size,
        mode: found.mode,
        uid: found.uid,
        gid: found.gid,
        mtime: found.mtime.secs,
        mtime_ns: found.mtime.nanos,
        link_target: target.map(|target| target.to_string_lossy().into_owned()),
        leads_to_directory,
    }
}

/// A path as text, and its bytes where they are none.
fn text(path: &[u8]) -> (String, Option<String>) {
    match str::from_utf8(path) {
        Ok(text) => (text.to_owned(), None),
        Err(_) => (String::from_utf8_lossy(path).into_owned(), Some(STANDARD.encode(path))),
    }
}
