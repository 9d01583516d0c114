//! Out of the VM.

use std::fs::{File, OpenOptions, Permissions};
use std::io::{self, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _, fchown};
use std::path::{Path, PathBuf};

use crate::api::FileType;
use crate::archive::{self, ArchiveError, ChunkReader};
use crate::client::{Client, ClientError, Download};
use crate::sys::files::{Dir, temporary_name};

use super::super::failure::Failure;
use super::super::output;
use super::super::signals::Signals;
use super::side::{inside, means_directory, trimmed};
use super::up::is_directory;
use super::{Copied, CopyFailure, Progress};

pub(super) async fn to_stdout(
    client: &Client,
    source: &Path,
    recursive: bool,
    progress: &mut Progress,
) -> Result<Copied, Failure> {
    if is_tree(client, source, recursive).await? {
        return tree_to_stdout(client.get_tree(source).await?, progress).await;
    }
    let mut content = client.get_file(source, 0).await?;
    progress.expect(content.length());
    while let Some(piece) = content.next().await? {
        output::stdout(&piece)?;
        progress.advance(piece.len());
    }
    Ok(Copied { bytes: progress.done(), ..Copied::default() })
}

/// Reads what it passes on: where the VM failed, the stream itself says so, and tar takes such an end for the archive's.
async fn tree_to_stdout(mut content: Download, progress: &mut Progress) -> Result<Copied, Failure> {
    let (sender, reader) = ChunkReader::new();
    let checking = tokio::task::spawn_blocking(move || archive::check(reader));
    while let Some(piece) = content.next().await? {
        output::stdout(&piece)?;
        progress.advance(piece.len());
        // Where it has ended, it says why.
        let _ = sender.send(Ok(piece)).await;
    }
    drop(sender);
    let entries = checking.await.map_err(|_| CopyFailure::Lost)?.map_err(CopyFailure::Tree)?;
    Ok(Copied { bytes: progress.done(), entries: Some(entries), ..Copied::default() })
}

pub(super) async fn to_disk(
    client: &Client,
    source: &Path,
    target: &Path,
    recursive: bool,
    progress: &mut Progress,
) -> Result<Copied, Failure> {
    let is_tree = is_tree(client, source, recursive).await?;
    let into = means_directory(target) || target.is_dir();
    let target = if into { inside(&trimmed(target), source) } else { target.to_owned() };
    if is_tree { tree(client, source, target, progress).await } else { file(client, source, target, progress).await }
}

/// Is it a directory, and asked for with `-r`?
async fn is_tree(client: &Client, source: &Path, recursive: bool) -> Result<bool, Failure> {
    let path = || source.to_owned();
    let found = client.stat(&trimmed(source)).await?.ok_or_else(|| CopyFailure::NoSource { path: path() })?;
    match found.kind {
        _ if is_directory(&found) && !recursive => Err(CopyFailure::Directory { path: path() }.into()),
        _ if is_directory(&found) => Ok(true),
        FileType::File | FileType::Symlink => Ok(false),
        _ => Err(CopyFailure::Special { path: path() }.into()),
    }
}

async fn file(client: &Client, source: &Path, target: PathBuf, progress: &mut Progress) -> Result<Copied, Failure> {
    let mut content = client.get_file(source, 0).await?;
    progress.expect(content.length());
    // Through a link, as cp does.
    let path = target.canonicalize().unwrap_or_else(|_| target.clone());
    let mut file = Incoming::create(&path, content.mode())?;
    // What is written in place leaves nothing behind, and a write to it could hold up the answer to a signal.
    let leaves = file.temporary.is_some();
    let written = async {
        while let Some(piece) = content.next().await? {
            file.file.write_all(&piece).map_err(CopyFailure::here("write", &path))?;
            progress.advance(piece.len());
        }
        Ok::<_, Failure>(())
    };
    if leaves { unless_asked(written).await } else { written.await }?;
    file.finish()?;
    Ok(Copied { path: Some(target), bytes: progress.done(), ..Copied::default() })
}

/// A file that is being written; dropped before it is whole, it leaves what was there.
struct Incoming {
    file: File,
    path: PathBuf,
    /// None for what is written in place: `/dev/null`, a pipe.
    temporary: Option<PathBuf>,
}

