//! The task that owns the bridge: it compares the plan with what is held, takes and lets go of ports, and publishes.
//!
//! ```text
//!            seen in the plan            settled, bound on an address
//!   (none) ──────────────────> Settling ───────────────────────────> Active
//!                                 │  ^                                 │
//!                      bind fails │  │ back-off over                   │ out of the plan, or its listeners replaced
//!                                 v  │                                 v
//!                                Failed ────────────────────────────> (none)
//! ```

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    net::{IpAddr, Ipv6Addr},
    sync::Arc,
    time::Duration,
};

use tokio::{
    sync::{Semaphore, mpsc, oneshot, watch},
    time::{Instant, sleep_until},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    BridgePlan, BridgeState, Planned, PortCounters, PortState, Reach, Settings,
    accept::{self, Shared, SourceAddress, Taken},
    plan,
    route::PseudoRoute,
};
use crate::{
    api::{BridgePortState, BridgeUpdate},
    limits,
    listeners::{ListenerTable, Observation, OwnSockets},
};

/// Longest wait between two tries at a port that could not be taken.
const LONGEST_BACKOFF: Duration = Duration::from_secs(5);

/// Updates that wait for the task. Each caller waits for its answer, so a short queue will do.
const QUEUED_UPDATES: usize = 8;

/// Why an update was not carried out.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UpdateError {
    /// A rule that cannot be carried out.
    #[error("bridge rule {listen} -> {to} was refused: {why}")]
    BadRule {
        /// Port of the rule.
        listen: u16,
        /// Target of the rule.
        to: String,
        /// What is wrong with it.
        why: String,
    },
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

struct Update {
    change: BridgeUpdate,
    done: oneshot::Sender<()>,
}

/// What others need of a running bridge.
#[derive(Debug, Clone)]
pub struct BridgeHandle {
    updates: mpsc::Sender<Update>,
    state: watch::Receiver<Arc<BridgeState>>,
}

impl std::fmt::Debug for Update {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.change.fmt(f)
    }
}

impl BridgeHandle {
    /// The state at present.
    pub fn state(&self) -> Arc<BridgeState> {
        Arc::clone(&self.state.borrow())
    }

    /// The state at present, and every later one.
    pub fn changes(&self) -> watch::Receiver<Arc<BridgeState>> {
        self.state.clone()
    }

    /// Changes the settings; returns when the bridge has acted on them.
    pub async fn update(&self, change: BridgeUpdate) -> Result<Arc<BridgeState>, UpdateError> {
        let rules = change.rules.as_deref().unwrap_or_default();
        if rules.len() > limits::BRIDGE_PORTS {
            return Err(UpdateError::TooMany { given: rules.len() });
        }
        for rule in rules {
            let refuse =
                |why: &str| UpdateError::BadRule { listen: rule.listen, to: rule.to.to_string(), why: why.to_owned() };
            rule.check().map_err(refuse)?;
            if rules.iter().filter(|other| other.listen == rule.listen).count() > 1 {
                return Err(refuse("another rule has the same port"));
            }
        }
        let (done, answered) = oneshot::channel();
        self.updates.send(Update { change, done }).await.map_err(|_| UpdateError::Stopped)?;
        answered.await.map_err(|_| UpdateError::Stopped)?;
        Ok(self.state())
    }
}

/// The bridge's task, before it runs.
#[derive(Debug)]
pub struct Bridge {
    settings: Settings,
    shared: Shared,
    held: BTreeMap<u16, Held>,
    /// Counters outlive a port's bridge, as Prometheus wants it.
    counters: BTreeMap<u16, Arc<PortCounters>>,
    pseudo_route: PseudoRoute,
    /// Ports that this agent has held: what refuses one of them may be the remains of its own connections.
    held_before: BTreeSet<u16>,
    updates: mpsc::Receiver<Update>,
    state: watch::Sender<Arc<BridgeState>>,
}

/// A port that is or should be bridged.
#[derive(Debug)]
struct Held {
    planned: Planned,
    taken: Vec<Taken>,
    /// When to try (again) to take what is missing.
    due: Instant,
    failures: u32,
    /// The last try met a socket that has the port.
    in_use: bool,
    message: Option<String>,
}

impl Bridge {
    /// Makes a bridge that has done nothing yet, and the handle to it.
    pub fn new(settings: Settings, own: OwnSockets) -> (Self, BridgeHandle) {
        let (send_update, updates) = mpsc::channel(QUEUED_UPDATES);
        let first = BridgeState { auto: settings.auto, rules: settings.rules.clone(), ..BridgeState::default() };
        let (state, receive_state) = watch::channel(Arc::new(first));
        let shared = Shared {
            own,
            connections: Arc::new(Semaphore::new(limits::BRIDGE_CONNECTIONS)),
            relays: TaskTracker::new(),
            cut: CancellationToken::new(),
            log: Arc::default(),
        };
        let bridge = Self {
            settings,
            shared,
            held: BTreeMap::new(),
            counters: BTreeMap::new(),
            pseudo_route: PseudoRoute::default(),
            held_before: BTreeSet::new(),
            updates,
            state,
        };
        (bridge, BridgeHandle { updates: send_update, state: receive_state })
    }

