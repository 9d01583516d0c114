//! The handle on all execs: what the server calls.

use std::io;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::Stream;
use tokio::sync::{Semaphore, mpsc, oneshot};

use super::error::ExecError;
use super::order::Order;
use super::output::Patience;
use super::session::{Shared, session};
use super::sink::{Budget, Sink};
use super::table::{ExecCounters, Table};
use super::tree::Lingering;
use crate::api::{ExecRequest, ExecResult, StreamFrame};
use crate::limits;
use crate::sys::cgroup::CgroupParent;
use crate::sys::process::keep_exit_statuses;

/// How commands are run. The default is what an image needs, but for the cgroup.
#[derive(Debug, Clone)]
pub struct ExecConfig {
    /// Commands at once.
    pub max_running: usize,
    /// Variables for every command, over those of a login and under `/etc/environment`: the VM's identity.
    pub base_env: Vec<(String, String)>,
    /// The account's variables, read anew for each command. May be missing.
    pub environment_file: PathBuf,
    /// Users. May be missing where only root is used.
    pub passwd: PathBuf,
    /// Groups. May be missing.
    pub group: PathBuf,
    /// Where each command gets a cgroup of its own, from [`CgroupParent::detect`]; none: process groups and sessions.
    pub cgroup: Option<CgroupParent>,
    /// From SIGTERM to SIGKILL.
    pub kill_grace: Duration,
    /// Silence after the exit that ends waiting for more output of processes that the command left behind.
    pub drain_silence: Duration,
    /// The longest such wait.
    pub drain_time: Duration,
}

impl Default for ExecConfig {
    fn default() -> Self {
        Self {
            max_running: limits::EXECS_RUNNING,
            base_env: Vec::new(),
            environment_file: "/etc/environment".into(),
            passwd: "/etc/passwd".into(),
            group: "/etc/group".into(),
            cgroup: None,
            kill_grace: limits::EXEC_KILL_GRACE,
            drain_silence: limits::EXEC_DRAIN_SILENCE,
            drain_time: limits::EXEC_DRAIN_TIME,
        }
    }
}

impl ExecConfig {
    pub(super) fn patience(&self) -> Patience {
        Patience { silence: self.drain_silence, limit: self.drain_time }
    }
}

/// All execs of the agent. Clones are handles on the same.
#[derive(Debug, Clone)]
pub struct Execs(Arc<Shared>);

impl Execs {
    /// Nothing runs yet.
    ///
    /// Lets this process have the exit statuses of its children, should SIGCHLD have been inherited ignored.
    pub fn new(config: ExecConfig) -> Self {
        if let Err(error) = keep_exit_statuses() {
            tracing::warn!(%error, "SIGCHLD could not be set to its default");
        }
        Self(Arc::new(Shared {
            table: Arc::new(Table::new(config.max_running)),
            lingering: Lingering::default(),
            leftovers: Arc::new(Semaphore::new(limits::EXEC_LEFTOVERS)),
            budget: Arc::new(Budget::new(limits::EXEC_BUFFERED_TOTAL_BYTES)),
            config,
        }))
    }

    /// Runs a command and answers when it is over, with what it printed up to `limits::EXEC_BUFFERED_OUTPUT_BYTES` of each
    /// stream. Dropping the future ends the wait and not the command.
    ///
    /// # Errors
    /// The request is malformed, the command could not be started, or its end is not known.
    pub async fn run(&self, request: ExecRequest) -> Result<ExecResult, ExecError> {
        let (reply, result) = oneshot::channel();
        self.launch(request, |id| Sink::whole(id, &self.0.budget, reply))?;
        result.await.unwrap_or(Err(ExecError::Lost))
    }

    /// Runs a command and answers when it has started. A reader that is slow makes it wait; one that drops the stream does not
    /// end it.
    ///
    /// # Errors
    /// The request is malformed, or the command could not be started. What happens later is a frame.
    pub async fn stream(&self, request: ExecRequest) -> Result<ExecStream, ExecError> {
        let (started, start) = oneshot::channel();
        let (sender, frames) = mpsc::channel(limits::EXEC_QUEUED_CHUNKS);
        let exec_id = self.launch(request, |id| Sink::frames(id, started, sender))?;
        start.await.unwrap_or(Err(ExecError::Lost))?;
        Ok(ExecStream { exec_id, frames })
    }

    fn launch(&self, request: ExecRequest, sink: impl FnOnce(&str) -> Sink) -> Result<String, ExecError> {
        let shared = &self.0;
        let claim = || {
            let order = Order::try_from(request)?;
            let id = order.exec_id.clone().map_or_else(random_id, Ok)?;
            Ok((shared.table.claim(&id)?, order, id))
        };
        let (slot, order, id) = claim().inspect_err(|_| {
            shared.table.failed.fetch_add(1, Ordering::Relaxed);
        })?;
        let sink = sink(&id);
        tokio::spawn(session(Arc::clone(shared), slot, order, sink, shared.table.open()));
        Ok(id)
    }

    /// How many commands run now.
    pub fn running(&self) -> usize {
        self.0.table.running()
    }

    /// Sums since the start.
    pub fn counters(&self) -> ExecCounters {
        self.0.table.counters()
    }

    /// Returns when no command runs and every reader that is still there has been given the end of its command. New ones are
    /// not kept from starting; that is for the caller to do first. A reader that is there and does not read holds this up, so a
    /// deadline is the caller's too.
    pub async fn drain(&self) {
        self.0.table.idle().await;
    }

    /// Has every running command ended, with all that it started: SIGTERM, then SIGKILL after the grace. [`Execs::drain`] tells
    /// when that is done. Daemons that earlier commands have left behind are none of them.
    pub fn terminate_all(&self) {
        self.0.table.stop_all();
    }
}

/// 64 random bits, taken at each use: a generator of our own would be the same in two clones of a VM.
fn random_id() -> Result<String, ExecError> {
    let mut bytes = [0; 8];
    getrandom::fill(&mut bytes)
        .map_err(|error| ExecError::Start { what: "making an id", source: io::Error::other(error) })?;
    Ok(format!("{:016x}", u64::from_ne_bytes(bytes)))
}

/// What a command prints, as it comes. The last frame is `exit` or `error`; a stream without either was cut off.
#[derive(Debug)]
pub struct ExecStream {
    exec_id: String,
    frames: mpsc::Receiver<StreamFrame>,
}

impl ExecStream {
    /// Id of the exec.
    pub fn exec_id(&self) -> &str {
        &self.exec_id
    }

    /// The next frame; none after the last.
    pub async fn next(&mut self) -> Option<StreamFrame> {
        self.frames.recv().await
    }
}

impl Stream for ExecStream {
    type Item = StreamFrame;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<StreamFrame>> {
        self.frames.poll_recv(context)
    }
}
