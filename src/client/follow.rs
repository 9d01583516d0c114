//! An exec's output over as many connections as it takes.
//!
//! ```text
//!           ┌── lost, and less than 5 s of trouble so far: attach again at the cursor ──┐
//!           v                                                                           │
//!  start ──> following ──> exit or error (the exec's own: the last event)               │
//!   │           └───────────────────────────────────────────────────────────────────────┘
//!   └─ lost before the answer: the same request again; its id makes it the same exec
//! ```
//! Refuses to go on where that cannot be exact: a lasting refusal (no such exec, another generation) ends it with an error.

use std::time::{Duration, Instant};

use tokio::time::sleep;

use crate::api::{ErrorBody, ExecRequest, ExecStatus};
use crate::limits;

use super::{Client, ClientError, ExecEvent, ExecStream, ReadFrom};

/// Decides how long trouble is put up with.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct Retry {
    since: Option<Instant>,
}

impl Retry {
    /// It works (again).
    pub(crate) fn reset(&mut self) {
        self.since = None;
    }

    /// A connection has been lost that had stood since then. One that stood for so long had no trouble, though nothing came by it.
    pub(crate) fn forget_what_came_before(&mut self, stood_since: Instant) {
        if stood_since.elapsed() >= limits::CLIENT_REATTACH_TIME {
            self.reset();
        }
    }

    /// Waits a moment before the next try; gives the error back where there should be none.
    pub(crate) async fn pause_after(&mut self, error: ClientError) -> Result<(), ClientError> {
        let trouble = self.since.get_or_insert_with(Instant::now).elapsed();
        match pause(&error, trouble) {
            Some(pause) => sleep(pause).await,
            None => return Err(error),
        }
        Ok(())
    }
}

/// The pause after an error, where there have been nothing but errors for this long; none where it is time to give up.
fn pause(error: &ClientError, trouble: Duration) -> Option<Duration> {
    let give_up = error.is_lasting() || trouble >= limits::CLIENT_REATTACH_TIME;
    (!give_up).then_some(limits::CLIENT_PROBE_PAUSE)
}

/// Follows an exec to its end. Dropping it closes the connection; the exec goes on without it.
#[derive(Debug)]
pub struct ExecFollow {
    client: Client,
    exec_id: String,
    /// Where to attach again; none where nothing is known but "latest".
    from: ReadFrom,
    /// The generation that this is of, if any was announced.
    generation: Option<String>,
    stream: Option<ExecStream>,
    /// When that was there.
    attached: Instant,
    retry: Retry,
    /// What lost the connection, while there is none.
    lost: Option<ClientError>,
    ended: bool,
}

impl Client {
    /// Runs a command and follows it to its end, over lost connections, too. The exec gets an id where the request has none,
    /// so that even a request whose answer was lost is not run twice. Ask for `lossless` where no byte may be missing.
    pub async fn exec_follow(&self, request: &ExecRequest) -> Result<ExecFollow, ClientError> {
        let exec_id = match &request.exec_id {
            Some(id) => id.clone(),
            None => new_exec_id()?,
        };
        let request = ExecRequest { exec_id: Some(exec_id.clone()), ..request.clone() };
        let stream = insist(async || self.exec_stream(&request).await).await?;
        Ok(ExecFollow::new(self, exec_id, ReadFrom::Cursor(0), Some(stream)))
    }

    /// Starts a command and leaves it to itself, like [`Client::exec_detached`], and asks again where the answer was lost. The exec
    /// gets an id where the request has none.
    pub async fn exec_start(&self, request: &ExecRequest) -> Result<ExecStatus, ClientError> {
        let exec_id = match &request.exec_id {
            Some(id) => id.clone(),
            None => new_exec_id()?,
        };
        let request = ExecRequest { exec_id: Some(exec_id), ..request.clone() };
        insist(async || self.exec_detached(&request).await).await
    }

    /// Follows an exec that was started before, over lost connections, too.
    pub async fn exec_follow_again(&self, id: &str, from: ReadFrom) -> Result<ExecFollow, ClientError> {
        let stream = self.exec_attach(id, from).await?;
        Ok(ExecFollow::new(self, id.to_owned(), from, Some(stream)))
    }
}

/// Asks, and asks again where it may have been heard and the answer was lost. For what is the same when asked twice.
async fn insist<T>(ask: impl AsyncFn() -> Result<T, ClientError>) -> Result<T, ClientError> {
    let mut retry = Retry::default();
    let mut asked = false;
    loop {
        match ask().await {
            Ok(answer) => return Ok(answer),
            // Nothing was asked yet: whether to wait for the VM is the caller's to say.
            Err(error @ ClientError::Unreachable { .. }) if !asked => return Err(error),
            Err(error @ (ClientError::Unreachable { .. } | ClientError::Disconnected { .. })) => {
                asked = true;
                retry.pause_after(error).await?;
            }
            Err(error) => return Err(error),
        }
    }
}

