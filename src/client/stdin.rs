//! Standard input of any length for an exec that was started with `stdin_open`.
//!
//! It goes in segments, each a request whose body is sent as it comes. The bytes of a segment are kept until guestd has said that it
//! took them, so that a lost connection loses none and sends none twice:
//! ```text
//!  segment at offset n ──> accepted n+m ──> next segment … ──> end of input: `eof=true`
//!     ^        │ lost
//!     └── ask how many were accepted, send the rest again
//! ```

use std::collections::VecDeque;
use std::pin::pin;
use std::time::Instant;

use bytes::{Buf as _, Bytes};
use futures_util::{Stream, StreamExt as _, stream};
use http_body_util::StreamBody;
use hyper::body::Frame;
use hyper::header::{CONTENT_TYPE, HeaderValue};
use tokio::sync::mpsc;

use crate::api::{ErrorCode, StdinAccepted};
use crate::limits;

use super::execs::exec_path;
use super::http::{Body, Question};
use super::stream::BINARY;
use super::{Call, Client, ClientError, Retry};

const CALL: Call = Call::post("/v1/exec/{id}/stdin");

/// How the feeding of an exec ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fed {
    /// All of it, and its end, was taken.
    Whole,
    /// The exec closed its input, or ended, before it had read all: for most commands that is no failure.
    ClosedByExec,
}

/// Bytes that guestd has not said to have taken.
#[derive(Debug, Default)]
struct Kept {
    chunks: VecDeque<Bytes>,
    bytes: usize,
}

impl Kept {
    fn push(&mut self, chunk: Bytes) {
        self.bytes += chunk.len();
        self.chunks.push_back(chunk);
    }

    /// Forgets the first bytes, which were taken. None where it has not that many.
    fn forget(&mut self, taken: u64) -> Option<()> {
        let mut taken = usize::try_from(taken).ok().filter(|taken| *taken <= self.bytes)?;
        self.bytes -= taken;
        while let Some(first) = self.chunks.front_mut().filter(|_| taken > 0) {
            let part = taken.min(first.len());
            first.advance(part);
            taken -= part;
            if first.is_empty() {
                self.chunks.pop_front();
            }
        }
        Some(())
    }
}

impl Client {
    /// Gives an exec its standard input, from its beginning, as it comes, and then the end of it. Waits while the exec does not
    /// read. Goes on over lost connections as [`Client::exec_follow`] does.
    pub async fn exec_feed(&self, id: &str, input: impl Stream<Item = Bytes>) -> Result<Fed, ClientError> {
        let mut input = pin!(input.fuse());
        let (mut offset, mut kept, mut retry) = (0, Kept::default(), Retry::default());
        loop {
            // A segment begins when there is something for it: an idle input needs no connection.
            if kept.bytes == 0 {
                match input.next().await {
                    Some(chunk) => kept.push(chunk),
                    None => break,
                }
            }
            let begun = Instant::now();
            let error = match self.segment(id, offset, &mut kept, input.as_mut()).await {
                Ok(accepted) => {
                    self.taken(accepted, &mut offset, &mut kept)?;
                    retry.reset();
                    continue;
                }
                Err(error) => error,
            };
            let refused = is_refusal(&error);
            retry.forget_what_came_before(begun);
            if !refused {
                retry.pause_after(error).await?;
            }
            // What was lost is the answer or the end of the body; what was refused, a closed input or this offset, since a request
            // that was lost on our side can still be read on the other.
            match self.accepted(id).await {
                Ok(accepted) => {
                    if self.taken(accepted, &mut offset, &mut kept)? {
                        retry.reset();
                    } else if refused {
                        return Err(self.foreign(CALL, format!("it refuses the offset {accepted}, and gives the same")));
                    }
                }
                Err(error) if is_refusal(&error) => return Ok(Fed::ClosedByExec),
                Err(error) => retry.pause_after(error).await?,
            }
        }
        self.end_input(id, offset).await
    }

