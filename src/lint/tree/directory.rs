//! A root file system that is a directory of this machine. By descriptors, with no link followed and no file system left.

use std::{
    ffi::{OsStr, OsString},
    fs::File,
    io,
    os::unix::ffi::{OsStrExt, OsStringExt},
    path::Path,
};

use super::{Facts, Kind, Listed, Listing, split};
use crate::sys::files::{self, Dir, Stat};

#[derive(Debug)]
pub(super) struct Directory {
    root: Dir,
    dev: u64,
}

impl Directory {
    pub(super) fn open(path: &Path) -> io::Result<(Self, Facts)> {
        let root = Dir::open(path)?;
        let stat = root.stat()?;
        let directory = Self { root, dev: stat.dev };
        let facts = directory.facts(&stat);
        Ok((directory, facts))
    }

    fn facts(&self, stat: &Stat) -> Facts {
        let Stat { kind, mode, uid, gid, size, dev, .. } = *stat;
        Facts { kind, mode, uid, gid, size, mounted: dev != self.dev }
    }

    fn below(&self, path: &[u8]) -> Result<Dir, String> {
        let relative = path.strip_prefix(b"/").unwrap_or(path);
        self.root.below(Path::new(OsStr::from_bytes(relative))).map_err(|error| error.to_string())
    }

    pub(super) fn list(&self, path: &[u8], room: usize) -> Result<Listing, String> {
        let dir = self.below(path)?;
        let mut listing = Listing::default();
        for name in dir.names().map_err(|error| error.to_string())? {
            if listing.entries.len() >= room {
                listing.cut = true;
                break;
            }
            match name {
                Ok(name) => match dir.stat_of(&name) {
                    Ok(stat) => {
                        listing.entries.push(Listed { name: OsString::into_vec(name), facts: self.facts(&stat) });
                    }
                    Err(error) => listing.troubles.push((name.into_vec(), error.to_string())),
                },
                // What comes after it is not known.
                Err(error) => {
                    listing.troubles.push((Vec::new(), error.to_string()));
                    break;
                }
            }
        }
        Ok(listing)
    }

    pub(super) fn target(&self, path: &[u8]) -> Result<Vec<u8>, String> {
        let (parent, name) = split(path);
        let (_, target) = self.below(parent)?.link(OsStr::from_bytes(name)).map_err(|error| error.to_string())?;
        Ok(target.into_os_string().into_vec())
    }

    /// A regular file; one that has become something else since it was listed is none.
    pub(super) fn open_file(&self, path: &[u8]) -> Result<File, String> {
        let (parent, name) = split(path);
        let file = self.below(parent)?.open_file(OsStr::from_bytes(name)).map_err(|error| error.to_string())?;
        match files::stat(&file) {
            Ok(stat) if stat.kind == Kind::File => Ok(file),
            Ok(_) => Err("it is no longer a regular file: something changes the tree while it is looked at".to_owned()),
            Err(error) => Err(error.to_string()),
        }
    }
}
