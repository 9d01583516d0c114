//! The task that owns the bridge: it tells the data plane what the plan wants, and publishes what becomes of it.
//!
//! A plane is started when there is something to bridge, and outlives the task: the next agent's finds it (`planes`).

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv6Addr},
    sync::{Arc, Mutex, PoisonError},
};

use tokio::{
    sync::{mpsc, oneshot, watch},
    time::{Instant, sleep_until},
};
use tokio_util::sync::CancellationToken;

use super::{
    BridgeHandle, BridgePlan, BridgeState, PlaneSettings, PortState, PseudoIpv4State, Reach, Settings, Tier,
    handle::Request,
    orders::{Clients, Order, Want, WantPort},
    plan,
    planes::{Heard, Lost, Planes},
    settle::Settling,
};
use crate::{
    api::BridgePortState,
    config::RoutablePorts,
    limits,
    listeners::{ListenerTable, Observation, OwnSockets},
    throttle::Throttle,
};

/// Requests that wait for the task. Each caller waits for its answer, so a short queue will do.
const QUEUED_REQUESTS: usize = 8;

/// The bridge's task, before it runs.
#[derive(Debug)]
pub struct Bridge {
    settings: Settings,
    planes: Planes,
    /// What is to be bridged, as of the last look.
    plan: BridgePlan,
    settling: Settling,
    /// When rules that could not be carried out are ordered again, where the kernel steers.
    retry: Option<Instant>,
    log: Throttle,
    requests: mpsc::Receiver<(Request, oneshot::Sender<()>)>,
    state: watch::Sender<Arc<BridgeState>>,
    clients: Arc<Mutex<Clients>>,
}

impl Bridge {
    /// Makes a bridge that has done nothing yet, and the handle to it.
    pub fn new(settings: Settings, own: OwnSockets, plane: PlaneSettings) -> (Self, BridgeHandle) {
        let (send_request, requests) = mpsc::channel(QUEUED_REQUESTS);
        let first = BridgeState { auto: settings.auto, rules: settings.rules.clone(), ..BridgeState::default() };
        let (state, receive_state) = watch::channel(Arc::new(first));
        let clients = Arc::<Mutex<Clients>>::default();
        let bridge = Self {
            settings,
            planes: Planes::new(plane, own),
            plan: BridgePlan::new(),
            settling: Settling::default(),
            retry: None,
            log: Throttle::default(),
            requests,
            state,
            clients: Arc::clone(&clients),
        };
        (bridge, BridgeHandle { requests: send_request, state: receive_state, clients })
    }

    /// Looks for data planes that run already. Their sockets are entered among the own ones, so this comes before the first look at
    /// the listeners. Where one is stuck it takes [`limits::BRIDGE_RESUME_TIME`].
    pub async fn find_planes(&mut self) {
        self.planes.find().await;
    }

    /// Follows the observations until `shutdown`. The planes stay.
    pub async fn run(mut self, mut observations: watch::Receiver<Arc<Observation>>, shutdown: CancellationToken) {
        loop {
            let observation = Arc::clone(&observations.borrow_and_update());
            self.reconcile(&observation).await;
            self.publish(&observation.table);
            // Before anything was seen there is nothing to do.
            let due = self.due().filter(|_| observation.table.netns != 0);
            tokio::select! {
                changed = observations.changed() => if changed.is_err() { break },
                Some((request, done)) = self.requests.recv() => {
                    self.carry_out(request, &observation).await;
                    self.publish(&observation.table);
                    // The caller may have gone; the change stands.
                    let _ = done.send(());
                }
                () = sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => {}
                heard = self.planes.heard() => self.attend(heard).await,
                () = shutdown.cancelled() => break,
            }
        }
    }

    /// When there is something to do without being asked.
    fn due(&self) -> Option<Instant> {
        if self.planes.serves() {
            return match self.planes.hello.tier {
                Tier::Bind => self.settling.due(),
                Tier::Steer => self.retry,
            };
        }
        self.planes.due().filter(|_| self.needs_plane())
    }

