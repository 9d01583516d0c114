//! What others have of the bridge's task: its state, and a way to ask it for something.

use std::sync::{Arc, Mutex, PoisonError};

use tokio::{
    sync::{mpsc, oneshot, watch},
    time::timeout,
};

use super::{BridgeState, orders::Clients};
use crate::{
    api::{self, BadRule, BridgeRule, BridgeUpdate},
    limits,
};

/// Why an update was not carried out.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UpdateError {
    /// A rule that cannot be carried out.
    #[error("bridge rule {} -> {} was refused: {}", .0.rule.listen, .0.rule.to, .0.why)]
    BadRule(#[from] BadRule),
    /// More rules than ports that can be bridged.
    #[error("{given} bridge rules are more than the limit of {}; remove some", limits::BRIDGE_PORTS)]
    TooMany {
        /// Number of rules in the update.
        given: usize,
    },
    /// The task has ended.
    #[error("the bridge is shutting down; try again when the agent is back")]
    Stopped,
}

/// What is asked of the task.
#[derive(Debug)]
pub(super) enum Request {
    Update(BridgeUpdate),
    /// Counters as they are now, and clients.
    Fresh {
        clients: bool,
    },
    /// Reset the connections of a port, or all.
    Cut(Option<u16>),
    /// End the plane with all its connections.
    End,
}

/// What others need of a running bridge.
#[derive(Debug, Clone)]
pub struct BridgeHandle {
    pub(super) requests: mpsc::Sender<(Request, oneshot::Sender<()>)>,
    pub(super) state: watch::Receiver<Arc<BridgeState>>,
    /// As of the last time that somebody asked.
    pub(super) clients: Arc<Mutex<Clients>>,
}

impl BridgeHandle {
    /// The state at present.
    pub fn state(&self) -> Arc<BridgeState> {
        Arc::clone(&self.state.borrow())
    }

    /// The latest state, and every later one.
    pub fn states(&self) -> watch::Receiver<Arc<BridgeState>> {
        self.state.clone()
    }

    /// The state with the counters of this moment.
    pub async fn fresh(&self) -> Arc<BridgeState> {
        // A bridge that has ended has nothing newer, nor has a data plane that is slow.
        self.refresh(false).await;
        self.state()
    }

    /// Does the state hold at this moment?
    async fn refresh(&self, clients: bool) -> bool {
        let asked = timeout(limits::BRIDGE_ANSWER_TIME, self.ask(Request::Fresh { clients })).await;
        matches!(asked, Ok(Ok(_)))
    }

    /// All that there is to say at this moment, in the API's words.
    pub async fn report(&self) -> api::Bridge {
        let Clients { clients, omitted } = match self.refresh(true).await {
            true => self.clients.lock().unwrap_or_else(PoisonError::into_inner).clone(),
            false => Clients::default(),
        };
        api::Bridge { clients, clients_omitted: omitted, ..self.state().report() }
    }

    /// Resets the connections of a port, or all; new ones are accepted.
    ///
    /// # Errors
    /// [`UpdateError::Stopped`].
    pub async fn cut(&self, listen: Option<u16>) -> Result<Arc<BridgeState>, UpdateError> {
        self.ask(Request::Cut(listen)).await
    }

    /// Ends the data plane with all its connections, for one who does not mean to come back.
    pub async fn end(&self) {
        // A bridge that has ended can do no more.
        let _ = self.ask(Request::End).await;
    }

    /// Changes the settings; returns when the bridge has acted on them.
    pub async fn update(&self, change: BridgeUpdate) -> Result<Arc<BridgeState>, UpdateError> {
        let rules = change.rules.as_deref().unwrap_or_default();
        if rules.len() > limits::BRIDGE_PORTS {
            return Err(UpdateError::TooMany { given: rules.len() });
        }
        BridgeRule::check_all(rules)?;
        self.ask(Request::Update(change)).await
    }

    async fn ask(&self, request: Request) -> Result<Arc<BridgeState>, UpdateError> {
        let (done, answered) = oneshot::channel();
        self.requests.send((request, done)).await.map_err(|_| UpdateError::Stopped)?;
        answered.await.map_err(|_| UpdateError::Stopped)?;
        Ok(self.state())
    }
}
