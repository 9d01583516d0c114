//! Removal of files and trees.

use std::{ffi::OsString, io, path::Path};

use super::{
    FileError,
    walk::{Place, Walk, absolute},
};
use crate::{
    limits,
    sys::files::{Dir, Kind, Names},
};

/// Removes what is at a path; a link, and never what it leads to. `recursive` removes what is in a directory, on its own
/// file system alone.
///
/// # Errors
/// There is nothing, or a directory that is not empty without `recursive`; what was removed before an error stays so.
pub fn remove(path: Vec<u8>, recursive: bool) -> Result<(), FileError> {
    let place = Place::find(absolute(path)?, Walk::default())?;
    let failed = |action| FileError::call(action, &place.path);
    let Some(name) = &place.name else {
        let why = "it means a directory that cannot be removed by this name";
        return Err(FileError::BadPath { path: place.path, why });
    };
    let found = place.dir.stat_of(name).map_err(failed("remove"))?;
    if found.kind != Kind::Directory {
        return place.dir.remove(name).map_err(failed("remove"));
    }
    if recursive {
        let inner = place.dir.below(Path::new(name)).map_err(failed("remove"))?;
        let device = inner.stat().map_err(failed("look at"))?.dev;
        empty(inner, device, &place.path)?;
    }
    place.dir.remove_directory(name).map_err(failed("remove the directory"))
}

/// Removes all that is in a directory, depth first.
fn empty(dir: Dir, device: u64, path: &Path) -> Result<(), FileError> {
    let failed = |action| FileError::call(action, path);
    let level =
        |dir: Dir, name: OsString| -> io::Result<(Dir, Names, OsString)> { Ok((dir.again()?, dir.names()?, name)) };
    let mut levels = vec![level(dir, OsString::new()).map_err(failed("list"))?];
    while let Some((dir, names, _)) = levels.last_mut() {
        let Some(name) = names.next() else {
            let name = levels.pop().map(|(_, _, name)| name).unwrap_or_default();
            if let Some((parent, _, _)) = levels.last() {
                gone(parent.remove_directory(&name)).map_err(failed("remove a directory in"))?;
            }
            continue;
        };
        let name = name.map_err(failed("list"))?;
        match dir.remove(&name) {
            Err(error) if error.raw_os_error() == Some(nix::libc::EISDIR) => {
                let inner = dir.below(Path::new(&name)).map_err(failed("open a directory in"))?;
                if inner.stat().map_err(failed("look at"))?.dev != device {
                    let why = "something is mounted in it; unmount that first";
                    return Err(FileError::BadPath { path: path.join(name), why });
                }
                if levels.len() >= limits::TREE_DEPTH {
                    let why = "its directories are too deep inside each other; use `rm -r` by an exec";
                    return Err(FileError::BadPath { path: path.to_owned(), why });
                }
                levels.push(level(inner, name).map_err(failed("list"))?);
            }
            removed => gone(removed).map_err(failed("remove a file in"))?,
        }
    }
    Ok(())
}

/// What somebody else removed is removed.
fn gone(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result,
    }
}