impl ExecFollow {
    fn new(client: &Client, exec_id: String, from: ReadFrom, stream: Option<ExecStream>) -> Self {
        let client = client.clone();
        let generation = stream.as_ref().and_then(ExecStream::generation).map(str::to_owned);
        let (attached, retry) = (Instant::now(), Retry::default());
        Self { client, exec_id, from, generation, stream, attached, retry, lost: None, ended: false }
    }

    /// Id of the exec.
    #[must_use]
    pub fn exec_id(&self) -> &str {
        &self.exec_id
    }

    /// The next event; none after the exit or error, which is the last. May be dropped at any await and called again.
    ///
    /// # Errors
    /// Those of [`ExecStream::next`], when attaching again was refused or could not be done within a few seconds.
    pub async fn next(&mut self) -> Result<Option<ExecEvent>, ClientError> {
        while !self.ended {
            let Some(stream) = &mut self.stream else {
                self.attach_again().await?;
                continue;
            };
            match stream.next().await {
                Ok(event) => {
                    self.retry.reset();
                    if let Some(cursor) = stream.cursor() {
                        self.from = ReadFrom::Cursor(cursor);
                    }
                    self.ended = event.as_ref().is_none_or(ExecEvent::is_last);
                    return Ok(event);
                }
                Err(lost @ (ClientError::StreamCutOff { .. } | ClientError::Disconnected { .. })) => {
                    if let Some(cursor) = stream.cursor() {
                        self.from = ReadFrom::Cursor(cursor);
                    }
                    self.stream = None;
                    self.lost = Some(lost);
                    self.retry.forget_what_came_before(self.attached);
                }
                Err(error) => {
                    self.ended = true;
                    return Err(error);
                }
            }
        }
        Ok(None)
    }

    async fn attach_again(&mut self) -> Result<(), ClientError> {
        match self.client.exec_attach_in(&self.exec_id, self.from, self.generation.as_deref()).await {
            Err(ClientError::Api { body: ErrorBody { fork: Some(fork), .. }, .. })
                if self.from.cursor().is_some_and(|cursor| cursor <= fork.cursor)
                    && self.generation != fork.generation_id =>
            {
                // The VM was paused, or this is a copy of it; what was read so far is the same in both.
                self.generation = fork.generation_id;
                Ok(())
            }
            Ok(stream) => {
                self.generation = stream.generation().map(str::to_owned);
                self.stream = Some(stream);
                self.attached = Instant::now();
                self.lost = None;
                Ok(())
            }
            Err(error) => {
                let refused = self.retry.pause_after(error).await;
                refused.map_err(|error| {
                    self.ended = true;
                    self.not_again(error)
                })
            }
        }
    }

    /// The loss is what happened; that it could not be mended is added to it.
    fn not_again(&mut self, error: ClientError) -> ClientError {
        match self.lost.take() {
            Some(ClientError::StreamCutOff { endpoint, cursor, why, .. }) => ClientError::StreamCutOff {
                endpoint,
                exec_id: Some(self.exec_id.clone()),
                cursor,
                why: format!("{why}, and it could not be taken up again: {}", error.cause()),
            },
            _ => error,
        }
    }
}

/// An id that no other exec has: 128 bits from the kernel, asked for each time, so that no two clones make the same.
pub fn new_exec_id() -> Result<String, ClientError> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).map_err(|error| ClientError::NoRandomness { why: error.to_string() })?;
    Ok(format!("{:032x}", u128::from_ne_bytes(bytes)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cut_off() -> ClientError {
        let endpoint = "vsock:3".parse().unwrap();
        ClientError::StreamCutOff { endpoint, exec_id: None, cursor: 0, why: String::new() }
    }

    #[test]
    fn trouble_is_put_up_with_for_a_while_and_refusals_are_not() {
        assert_eq!(pause(&cut_off(), Duration::ZERO), Some(limits::CLIENT_PROBE_PAUSE));
        assert_eq!(pause(&cut_off(), limits::CLIENT_REATTACH_TIME), None);
        let refusal = ClientError::TargetTooLong { call: super::super::Call::get("/v1/exec") };
        assert_eq!(pause(&refusal, Duration::ZERO), None);
    }

    #[test]
    fn trouble_before_a_connection_that_stood_for_long_does_not_count() {
        let long_ago = Instant::now().checked_sub(2 * limits::CLIENT_REATTACH_TIME).unwrap();
        let mut retry = Retry { since: Some(long_ago) };
        retry.forget_what_came_before(Instant::now());
        assert_eq!(retry.since, Some(long_ago));
        retry.forget_what_came_before(long_ago);
        assert_eq!(retry.since, None);
    }

    #[test]
    fn ids_are_those_of_an_exec_and_never_the_same() {
        let (one, two) = (new_exec_id().unwrap(), new_exec_id().unwrap());
        assert_ne!(one, two);
        assert!(one.len() <= limits::EXEC_ID_BYTES && one.bytes().all(|byte| byte.is_ascii_hexdigit()));
    }
}
