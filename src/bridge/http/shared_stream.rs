//! A connection that hyper has, and that can be reset all the same.

use std::{
    io,
    net::Shutdown,
    pin::Pin,
    sync::{Arc, Weak},
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::BytesMut;
use hyper::rt::{Read, ReadBufCursor, Write};
use tokio::net::TcpStream;

use crate::limits;

/// A stream with more than one owner, of whom one reads and writes.
#[derive(Debug, Clone)]
pub(super) struct SharedStream {
    stream: Arc<TcpStream>,
    /// What was read and had no room; empty where [`SharedStream::poll_fill`] alone is used.
    buffer: BytesMut,
}

/// The same for who does not keep it open.
#[derive(Debug, Default)]
pub(super) struct Resettable(Weak<TcpStream>);

impl SharedStream {
    pub(super) fn new(stream: TcpStream) -> Self {
        Self { stream: Arc::new(stream), buffer: BytesMut::new() }
    }

    pub(super) fn get(&self) -> &TcpStream {
        &self.stream
    }

    pub(super) fn resettable(&self) -> Resettable {
        Resettable(Arc::downgrade(&self.stream))
    }

    /// Reads some bytes to the end of `buffer`; none at the end of the stream.
    pub(super) fn poll_fill(&self, context: &mut Context<'_>, buffer: &mut BytesMut) -> Poll<io::Result<usize>> {
        loop {
            let Poll::Ready(ready) = self.stream.poll_read_ready(context) else {
                if buffer.is_empty() {
                    // A connection that is idle has no use for its room.
                    *buffer = BytesMut::new();
                }
                return Poll::Pending;
            };
            ready?;
            buffer.reserve(limits::BRIDGE_COPY_BYTES);
            match self.stream.try_read_buf(buffer) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                read => return Poll::Ready(read),
            }
        }
    }
}

impl Resettable {
    /// Makes the coming close a reset: its peer must not take for whole what is not.
    pub(super) fn reset_on_close(&self) {
        if let Some(stream) = self.0.upgrade() {
            // Fails only on a socket that is gone, which then needs no reset.
            let _ = socket2::SockRef::from(&*stream).set_linger(Some(Duration::ZERO));
        }
    }
}

impl Read for SharedStream {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, mut out: ReadBufCursor<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.buffer.is_empty() {
            let mut buffer = std::mem::take(&mut this.buffer);
            let filled = this.poll_fill(context, &mut buffer);
            this.buffer = buffer;
            ready!(filled)?;
        }
        let length = this.buffer.len().min(out.remaining());
        out.put_slice(&this.buffer.split_to(length));
        Poll::Ready(Ok(()))
    }
}

impl Write for SharedStream {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        loop {
            ready!(self.stream.poll_write_ready(context))?;
            match self.stream.try_write(bytes) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                written => return Poll::Ready(written),
            }
        }
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        let socket = socket2::SockRef::from(&*self.stream);
        // hyper does this to a connection that nobody needs any more. An end of file ahead of a reset is an end that looks well.
        if socket.linger().is_ok_and(|linger| linger == Some(Duration::ZERO)) {
            return Poll::Ready(Ok(()));
        }
        Poll::Ready(match socket.shutdown(Shutdown::Write) {
            Err(error) if error.kind() == io::ErrorKind::NotConnected => Ok(()),
            result => result,
        })
    }
}