    /// Follows the observations until `shutdown`, then lets every port go and resets what is still open.
    pub async fn run(mut self, mut observations: watch::Receiver<Arc<Observation>>, shutdown: CancellationToken) {
        loop {
            let table = Arc::clone(&observations.borrow_and_update());
            self.reconcile(&table.table).await;
            self.publish();
            let due = self.held.values().filter(|held| held.wants_more()).map(|held| held.due).min();
            tokio::select! {
                changed = observations.changed() => if changed.is_err() { break },
                Some(update) = self.updates.recv() => {
                    self.apply(update.change);
                    self.reconcile(&table.table).await;
                    self.publish();
                    // The caller may have gone; the change stands.
                    let _ = update.done.send(());
                }
                () = sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => {}
                () = shutdown.cancelled() => break,
            }
        }
        for (_, held) in std::mem::take(&mut self.held) {
            held.let_go().await;
        }
        self.shared.cut.cancel();
        self.shared.relays.close();
        self.shared.relays.wait().await;
        self.pseudo_route.remove();
    }

    fn apply(&mut self, change: BridgeUpdate) {
        if let Some(auto) = change.auto {
            self.settings.auto = auto;
        }
        if let Some(rules) = change.rules {
            self.settings.rules = rules;
        }
    }

    /// Brings what is held in line with the plan.
    async fn reconcile(&mut self, table: &ListenerTable) {
        let plan = plan(table, &self.settings);
        for port in self.held.keys().copied().collect::<Vec<_>>() {
            if !self.held[&port].still_serves(plan.get(&port))
                && let Some(held) = self.held.remove(&port)
            {
                tracing::info!(port, "bridge: port let go");
                held.let_go().await;
            }
        }
        self.begin(plan);
        let source = if self.held.is_empty() { None } else { Some(self.source(table)) };
        let reachable: BTreeSet<Ipv6Addr> = table.reachable_ipv6().collect();
        for (port, held) in &mut self.held {
            let wanted = match held.planned.reach {
                Reach::VmAddresses => reachable.clone(),
                Reach::Everywhere => BTreeSet::from([Ipv6Addr::UNSPECIFIED]),
            };
            held.drop_unwanted(&wanted).await;
            if held.due > Instant::now() || (held.failures == 0 && held.covers(&wanted)) {
                continue;
            }
            let counters = Arc::clone(self.counters.entry(*port).or_default());
            match &source {
                Some(Ok(source)) => {
                    let over_own_remains = self.held_before.contains(port);
                    held.take(*port, &wanted, *source, over_own_remains, &counters, &self.shared);
                    if !held.taken.is_empty() {
                        self.held_before.insert(*port);
                    }
                }
                Some(Err(why)) => held.fail(why.clone()),
                None => {}
            }
        }
    }

    /// Enters the plan's new ports.
    fn begin(&mut self, plan: BridgePlan) {
        for (port, planned) in plan {
            match self.held.get_mut(&port) {
                Some(held) => held.planned = planned,
                None => {
                    if self.held.len() >= limits::BRIDGE_PORTS {
                        if let Some(times) = self.shared.log.pass() {
                            tracing::warn!(
                                port,
                                limit = limits::BRIDGE_PORTS,
                                times,
                                "bridge: ports not bridged at the limit"
                            );
                        }
                        continue;
                    }
                    // A rule was asked for: there is nothing to wait for.
                    let settle = if planned.is_auto() { limits::BRIDGE_SETTLE_TIME } else { Duration::ZERO };
                    let held = Held {
                        planned,
                        taken: Vec::new(),
                        due: Instant::now() + settle,
                        failures: 0,
                        in_use: false,
                        message: None,
                    };
                    self.held.insert(port, held);
                }
            }
        }
    }

    /// Where connections to services come from. Makes the stand-in addresses usable when they are first needed.
    fn source(&mut self, table: &ListenerTable) -> Result<SourceAddress, String> {
        match self.pseudo_route.set() {
            Ok(()) => Ok(SourceAddress::Pseudo),
            // Never 127.0.0.0/8: a service that trusts localhost would trust the internet.
            Err(why) => table
                .own_ipv4()
                .next()
                .map(SourceAddress::Own)
                .ok_or_else(|| format!("{why}, and the VM has no IPv4 address of its own to connect from")),
        }
    }

    fn publish(&self) {
        let ports = self.held.iter().map(|(port, held)| PortState {
            listen: *port,
            to: held.planned.to,
            auto: held.planned.is_auto(),
            state: held.state(),
            message: held.message.clone(),
            addresses: held.taken.iter().map(|taken| IpAddr::V6(taken.address)).collect(),
            counters: self.counters.get(port).cloned().unwrap_or_default(),
        });
        self.state.send_replace(Arc::new(BridgeState {
            auto: self.settings.auto,
            rules: self.settings.rules.clone(),
            ports: ports.collect(),
            pseudo_ipv4: self.pseudo_route.state().clone(),
        }));
    }
}