impl Incoming {
    fn create(path: &Path, mode: Option<u32>) -> Result<Self, Failure> {
        let failed = |error| CopyFailure::here("write", path)(error);
        let existing = match path.metadata() {
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            found => Some(found.map_err(failed)?),
        };
        if existing.as_ref().is_some_and(|existing| !existing.is_file()) {
            let file = OpenOptions::new().write(true).open(path).map_err(failed)?;
            return Ok(Self { file, path: path.to_owned(), temporary: None });
        }
        let (file, temporary) = loop {
            let temporary = path.with_file_name(temporary_name());
            // The user's umask has its say on a new file.
            let mode = mode.unwrap_or(0o644) & 0o777;
            match OpenOptions::new().write(true).create_new(true).mode(mode).open(&temporary) {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                opened => break (opened.map_err(failed)?, temporary),
            }
        };
        let incoming = Self { file, path: path.to_owned(), temporary: Some(temporary) };
        if let Some(existing) = existing {
            // As cp(1), which writes into what is there. What cannot be its owner's does not get its owner's powers.
            let is_owners = fchown(&incoming.file, Some(existing.uid()), Some(existing.gid())).is_ok();
            let bits = if is_owners { 0o7777 } else { 0o777 };
            let kept = Permissions::from_mode(existing.mode() & bits);
            incoming.file.set_permissions(kept).map_err(failed)?;
        }
        Ok(incoming)
    }

    fn finish(mut self) -> Result<(), Failure> {
        if let Some(temporary) = self.temporary.take() {
            let done = std::fs::rename(&temporary, &self.path);
            if done.is_err() {
                self.temporary = Some(temporary);
            }
            done.map_err(CopyFailure::here("replace", &self.path))?;
        }
        Ok(())
    }
}

impl Drop for Incoming {
    fn drop(&mut self) {
        if let Some(temporary) = &self.temporary {
            // What went wrong before is what gets reported.
            let _ = std::fs::remove_file(temporary);
        }
    }
}

async fn tree(client: &Client, source: &Path, target: PathBuf, progress: &mut Progress) -> Result<Copied, Failure> {
    let content = client.get_tree(source).await?;
    match std::fs::create_dir(&target) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && target.is_dir() => {}
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            return Err(CopyFailure::InTheWay { path: target }.into());
        }
        made => made.map_err(CopyFailure::here("make the directory", &target))?,
    }
    let dir = Dir::open(&target).map_err(CopyFailure::here("open", &target))?;
    let (sender, reader) = ChunkReader::new();
    let extracting = tokio::task::spawn_blocking(move || archive::unpack(&dir, reader));
    let received = unless_asked(async { Ok(receive(content, &sender, progress).await) }).await;
    drop(sender);
    // Ends when its stream does, and leaves no part of a file.
    let extracted = extracting.await.map_err(|_| CopyFailure::Lost)?;
    let totals = match (extracted, received?) {
        // The stream broke, or has no end: why that is so is the connection's to say.
        (Err(ArchiveError::Stream { .. } | ArchiveError::CutOff { .. }), Err(error)) => return Err(error.into()),
        (Err(error), _) => return Err(CopyFailure::Tree(error).into()),
        (Ok(_), Err(error)) => return Err(error.into()),
        (Ok(totals), Ok(())) => totals,
    };
    let (entries, xattrs_skipped) = (Some(totals.entries), totals.xattrs_skipped);
    Ok(Copied { path: Some(target), bytes: progress.done(), entries, xattrs_skipped })
}

/// The work, unless a signal asks guestctl to go: then the work is dropped, which removes what it has not completed.
async fn unless_asked<T>(work: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    let mut signals = Signals::new()?;
    tokio::select! {
        done = work => done,
        asked = signals.next() => Err(CopyFailure::Asked { signal: asked.number() }.into()),
    }
}

/// Passes a download on until it ends, or until nobody takes it.
async fn receive(
    mut content: Download,
    sender: &tokio::sync::mpsc::Sender<archive::Chunk>,
    progress: &mut Progress,
) -> Result<(), ClientError> {
    loop {
        match content.next().await {
            Ok(None) => return Ok(()),
            Ok(Some(piece)) => {
                progress.advance(piece.len());
                if sender.send(Ok(piece)).await.is_err() {
                    return Ok(());
                }
            }
            Err(error) => {
                // The extraction is told, so that it does not take this for the end.
                let _ = sender.send(Err(io::Error::other(error.to_string()))).await;
                return Err(error);
            }
        }
    }
}
