//! Files that appear whole or not at all, and directories.

use std::{
    ffi::OsString,
    fs::File,
    io::{self, Write},
    os::unix::ffi::OsStrExt,
    path::PathBuf,
};

use super::{
    FileError, Owner,
    read::report,
    walk::{Place, Walk, absolute},
};
use crate::{
    api::FileStat,
    sys::files::{Dir, Kind, Stat, set_mode, set_owner, temporary_name},
};

/// Mode of a new file that is given none.
const FILE_MODE: u32 = 0o644;

/// Mode of a new directory that is given none.
const DIRECTORY_MODE: u32 = 0o755;

/// How a file or directory is written.
#[derive(Debug, Clone, Copy, Default)]
pub struct WriteOptions {
    /// Permission bits. None: those of the file that is replaced.
    pub mode: Option<u32>,
    /// Owner. None: that of the file that is replaced.
    pub owner: Owner,
    /// Make the directories that are missing on the way.
    pub create_dirs: bool,
}

/// A file that is being written. Dropped before [`finish`](Self::finish), it leaves nothing.
#[derive(Debug)]
pub struct Upload {
    place: Place,
    name: OsString,
    options: WriteOptions,
    /// What it will replace.
    existing: Option<Stat>,
    file: File,
    /// Its name until it is whole; none once it has its own.
    temporary: Option<OsString>,
}

impl Upload {
    /// Opens a temporary file beside where the file will be.
    ///
    /// # Errors
    /// The way cannot be gone, or there is something that a file cannot replace.
    pub fn begin(path: Vec<u8>, options: WriteOptions) -> Result<Self, FileError> {
        let ends_by_slash = path.ends_with(b"/");
        let path = absolute(path)?;
        if ends_by_slash {
            return Err(FileError::IsDirectory { path });
        }
        let place = Place::find(path, Walk { follow_last: true, create_dirs: options.create_dirs })?;
        let name = place.name()?.to_owned();
        let existing = match place.dir.stat_of(&name) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            found => Some(found.map_err(FileError::call("look at", &place.path))?),
        };
        match existing.map(|found| found.kind) {
            None | Some(Kind::File) => {}
            Some(Kind::Directory) => return Err(FileError::IsDirectory { path: place.path }),
            Some(_) => return Err(FileError::NotRegular { path: place.path }),
        }
        let (temporary, file) = create(&place.dir).map_err(FileError::call("write", &place.path))?;
        Ok(Self { place, name, options, existing, file, temporary: Some(temporary) })
    }

    /// Adds content.
    ///
    /// # Errors
    /// The disk is full, or fails.
    pub fn write(&mut self, content: &[u8]) -> Result<(), FileError> {
        self.file.write_all(content).map_err(FileError::call("write", &self.place.path))
    }

    /// Puts it in its place, whole and on the disk.
    ///
    /// # Errors
    /// What was there before is there still, unless the last sync of the directory is what failed.
    pub fn finish(mut self) -> Result<FileStat, FileError> {
        let place = &self.place;
        let failed = |action| FileError::call(action, &place.path);
        let (existing, options) = (self.existing, self.options);
        let uid = options.owner.uid.or(existing.map(|found| found.uid));
        let gid = options.owner.gid.or(existing.map(|found| found.gid));
        if uid.is_some() || gid.is_some() {
            set_owner(&self.file, uid, gid).map_err(failed("set the owner of"))?;
        }
        let mode = options.mode.or(existing.map(|found| found.mode)).unwrap_or(FILE_MODE);
        set_mode(&self.file, mode).map_err(failed("set the mode of"))?;
        self.file.sync_all().map_err(failed("write"))?;
        let stat = crate::sys::files::stat(&self.file).map_err(failed("look at"))?;
        if let Some(temporary) = &self.temporary {
            place.dir.rename(temporary, &self.name).map_err(failed("replace"))?;
        }
        self.temporary = None;
        place.dir.sync().map_err(failed("write the directory of"))?;
        Ok(report(place.path.as_os_str().as_bytes(), &stat, None, false))
    }

    /// The path that was asked for.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        self.place.path.clone()
    }
}

impl Drop for Upload {
    fn drop(&mut self) {
        if let Some(temporary) = &self.temporary {
            // What went wrong before this is what gets reported.
            let _ = self.place.dir.remove(temporary);
        }
    }
}

/// A new file under a name that nothing else has.
fn create(dir: &Dir) -> io::Result<(OsString, File)> {
    loop {
        let name = temporary_name();
        match dir.create_file(&name) {
            // Left behind by an agent that was killed and had the same pid.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            made => return made.map(|file| (name, file)),
        }
    }
}

/// Makes a directory. One that is there already is an error, but with `create_dirs`, as for mkdir(1) with and without `-p`;
/// then mode and owner are set where they are given.
///
/// # Errors
/// The way cannot be gone, or something is there.
pub fn make_directory(path: Vec<u8>, options: WriteOptions) -> Result<FileStat, FileError> {
    let place = Place::find(absolute(path)?, Walk { follow_last: true, create_dirs: options.create_dirs })?;
    let failed = |action| FileError::call(action, &place.path);
    let exists = || io::Error::from_raw_os_error(nix::libc::EEXIST);
    let (dir, made) = match &place.name {
        None if options.create_dirs => (place.dir.again().map_err(failed("open"))?, false),
        None => return Err(failed("make the directory")(exists())),
        Some(name) => match place.dir.create_directory(name) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists && options.create_dirs => {
                (place.dir.below(std::path::Path::new(name)).map_err(failed("open the directory"))?, false)
            }
            made => (made.map_err(failed("make the directory"))?, true),
        },
    };
    if options.owner != Owner::default() {
        set_owner(&dir, options.owner.uid, options.owner.gid).map_err(failed("set the owner of"))?;
    }
    if let Some(mode) = options.mode.or(made.then_some(DIRECTORY_MODE)) {
        set_mode(&dir, mode).map_err(failed("set the mode of"))?;
    }
    let found = dir.stat().map_err(failed("look at"))?;
    Ok(report(place.path.as_os_str().as_bytes(), &found, None, false))
}