impl Held {
    fn state(&self) -> BridgePortState {
        match (self.taken.is_empty(), self.failures) {
            (false, _) => BridgePortState::Active,
            (true, 0) => BridgePortState::Settling,
            (true, _) => BridgePortState::Failed,
        }
    }

    fn wants_more(&self) -> bool {
        self.taken.is_empty() || self.failures > 0
    }

    /// Does the plan still want this very bridge? Listeners that were all replaced are another service, which gets its own
    /// time to settle.
    fn still_serves(&self, planned: Option<&Planned>) -> bool {
        planned.is_some_and(|planned| {
            planned.to == self.planned.to
                && planned.reach == self.planned.reach
                && (planned.serves.is_empty() || planned.serves.iter().any(|inode| self.planned.serves.contains(inode)))
        })
    }

    fn covers(&self, wanted: &BTreeSet<Ipv6Addr>) -> bool {
        !wanted.is_empty() && wanted.iter().all(|address| self.taken.iter().any(|taken| taken.address == *address))
    }

    async fn drop_unwanted(&mut self, wanted: &BTreeSet<Ipv6Addr>) {
        let (keep, gone) =
            std::mem::take(&mut self.taken).into_iter().partition(|taken| wanted.contains(&taken.address));
        self.taken = keep;
        for taken in gone {
            taken.close().await;
        }
    }

    /// Takes the port on the addresses where it is missing.
    fn take(
        &mut self,
        port: u16,
        wanted: &BTreeSet<Ipv6Addr>,
        source: SourceAddress,
        held_before: bool,
        counters: &Arc<PortCounters>,
        shared: &Shared,
    ) {
        if wanted.is_empty() {
            return self.fail("the VM has no IPv6 address that the outside can reach".to_owned());
        }
        // The first try is exact. What refuses a port that was held before is taken for the remains of its connections; any
        // other may be a service that has bound and is about to listen.
        let over_own_remains = held_before && self.in_use;
        let missing: Vec<_> =
            wanted.iter().filter(|address| self.taken.iter().all(|taken| taken.address != **address)).collect();
        let mut failure = None;
        self.in_use = false;
        for address in missing {
            let to = self.planned.to;
            let taken = Taken::take(*address, port, over_own_remains, &shared.own, |listener, stop| {
                tokio::spawn(accept::serve(listener, to, source, Arc::clone(counters), shared.clone(), stop))
            });
            match taken {
                Ok(taken) => {
                    tracing::info!(port, %address, %to, "bridge: port taken");
                    self.taken.push(taken);
                }
                Err(error) => {
                    self.in_use |= error.raw_os_error() == Some(libc::EADDRINUSE);
                    failure = Some(describe(*address, port, &error));
                }
            }
        }
        match failure {
            Some(why) => self.fail(why),
            None => (self.failures, self.message) = (0, None),
        }
    }

    fn fail(&mut self, why: String) {
        if self.message.as_ref() != Some(&why) {
            tracing::warn!(to = %self.planned.to, why, "bridge: port not taken");
        }
        let backoff = limits::BRIDGE_SETTLE_TIME.saturating_mul(1 << self.failures.min(8)).min(LONGEST_BACKOFF);
        self.due = Instant::now() + backoff;
        self.failures = self.failures.saturating_add(1);
        self.message = Some(why);
    }

    async fn let_go(self) {
        for taken in self.taken {
            taken.close().await;
        }
    }
}

fn describe(address: Ipv6Addr, port: u16, error: &io::Error) -> String {
    match error.raw_os_error() {
        Some(libc::EADDRINUSE) => format!("[{address}]:{port} is in use by another socket, see `ss -tlnp` for whose"),
        Some(libc::EADDRNOTAVAIL) => format!("{address} is not usable yet (duplicate address detection)"),
        _ => format!("binding [{address}]:{port} failed: {error}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn planned(to: &str, serves: &[u64]) -> Planned {
        let reach = if serves.is_empty() { Reach::Everywhere } else { Reach::VmAddresses };
        Planned { to: to.parse().unwrap(), reach, serves: serves.to_vec() }
    }

    fn held(planned: Planned) -> Held {
        Held { planned, taken: Vec::new(), due: Instant::now(), failures: 0, in_use: false, message: None }
    }

    #[test]
    fn service_whose_sockets_were_all_replaced_is_another_one() {
        let held = held(planned("0.0.0.0:80", &[1, 2]));
        assert!(held.still_serves(Some(&planned("0.0.0.0:80", &[2, 3]))));
        assert!(!held.still_serves(Some(&planned("0.0.0.0:80", &[3]))));
        assert!(!held.still_serves(Some(&planned("10.0.0.2:80", &[1]))));
        assert!(!held.still_serves(None));
    }

    #[test]
    fn rule_is_served_as_long_as_it_stands() {
        let held = held(planned("127.0.0.1:80", &[]));
        assert!(held.still_serves(Some(&planned("127.0.0.1:80", &[]))));
        assert!(!held.still_serves(Some(&planned("127.0.0.1:81", &[]))));
    }
}