    fn needs_plane(&self) -> bool {
        !self.planes.is_over() && (self.settings.auto || !self.settings.rules.is_empty())
    }

    async fn attend(&mut self, heard: Heard) {
        let attended = self.planes.attend(heard).await;
        self.note(attended);
    }

    /// What settles has to be tried anew where a plane is lost.
    fn note<T>(&mut self, result: Result<T, Lost>) -> Option<T> {
        result.map_err(|why| self.settling.lose(&why, Instant::now())).ok()
    }

    async fn carry_out(&mut self, request: Request, observation: &Observation) {
        match request {
            Request::Update(change) => {
                if let Some(auto) = change.auto {
                    self.settings.auto = auto;
                }
                if let Some(rules) = change.rules {
                    self.settings.rules = rules;
                }
                self.reconcile(observation).await;
            }
            Request::Fresh { clients } => {
                let (told, asked) = self.planes.ask_all(&Order::Status { clients }).await;
                self.note(asked);
                if clients {
                    *self.clients.lock().unwrap_or_else(PoisonError::into_inner) = told;
                }
            }
            Request::Cut(listen) => {
                let (_, asked) = self.planes.ask_all(&Order::Cut { listen }).await;
                self.note(asked);
            }
            Request::End => self.planes.end().await,
        }
    }

    /// Brings the plane in line with the plan.
    async fn reconcile(&mut self, observation: &Observation) {
        if observation.table.netns == 0 {
            // Nothing was ever seen, which is not the same as nothing there; a plane that runs goes on as it did.
            return;
        }
        if self.needs_plane() || self.planes.is_awaited() {
            let connected = self.planes.connect(self.needs_plane()).await;
            self.note(connected);
        }
        // What a plane holds that has said so only now looked like services'.
        let table = &self.planes.without_own(&observation.table);
        self.plan = plan(table, &self.settings);
        match self.planes.hello.tier {
            Tier::Bind => self.have_bound(table).await,
            Tier::Steer => self.have_steered().await,
        }
    }

    async fn have_bound(&mut self, table: &ListenerTable) {
        let now = Instant::now();
        self.planes.suspect(self.plan.keys().copied());
        let inherited = std::mem::take(&mut self.planes.inherited);
        let without_room = self.settling.follow(self.plan.clone(), &inherited, now);
        if without_room > 0
            && let Some(times) = self.log.pass()
        {
            let limit = limits::BRIDGE_PORTS;
            tracing::warn!(ports = without_room, limit, times, "bridge: ports not bridged at the limit");
        }
        let addresses: BTreeSet<Ipv6Addr> = table.reachable_ipv6().collect();
        let ports = self.settling.wants(&addresses, now);
        self.have(Want { addresses: addresses.into_iter().collect(), ports, ..self.want() }).await;
    }

    async fn have_steered(&mut self) {
        let rules = self.plan.iter().filter(|(_, planned)| !planned.is_auto());
        let ports = rules.map(|(listen, planned)| WantPort::of(*listen, planned, false)).collect();
        if self.retry.take_if(|due| Instant::now() >= *due).is_some() {
            self.planes.told = None;
        }
        self.have(Want { ports, ..self.want() }).await;
        let is_unmet = self.planes.said.ports.iter().any(|port| port.failure.is_some());
        self.retry = self.retry.or_else(|| is_unmet.then(|| Instant::now() + limits::BRIDGE_RETRY_TIME));
    }

    fn want(&self) -> Want {
        let routable = match &self.settings.routable_ports {
            RoutablePorts::All => None,
            RoutablePorts::Only(ports) => Some(ports.clone()),
        };
        let remains = self.planes.remains.iter().copied().collect();
        Want { auto: self.settings.auto, routable, remains, ..Want::default() }
    }

