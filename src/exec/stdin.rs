//! The standard input of one exec, from those who send it to the task that writes it to the command.
//!
//! ```text
//!   open ── close, or the command ends, or stops reading ──> closed
//! ```
//!
//! What was accepted is queued, a few pieces at most, and a sender waits for its place. Whoever names the offset of what it sends
//! can send it again after a lost connection: it is taken once.

use std::sync::{Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use tokio::sync::mpsc;

use super::error::ExecError;
use crate::limits;

/// Where input is given.
#[derive(Debug)]
pub(super) struct Stdin(Mutex<Gate>);

#[derive(Debug)]
struct Gate {
    sender: Option<mpsc::Sender<Bytes>>,
    accepted: u64,
    /// Why there is no sender.
    why: &'static str,
}

impl Stdin {
    /// Takes input until it is closed.
    pub(super) fn open() -> (Self, mpsc::Receiver<Bytes>) {
        let (sender, receiver) = mpsc::channel(limits::EXEC_STDIN_QUEUE);
        (Self(Mutex::new(Gate { sender: Some(sender), accepted: 0, why: "it was closed" })), receiver)
    }

    /// Takes none.
    pub(super) fn none() -> Self {
        let why = "the exec was started without `stdin_open`";
        Self(Mutex::new(Gate { sender: None, accepted: 0, why }))
    }

    /// Queues input, which waits for a place. With an offset, only if that is how much was accepted before.
    ///
    /// Returns how much is accepted then.
    pub(super) async fn write(&self, id: &str, mut bytes: Bytes, mut offset: Option<u64>) -> Result<u64, ExecError> {
        loop {
            let (sender, why) = {
                let gate = self.lock();
                (gate.sender.clone(), gate.why)
            };
            let closed = |why| ExecError::StdinClosed { id: id.to_owned(), why };
            let sender = sender.ok_or_else(|| closed(why))?;
            // The place first, so that the check and the queueing are one step.
            let place = sender.reserve().await;
            let mut gate = self.lock();
            let Ok(place) = place else {
                return Err(closed(if gate.sender.is_none() {
                    gate.why
                } else {
                    "the command has closed it or ended"
                }));
            };
            if gate.sender.is_none() {
                return Err(closed(gate.why));
            }
            if let Some(offset) = offset.filter(|offset| *offset != gate.accepted) {
                return Err(ExecError::StdinOffset { id: id.to_owned(), offset, accepted: gate.accepted });
            }
            let piece = bytes.split_to(bytes.len().min(limits::EXEC_CHUNK_BYTES));
            if !piece.is_empty() {
                gate.accepted += piece.len() as u64;
                place.send(piece);
            }
            if bytes.is_empty() {
                return Ok(gate.accepted);
            }
            offset = offset.map(|_| gate.accepted);
        }
    }

    /// Ends the input, after what was accepted.
    pub(super) fn close(&self) {
        self.lock().sender = None;
    }

    /// The command has ended.
    pub(super) fn ended(&self) {
        let mut gate = self.lock();
        gate.sender = None;
        gate.why = "the command has ended";
    }

    fn lock(&self) -> MutexGuard<'_, Gate> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;
    use crate::api::ErrorCode;

    #[tokio::test]
    async fn input_at_another_offset_than_was_accepted_is_refused_and_named() {
        let (stdin, mut receiver) = Stdin::open();
        assert_eq!(stdin.write("a", Bytes::from_static(b"123"), Some(0)).await.unwrap(), 3);
        let error = stdin.write("a", Bytes::from_static(b"123"), Some(0)).await.unwrap_err();
        assert_eq!(error.code(), ErrorCode::Conflict);
        assert!(error.to_string().contains("go on at offset 3"), "{error}");
        assert_eq!(stdin.write("a", Bytes::from_static(b"4"), Some(3)).await.unwrap(), 4);
        stdin.close();
        assert_eq!(receiver.recv().await.unwrap(), "123");
        assert_eq!(receiver.recv().await.unwrap(), "4");
        assert_eq!(receiver.recv().await, None);
        assert_eq!(stdin.write("a", Bytes::new(), None).await.unwrap_err().code(), ErrorCode::Conflict);
    }

    #[tokio::test]
    async fn a_sender_waits_while_the_queue_is_full() {
        let (stdin, mut receiver) = Stdin::open();
        for _ in 0..limits::EXEC_STDIN_QUEUE {
            stdin.write("a", Bytes::from_static(b"x"), None).await.unwrap();
        }
        let mut more = Box::pin(stdin.write("a", Bytes::from_static(b"y"), None));
        assert!((&mut more).now_or_never().is_none());
        receiver.recv().await.unwrap();
        assert_eq!(more.await.unwrap(), limits::EXEC_STDIN_QUEUE as u64 + 1);
    }

    #[tokio::test]
    async fn a_sender_that_waits_is_told_when_the_command_stops_reading() {
        let (stdin, receiver) = Stdin::open();
        for _ in 0..limits::EXEC_STDIN_QUEUE {
            stdin.write("a", Bytes::from_static(b"x"), None).await.unwrap();
        }
        let mut more = Box::pin(stdin.write("a", Bytes::from_static(b"y"), None));
        assert!((&mut more).now_or_never().is_none());
        drop(receiver);
        assert_eq!(more.await.unwrap_err().code(), ErrorCode::Conflict);
    }
}
