//! The data planes as the agent knows them: one that serves, and those that were told to make room for it and end with their last connection.
//!
//! ```text
//!            knocked at, if there is one                 like ours
//! (none) ──────────────────────────────> it is awaited ─────────────> it serves ──> lost: found again, or another is started
//!    │                                     │      └─ of another build ──> retired: still obeys, until its last connection has ended
//!    └── there is none: started ──> serves └─ says nothing for too long ──> ended
//! ```

use std::{
    borrow::Cow,
    collections::BTreeSet,
    io,
    process::{Child, ExitStatus},
    sync::Arc,
    time::Duration,
};

use futures_util::future::join_all;
use tokio::time::{Instant, timeout};

use super::{
    PlaneSettings, PlaneState, PortCounters,
    link::{Link, Said},
    name_lock::NameLock,
    orders::{Clients, Hello, Order, PortReport, State, Want},
    retired::{self, Retired, RetiredPlanes},
    tally::{Account, Tally},
};
use crate::{
    facts::SocketFact,
    limits,
    listeners::{ListenerTable, OwnSockets},
    sys::pidfd::Pidfd,
};

/// First and longest wait before a plane that ended is started again; the first time there is none.
const RESTART: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(30));

/// A plane that ran for so long has not ended because it was started.
const RAN_WELL: Duration = Duration::from_secs(10);

/// The kernel keeps the ports of a process that was killed for so long (TCP_TIMEWAIT_LEN, and its time-out for FIN_WAIT2).
const REMAINS: Duration = Duration::from_secs(60);

/// All of them.
#[derive(Debug, Default)]
pub(super) struct Planes {
    settings: PlaneSettings,
    identity: String,
    own: OwnSockets,
    serving: Option<Link>,
    /// One that ran before this agent, or was out of reach, and has not said who it is yet.
    awaited: Option<Link>,
    retired: RetiredPlanes,
    /// Those of them that this agent has started.
    children: Vec<Child>,
    /// Who it is that serves, or served last.
    pub(super) hello: Hello,
    /// What it said last.
    pub(super) said: State,
    /// Ports that it held when the line was made.
    pub(super) inherited: Vec<PortReport>,
    /// What it was told last.
    pub(super) told: Option<Want>,
    /// Ports of planes before it.
    pub(super) remains: BTreeSet<u16>,
    /// Until then a port may have remains of a plane that was ended before it had said which ports it held.
    unknown_remains: Option<Instant>,
    since: Option<Instant>,
    /// Inodes of it that are among our own sockets.
    listeners: BTreeSet<u64>,
    /// All were ended, and there is to be no other.
    is_over: bool,
    /// None is to be started before.
    rest_until: Option<Instant>,
    failures: u32,
    lost: Option<(String, std::time::Instant)>,
    tally: Tally,
}

/// Something that a plane said unasked, or its end.
#[derive(Debug)]
pub(super) enum Heard {
    Serving(io::Result<Said>),
    Awaited(io::Result<Said>),
    Retired((usize, io::Result<Said>)),
}

/// Why the plane that served is lost, or did not come to serve.
pub(super) type Lost = String;

impl Planes {
    pub(super) fn new(settings: PlaneSettings, own: OwnSockets) -> Self {
        let identity = settings.identity();
        Self { settings, identity, own, ..Self::default() }
    }

    /// Looks for planes of an agent before. Those that do not answer at once are awaited.
    pub(super) async fn find(&mut self) {
        self.retired = RetiredPlanes::find(&self.settings.socket).await;
        match Link::knock(&self.settings.socket).await {
            Ok(link) => self.awaited = link,
            // It is tried again when there is something to bridge.
            Err(error) => tracing::warn!(%error, "bridge: the data plane of another agent does not answer"),
        }
        // What is wrong with it has been dealt with.
        let _ = self.greet_awaited().await;
        if let Some(hello) = self.awaited.as_ref().and_then(|link| link.hello.clone()) {
            // So that none of its sockets is taken for a service's. The rest is done when something was seen.
            self.know(hello.state.listeners);
        }
    }

    /// Most say at once who they are. The others are heard of later.
    async fn greet_awaited(&mut self) -> Result<(), Lost> {
        let Some(link) = &mut self.awaited else { return Ok(()) };
        match timeout(limits::BRIDGE_RESUME_TIME, link.heard()).await {
            Ok(Err(error)) => Err(self.lose_awaited(error).await),
            Ok(Ok(_)) | Err(_) => Ok(()),
        }
    }

