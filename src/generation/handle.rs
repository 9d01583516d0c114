//! The way to the task: calls with answers, and what it tells everybody.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;

use super::identity::Identity;
use super::machine::Refusal;
use super::order::{self, BadField, Order};
use crate::api::{
    ClockMended, ErrorCode, GenerationPhase, GenerationReport, GenerationRequest, GenerationState, RestoreSign,
    SnapshotPrepare, SnapshotReport, SnapshotThaw,
};
use crate::limits;

/// Why a call was not carried out.
#[derive(Debug, thiserror::Error)]
pub enum GenerationError {
    /// A field that cannot be used.
    #[error(transparent)]
    BadField(#[from] BadField),
    /// Against the order of the protocol.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The agent is ending.
    #[error("the agent is ending and carries nothing out any more; ask its successor")]
    Stopped,
}

impl GenerationError {
    /// For programs.
    pub fn code(&self) -> ErrorCode {
        match self {
            Self::BadField(_) => ErrorCode::InvalidField,
            Self::Refused(refusal) => refusal.code(),
            Self::Stopped => ErrorCode::Unavailable,
        }
    }
}

/// Where an answer goes.
pub(super) type Answer<T> = oneshot::Sender<T>;

/// What the task is asked for.
#[derive(Debug)]
pub(super) enum Call {
    Prepare(SnapshotPrepare, Answer<SnapshotReport>),
    Thaw(Option<(Duration, Instant)>, Answer<SnapshotReport>),
    Announce(Box<(Order, Instant)>, Answer<Result<GenerationReport, Refusal>>),
    Sign(RestoreSign, Instant),
    Mended(ClockMended),
}

impl std::fmt::Debug for Order {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Order").field("announced", &self.announced).finish_non_exhaustive()
    }
}

/// A way to the task.
#[derive(Debug, Clone)]
pub struct GenerationHandle {
    pub(super) calls: mpsc::Sender<Call>,
    pub(super) state: watch::Receiver<Arc<GenerationState>>,
    pub(super) identity: watch::Receiver<Arc<Identity>>,
}

impl GenerationHandle {
    /// Where it is.
    pub fn state(&self) -> Arc<GenerationState> {
        Arc::clone(&self.state.borrow())
    }

    /// Whether nobody carries anything out any more.
    pub fn is_over(&self) -> bool {
        self.calls.is_closed()
    }

    /// The same, and every later one.
    pub fn states(&self) -> watch::Receiver<Arc<GenerationState>> {
        self.state.clone()
    }

    /// Who this VM is.
    pub fn identity(&self) -> Arc<Identity> {
        Arc::clone(&self.identity.borrow())
    }

    /// The same, and every later one.
    pub fn identities(&self) -> watch::Receiver<Arc<Identity>> {
        self.identity.clone()
    }

    /// A snapshot is about to be taken.
    ///
    /// # Errors
    /// The agent is ending, or the watchdog's time is out of bounds.
    pub async fn prepare(&self, order: SnapshotPrepare) -> Result<SnapshotReport, GenerationError> {
        let most = limits::SNAPSHOT_WATCHDOG_MOST.as_secs();
        if order.watchdog_secs.is_some_and(|secs| !(1..=most).contains(&secs)) {
            let why = format!("it takes seconds from 1 to {most}");
            return Err(BadField { field: "watchdog_secs", why }.into());
        }
        self.ask(|answer| Call::Prepare(order, answer)).await
    }

    /// It was taken, and this is the VM that goes on; `received` is when that was said.
    ///
    /// # Errors
    /// The agent is ending, or the host's time is none.
    pub async fn thaw(&self, order: SnapshotThaw, received: Instant) -> Result<SnapshotReport, GenerationError> {
        let clock = order.wall_clock.map(order::wall_clock).transpose()?;
        self.ask(|answer| Call::Thaw(clock.map(|clock| (clock, received)), answer)).await
    }

    /// A VM that is prepared for a commit is thawed: the agent is ending.
    pub async fn end_prepared(&self) {
        if self.state().phase == GenerationPhase::Prepared {
            // A task that has ended has thawed it.
            let _ = self.thaw(SnapshotThaw::default(), Instant::now()).await;
        }
    }

    /// The host announces a generation; `received` is when that came.
    ///
    /// # Errors
    /// The announcement is wrong in itself, or against the order of the protocol.
    pub async fn announce(
        &self,
        request: GenerationRequest,
        received: Instant,
    ) -> Result<GenerationReport, GenerationError> {
        let order = Box::new((Order::try_from(request)?, received));
        Ok(self.ask(|answer| Call::Announce(order, answer)).await??)
    }

    /// Something looked like a restore at that time.
    pub async fn sign(&self, sign: RestoreSign, seen: Instant) {
        // A task that has ended keeps no signs.
        let _ = self.calls.send(Call::Sign(sign, seen)).await;
    }

    /// A clock was set right that nobody told of.
    pub async fn mended(&self, mended: ClockMended) {
        let _ = self.calls.send(Call::Mended(mended)).await;
    }

    async fn ask<T>(&self, call: impl FnOnce(Answer<T>) -> Call) -> Result<T, GenerationError> {
        let (answer, answered) = oneshot::channel();
        self.calls.send(call(answer)).await.map_err(|_| GenerationError::Stopped)?;
        answered.await.map_err(|_| GenerationError::Stopped)
    }
}
