//! A root file system in an ext4 image, read without a mount by the crate `ext4-view`.
//!
//! The crate checks what it reads, and trusts two things that a crafted image can make very large: a directory's length, and a link's.
//! Both are looked at before it is asked. It is given no path with a link in it, so that it follows none.

use std::{
    error::Error,
    fs::File,
    io::{self, Seek, SeekFrom},
    os::unix::fs::FileExt,
};

use ext4_view::{Ext4, Ext4Read, FileType, Metadata, Path};

use super::{Facts, Kind, Listed, Listing, superblock};
use crate::limits;

#[derive(Debug)]
pub(super) struct Ext4Image(Ext4);

/// The image as the crate reads it.
struct Reader {
    file: File,
    length: u64,
}

impl Ext4Read for Reader {
    fn read(&mut self, start: u64, into: &mut [u8]) -> Result<(), Box<dyn Error + Send + Sync + 'static>> {
        // The crate reads a few blocks ahead, and an image may end with its last block that is used.
        let there = usize::try_from(self.length.saturating_sub(start)).unwrap_or(usize::MAX).min(into.len());
        if there == 0 {
            return Err("it is beyond the end of the image".into());
        }
        let (data, beyond) = into.split_at_mut(there);
        self.file.read_exact_at(data, start)?;
        beyond.fill(0);
        Ok(())
    }
}

/// Length of an image, and as much of its start as tells what it is; shorter where it is.
pub(super) fn head(mut file: &File) -> io::Result<(u64, Vec<u8>)> {
    let length = file.seek(SeekFrom::End(0))?;
    let mut head = vec![0; superblock::HEAD_BYTES.min(usize::try_from(length).unwrap_or(usize::MAX))];
    file.read_exact_at(&mut head, 0)?;
    Ok((length, head))
}

impl Ext4Image {
    /// Opens the file system; its superblock has been checked.
    pub(super) fn load(file: File, length: u64) -> Result<(Self, Facts), String> {
        let image = Ext4::load(Box::new(Reader { file, length })).map_err(said)?;
        let root = image.symlink_metadata("/").map_err(said)?;
        if !root.is_dir() {
            return Err("its root is no directory".to_owned());
        }
        Ok((Self(image), facts(&root)))
    }

    pub(super) fn list(&self, path: &[u8], directory: &Facts, room: usize) -> Result<Listing, String> {
        if directory.size > limits::LINT_DIRECTORY_BYTES {
            return Err(format!(
                "the directory claims {} bytes, more than {}",
                directory.size,
                limits::LINT_DIRECTORY_BYTES
            ));
        }
        let mut listing = Listing::default();
        for entry in self.0.read_dir(as_path(path)?).map_err(said)? {
            let entry = match entry {
                Ok(entry) => entry,
                // What comes after it is not known.
                Err(error) => {
                    listing.troubles.push((Vec::new(), said(error)));
                    break;
                }
            };
            let name = entry.file_name();
            if name == "." || name == ".." {
                continue;
            }
            if listing.entries.len() >= room {
                listing.cut = true;
                break;
            }
            let name = name.as_ref().to_vec();
            match entry.metadata() {
                Ok(metadata) => listing.entries.push(Listed { name, facts: facts(&metadata) }),
                Err(error) => listing.troubles.push((name, said(error))),
            }
        }
        Ok(listing)
    }

    pub(super) fn target(&self, path: &[u8], link: &Facts) -> Result<Vec<u8>, String> {
        if link.size >= limits::PATH_BYTES as u64 {
            return Err(format!("its target claims {} bytes, which no path has", link.size));
        }
        let target = self.0.read_link(as_path(path)?).map_err(said)?;
        Ok(target.as_ref().to_vec())
    }

    /// The first `limit` bytes of a regular file.
    pub(super) fn read(&self, path: &[u8], limit: u64) -> Result<Vec<u8>, String> {
        let mut file = self.0.open(as_path(path)?).map_err(said)?;
        let length = usize::try_from(file.metadata().len().min(limit)).unwrap_or(usize::MAX);
        let mut content = vec![0; length];
        let mut filled = 0;
        while filled < length {
            match file.read_bytes(&mut content[filled..]).map_err(said)? {
                0 => break,
                count => filled += count,
            }
        }
        content.truncate(filled);
        Ok(content)
    }
}

fn as_path(path: &[u8]) -> Result<Path<'_>, String> {
    Path::try_from(path).map_err(|error| error.to_string())
}

fn said(error: impl Error) -> String {
    error.to_string()
}

fn facts(metadata: &Metadata) -> Facts {
    let kind = match metadata.file_type() {
        FileType::Regular => Kind::File,
        FileType::Directory => Kind::Directory,
        FileType::Symlink => Kind::Symlink,
        FileType::Fifo => Kind::Fifo,
        FileType::CharacterDevice => Kind::CharDevice,
        FileType::BlockDevice => Kind::BlockDevice,
        FileType::Socket => Kind::Socket,
    };
    Facts {
        kind,
        mode: metadata.mode().into(),
        uid: metadata.uid(),
        gid: metadata.gid(),
        size: metadata.len(),
        mounted: false,
    }
}