    /// A table in which nothing is a service's that is known to be a plane's by now.
    pub(super) fn without_own<'table>(&self, table: &'table ListenerTable) -> Cow<'table, ListenerTable> {
        let is_own = |socket: &SocketFact| self.listeners.contains(&socket.inode);
        if !table.sockets.iter().any(is_own) {
            return Cow::Borrowed(table);
        }
        let mut table = table.clone();
        table.sockets.retain(|socket| !is_own(socket));
        Cow::Owned(table)
    }

    pub(super) fn is_over(&self) -> bool {
        self.is_over
    }

    pub(super) fn serves(&self) -> bool {
        self.serving.is_some()
    }

    pub(super) fn is_awaited(&self) -> bool {
        self.awaited.is_some()
    }

    /// Why none serves.
    pub(super) fn why_none(&self) -> String {
        let lost = || self.lost.as_ref().map(|(why, _)| why.clone());
        self.awaiting().or_else(lost).unwrap_or_else(|| "the data plane does not run".to_owned())
    }

    fn awaiting(&self) -> Option<String> {
        let link = self.awaited.as_ref().filter(|link| link.hello.is_none())?;
        let most = limits::BRIDGE_STUCK_TIME.as_secs();
        Some(format!("the data plane, pid {}, does not answer, and is ended unless it does within {most} s", link.pid))
    }

    /// When one can be started.
    pub(super) fn due(&self) -> Option<Instant> {
        (!self.serves() && !self.is_awaited()).then(|| self.rest_until.unwrap_or_else(Instant::now))
    }

    /// What was planned, where any port may have remains.
    pub(super) fn suspect(&mut self, ports: impl Iterator<Item = u16>) {
        if self.unknown_remains.is_some_and(|until| Instant::now() < until) {
            self.remains.extend(ports);
        }
    }

    /// How it is, in the words of others.
    pub(super) fn state(&self) -> PlaneState {
        PlaneState {
            runs: self.serves(),
            tier: self.hello.tier,
            tier_reason: self.hello.tier_reason.clone(),
            variant: self.hello.variant.clone(),
            trouble: self.said.trouble.clone(),
            dies_with_agent: self.hello.dies_with_agent.clone(),
            connections: self.hello.connections,
            retired: self.retired.len(),
            awaited: self.awaiting(),
            lost: self.lost.clone(),
        }
    }

    /// Counters of a port, over all planes.
    pub(super) fn counters(&mut self, listen: u16) -> Arc<PortCounters> {
        self.tally.of(listen)
    }

    /// Takes on the one that runs, and starts one if it is time and one is needed.
    pub(super) async fn connect(&mut self, is_needed: bool) -> Result<(), Lost> {
        if self.serves() || self.rest_until.is_some_and(|until| Instant::now() < until) {
            return Ok(());
        }
        if self.awaited.is_none() {
            match Link::knock(&self.settings.socket).await {
                Ok(link) => self.awaited = link,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Err(self.end_who_is_deaf(&error)),
                Err(error) => return Err(self.give_up(format!("the data plane cannot be reached: {error}"))),
            }
            self.greet_awaited().await?;
        }
        if self.awaited.as_ref().is_some_and(|link| link.hello.is_none()) {
            return Ok(());
        }
        self.take_on().await;
        if is_needed && !self.serves() {
            self.start().await?;
        }
        Ok(())
    }

    /// The plane that was awaited has said who it is: it serves if it is like one of ours, and else makes room.
    async fn take_on(&mut self) {
        let Some(mut link) = self.awaited.take() else { return };
        let Some(hello) = link.hello.clone() else { return };
        self.remains.extend(hello.state.ports.iter().map(|port| port.listen));
        if hello.identity == self.identity {
            tracing::info!(pid = link.pid, "bridge: the data plane goes on");
            return self.serve(link, hello);
        }
        tracing::info!(pid = link.pid, was = hello.identity, "bridge: a data plane of another build");
        match link.ask(&Order::Retire).await {
            Ok(state) => {
                self.tally.hand_over(link.pid);
                self.know(state.listeners);
                self.retired.add(link, state.ports);
                self.bound_retired().await;
            }
            Err(error) => drop(self.dismiss(&link, &error).await),
        }
        self.publish();
    }

    async fn bound_retired(&mut self) {
        while let Some(Retired { link, account }) = self.retired.take_surplus() {
            tracing::warn!(pid = link.pid, "bridge: the oldest of too many data planes that made room is ended");
            link.end().await;
            self.tally.forget(&account);
            self.reap();
        }
    }

    async fn start(&mut self) -> Result<(), Lost> {
        let Self { settings, identity, own, listeners, .. } = self;
        match Link::start(settings, identity, |new| know(own, listeners, new)).await {
            Ok((link, child)) => {
                self.children.push(child);
                let hello = link.hello.clone().unwrap_or_default();
                self.serve(link, hello);
                Ok(())
            }
            Err(error) => Err(self.give_up(format!("the data plane did not start: {error}"))),
        }
    }

    fn serve(&mut self, link: Link, hello: Hello) {
        self.inherited = hello.state.ports.clone();
        self.hello = hello;
        self.hear(self.hello.state.clone(), link.pid);
        self.serving = Some(link);
        self.told = None;
        self.since = Some(Instant::now());
    }

    /// Asks the one that serves.
    pub(super) async fn ask(&mut self, order: &Order) -> Result<State, Lost> {
        let Some(link) = &mut self.serving else { return Err(self.why_none()) };
        let (answer, pid) = (link.ask(order).await, link.pid);
        self.take_in(answer, pid).await
    }

    async fn take_in(&mut self, answer: io::Result<State>, pid: i32) -> Result<State, Lost> {
        match answer {
            Ok(state) => {
                self.hear(state.clone(), pid);
                Ok(state)
            }
            Err(error) => Err(self.lose(&error).await),
        }
    }

    /// Asks all. Gives the clients that they tell of, and how it was with the one that serves.
    pub(super) async fn ask_all(&mut self, order: &Order) -> (Clients, Result<(), Lost>) {
        let Self { serving, retired, .. } = self;
        let of_serving = async {
            match serving {
                Some(link) => Some((link.ask(order).await, link.pid)),
                None => None,
            }
        };
        let (of_serving, (mut all, lost)) = tokio::join!(of_serving, retired.ask(order));
        self.forget(lost).await;
        let served = match of_serving {
            Some((answer, pid)) => self.take_in(answer, pid).await,
            None => Err(self.why_none()),
        };
        self.publish();
        let served = served.map(|state| all.merge(state.clients.unwrap_or_default()));
        all.bound();
        (all, served)
    }

    /// Waits until one says something unasked or is gone. Nothing is lost if this is given up.
    pub(super) async fn heard(&mut self) -> Heard {
        let Self { serving, awaited, retired, .. } = self;
        tokio::select! {
            said = heard(serving) => Heard::Serving(said),
            said = heard(awaited) => Heard::Awaited(said),
            said = retired.heard() => Heard::Retired(said),
        }
    }

    /// Deals with it.
    pub(super) async fn attend(&mut self, heard: Heard) -> Result<(), Lost> {
        match heard {
            Heard::Serving(Ok(_)) => self.ask(&Order::Status { clients: false }).await.map(drop),
            Heard::Serving(Err(error)) => Err(self.lose(&error).await),
            Heard::Awaited(Ok(_)) => {
                self.take_on().await;
                Ok(())
            }
            Heard::Awaited(Err(error)) => Err(self.lose_awaited(error).await),
            Heard::Retired(said) => {
                let lost = self.retired.attend(said).await;
                self.forget(lost).await;
                self.bound_retired().await;
                self.publish();
                Ok(())
            }
        }
    }

    /// Ends all of them, with all connections.
    pub(super) async fn end(&mut self) {
        self.is_over = true;
        let all: Vec<_> =
            self.retired.take().chain(self.serving.take()).chain(self.awaited.take()).map(Link::end).collect();
        join_all(all).await;
        self.reap();
    }

    /// These and no others are the serving plane's listening sockets.
    fn know(&mut self, listeners: Vec<u64>) {
        know(&self.own, &mut self.listeners, listeners);
    }

    /// Takes in what the one that serves says.
    fn hear(&mut self, state: State, pid: i32) {
        self.know(state.listeners.clone());
        self.tally.serve(Account::new(pid, state.ports.clone()));
        self.said = state;
        self.publish();
    }

    fn publish(&mut self) {
        self.remains.extend(self.retired.accounts().flat_map(Account::ports));
        self.tally.publish(self.retired.accounts());
    }

    /// Those are gone, or of no use.
    async fn forget(&mut self, lost: retired::Lost) {
        for (Retired { link, account }, error) in lost {
            self.dismiss(&link, &error).await;
            self.tally.forget(&account);
        }
    }

    async fn lose_awaited(&mut self, error: io::Error) -> Lost {
        let Some(link) = self.awaited.take() else { return self.why_none() };
        let is_stuck = error.kind() == io::ErrorKind::TimedOut;
        self.unknown_remains = Some(Instant::now() + REMAINS);
        self.dismiss(&link, &error).await;
        let pid = link.pid;
        self.give_up(match is_stuck {
            true => {
                let most = limits::BRIDGE_STUCK_TIME.as_secs();
                format!("the data plane of before, pid {pid}, did not answer for {most} s and was ended")
            }
            false => format!("the data plane of before, pid {pid}, does not say who it is: {error}"),
        })
    }

    /// So many knock that no more can: it has not let anybody in for long. It is known by its name.
    fn end_who_is_deaf(&mut self, error: &io::Error) -> Lost {
        let Some(pid) = NameLock::holder(&self.settings.socket) else {
            return self.give_up(format!("the data plane lets nobody in: {error}"));
        };
        self.unknown_remains = Some(Instant::now() + REMAINS);
        let ended = Pidfd::open(pid).and_then(|process| {
            // The handle is on who has the name if that still has it.
            let is_same = NameLock::holder(&self.settings.socket) == Some(pid);
            if is_same { process.signal(libc::SIGKILL) } else { Ok(false) }
        });
        self.give_up(match ended {
            Ok(_) => format!("the data plane of before, pid {pid}, let nobody in and was ended"),
            Err(error) => format!("the data plane of before, pid {pid}, lets nobody in and cannot be ended: {error}"),
        })
    }

    /// The plane that serves is gone, or of no use.
    async fn lose(&mut self, error: &io::Error) -> Lost {
        let Some(link) = self.serving.take() else { return self.why_none() };
        let status = self.dismiss(&link, error).await;
        let is_stuck = error.kind() == io::ErrorKind::TimedOut;
        self.give_up(match (is_stuck, status) {
            (true, _) => {
                let most = limits::BRIDGE_STUCK_TIME.as_secs();
                format!("the data plane, pid {}, did not answer for {most} s and was ended", link.pid)
            }
            (false, Some(status)) => format!("the data plane ended ({status})"),
            (false, None) => format!("the line to the data plane broke: {error}"),
        })
    }

    /// Its line is of no use any more. One that is stuck is ended, for it holds what its successor needs. Gives how it ended, if it was
    /// our child and has.
    async fn dismiss(&mut self, link: &Link, error: &io::Error) -> Option<ExitStatus> {
        if error.kind() == io::ErrorKind::TimedOut {
            tracing::error!(pid = link.pid, "bridge: a data plane is stuck, and is ended");
            link.kill();
        }
        link.ended().await;
        self.reap().into_iter().find(|(pid, _)| *pid == link.pid).map(|(_, status)| status)
    }

    /// Children that have ended, and how.
    fn reap(&mut self) -> Vec<(i32, ExitStatus)> {
        let mut ended = Vec::new();
        self.children.retain_mut(|child| match child.try_wait() {
            Ok(None) => true,
            status => {
                ended.extend(status.ok().flatten().map(|status| (child.id().cast_signed(), status)));
                false
            }
        });
        ended
    }

    /// None serves now; one is looked for or started again after a while.
    fn give_up(&mut self, why: String) -> Lost {
        tracing::error!(why, "bridge: the data plane is lost, and looked for or started again");
        let now = Instant::now();
        if self.since.take().is_some_and(|since| now.duration_since(since) >= RAN_WELL) {
            self.failures = 0;
        }
        let pause = match self.failures {
            0 => Duration::ZERO,
            failures => RESTART.0.saturating_mul(1 << failures.min(16)).min(RESTART.1),
        };
        self.failures = self.failures.saturating_add(1);
        self.rest_until = Some(now + pause);
        self.remains.extend(self.said.ports.iter().map(|port| port.listen));
        self.lost = Some((why.clone(), now.into_std()));
        self.know(Vec::new());
        self.said = State::default();
        self.tally.lose();
        self.publish();
        self.reap();
        why
    }
}

fn know(own: &OwnSockets, known: &mut BTreeSet<u64>, listeners: Vec<u64>) {
    let listeners: BTreeSet<u64> = listeners.into_iter().collect();
    listeners.difference(known).for_each(|inode| own.enter_inode(*inode));
    known.difference(&listeners).for_each(|inode| own.forget(*inode));
    *known = listeners;
}

async fn heard(link: &mut Option<Link>) -> io::Result<Said> {
    match link {
        Some(link) => link.heard().await,
        None => std::future::pending().await,
    }
}
