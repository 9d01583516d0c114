//! The handle on all execs: what the server calls.

use std::io;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::attachment::{AttachFrom, Attachment};
use super::budget::Budget;
use super::cleanup::Cleanup;
use super::collect::{Allowance, Kept};
use super::config::ExecConfig;
use super::error::ExecError;
use super::gate::Gate;
use super::journal::{Journal, Terms};
use super::logs;
use super::order::Order;
use super::record::{Exec, Label};
use super::session::{Followed, Shared, session};
use super::spill::SpillStore;
use super::start::Launcher;
use super::stdin::Stdin;
use super::table::{Claim, ExecCounters, Table};
use crate::api::{ExecRequest, ExecResult, Logs};
use crate::limits;
use crate::sys::process::keep_exit_statuses;

/// All execs of the agent. Clones are handles on the same.
#[derive(Debug, Clone)]
pub struct Execs(pub(super) Arc<Shared>);

/// What execs take now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ExecGauges {
    /// Commands that run.
    pub running: usize,
    /// Records of ended ones.
    pub records: usize,
    /// Output in memory, in bytes, with what keeping it costs.
    pub output_bytes: usize,
    /// Output on disk, in bytes.
    pub spilled_bytes: u64,
    /// Attached readers.
    pub readers: usize,
    /// Gaps that readers were told of, since the agent started.
    pub gaps: u64,
}

impl Execs {
    /// Nothing runs yet.
    ///
    /// Lets this process have the exit statuses of its children, should SIGCHLD have been inherited ignored.
    pub fn new(config: ExecConfig) -> Self {
        if let Err(error) = keep_exit_statuses() {
            tracing::warn!(%error, "SIGCHLD could not be set to its default");
        }
        let (tasks, closing) = (TaskTracker::new(), CancellationToken::new());
        let cleanup = Cleanup::new(tasks.clone(), closing.clone());
        Self(Arc::new(Shared {
            table: Arc::new(Table::new(config.max_running)),
            leftovers: Semaphore::new(limits::EXEC_LEFTOVERS),
            allowance: Arc::new(Allowance::new(limits::EXEC_BUFFERED_TOTAL_BYTES)),
            budget: Arc::new(Budget::new(config.replay_total_bytes)),
            spill: Arc::new(SpillStore::new(config.spill_dir.clone(), config.spill_bytes)),
            tasks,
            closing,
            launcher: Launcher::new(config, cleanup.clone()),
            cleanup,
            gate: Gate::new(),
            lineage: Mutex::default(),
        }))
    }

    /// Runs a command and answers when it is over, with what it printed up to `limits::EXEC_BUFFERED_OUTPUT_BYTES` of each
    /// stream. Of an exec that is there already, that is what can still be read. Dropping the future ends the wait and not the
    /// command.
    ///
    /// # Errors
    /// The request is malformed, the command could not be started, or its end is not known.
    pub async fn run(&self, request: ExecRequest) -> Result<ExecResult, ExecError> {
        self.pass(&request).await?;
        self.begin(request, true, 0)?.result(&self.0.allowance).await
    }

    /// Starts a command, or finds the one that this request stands for. Returns when it has started; its output waits in the
    /// replay ring. Dropping the future does not end the command.
    ///
    /// # Errors
    /// The request is malformed, or the command could not be started.
    pub async fn start(&self, request: ExecRequest) -> Result<Arc<Exec>, ExecError> {
        self.pass(&request).await?;
        let exec = self.begin(request, false, 0)?;
        exec.started().await?;
        Ok(exec)
    }

    /// The same for the agent's own commands, which do not wait at the gate, and for which there are places when the others are taken.
    ///
    /// # Errors
    /// As [`Execs::start`].
    pub async fn start_now(&self, request: ExecRequest) -> Result<Arc<Exec>, ExecError> {
        let exec = self.begin(request, false, limits::EXEC_OWN_PLACES)?;
        exec.started().await?;
        Ok(exec)
    }

    /// Starts a command, or finds the one that this request stands for, and reads its output from the beginning.
    ///
    /// # Errors
    /// The request is malformed, the command could not be started, or it has too many readers.
    pub async fn stream(&self, request: ExecRequest) -> Result<Attachment, ExecError> {
        self.pass(&request).await?;
        let exec = self.begin(request, false, 0)?;
        // Before it runs, so that it cannot print more than the ring holds before somebody reads.
        let attachment = exec.attach(AttachFrom::Cursor(0))?;
        exec.started().await?;
        Ok(attachment)
    }

    /// The exec of this id, running or kept as a record.
    ///
    /// # Errors
    /// There is none.
    pub fn get(&self, id: &str) -> Result<Arc<Exec>, ExecError> {
        self.0.table.get(id).ok_or_else(|| ExecError::unknown(id))
    }

    /// All execs, the oldest first.
    pub fn list(&self) -> Vec<Arc<Exec>> {
        self.0.table.list()
    }

    /// Drops the record of an exec. Who is attached reads on.
    pub fn remove(&self, exec: &Exec) {
        self.0.table.remove(exec);
    }

