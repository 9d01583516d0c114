//! Between a thread that packs or extracts and a task that moves bytes: bounded channels with the faces of `Read` and `Write`.

use std::io::{self, Read, Write};

use bytes::{Buf, Bytes, BytesMut};
use tokio::sync::mpsc;

use crate::limits;

/// What a task receives and a thread writes, and the other way round. An error is that of the connection.
pub type Chunk = io::Result<Bytes>;

/// Reads, in a thread, what a task sends. The end of the channel is the end of the stream.
#[derive(Debug)]
pub struct ChunkReader {
    chunks: mpsc::Receiver<Chunk>,
    current: Bytes,
}

impl ChunkReader {
    /// A reader, and the sender that feeds it.
    #[must_use]
    pub fn new() -> (mpsc::Sender<Chunk>, Self) {
        let (sender, chunks) = mpsc::channel(limits::TREE_QUEUED_CHUNKS);
        (sender, Self { chunks, current: Bytes::new() })
    }
}

impl Read for ChunkReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.current.is_empty() {
            match self.chunks.blocking_recv() {
                Some(chunk) => self.current = chunk?,
                None => return Ok(0),
            }
        }
        let length = buffer.len().min(self.current.len());
        self.current.copy_to_slice(&mut buffer[..length]);
        Ok(length)
    }
}

/// Writes, in a thread, what a task receives. Once the task has gone, every write fails: that is how the thread learns of it.
#[derive(Debug)]
pub struct ChunkWriter {
    chunks: mpsc::Sender<Chunk>,
    gathered: BytesMut,
}

impl ChunkWriter {
    /// A writer, and the receiver of what it writes.
    #[must_use]
    pub fn new() -> (Self, mpsc::Receiver<Chunk>) {
        let (chunks, receiver) = mpsc::channel(limits::TREE_QUEUED_CHUNKS);
        (Self { chunks, gathered: BytesMut::new() }, receiver)
    }

    /// Ends the stream by an error, so that its reader does not take the end of the channel for the end of the content.
    pub fn fail(self, error: io::Error) {
        // A receiver that has gone needs no telling.
        let _ = self.chunks.blocking_send(Err(error));
    }
}

impl Write for ChunkWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.gathered.capacity() == 0 {
            self.gathered.reserve(limits::FILE_CHUNK_BYTES);
        }
        let room = limits::FILE_CHUNK_BYTES - self.gathered.len();
        let length = bytes.len().min(room);
        self.gathered.extend_from_slice(&bytes[..length]);
        if self.gathered.len() >= limits::FILE_CHUNK_BYTES {
            self.flush()?;
        }
        Ok(length)
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.gathered.is_empty() {
            return Ok(());
        }
        let chunk = std::mem::take(&mut self.gathered).freeze();
        self.chunks.blocking_send(Ok(chunk)).map_err(|_| io::ErrorKind::BrokenPipe.into())
    }
}