    /// Has the plane be so.
    async fn have(&mut self, mut want: Want) {
        if !self.planes.serves() {
            return self.settling.lose(&self.planes.why_none(), Instant::now());
        }
        if self.planes.told.as_ref() == Some(&want) && !want.ports.iter().any(|port| port.take) {
            return;
        }
        // What it binds at the first order listens at the second, when we know its inode.
        for _ in 0..2 {
            let asked = self.planes.ask(&Order::Want(want.clone())).await;
            let Some(state) = self.note(asked) else { return };
            want.ports.iter_mut().for_each(|port| port.take = false);
            if !state.pending {
                break;
            }
        }
        self.planes.told = Some(want);
        self.settling.learn(&self.planes.said, Instant::now());
    }

    fn publish(&mut self, table: &ListenerTable) {
        let ports = match self.planes.hello.tier {
            Tier::Bind => self.bound_ports(),
            Tier::Steer => self.steered_ports(table),
        };
        let next = BridgeState {
            auto: self.settings.auto,
            rules: self.settings.rules.clone(),
            ports,
            pseudo_ipv4: match self.planes.said.pseudo_ipv4.clone() {
                None => PseudoIpv4State::NotNeeded,
                Some(Ok(())) => PseudoIpv4State::Set,
                Some(Err(why)) => PseudoIpv4State::Failed(why),
            },
            plane: self.planes.state(),
        };
        self.state.send_if_modified(|state| {
            let is_news = **state != next;
            if is_news {
                *state = Arc::new(next);
            }
            is_news
        });
    }

    fn bound_ports(&mut self) -> Vec<PortState> {
        let Self { settling, planes, .. } = self;
        let ports = settling.iter().map(|(listen, port)| PortState {
            listen: *listen,
            to: port.planned.to,
            auto: port.planned.is_auto(),
            state: port.state(),
            rule: port.planned.rule,
            mode: port.planned.mode,
            message: port.message.clone().or_else(|| port.planned.note.clone()),
            addresses: port.addresses.iter().copied().map(IpAddr::V6).collect(),
            counters: planes.counters(*listen),
        });
        ports.collect()
    }

    /// Steering needs no time to settle and seldom fails port by port, but a service that listens on IPv6 comes first.
    fn steered_ports(&mut self, table: &ListenerTable) -> Vec<PortState> {
        let Self { plan, planes, .. } = self;
        let reachable: Vec<IpAddr> = table.reachable_ipv6().map(IpAddr::V6).collect();
        let (served, absent) = (table.ipv6_listeners(), table.absent_ipv6_listeners());
        let of_all = match planes.serves() {
            true => planes.said.trouble.clone(),
            false => Some(planes.why_none()),
        };
        let ports = plan.iter().map(|(listen, planned)| {
            let own_failure = || {
                if served.contains_key(listen) {
                    return Some(format!(
                        "a service listens on IPv6 port {listen} itself, which comes before the rule"
                    ));
                }
                if let Some(socket) = absent.get(listen) {
                    return Some(format!(
                        "a service listens on [{}]:{listen}, an address that the VM does not have; restart it, or end it",
                        socket.address
                    ));
                }
                let report = planes.said.ports.iter().find(|report| report.listen == *listen);
                report.and_then(|report| report.failure.clone())
            };
            let failure = of_all.clone().or_else(own_failure);
            let addresses = match (&failure, planned.reach) {
                (Some(_), _) => Vec::new(),
                (None, Reach::VmAddresses) => reachable.clone(),
                (None, Reach::Everywhere) => vec![Ipv6Addr::UNSPECIFIED.into()],
            };
            PortState {
                listen: *listen,
                to: planned.to,
                auto: planned.is_auto(),
                state: if failure.is_some() { BridgePortState::Failed } else { BridgePortState::Active },
                rule: planned.rule,
                mode: planned.mode,
                message: failure.or_else(|| planned.note.clone()),
                addresses,
                counters: planes.counters(*listen),
            }
        });
        ports.collect()
    }
}