    /// What execs have printed, in the order in which it was read.
    ///
    /// # Errors
    /// The exec that was asked for is not known.
    pub async fn logs(&self, query: logs::LogQuery) -> Result<Logs, ExecError> {
        let execs = match &query.exec_id {
            Some(id) => vec![self.get(id)?],
            None => self.list(),
        };
        Ok(logs::collect(&self.0.budget, execs, query).await)
    }

    /// Waits at the gate; an exec that is there already is not to be started.
    async fn pass(&self, request: &ExecRequest) -> Result<(), ExecError> {
        match &request.exec_id {
            Some(id) if self.0.table.get(id).is_some() => Ok(()),
            _ => self.0.gate.pass().await,
        }
    }

    /// What `VERS_VM_ID` is for commands from now on.
    pub fn set_vm_id(&self, vm_id: Option<String>) {
        *self.0.launcher.vm_id.lock().unwrap_or_else(PoisonError::into_inner) = vm_id;
    }

    /// The exec of a request, made by this call or known already; beyond the bound there are `extra` places.
    fn begin(&self, request: ExecRequest, whole: bool, extra: usize) -> Result<Arc<Exec>, ExecError> {
        let shared = &self.0;
        let claim = || {
            let (label, terms) = (Label::of(&request), self.terms(&request));
            // A lossless one goes on by what its readers take, which are read to the end for the answer as well.
            let is_kept = whole && !terms.lossless;
            let order = Order::try_from(request)?;
            let id = order.exec_id.clone().map_or_else(random_id, Ok)?;
            let (stdin, input) = if order.stdin_open {
                let (stdin, input) = Stdin::open();
                (stdin, Some(input))
            } else {
                (Stdin::none(), None)
            };
            let claim = shared.table.claim(&id, label.fingerprint, extra, |number| {
                let kept = is_kept.then(|| Kept::new(Arc::clone(&shared.allowance)));
                let journal = Journal::new(&shared.budget, terms, kept);
                Exec::new((id.clone(), number), label, journal, stdin, self.generation())
            })?;
            Ok::<_, ExecError>((claim, order, input))
        };
        let (claim, order, input) = claim().inspect_err(|_| {
            shared.table.failed.fetch_add(1, Ordering::Relaxed);
        })?;
        match claim {
            Claim::Known(exec) => Ok(exec),
            Claim::Fresh(exec, slot) => {
                let followed = Followed::new(&shared.table, &exec);
                let task = session(Arc::clone(shared), followed, slot, order, input);
                shared.tasks.spawn(task);
                Ok(exec)
            }
        }
    }

    fn terms(&self, request: &ExecRequest) -> Terms {
        let config = &self.0.launcher.config;
        // What is promised is never taken for another exec, so it is a share that every exec could have.
        let share = config.replay_total_bytes / config.max_running.max(1);
        let promised = request.lossless || request.spill;
        Terms {
            capacity: if promised { config.replay_bytes.min(share) } else { config.replay_bytes },
            lossless: request.lossless,
            spill: request.spill.then(|| Arc::clone(&self.0.spill)),
        }
    }

    /// How many commands run now.
    pub fn running(&self) -> usize {
        self.0.table.running()
    }

    /// Sums since the start.
    pub fn counters(&self) -> ExecCounters {
        self.0.table.counters()
    }

    /// What is taken now.
    pub fn gauges(&self) -> ExecGauges {
        let shared = &self.0;
        ExecGauges {
            running: shared.table.running(),
            records: shared.table.records(),
            output_bytes: shared.budget.used(),
            spilled_bytes: shared.spill.used(),
            readers: shared.table.list().iter().map(|exec| exec.journal.readers()).sum(),
            gaps: shared.budget.gaps.load(Ordering::Relaxed),
        }
    }

    /// Returns when no command runs and all output is read from its pipes. New ones are not kept from starting; that is for the
    /// caller to do first. A lossless exec whose reader does not read holds this up, so a deadline is the caller's too.
    pub async fn drain(&self) {
        self.0.table.idle().await;
        self.0.cleanup.done().await;
    }

    /// Has every running command ended, with all that it started: SIGTERM, then SIGKILL after the grace. [`Execs::drain`] tells
    /// when that is done. Daemons that earlier commands have left behind are none of them. Output that nobody reads is waited
    /// for no longer.
    pub fn terminate_all(&self) {
        for exec in self.0.table.list() {
            exec.terminate();
            if exec.journal.readers() == 0 {
                exec.journal.let_go();
            }
        }
    }

    /// Ends what runs and returns when no task is left. Output that is not taken by now is lost.
    pub async fn shutdown(&self) {
        self.terminate_all();
        self.0.table.list().iter().for_each(|exec| exec.journal.let_go());
        self.0.closing.cancel();
        self.0.tasks.close();
        self.0.tasks.wait().await;
    }
}

/// 64 random bits, taken at each use: a generator of our own would be the same in two clones of a VM.
fn random_id() -> Result<String, ExecError> {
    let mut bytes = [0; 8];
    getrandom::fill(&mut bytes)
        .map_err(|error| ExecError::Start { what: "making an id", source: io::Error::other(error) })?;
    Ok(format!("{:016x}", u64::from_ne_bytes(bytes)))
}
