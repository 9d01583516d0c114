//! The life of one command: the task that starts it, feeds it, reads it, ends it where that is due, and moves its record on.
//!
//! The task is nobody's child but the runtime's. Whoever asked may go away at any point, even before the process is there.

use std::convert::Infallible;
use std::io;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::budget::Budget;
use super::cleanup::{Cleanup, Remains};
use super::collect::Allowance;
use super::ending::Ending;
use super::error::ExecError;
use super::fork::Lineage;
use super::gate::Gate;
use super::io::Input;
use super::order::Order;
use super::output::Output;
use super::record::{Exec, Live};
use super::spill::SpillStore;
use super::start::{Launcher, Started};
use super::table::{Open, Slot, Table};
use crate::limits;
use crate::sys::pidfd::Exit;
use crate::sys::process::Birth;

/// What all sessions share.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) launcher: Launcher,
    pub(super) cleanup: Cleanup,
    pub(super) table: Arc<Table>,
    pub(super) leftovers: Semaphore,
    pub(super) allowance: Arc<Allowance>,
    pub(super) budget: Arc<Budget>,
    pub(super) spill: Arc<SpillStore>,
    /// Starts wait here.
    pub(super) gate: Gate,
    /// The present generation, once one was announced, and those that it goes on with.
    pub(super) lineage: Mutex<Lineage>,
    /// All sessions.
    pub(super) tasks: TaskTracker,
    /// Cancelled where nothing is waited for any more that is not owed.
    pub(super) closing: CancellationToken,
}

/// An exec that has a task to follow it. Should that panic, those who wait for the exec are told.
#[derive(Debug)]
pub(super) struct Followed {
    table: Arc<Table>,
    exec: Arc<Exec>,
    /// Let go last: who waits for all to be done sees nothing of the exec any more.
    _open: Open,
}

impl Followed {
    pub(super) fn new(table: &Arc<Table>, exec: &Arc<Exec>) -> Self {
        Self { table: Arc::clone(table), exec: Arc::clone(exec), _open: table.open() }
    }
}

impl Drop for Followed {
    fn drop(&mut self) {
        if self.exec.set_lost() {
            self.table.keep_record(&self.exec);
        }
    }
}

/// Runs an order to its end. More input comes by `queue`.
pub(super) async fn session(
    shared: Arc<Shared>,
    followed: Followed,
    slot: Slot,
    order: Order,
    queue: Option<mpsc::Receiver<Bytes>>,
) {
    let exec = Arc::clone(&followed.exec);
    let timeout = order.timeout;
    let Started { live, io, stdin, at } = match begin(&shared, &exec, order).await {
        Ok(started) => started,
        Err(error) => {
            shared.table.failed.fetch_add(1, Ordering::Relaxed);
            tracing::debug!(exec_id = exec.id(), %error, "exec not started");
            // Whoever is told may try again, under the same id.
            drop(slot);
            shared.table.remove(&exec);
            return exec.set_failed(error);
        }
    };
    shared.table.started.fetch_add(1, Ordering::Relaxed);
    tracing::debug!(exec_id = exec.id(), pid = live.leader.get().pid(), "exec started");
    let live = Arc::new(live);
    exec.set_running(Arc::clone(&live));

    let (over, exited) = oneshot::channel();
    let life = Life { shared: Arc::clone(&shared), exec: Arc::clone(&exec), slot, live, at };
    let end = async {
        let live = life.follow(timeout).await;
        // The reading side may have come to its end already.
        let _ = over.send(());
        live
    };
    let (mut output, input) = io.split();
    let reading = output.forward(&exec.journal, exited, shared.launcher.config.patience());
    let live = tokio::select! {
        (live, ()) = async { tokio::join!(end, reading) } => live,
        never = feed(input, stdin, queue) => match never {},
    };
    exec.set_over();
    shared.cleanup.add(Remains::of(live, output.let_go()));
    drop((exec, followed));
    throw_away(&shared, output).await;
}

/// Starts on a thread that may block, and that its user could hold up for ever.
async fn begin(shared: &Arc<Shared>, exec: &Exec, order: Order) -> Result<Started, ExecError> {
    let (shared, id, birth) = (Arc::clone(shared), exec.id().to_owned(), Arc::new(Birth::default()));
    let (its_birth, grace) = (Arc::clone(&birth), shared.launcher.config.kill_grace);
    let mut starting = tokio::task::spawn_blocking(move || shared.launcher.start(&id, order, its_birth));
    let stopped = async {
        exec.stop.cancelled().await;
        // Mostly it runs by then, and is ended as any other.
        tokio::time::sleep(grace).await;
        birth.end();
    };
    let late = async {
        let mut left = Some(limits::EXEC_START_TIME);
        while let Some(time) = left {
            tokio::time::sleep(time).await;
            left = birth.end_after(limits::EXEC_START_TIME);
        }
    };
    let started = tokio::select! {
        biased;
        started = &mut starting => started,
        () = stopped => starting.await,
        () = late => starting.await,
    };
    started.unwrap_or_else(|error| {
        Err(ExecError::Start { what: "running the thread that starts it", source: io::Error::other(error) })
    })
}

