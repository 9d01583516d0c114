//! The data plane: `guestd bridge`, a process of its own, so that connections outlive the agent's restart, crash or upgrade.
//!
//! ```text
//! agent ──orders (Unix socket)──> main thread: poll loop ──> Engine: 2 threads, clients' bytes
//!                                     │ no agent for the grace time: resets everything, ends
//! ```
//!
//! ```text
//! serves ──retire──> takes no more connections, has another door ──┬─ the last connection has ended ──> ends
//!    │                                                             │
//!    └──────────────── no agent for the grace time, an order to end, a signal ──> resets everything, ends
//! ```
//!
//! It decides nothing about what is bridged: it carries out what the agent wants, and goes on doing so while there is none. It refuses
//! to obey anybody but its own user, or two agents at once: a newer one takes over.

mod aside;
mod caller;
mod door;
mod held;
mod home;
mod obey;
mod report;
mod route;
mod steer;
mod taken;
mod targets;

use std::{
    collections::BTreeMap,
    io,
    os::fd::{AsFd, BorrowedFd},
    os::unix::net::UnixStream,
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use aside::Aside;
use caller::{Caller, Heard};
use door::Door;
use held::HeldPorts;
use home::Home;
use nix::{
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::{
        signal::{SigSet, Signal},
        signalfd::{SfdFlags, SignalFd},
    },
};
use route::PseudoRoute;
use steer::{Prepared, Steer};
use targets::Targets;

use super::{
    engine::{Engine, ListenerId, Route},
    orders::{Answer, Tier},
    retired,
};
use crate::{limits, sys::subscription::Subscription};

/// The command line of `guestd bridge`.
#[derive(Debug, clap::Args)]
pub struct PlaneArgs {
    /// Where agents come in.
    #[arg(long)]
    pub(super) socket: PathBuf,
    /// What an agent knows it by.
    #[arg(long)]
    pub(super) identity: String,
    /// Bind, even where the kernel could steer.
    #[arg(long)]
    pub(super) bind: bool,
    /// How long it goes on without an agent, in milliseconds.
    #[arg(long)]
    pub(super) grace_ms: u64,
    /// What is logged.
    #[arg(long)]
    pub log_level: String,
}

/// Between two looks at whether the last connection of a plane that was retired has ended.
const RETIRED_LOOK: Duration = Duration::from_secs(1);

/// Runs the plane to its end. Standard input is the connection of the agent that has started it.
///
/// # Errors
/// It could not begin; an agent that waits has been told.
pub fn run(args: PlaneArgs) -> io::Result<()> {
    // Not a group's leader, for it was just started by the agent; and if it were, all the same.
    let _ = nix::unistd::setsid();
    let _ = nix::unistd::chdir("/");
    // What ps(1) shows; it would be `exe`.
    let _ = std::fs::write("/proc/self/comm", "guestd-bridge");
    let mut agent = starter()?;
    let prepared = if args.bind { Err("`bridge.tier` is \"bind\"".to_owned()) } else { Prepared::new() };
    if let Some(agent) = &mut agent {
        let listeners = prepared.iter().map(|prepared| prepared.inode).collect();
        agent.say(&Answer::About { listeners })?;
        agent.await_begin()?;
    }
    match Plane::start(args, prepared) {
        Ok(mut plane) => {
            if let Some(agent) = agent {
                plane.greet(agent);
                plane.agent = plane.guest.take();
            }
            plane.run()
        }
        Err(error) => {
            if let Some(agent) = &mut agent {
                // It may be gone, which is its own affair.
                let _ = agent.say(&Answer::Error { message: error.to_string() });
            }
            Err(error)
        }
    }
}

/// The agent at standard input, if there is one.
fn starter() -> io::Result<Option<Caller>> {
    let stream = UnixStream::from(io::stdin().as_fd().try_clone_to_owned()?);
    if stream.peer_addr().is_err() {
        return Ok(None);
    }
    // Or that connection would never end.
    let null = std::fs::File::open("/dev/null")?;
    rustix::stdio::dup2_stdin(&null)?;
    Caller::new(stream).map(Some)
}

#[derive(Debug)]
struct Plane {
    args: PlaneArgs,
    door: Door,
    /// It was told to make room for another plane.
    is_retired: bool,
    /// Connections that it may have at once.
    most: u64,
    home: Result<Home, String>,
    signals: SignalFd,
    addresses: Option<Subscription>,
    /// When to cut connections whose address is not the VM's any more.
    cut_foreign: Option<Instant>,
    agent: Option<Caller>,
    /// Who came last, and is the agent as soon as it gives an order. Until then it may have come to look.
    guest: Option<Caller>,
    /// Since when there is no agent.
    alone: Instant,
    /// What the agent was told last of why nothing is bridged.
    told_trouble: Option<String>,
    engine: Engine,
    targets: Arc<Targets>,
    aside: Arc<Aside>,
    held: HeldPorts,
    /// Rules that cannot be carried out where the kernel steers.
    failures: BTreeMap<u16, String>,
    /// These are others than the agent was told.
    has_news: bool,
    pseudo_route: PseudoRoute,
    /// Or why it binds.
    steer: Result<Steer, String>,
    /// Where steered connections come to.
    listener: Option<ListenerId>,
    /// The same socket, to see whether it is one still.
    steered: Option<socket2::Socket>,
}

/// What is next for the plane.
enum Next {
    Go,
    End,
}

impl Plane {
    fn start(args: PlaneArgs, prepared: Result<Prepared, String>) -> io::Result<Self> {
        let door = Door::open(&args.socket)?;
        let most = home::most_connections(home::raise_descriptor_limit());
        // Before there are threads, which have them blocked as well.
        let ends: SigSet = [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP].into_iter().collect();
        ends.thread_set_mask()?;
        let signals = SignalFd::with_flags(&ends, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)?;
        let engine = Engine::start(most)?;
        let aside = Arc::<Aside>::default();
        // Half of all, so that a port that is flooded leaves room for the others.
        let targets = Arc::new(Targets::new(most.div_ceil(2), Arc::clone(&aside)));
        let addresses = Subscription::to_addresses();
        if let Err(error) = &addresses {
            tracing::warn!(%error, "bridge: changes of addresses are not seen");
        }
        let home = Home::move_in();
        let (steer, listener, steered) = match prepared.and_then(Steer::begin) {
            Ok((steer, socket)) => {
                targets.follow(Arc::clone(&steer.steering));
                let steered = socket.try_clone()?;
                let listener = engine.listen(socket.into(), Route::ByLocalPort(targets.clone()))?;
                (Ok(steer), Some(listener), Some(steered))
            }
            Err(why) => (Err(why), None, None),
        };
        let tier = if steer.is_ok() { Tier::Steer } else { Tier::Bind };
        tracing::info!(pid = std::process::id(), tier = tier.name(), connections = most, "bridge: data plane runs");
        Ok(Self {
            door,
            is_retired: false,
            most,
            home,
            signals,
            addresses: addresses.ok(),
            cut_foreign: None,
            agent: None,
            guest: None,
            alone: Instant::now(),
            told_trouble: None,
            engine,
            targets,
            aside,
            held: HeldPorts::default(),
            failures: BTreeMap::new(),
            has_news: false,
            pseudo_route: PseudoRoute::default(),
            steer,
            listener,
            steered,
            args,
        })
    }

    fn run(mut self) -> io::Result<()> {
        loop {
            let due = self.due();
            let wait = due.map_or(PollTimeout::NONE, |due| {
                let left = due.saturating_duration_since(Instant::now()) + Duration::from_millis(1);
                PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX)
            });
            let ready = {
                let sources = self.sources();
                let mut fds: Vec<_> = sources.iter().map(|source| PollFd::new(source.1, source.2)).collect();
                match poll(&mut fds, wait) {
                    Ok(_) | Err(nix::errno::Errno::EINTR) => {}
                    Err(error) => return Err(error.into()),
                }
                let ready = sources.iter().zip(&fds).filter(|(_, fd)| fd.any() == Some(true));
                ready.map(|(source, _)| source.0).collect::<Vec<_>>()
            };
            for source in ready {
                if let Next::End = self.attend(source) {
                    self.end();
                    return Ok(());
                }
            }
            if let Next::End = self.attend_time() {
                self.end();
                return Ok(());
            }
            self.tell_news();
        }
    }

    /// When something is to be done without being asked.
    fn due(&self) -> Option<Instant> {
        let retired = self.is_retired.then(|| Instant::now() + RETIRED_LOOK);
        let steer = self.steer.as_ref().ok().and_then(Steer::due);
        [self.grace_over(), retired, self.cut_foreign, self.door.due(), steer].into_iter().flatten().min()
    }

    /// When it has been without an agent for too long.
    fn grace_over(&self) -> Option<Instant> {
        self.agent.is_none().then(|| self.alone + Duration::from_millis(self.args.grace_ms))
    }

    fn sources(&self) -> Vec<(Event, BorrowedFd<'_>, PollFlags)> {
        let signals = Some((Event::Signal, self.signals.as_fd()));
        let door = self.door.awaited().map(|door| (Event::Door, door));
        let agent = self.agent.as_ref().map(|agent| (Event::Agent, agent.as_fd()));
        let guest = self.guest.as_ref().map(|guest| (Event::Guest, guest.as_fd()));
        let addresses = self.addresses.as_ref().map(|addresses| (Event::Addresses, addresses.as_fd()));
        let steer = self.steer.as_ref().ok();
        let closed = steer.and_then(Steer::closed).map(|closed| (Event::Closed, closed));
        let full = steer.and_then(Steer::alarm).map(|alarm| (Event::Full, alarm));
        // Who is in the way of the next guest has its say before that is let in.
        let mut sources: Vec<_> = [signals, agent, guest, door, addresses, closed, full]
            .into_iter()
            .flatten()
            .map(|(event, fd)| (event, fd, PollFlags::POLLIN))
            .collect();
        // Clients are the engine's: here it tells only that it is no listening socket any more.
        sources.extend(self.steered.as_ref().map(|steered| (Event::Broken, steered.as_fd(), PollFlags::empty())));
        sources
    }

    fn attend(&mut self, event: Event) -> Next {
        match event {
            Event::Signal => {
                tracing::info!("bridge: data plane was told to end");
                return Next::End;
            }
            Event::Broken => {
                tracing::error!(
                    "bridge: the socket that connections come to was destroyed (ss -K), the data plane ends"
                );
                return Next::End;
            }
            Event::Door => {
                if let Some(agent) = self.door.admit()
                    && let Ok(agent) = Caller::new(agent)
                {
                    self.greet(agent);
                }
            }
            Event::Agent => {
                let Some(agent) = &mut self.agent else { return Next::Go };
                let heard = agent.hear();
                return self.attend_to(heard);
            }
            Event::Guest => {
                let Some(mut guest) = self.guest.take() else { return Next::Go };
                match guest.hear() {
                    Heard::Nothing => self.guest = Some(guest),
                    Heard::Gone => {}
                    heard => {
                        self.agent = Some(guest);
                        return self.attend_to(heard);
                    }
                }
            }
            Event::Closed => {
                if let Ok(steer) = &mut self.steer {
                    steer.attend_closed();
                }
            }
            Event::Full => {
                if let Ok(steer) = &mut self.steer {
                    steer.attend_alarm();
                }
            }
            Event::Addresses => {
                if self.addresses.as_ref().is_some_and(Subscription::drain) {
                    if let Ok(steer) = &mut self.steer {
                        steer.set_own_addresses();
                    }
                    self.refresh_origin();
                    // An interface that is set down and up again takes its addresses away for a moment.
                    self.cut_foreign.get_or_insert_with(|| Instant::now() + limits::BRIDGE_ADDRESS_GRACE);
                }
            }
        }
        Next::Go
    }

    fn attend_to(&mut self, heard: Heard) -> Next {
        match heard {
            Heard::Nothing => {}
            Heard::Gone => self.lose_agent(),
            Heard::Order(Ok(order)) => return self.obey(order),
            Heard::Order(Err(message)) => self.answer(&Answer::Error { message }),
        }
        Next::Go
    }

    fn attend_time(&mut self) -> Next {
        let now = Instant::now();
        if self.cut_foreign.is_some_and(|due| due <= now) {
            self.cut_foreign = None;
            self.cut_foreign();
        }
        self.door.attend_time(now);
        if let Ok(steer) = &mut self.steer {
            steer.attend_time(now);
        }
        if self.is_retired && self.engine.totals().open == 0 {
            return Next::End;
        }
        if self.grace_over().is_some_and(|over| over <= now) {
            let seconds = Duration::from_millis(self.args.grace_ms).as_secs_f64();
            tracing::warn!(seconds, "bridge: no agent came back, everything is let go");
            return Next::End;
        }
        Next::Go
    }

    fn answer(&mut self, answer: &Answer) {
        if self.agent.as_mut().is_some_and(|agent| agent.say(answer).is_err()) {
            self.lose_agent();
        }
    }

    /// Tells the agent unasked that something is in the way of steering, or is no more.
    fn tell_news(&mut self) {
        let trouble = self.steer.as_ref().ok().and_then(Steer::trouble);
        if (trouble != self.told_trouble || self.has_news) && self.agent.is_some() {
            self.told_trouble = trouble;
            self.has_news = false;
            self.answer(&Answer::News);
        }
    }

    fn lose_agent(&mut self) {
        self.agent = None;
        self.alone = Instant::now();
    }

    /// Resets everything and leaves nothing behind.
    fn end(mut self) {
        self.let_go();
        self.engine.end();
        // After it, for no more is handed over then.
        self.aside.end();
        // The last of all takes the route along: without it the others' resets do not reach services. Its own name goes before it looks
        // for theirs, so that of those that end at the same time one finds nobody.
        drop(self.door);
        if !retired::is_anybody_there(&self.args.socket) {
            self.pseudo_route.remove();
        }
    }
}

/// What the main thread waits for.
#[derive(Debug, Clone, Copy)]
enum Event {
    Signal,
    Door,
    Agent,
    Guest,
    Addresses,
    Closed,
    Full,
    Broken,
}
