//! Standard output and standard error, written by a thread.
//!
//! A write can wait for as long as a pager likes; signals and keys must not wait with it. One thread for both, so that what was
//! printed first is seen first. It starts with the first byte.
//!
//! What was given is written, also where whoever gave it was dropped in the middle of it: [`Sink::finish`] is for every end, not for
//! the good one alone. Only somebody who asks guestctl to go need not wait for a reader that does not read.

use std::fs::File;
use std::io::{self, Write as _};
use std::os::fd::AsFd as _;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{mpsc, oneshot};

use crate::api::OutputStream;
use crate::limits;

use super::failure::Failure;
use super::signals::Signals;

/// Where the output of an exec goes.
#[derive(Debug, Default)]
pub(super) struct Sink {
    thread: Option<Thread>,
    /// What waits for a place in the queue.
    next: Option<Chunk>,
}

type Chunk = (OutputStream, Bytes);

#[derive(Debug)]
struct Thread {
    queue: mpsc::Sender<Chunk>,
    end: oneshot::Receiver<Result<(), Failure>>,
}

impl Sink {
    /// Writes these bytes after all that were given before. Waits while there is too much to write; bytes are kept when this is
    /// dropped meanwhile.
    pub(super) async fn write(&mut self, stream: OutputStream, bytes: Bytes) -> Result<(), Failure> {
        self.queue_next().await?;
        self.next = Some((stream, bytes));
        self.queue_next().await
    }

    async fn queue_next(&mut self) -> Result<(), Failure> {
        if self.next.is_none() {
            return Ok(());
        }
        let thread = match &mut self.thread {
            Some(thread) => thread,
            none => none.insert(start()?),
        };
        let Ok(place) = thread.queue.reserve().await else {
            self.next = None;
            return ended(&mut thread.end).await.and_then(|()| Err(gone()));
        };
        if let Some(chunk) = self.next.take() {
            place.send(chunk);
        }
        Ok(())
    }

    /// Returns when nothing can be written any more; why. Whoever has nothing to write for a while would not learn of it.
    pub(super) async fn failed(&mut self) -> Failure {
        match &mut self.thread {
            Some(thread) => match ended(&mut thread.end).await {
                Err(failure) => failure,
                Ok(()) => gone(),
            },
            None => std::future::pending().await,
        }
    }

    /// Returns when all is written.
    pub(super) async fn finish(mut self) -> Result<(), Failure> {
        self.queue_next().await?;
        let Some(Thread { queue, mut end }) = self.thread else {
            return Ok(());
        };
        drop(queue);
        ended(&mut end).await
    }

    /// Returns when all is written, or a signal asks guestctl to go, or the patience is over.
    pub(super) async fn finish_unless(self, signals: &mut Signals, patience: Option<Duration>) -> Result<(), Failure> {
        let over = async {
            match patience {
                Some(patience) => tokio::time::sleep(patience).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            finished = self.finish() => finished,
            asked = signals.next() => Err(Failure::Unwritten { signal: asked.number() }),
            () = over => Err(Failure::Stdout(io::ErrorKind::TimedOut.into())),
        }
    }
}

async fn ended(end: &mut oneshot::Receiver<Result<(), Failure>>) -> Result<(), Failure> {
    end.await.unwrap_or_else(|_| Err(gone()))
}

/// A thread that ended without a word.
fn gone() -> Failure {
    Failure::Stdout(io::Error::other("the thread that writes it has ended"))
}

fn start() -> Result<Thread, Failure> {
    // Not std's handles: those look for line ends and lock.
    let mut stdout = File::from(io::stdout().as_fd().try_clone_to_owned().map_err(Failure::Stdout)?);
    // Nobody can be told when standard error cannot be written, and a command need not end for it.
    let mut stderr = io::stderr().as_fd().try_clone_to_owned().ok().map(File::from);
    let (queue, mut queued) = mpsc::channel::<Chunk>(limits::CLIENT_QUEUED_CHUNKS);
    let (tell, end) = oneshot::channel();
    let mut write = move || {
        while let Some((stream, bytes)) = queued.blocking_recv() {
            match (stream, &mut stderr) {
                (OutputStream::Stdout, _) => stdout.write_all(&bytes).map_err(stdout_failure)?,
                (OutputStream::Stderr, Some(stderr)) => drop(stderr.write_all(&bytes)),
                (OutputStream::Stderr, None) => {}
            }
        }
        Ok(())
    };
    let run = move || {
        // Nobody may wait for it any more.
        let _ = tell.send(write());
    };
    std::thread::Builder::new().name("output".into()).spawn(run).map_err(Failure::Runtime)?;
    Ok(Thread { queue, end })
}

fn stdout_failure(error: io::Error) -> Failure {
    match error.kind() {
        io::ErrorKind::BrokenPipe => Failure::StdoutClosed,
        _ => Failure::Stdout(error),
    }
}