/// A process that runs, with its place in the table.
struct Life {
    shared: Arc<Shared>,
    exec: Arc<Exec>,
    slot: Slot,
    live: Arc<Live>,
    at: Instant,
}

impl Life {
    /// Waits for the end of the command, and brings it about at the time-out or when told to stop. When this returns, its place
    /// is free, and of a command that had to be ended no process is left. What is to be buried comes back.
    async fn follow(self, timeout: Option<Duration>) -> Option<Live> {
        let (shared, exec) = (Arc::clone(&self.shared), Arc::clone(&self.exec));
        let Live { leader, tree, .. } = &*self.live;
        let (forced, timed_out) = tokio::select! {
            biased;
            () = leader.ended() => (false, false),
            () = exec.stop.cancelled() => (true, false),
            () = elapsed(timeout) => (true, true),
        };
        if timed_out {
            shared.table.timed_out.fetch_add(1, Ordering::Relaxed);
        }
        if forced {
            let mut patience = limits::EXEC_KILL_TIME;
            if !tree.end(shared.launcher.config.kill_grace, patience).await {
                tracing::warn!(exec_id = exec.id(), "a process of an exec is still there after SIGKILL");
                patience = Duration::ZERO;
            }
            // One that has ended may be held by a tracer outside of the tree.
            if tokio::time::timeout(patience, leader.ended()).await.is_err() {
                let (pid, secs) = (leader.get().pid(), limits::EXEC_KILL_TIME.as_secs());
                // It keeps its place, and nobody waits for it any longer.
                shared.tasks.spawn(self.outlast());
                // Nobody is to write to it any more.
                exec.stdin.ended();
                exec.set_exited(Err(ExecError::Unkillable { pid, secs }));
                shared.table.keep_record(&exec);
                return None;
            }
        }
        leader.ended().await;
        let duration = self.at.elapsed();
        let spent = self.live.tree.spent();
        let (exit, live) = self.reap();
        tracing::debug!(exec_id = exec.id(), ?exit, timed_out, "exec ended");
        let ending = exit.map(|exit| Ending { exit, timed_out, duration, spent }.into());
        exec.set_exited(ending.map_err(|source| ExecError::ExitLost { source }));
        shared.table.keep_record(&exec);
        live
    }

    /// Takes the exit status and gives the place back.
    fn reap(self) -> (io::Result<Exit>, Option<Live>) {
        let Self { exec, slot, live, .. } = self;
        exec.let_live_go();
        let exit = live.leader.get().wait();
        drop(slot);
        (exit, Arc::into_inner(live))
    }

    /// Waits for the end of one that was given up.
    async fn outlast(self) {
        let closing = self.shared.closing.clone();
        if closing.run_until_cancelled(self.live.leader.ended()).await.is_some() {
            let shared = Arc::clone(&self.shared);
            let (_, live) = self.reap();
            shared.cleanup.add(Remains::of(live, Vec::new()));
        }
    }
}

/// Waits in ticks, and credits each with no more than it should take: where the clock jumps, as it may when the VM was paused, a command
/// has not had that time.
async fn countdown(mut left: Duration) {
    const TICK: Duration = Duration::from_secs(1);
    while !left.is_zero() {
        let tick = left.min(TICK);
        tokio::time::sleep(tick).await;
        left -= tick;
    }
}

async fn elapsed(timeout: Option<Duration>) {
    match timeout {
        Some(timeout) => countdown(timeout).await,
        None => std::future::pending().await,
    }
}

/// Writes stdin, what was given and then what comes, and ends it. A command that does not want it is no error; what it has not
/// taken when it is over is dropped.
async fn feed(input: Option<Input>, given: Option<Vec<u8>>, mut queue: Option<mpsc::Receiver<Bytes>>) -> Infallible {
    if let Some(mut input) = input {
        let written = async {
            input.write_all(&given.unwrap_or_default()).await?;
            if let Some(queue) = &mut queue {
                while let Some(bytes) = queue.recv().await {
                    input.write_all(&bytes).await?;
                }
            }
            input.end().await
        };
        match written.await {
            Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
                tracing::warn!(%error, "writing a command's stdin failed");
            }
            _ => {}
        }
    }
    // Whoever waits to send more is told that nobody reads.
    drop(queue);
    std::future::pending().await
}

/// Keeps reading for a daemon that has the pipes still, as far as there may be such.
async fn throw_away(shared: &Shared, output: Output) {
    if output.is_over() {
        return;
    }
    match shared.leftovers.try_acquire() {
        Ok(_permit) => drop(shared.closing.run_until_cancelled(output.discard()).await),
        Err(_) => tracing::warn!(
            limit = limits::EXEC_LEFTOVERS,
            "too many ended execs have left processes that hold their output: closing one's, which ends such a process at its next write"
        ),
    }
    shared.cleanup.look_again();
}
