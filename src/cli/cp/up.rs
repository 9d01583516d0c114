//! Into the VM.

use std::fs::File;
use std::io::{self, Read as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream;
use tokio::sync::mpsc;
use tokio::time::interval;

use crate::api::{FileStat, FileType};
use crate::archive::{self, Chunk, ChunkWriter};
use crate::client::{Client, PutFile, Upload};
use crate::limits;
use crate::sys::files::Dir;

use super::super::failure::Failure;
use super::side::{inside, means_directory, trimmed};
use super::{Copied, CopyFailure, Progress};

/// Between two looks at how much passed.
const LOOK: Duration = Duration::from_millis(100);

pub(super) async fn from_disk(
    client: &Client,
    source: &Path,
    target: &Path,
    recursive: bool,
    progress: &mut Progress,
) -> Result<Copied, Failure> {
    let found = source.metadata().map_err(CopyFailure::here("read", source))?;
    if found.is_dir() {
        if !recursive {
            return Err(CopyFailure::Directory { path: source.to_owned() }.into());
        }
        return tree(client, source, target, progress).await;
    }
    if !found.is_file() {
        return Err(CopyFailure::Special { path: source.to_owned() }.into());
    }
    let (target, existing) = destination(client, source, target).await?;
    let file = File::open(source).map_err(CopyFailure::here("read", source))?;
    // As by cp: a file that is replaced keeps its mode, a new one gets the source's.
    let mode = existing.is_none().then(|| found.permissions().mode() & 0o777);
    progress.expect(Some(found.len()));
    let chunks = feed(file, Some(found.len()));
    put_file(client, &target, mode, chunks, Some(found.len()), progress).await
}

pub(super) async fn from_stdin(
    client: &Client,
    target: &Path,
    recursive: bool,
    progress: &mut Progress,
) -> Result<Copied, Failure> {
    let chunks = feed(io::stdin(), None);
    if recursive {
        return put_tree(client, target, chunks, progress).await;
    }
    put_file(client, target, None, chunks, None, progress).await
}

async fn tree(client: &Client, source: &Path, target: &Path, progress: &mut Progress) -> Result<Copied, Failure> {
    let (target, existing) = destination(client, source, target).await?;
    if existing.is_some_and(|existing| !is_directory(&existing)) {
        return Err(CopyFailure::InTheWay { path: target }.into());
    }
    let dir = Dir::open(source).map_err(CopyFailure::here("read", source))?;
    let (mut writer, chunks) = ChunkWriter::new();
    let packing = tokio::task::spawn_blocking(move || match archive::pack(&dir, &mut writer) {
        Err(failure) if !failure.told => {
            writer.fail(io::Error::other(failure.to_string()));
            Err(failure)
        }
        packed => packed,
    });
    let sent = put_tree(client, &target, chunks, progress).await;
    // Its own failure is the cause of the other one. Where the VM failed first, the packer has lost its reader.
    match packing.await.map_err(|_| CopyFailure::Lost)? {
        Err(failure) if !matches!(failure.error, archive::ArchiveError::Stream { .. }) => {
            Err(CopyFailure::Tree(failure.error).into())
        }
        _ => sent,
    }
}

/// Where the source goes, and what is there.
async fn destination(client: &Client, source: &Path, target: &Path) -> Result<(PathBuf, Option<FileStat>), Failure> {
    let existing = client.stat(&trimmed(target)).await?;
    if means_directory(target) || existing.as_ref().is_some_and(is_directory) {
        let inner = inside(&trimmed(target), source);
        let existing = client.stat(&inner).await?;
        return Ok((inner, existing));
    }
    Ok((target.to_owned(), existing))
}

pub(super) fn is_directory(found: &FileStat) -> bool {
    found.kind == FileType::Directory || found.leads_to_directory
}

async fn put_file(
    client: &Client,
    target: &Path,
    mode: Option<u32>,
    chunks: mpsc::Receiver<Chunk>,
    length: Option<u64>,
    progress: &mut Progress,
) -> Result<Copied, Failure> {
    let (upload, passed) = upload(chunks, length);
    let options = PutFile { mode, ..PutFile::default() };
    watched(client.put_file(target, &options, upload), &passed, progress).await?;
    Ok(Copied { path: Some(target.to_owned()), bytes: progress.done(), ..Copied::default() })
}

async fn put_tree(
    client: &Client,
    target: &Path,
    chunks: mpsc::Receiver<Chunk>,
    progress: &mut Progress,
) -> Result<Copied, Failure> {
    let (upload, passed) = upload(chunks, None);
    let written = watched(client.put_tree(target, upload), &passed, progress).await?;
    let (entries, xattrs_skipped) = (Some(written.entries), written.xattrs_skipped);
    Ok(Copied { path: Some(target.to_owned()), bytes: progress.done(), entries, xattrs_skipped })
}

/// An upload of what comes through a channel, and the count of what passed.
fn upload(chunks: mpsc::Receiver<Chunk>, length: Option<u64>) -> (Upload, Arc<AtomicU64>) {
    let passed = Arc::new(AtomicU64::new(0));
    let count = Arc::clone(&passed);
    let chunks = stream::unfold((chunks, count), |(mut chunks, count)| async move {
        let chunk = chunks.recv().await?;
        if let Ok(chunk) = &chunk {
            count.fetch_add(chunk.len() as u64, Ordering::Relaxed);
        }
        Some((chunk, (chunks, count)))
    });
    (Upload::new(chunks, length), passed)
}

/// Waits, and draws meanwhile.
async fn watched<T>(work: impl Future<Output = T>, passed: &AtomicU64, progress: &mut Progress) -> T {
    let mut looks = interval(LOOK);
    tokio::pin!(work);
    loop {
        tokio::select! {
            done = &mut work => {
                progress.reach(passed.load(Ordering::Relaxed));
                return done;
            }
            _ = looks.tick() => progress.reach(passed.load(Ordering::Relaxed)),
        }
    }
}

/// Reads in a thread of its own, which ends with the process where standard input does not end: the runtime would wait for
/// one of its pool. A file of a known length that ends before it is an error.
fn feed(mut source: impl io::Read + Send + 'static, length: Option<u64>) -> mpsc::Receiver<Chunk> {
    let (sender, receiver) = mpsc::channel(limits::TREE_QUEUED_CHUNKS);
    std::thread::spawn(move || {
        let mut remaining = length.unwrap_or(u64::MAX);
        while remaining > 0 {
            let mut piece = Vec::new();
            let most = remaining.min(limits::FILE_CHUNK_BYTES as u64);
            let read = read_some(&mut source, most, length.is_some(), &mut piece);
            let chunk = match read {
                Ok(0) if length.is_some() => Err(io::Error::other("it became shorter while it was read")),
                Ok(0) => return,
                Ok(read) => {
                    remaining -= read as u64;
                    Ok(Bytes::from(piece))
                }
                Err(error) => Err(error),
            };
            let last = chunk.is_err();
            if sender.blocking_send(chunk).is_err() || last {
                return;
            }
        }
    });
    receiver
}

/// Reads until `most` bytes or the end; of a pipe, what there is.
fn read_some(source: &mut impl io::Read, most: u64, fill: bool, piece: &mut Vec<u8>) -> io::Result<usize> {
    if fill {
        return source.take(most).read_to_end(piece);
    }
    piece.resize(usize::try_from(most).unwrap_or(limits::FILE_CHUNK_BYTES), 0);
    loop {
        match source.read(piece) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            read => {
                piece.truncate(*read.as_ref().unwrap_or(&0));
                return read;
            }
        }
    }
}
