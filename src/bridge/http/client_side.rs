//! The client's connection as hyper reads it: whole heads, and nothing that [`Requests`] refuses.

use std::{
    io,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError, atomic::Ordering::Relaxed},
    task::{Context, Poll, Waker, ready},
};

use bytes::{Buf, BytesMut};
use hyper::rt::{Read, ReadBufCursor, Write};

use super::{
    requests::{Next, Requests},
    shared_stream::SharedStream,
};
use crate::bridge::PortCounters;

/// No request: hyper answers it by 400 and closes. What was found wrong may be something that hyper does not see.
const NO_REQUEST: &[u8] = b"\0\r\n\r\n";

/// Is the connection to become something else than one of requests? Asked by who reads, decided by who answers.
#[derive(Debug, Default)]
pub(super) struct Decision(Mutex<Asked>);

#[derive(Debug, Default)]
struct Asked {
    /// Number of the last request that was answered, and whether it changed the protocol.
    answered: (u64, bool),
    waiting: Option<Waker>,
}

impl Decision {
    fn lock(&self) -> MutexGuard<'_, Asked> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The request of this number, counted from 1, was answered.
    pub(super) fn answered(&self, request: u64, changes: bool) {
        let mut asked = self.lock();
        asked.answered = (request, changes);
        if let Some(waiting) = asked.waiting.take() {
            waiting.wake();
        }
    }

    fn poll(&self, request: u64, context: &Context<'_>) -> Poll<bool> {
        let mut asked = self.lock();
        if asked.answered.0 >= request {
            return Poll::Ready(asked.answered == (request, true));
        }
        asked.waiting = Some(context.waker().clone());
        Poll::Pending
    }
}

/// The connection. hyper has it; the stream is shared with who ends it.
#[derive(Debug)]
pub(super) struct ClientSide {
    stream: SharedStream,
    counters: Arc<PortCounters>,
    requests: Requests,
    decision: Arc<Decision>,
    /// What was read, its first `passed` bytes for hyper, the others held back.
    buffer: BytesMut,
    passed: usize,
    mode: Mode,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    Requests,
    /// Something else; all bytes are passed as they are.
    Other,
    /// Nothing more is read.
    Over,
}

impl ClientSide {
    pub(super) fn new(stream: SharedStream, counters: Arc<PortCounters>, decision: Arc<Decision>) -> Self {
        let (requests, mode) = (Requests::default(), Mode::Requests);
        Self { stream, counters, requests, decision, buffer: BytesMut::new(), passed: 0, mode }
    }

    /// Reads until there is something for hyper, or the end.
    fn poll_pass(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.passed == 0 {
            match self.mode {
                Mode::Over => return Poll::Ready(Ok(())),
                Mode::Other => self.passed = self.buffer.len(),
                Mode::Requests => {
                    let verdict = self.requests.judge(&self.buffer);
                    self.passed = verdict.pass;
                    match verdict.next {
                        // First what came before.
                        _ if self.passed > 0 => break,
                        Next::More => {}
                        Next::Decide(request) => {
                            if ready!(self.decision.poll(request, context)) {
                                self.mode = Mode::Other;
                            } else {
                                self.requests.go_on();
                            }
                            continue;
                        }
                        Next::TooLarge => {
                            // hyper takes no more either, and says so by 431.
                            self.passed = self.buffer.len();
                            self.mode = Mode::Over;
                            break;
                        }
                        Next::Refuse { in_head, why } => {
                            self.counters.errors.fetch_add(1, Relaxed);
                            self.mode = Mode::Over;
                            self.buffer.clear();
                            if !in_head {
                                return Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, why)));
                            }
                            self.buffer.extend_from_slice(NO_REQUEST);
                            self.passed = self.buffer.len();
                            break;
                        }
                    }
                }
            }
            if self.passed == 0 && ready!(self.stream.poll_fill(context, &mut self.buffer))? == 0 {
                self.mode = Mode::Over;
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl Read for ClientSide {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, mut out: ReadBufCursor<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(this.poll_pass(context))?;
        let length = this.passed.min(out.remaining());
        out.put_slice(&this.buffer[..length]);
        this.buffer.advance(length);
        this.passed -= length;
        this.counters.bytes_in.fetch_add(length as u64, Relaxed);
        Poll::Ready(Ok(()))
    }
}

impl Write for ClientSide {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = ready!(Pin::new(&mut this.stream).poll_write(context, bytes))?;
        this.counters.bytes_out.fetch_add(written as u64, Relaxed);
        Poll::Ready(Ok(written))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(context)
    }
}
