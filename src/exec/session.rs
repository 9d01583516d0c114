//! The life of one command: the task that starts it, feeds it, reads it, ends it where that is due, and reports.
//!
//! The task is nobody's child but the runtime's. Whoever asked may go away at any point, even before the process is there.

use std::convert::Infallible;
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use futures_util::FutureExt;
use tokio::net::unix::pipe::Sender;
use tokio::sync::{Semaphore, oneshot};

use super::error::ExecError;
use super::execs::ExecConfig;
use super::order::Order;
use super::output::Output;
use super::sink::{Budget, Ending, Sink};
use super::start::{Started, start};
use super::table::{Open, Slot, Table};
use super::tree::{Lingering, Tree};
use crate::limits;
use crate::sys::pidfd::WatchedPidfd;

/// What all sessions share.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) config: ExecConfig,
    pub(super) table: Arc<Table>,
    pub(super) lingering: Lingering,
    pub(super) leftovers: Arc<Semaphore>,
    pub(super) budget: Arc<Budget>,
}

/// Runs an order to its end.
pub(super) async fn session(shared: Arc<Shared>, slot: Slot, order: Order, mut sink: Sink, open: Open) {
    let timeout = order.timeout;
    let Started { leader, tree, mut output, stdin, at } = match begin(&shared, slot.id(), order).await {
        Ok(started) => started,
        Err(error) => {
            shared.table.failed.fetch_add(1, Ordering::Relaxed);
            tracing::debug!(exec_id = slot.id(), %error, "exec not started");
            drop(slot);
            return sink.fail(error).await;
        }
    };
    shared.table.started.fetch_add(1, Ordering::Relaxed);
    tracing::debug!(exec_id = slot.id(), pid = leader.get().pid(), "exec started");
    sink.started();

    let (over, exited) = oneshot::channel();
    let life = Life { shared: Arc::clone(&shared), slot, leader, tree, at };
    let end = async {
        let end = life.follow(timeout).await;
        // The reading side may have come to its end already.
        let _ = over.send(());
        end
    };
    let reading = output.forward(&mut sink, exited, shared.config.patience());
    let end = tokio::select! {
        (end, ()) = async { tokio::join!(end, reading) } => end,
        never = feed(stdin) => match never {},
    };
    match end {
        Ok(ending) => sink.end(ending).await,
        Err(Lost::Status(source)) => sink.fail(ExecError::ExitLost { source }).await,
        Err(Lost::Stuck(life)) => {
            let secs = limits::EXEC_KILL_TIME.as_secs();
            sink.fail(ExecError::Unkillable { pid: life.leader.get().pid(), secs }).await;
            // It keeps its place, and nobody waits for it any longer.
            tokio::spawn(life.outlast());
        }
    }
    drop(open);
    throw_away(&shared, output).await;
}

/// Starts on a thread that may block.
async fn begin(shared: &Arc<Shared>, id: &str, order: Order) -> Result<Started, ExecError> {
    let (shared, id) = (Arc::clone(shared), id.to_owned());
    let start = move || start(&shared.config, &shared.lingering, &id, order);
    tokio::task::spawn_blocking(start).await.unwrap_or_else(|error| {
        Err(ExecError::Start { what: "running the thread that starts it", source: io::Error::other(error) })
    })
}

/// A process that runs, with its place in the table.
struct Life {
    shared: Arc<Shared>,
    slot: Slot,
    leader: WatchedPidfd,
    tree: Tree,
    at: Instant,
}

/// No end to report.
enum Lost {
    /// It ended, and how is not known.
    Status(io::Error),
    /// SIGKILL does not end it.
    Stuck(Life),
}

impl Life {
    /// Waits for the end of the command, and brings it about at the time-out or when told to stop. When this returns, the id
    /// is free, and of a command that had to be ended no process is left.
    async fn follow(self, timeout: Option<Duration>) -> Result<Ending, Lost> {
        let Self { shared, slot, leader, tree, .. } = &self;
        let (forced, timed_out) = tokio::select! {
            biased;
            () = leader.ended() => (false, false),
            () = slot.stop.cancelled() => (true, false),
            () = elapsed(timeout) => (true, true),
        };
        if timed_out {
            shared.table.timed_out.fetch_add(1, Ordering::Relaxed);
        }
        if forced && !tree.end(shared.config.kill_grace, limits::EXEC_KILL_TIME).await {
            tracing::warn!(exec_id = slot.id(), "a process of an exec is still there after SIGKILL");
            if leader.ended().now_or_never().is_none() {
                return Err(Lost::Stuck(self));
            }
        }
        let () = leader.ended().await;
        let exit = leader.get().wait().map_err(Lost::Status)?;
        let duration = self.at.elapsed();
        tracing::debug!(exec_id = slot.id(), ?exit, timed_out, "exec ended");
        self.shared.lingering.bury(self.tree).await;
        Ok(Ending { exit, timed_out, duration })
    }

    /// Waits for the end of one that was given up.
    async fn outlast(self) {
        self.leader.ended().await;
        let _ = self.leader.get().wait();
        self.shared.lingering.bury(self.tree).await;
    }
}

async fn elapsed(timeout: Option<Duration>) {
    match timeout {
        Some(timeout) => tokio::time::sleep(timeout).await,
        None => std::future::pending().await,
    }
}

/// Writes stdin and closes it. A command that does not want it is no error; what it has not taken when it is over is dropped.
async fn feed(stdin: Option<(Sender, Vec<u8>)>) -> Infallible {
    if let Some((pipe, bytes)) = stdin {
        let mut rest = bytes.as_slice();
        while !rest.is_empty() {
            match pipe.writable().await.and_then(|()| pipe.try_write(rest)) {
                Ok(count) => rest = &rest[count..],
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) if error.kind() == io::ErrorKind::BrokenPipe => break,
                Err(error) => {
                    tracing::warn!(%error, "writing a command's stdin failed");
                    break;
                }
            }
        }
    }
    std::future::pending().await
}

/// Keeps reading for a daemon that has the pipes still, as far as there may be such.
async fn throw_away(shared: &Shared, output: Output) {
    if output.is_over() {
        return;
    }
    match shared.leftovers.try_acquire() {
        Ok(_permit) => output.discard().await,
        Err(_) => tracing::warn!(
            limit = limits::EXEC_LEFTOVERS,
            "too many ended execs have left processes that hold their output: closing one's, which ends such a process at its next write"
        ),
    }
    shared.lingering.sweep();
}
