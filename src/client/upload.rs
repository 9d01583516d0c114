//! A request's body as it comes from a file, a program or a packer, and the watch over its progress.
//!
//! A VM that takes nothing for as long as an answer may take is given up; a source that gives nothing is waited for, since it
//! may be somebody who types.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::{Stream, TryStreamExt as _};
use http_body_util::{BodyExt as _, StreamBody};
use hyper::body::{Frame, SizeHint};

use super::http::Body;

/// A piece of what is uploaded. An error ends the upload, and the guest keeps what it had.
pub type UploadChunk = io::Result<Bytes>;

/// What is uploaded.
pub struct Upload {
    body: Body,
    length: Option<u64>,
}

impl std::fmt::Debug for Upload {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Upload({:?} bytes)", self.length)
    }
}

impl Upload {
    /// A stream of pieces, of a length that is known or not.
    pub fn new(chunks: impl Stream<Item = UploadChunk> + Send + 'static, length: Option<u64>) -> Self {
        Self { body: StreamBody::new(chunks.map_ok(Frame::data)).boxed_unsync(), length }
    }

    /// The body for a request, and the watch over it.
    pub(super) fn watched(self) -> (Body, Watch) {
        let watch = Watch(Arc::new(Mutex::new(Progress { since: Some(Instant::now()), failure: None })));
        let body = Watched { body: self.body, remaining: self.length, watch: watch.clone() };
        (body.boxed_unsync(), watch)
    }
}

struct Progress {
    /// When the connection began to hold us up; none while the source does.
    since: Option<Instant>,
    /// Why the source ended early.
    failure: Option<String>,
}

/// Sees whether a body still moves. The lock is held for a few instructions, and never across an await.
#[derive(Clone)]
pub(super) struct Watch(Arc<Mutex<Progress>>);

impl Watch {
    /// What is left of `patience`; none once nothing moved for that long.
    pub(super) fn left(&self, patience: Duration) -> Option<Duration> {
        let progress = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match progress.since {
            None => Some(patience),
            Some(since) => patience.checked_sub(since.elapsed()).filter(|left| !left.is_zero()),
        }
    }

    /// Why the source failed, if it did.
    pub(super) fn failure(&self) -> Option<String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).failure.take()
    }

    fn set(&self, since: Option<Instant>) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).since = since;
    }
}

/// A body that says when it is asked for more, which is when the connection has taken what there was.
struct Watched {
    body: Body,
    remaining: Option<u64>,
    watch: Watch,
}

impl hyper::body::Body for Watched {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        let this = self.get_mut();
        let polled = Pin::new(&mut this.body).poll_frame(context);
        this.watch.set(if polled.is_pending() { None } else { Some(Instant::now()) });
        if let Poll::Ready(Some(frame)) = &polled {
            match frame {
                Ok(frame) => {
                    let length = frame.data_ref().map_or(0, Bytes::len) as u64;
                    this.remaining = this.remaining.map(|remaining| remaining.saturating_sub(length));
                }
                Err(error) => {
                    let mut progress = this.watch.0.lock().unwrap_or_else(PoisonError::into_inner);
                    progress.failure = Some(error.to_string());
                }
            }
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.remaining.map_or_else(SizeHint::default, SizeHint::with_exact)
    }
}