    /// Sends what is kept and what comes until the segment is full or the input ends. Gives what was accepted in all.
    async fn segment(
        &self,
        id: &str,
        offset: u64,
        kept: &mut Kept,
        mut input: impl Stream<Item = Bytes> + Unpin,
    ) -> Result<u64, ClientError> {
        let (sender, receiver) = mpsc::channel::<Bytes>(1);
        let again: Vec<Bytes> = kept.chunks.iter().cloned().collect();
        let chunks = stream::iter(again).chain(stream::unfold(receiver, |mut receiver| async {
            let chunk = receiver.recv().await?;
            Some((chunk, receiver))
        }));
        let body = Body::new(StreamBody::new(chunks.map(|chunk| Ok(Frame::data(chunk)))));
        let target = exec_path(id, &format!("/stdin?offset={offset}"));
        let question =
            Question::with_body(CALL, body).to(target).header(CONTENT_TYPE, HeaderValue::from_static(BINARY));
        let mut sent = pin!(self.accept(question));
        let feed = async {
            while kept.bytes < limits::CLIENT_STDIN_KEPT_BYTES {
                let Some(chunk) = input.next().await else { break };
                kept.push(chunk.clone());
                if sender.send(chunk).await.is_err() {
                    break;
                }
            }
            drop(sender);
        };
        tokio::select! {
            // An answer before the end of the body: a refusal, or a lost connection.
            biased;
            answer = &mut sent => return answer,
            () = feed => {}
        }
        sent.await
    }

    /// Takes over how much was accepted in all. Was it any?
    fn taken(&self, accepted: u64, offset: &mut u64, kept: &mut Kept) -> Result<bool, ClientError> {
        let taken = accepted.checked_sub(*offset).filter(|taken| kept.forget(*taken).is_some());
        let taken = taken.ok_or_else(|| {
            let sent = *offset + kept.bytes as u64;
            self.foreign(CALL, format!("it took {accepted} bytes of standard input where {sent} were sent"))
        })?;
        *offset = accepted;
        Ok(taken > 0)
    }

    async fn end_input(&self, id: &str, offset: u64) -> Result<Fed, ClientError> {
        let mut retry = Retry::default();
        loop {
            let question = Question::new(CALL).to(exec_path(id, &format!("/stdin?offset={offset}&eof=true")));
            match self.accept(question).await {
                Ok(_) => return Ok(Fed::Whole),
                // Also where the end was taken and the answer lost.
                Err(error) if is_refusal(&error) => return Ok(Fed::ClosedByExec),
                Err(error) => retry.pause_after(error).await?,
            }
        }
    }

    async fn accepted(&self, id: &str) -> Result<u64, ClientError> {
        self.accept(Question::new(CALL).to(exec_path(id, "/stdin"))).await
    }

    /// No time-out: the exec reads when it likes.
    async fn accept(&self, question: Question) -> Result<u64, ClientError> {
        let reply = self.send(question, None).await?;
        let accepted: StdinAccepted = self.parsed(CALL, reply, Some(self.timeouts().answer)).await?;
        Ok(accepted.accepted)
    }
}

/// Does this mean that nobody reads the input any more, or none at this offset?
fn is_refusal(error: &ClientError) -> bool {
    matches!(error, ClientError::Api { body, .. } if matches!(body.code, ErrorCode::Conflict | ErrorCode::NotFound))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn what_is_kept_is_what_was_not_taken(
            chunks in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 1..9), 0..9),
            taken in 0usize..80,
        ) {
            let all = chunks.concat();
            let mut kept = Kept::default();
            chunks.into_iter().for_each(|chunk| kept.push(chunk.into()));
            let forgotten = kept.forget(taken as u64);
            prop_assert_eq!(forgotten.is_some(), taken <= all.len());
            let from = if forgotten.is_some() { taken } else { 0 };
            let left: Vec<u8> = kept.chunks.iter().flatten().copied().collect();
            prop_assert_eq!(&left[..], &all[from..]);
            prop_assert_eq!(kept.bytes, left.len());
        }
    }
}
