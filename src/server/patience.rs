//! How long a connection may be without a request, and how long a request's head may take: two times, where hyper has one.
//!
//! hyper starts its timer when it begins to wait for a head, on a connection that is kept alive as soon as the answer before is
//! out. So the timer is ours: it looks whether a byte of the head has come.
//! ```text
//!  connected ──── REQUEST_HEADER_TIME ────> closed
//!      │ whole head
//!      v
//!  answered, idle ─────── IDLE_TIME ──────> closed
//!      │ first byte
//!      v
//!  head begun ──── REQUEST_HEADER_TIME ───> closed
//! ```
//! Part of a head that came together with the request before it counts as idle until the next byte comes.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use hyper::rt::Timer;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep, sleep_until};

use crate::limits;

/// What the connection and its timer know together.
#[derive(Debug, Default)]
struct Seen {
    /// A head was waited for before: the connection is kept alive.
    kept_alive: AtomicBool,
    /// A byte has come since a head is waited for.
    byte: AtomicBool,
}

/// A connection and its timer.
pub(super) fn watched<C>(connection: C) -> (Watched<C>, HeadTimer) {
    let seen = Arc::new(Seen::default());
    (Watched { connection, seen: Arc::clone(&seen) }, HeadTimer(seen))
}

/// A connection that tells when something was read from it.
#[derive(Debug)]
pub(super) struct Watched<C> {
    connection: C,
    seen: Arc<Seen>,
}

impl<C: AsyncRead + Unpin> AsyncRead for Watched<C> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buffer.filled().len();
        let read = Pin::new(&mut this.connection).poll_read(cx, buffer);
        if buffer.filled().len() > before {
            this.seen.byte.store(true, Ordering::Relaxed);
        }
        read
    }
}

impl<C: AsyncWrite + Unpin> AsyncWrite for Watched<C> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.connection).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.connection).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.connection).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.connection).poll_write_vectored(cx, parts)
    }

    fn is_write_vectored(&self) -> bool {
        self.connection.is_write_vectored()
    }
}

/// hyper's timer for one connection, which it uses for heads alone.
#[derive(Debug)]
pub(super) struct HeadTimer(Arc<Seen>);

impl Timer for HeadTimer {
    fn sleep(&self, duration: Duration) -> Pin<Box<dyn hyper::rt::Sleep>> {
        self.sleep_until(self.now() + duration)
    }

    /// A head is waited for from now on. Of hyper's deadline nothing is left but on a new connection.
    fn sleep_until(&self, deadline: std::time::Instant) -> Pin<Box<dyn hyper::rt::Sleep>> {
        let idle = self.0.kept_alive.swap(true, Ordering::Relaxed);
        self.0.byte.store(false, Ordering::Relaxed);
        let until = if idle { Instant::now() + limits::IDLE_TIME } else { Instant::from_std(deadline) };
        Box::pin(HeadSleep { sleep: Box::pin(sleep_until(until)), seen: Arc::clone(&self.0), idle })
    }

    fn now(&self) -> std::time::Instant {
        Instant::now().into_std()
    }
}

/// Ends when it has been waited for a head for too long.
struct HeadSleep {
    sleep: Pin<Box<Sleep>>,
    seen: Arc<Seen>,
    /// No byte has come as far as is known.
    idle: bool,
}

impl hyper::rt::Sleep for HeadSleep {}

impl Future for HeadSleep {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = self.get_mut();
        // hyper polls this after each read that did not make a head whole.
        if this.idle && this.seen.byte.load(Ordering::Relaxed) {
            this.idle = false;
            this.sleep.as_mut().reset(Instant::now() + limits::REQUEST_HEADER_TIME);
        }
        this.sleep.as_mut().poll(cx)
    }
}
