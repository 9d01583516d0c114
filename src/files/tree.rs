//! Trees on their way: a thread of the blocking pool packs or extracts, bounded channels tie it to the connection.
//!
//! ```text
//!   out:  thread ──chunks──> forwarder (ends a reader that stalls) ──chunks──> response body
//!   in:   request body ──chunks──> thread
//! ```
//! When the client goes, its end of a channel is dropped, and the thread's next read or write fails.

use std::{ffi::OsString, io, path::PathBuf, sync::Arc};

use nix::libc;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, mpsc},
    task::JoinHandle,
};

use super::{
    FileError,
    read::parent_of,
    walk::{Place, Walk, absolute},
};
use crate::{
    api::TreeWritten,
    archive::{self, Chunk, ChunkReader, ChunkWriter},
    limits,
    sys::files::{Dir, Kind, set_mode},
};

/// Mode of a target directory that is made; an entry for it in the archive gives it another.
const TARGET_MODE: u32 = 0o755;

/// The places for transfers. Clones share them.
#[derive(Debug, Clone)]
pub struct Trees(Arc<Semaphore>);

impl Default for Trees {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(limits::TREE_TRANSFERS)))
    }
}

/// A tree that can be read; what is wrong with its path is known by now.
#[derive(Debug)]
pub struct TreeOut {
    dir: Dir,
    /// None: the directory itself.
    name: Option<OsString>,
    path: PathBuf,
    place: OwnedSemaphorePermit,
}

/// A tree that is being extracted.
#[derive(Debug)]
pub struct TreeIn {
    work: JoinHandle<Result<TreeWritten, FileError>>,
    path: PathBuf,
}

impl Trees {
    /// Opens what is to be packed: a directory, links to it followed, or the one entry that is at the path. Blocks.
    ///
    /// # Errors
    /// There is nothing, or no place.
    pub fn open(&self, path: Vec<u8>) -> Result<TreeOut, FileError> {
        let path = absolute(path)?;
        let place = self.place()?;
        match Dir::open(&path) {
            Ok(dir) => return Ok(TreeOut { dir, name: None, path, place }),
            Err(error) if matches!(error.raw_os_error(), Some(libc::ENOTDIR | libc::ENOENT | libc::ELOOP)) => {}
            Err(error) => return Err(FileError::call("read the tree", &path)(error)),
        }
        let (dir, name) = parent_of(&path)?;
        let name = name.ok_or_else(|| FileError::IsDirectory { path: path.clone() })?;
        let found = dir.stat_of(&name).map_err(FileError::call("read the tree", &path))?;
        if found.kind == Kind::Socket {
            return Err(FileError::NotRegular { path });
        }
        Ok(TreeOut { dir, name: Some(name), path, place })
    }

    /// Begins to extract into a directory, which is made where it is missing. The stream is what is sent into the channel.
    ///
    /// # Errors
    /// There is no place. What else goes wrong is known at the end.
    pub fn extract(&self, path: Vec<u8>, create_dirs: bool) -> Result<(mpsc::Sender<Chunk>, TreeIn), FileError> {
        let path = absolute(path)?;
        let place = self.place()?;
        let (sender, reader) = ChunkReader::new();
        let target = path.clone();
        let work = tokio::task::spawn_blocking(move || {
            let _place = place;
            let dir = open_target(target, create_dirs)?;
            let totals = archive::unpack(&dir, reader)?;
            let archive::Totals { entries, bytes, xattrs_skipped } = totals;
            Ok(TreeWritten { entries, bytes, xattrs_skipped })
        });
        Ok((sender, TreeIn { work, path }))
    }

    fn place(&self) -> Result<OwnedSemaphorePermit, FileError> {
        Arc::clone(&self.0).try_acquire_owned().map_err(|_| FileError::Busy)
    }
}

impl TreeOut {
    /// Packs it. The stream ends by the archive's end mark or by an error.
    #[must_use]
    pub fn stream(self) -> mpsc::Receiver<Chunk> {
        let (writer, mut packed) = ChunkWriter::new();
        let (sender, receiver) = mpsc::channel(1);
        tokio::task::spawn_blocking(move || self.pack(writer));
        tokio::spawn(async move {
            while let Some(chunk) = packed.recv().await {
                // The thread must not wait without end for who no longer reads.
                if !matches!(tokio::time::timeout(limits::TREE_STALL_TIME, sender.send(chunk)).await, Ok(Ok(()))) {
                    return;
                }
            }
        });
        receiver
    }

    fn pack(self, mut writer: ChunkWriter) {
        let Self { dir, name, path, place } = self;
        let packed = match &name {
            Some(name) => archive::pack_one(&dir, name, &mut writer),
            None => archive::pack(&dir, &mut writer),
        };
        if let Err(failure) = packed {
            tracing::info!(path = %path.display(), error = %failure, "a tree was not sent whole");
            if !failure.told {
                writer.fail(io::Error::other(failure));
            }
        }
        drop(place);
    }
}

impl TreeIn {
    /// Waits until it is extracted.
    ///
    /// # Errors
    /// What went wrong; what was extracted before stays.
    pub async fn finish(self) -> Result<TreeWritten, FileError> {
        self.work.await.map_err(|_| FileError::Lost { path: self.path })?
    }
}

fn open_target(path: PathBuf, create_dirs: bool) -> Result<Dir, FileError> {
    let place = Place::find(path, Walk { follow_last: true, create_dirs })?;
    let failed = |action| FileError::call(action, &place.path);
    let Some(name) = &place.name else { return Ok(place.dir) };
    match place.dir.create_directory(name) {
        Ok(made) => {
            set_mode(&made, TARGET_MODE).map_err(failed("make the directory"))?;
            Ok(made)
        }
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            place.dir.below(std::path::Path::new(name)).map_err(failed("extract into"))
        }
        Err(error) => Err(failed("make the directory")(error)),
    }
}
