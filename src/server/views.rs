//! The listeners as they are told, made when somebody asks, and once for all who ask for the same.
//!
//! Nothing is made, and nobody woken, for listeners that nobody asks for. Many of them are judged on a thread of their own, so that
//! the agent's one thread is not held up; while they are, others who ask wait for the result.

use std::{
    sync::{Arc, Mutex, PoisonError, Weak},
    time::{Duration, Instant},
};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::{Agent, error::ApiError};
use crate::{
    api::{ErrorCode, Listener},
    bridge::BridgeState,
    limits,
    listeners::{self, Observation, Policy, Snapshot},
};

/// What was made last, and places for those who ask for much.
#[derive(Debug)]
pub struct Views {
    report: View,
    events: View,
    watchers: Arc<Semaphore>,
    pub(super) probes: Arc<Semaphore>,
    /// Whose turn it is to look for UDP sockets.
    pub(super) udp: Semaphore,
}

impl Default for Views {
    fn default() -> Self {
        let places = |count| Arc::new(Semaphore::new(count));
        Self {
            report: View::default(),
            events: View::default(),
            watchers: places(limits::LISTENER_WATCHERS),
            probes: places(limits::PROBES),
            udp: Semaphore::new(1),
        }
    }
}

/// A way to tell of the listeners.
#[derive(Debug)]
struct View {
    /// Who makes it; others wait.
    turn: Semaphore,
    last: Mutex<Made>,
}

impl Default for View {
    fn default() -> Self {
        Self { turn: Semaphore::new(1), last: Mutex::default() }
    }
}

/// What was made, as long as somebody holds it, and of what.
#[derive(Debug, Default)]
struct Made {
    snapshot: Weak<Snapshot>,
    observation: Weak<Observation>,
    bridge: Weak<BridgeState>,
    rest_until: Option<Instant>,
    public_name: Option<String>,
}

impl View {
    fn last(&self) -> std::sync::MutexGuard<'_, Made> {
        self.last.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a view is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Purpose {
    Report,
    Events,
}

impl Views {
    /// Takes a place for one who watches.
    ///
    /// # Errors
    /// 429 when there is none.
    pub(super) fn watcher(&self) -> Result<OwnedSemaphorePermit, ApiError> {
        Arc::clone(&self.watchers).try_acquire_owned().map_err(|_| {
            let limit = limits::LISTENER_WATCHERS;
            let why = format!("{limit} others watch the listeners, which is the limit; end one of them and try again");
            ApiError::new(ErrorCode::LimitReached, why)
        })
    }

    /// Who watches at present.
    pub(super) fn watching(&self) -> usize {
        limits::LISTENER_WATCHERS.saturating_sub(self.watchers.available_permits())
    }
}

impl Agent {
    /// The listeners and the verdict on each.
    ///
    /// # Errors
    /// Those of guestd's own.
    pub(super) async fn listeners(&self) -> Result<Arc<Snapshot>, ApiError> {
        self.view(Purpose::Report).await
    }

    /// The same without what is no event: how many connections wait to be accepted.
    pub(super) async fn listeners_as_events(&self) -> Result<Arc<Snapshot>, ApiError> {
        self.view(Purpose::Events).await
    }

    async fn view(&self, purpose: Purpose) -> Result<Arc<Snapshot>, ApiError> {
        let view = match purpose {
            Purpose::Report => &self.views.report,
            Purpose::Events => &self.views.events,
        };
        let closed = |_| ApiError::new(ErrorCode::Internal, "the listeners cannot be told: guestd is ending");
        let _turn = view.turn.acquire().await.map_err(closed)?;
        if purpose == Purpose::Events {
            let rest = view.last().rest_until;
            let rest = rest.map(|until| until.saturating_duration_since(Instant::now()));
            if let Some(rest) = rest.filter(|rest| *rest > Duration::ZERO) {
                tokio::time::sleep(rest).await;
            }
        }
        let (observation, bridge) = (Arc::clone(&self.observations.borrow()), self.bridge.state());
        let identity = self.generation.identity();
        {
            let last = view.last();
            let same = last.public_name == identity.public_name
                && std::ptr::eq(last.observation.as_ptr(), &raw const *observation)
                && std::ptr::eq(last.bridge.as_ptr(), &raw const *bridge);
            if let Some(snapshot) = last.snapshot.upgrade().filter(|_| same) {
                return Ok(snapshot);
            }
        }
        let policy = Policy {
            public_name: identity.public_name.clone(),
            routable_ports: self.config.routable_ports.clone(),
            bridge_auto: bridge.auto,
        };
        // These hold no data, but keep the addresses that they are compared by.
        let (of_observation, of_bridge) = (Arc::downgrade(&observation), Arc::downgrade(&bridge));
        let begun = Instant::now();
        let count = observation.table.all_sockets().count();
        let snapshot = aside(count, move || Arc::new(make(&observation, &policy, &bridge, purpose))).await?;
        *view.last() = Made {
            snapshot: Arc::downgrade(&snapshot),
            observation: of_observation,
            bridge: of_bridge,
            rest_until: Some(Instant::now() + begun.elapsed() * limits::LISTENER_WATCH_PAUSE),
            public_name: identity.public_name.clone(),
        };
        Ok(snapshot)
    }
}

fn make(observation: &Observation, policy: &Policy, bridge: &BridgeState, purpose: Purpose) -> Snapshot {
    let failure = observation.failure.clone();
    let ports = bridge.ports();
    if purpose == Purpose::Report {
        return Snapshot::new(listeners::assess(&observation.table, policy, &ports), failure);
    }
    let mut table = observation.table.clone();
    // A hint of a full queue would come and go with the queue.
    table.all_sockets_mut().filter_map(|socket| socket.accept_queue.as_mut()).for_each(|queue| queue.waiting = 0);
    let listeners = listeners::assess(&table, policy, &ports);
    Snapshot::new(listeners.into_iter().map(|it| Listener { accept_queue: None, ..it }).collect(), failure)
}

/// Does what takes longer the more listeners there are: here where they are few, on a thread of its own where they are many.
pub(super) async fn aside<T: Send + 'static>(
    listeners: usize,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, ApiError> {
    if listeners <= limits::LISTENERS_AT_ONCE {
        return Ok(work());
    }
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|error| ApiError::new(ErrorCode::Internal, format!("judging the listeners: {error}")))
}
