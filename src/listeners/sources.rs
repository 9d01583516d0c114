//! Where word of changes comes from, and waiting for it.
//!
//! ```text
//!   BPF ring: listen(2) and close, every network namespace ─┐
//!   sock_diag: listeners whose end BPF does not tell ───────┼─ poll(2) ──> heard
//!   rtnetlink: links and addresses ─────────────────────────┤
//!   bell: wishes, and the end ──────────────────────────────┘
//! ```
//!
//! Whatever is heard leads to a look at everything, so a message that is lost among others does no harm.

use std::{
    collections::{HashMap, HashSet},
    fmt, io,
    os::fd::AsFd,
    sync::Arc,
    time::{Duration, Instant},
};

use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::eventfd::{EfdFlags, EventFd},
};

use crate::{
    config::ListenerEvents,
    facts::SocketFact,
    limits,
    sys::{
        bpf::{Change, ListenEvents},
        cgroup, sock_diag,
        subscription::Subscription,
    },
};

/// How it is known when to look.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Events {
    /// The kernel tells of each listener, by BPF.
    Bpf,
    /// By looking from time to time.
    Poll {
        /// Why there are no events.
        why: String,
    },
}

impl fmt::Display for Events {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bpf => f.write_str("events: bpf"),
            Self::Poll { why } => write!(f, "poll: {why}"),
        }
    }
}

/// What wakes the thread that waits.
#[derive(Debug, Clone)]
pub(super) struct Bell(Arc<EventFd>);

impl Bell {
    pub(super) fn new() -> io::Result<Self> {
        let flags = EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK;
        Ok(Self(Arc::new(EventFd::from_value_and_flags(0, flags)?)))
    }

    pub(super) fn ring(&self) {
        // It fails only if it has been rung 2^64 times and was not heard yet.
        let _ = self.0.write(1);
    }

    fn quiet(&self) {
        // EAGAIN if it was not rung.
        let _ = self.0.read();
    }
}

/// Everything that is waited for.
#[derive(Debug)]
pub(super) struct Sources {
    bell: Bell,
    bpf: Option<ListenEvents>,
    /// Costs every connection's end a message in the kernel, so with BPF it is kept only while there are listeners whose end BPF
    /// will not tell.
    closed: Option<Subscription>,
    /// Sockets that BPF has told of, or follows. Not needed any more when `closed` is not, as the next two.
    known: HashSet<u64>,
    /// Those that it cannot follow: the kernel holds them for others.
    held: HashSet<u64>,
    /// One that is followed may have been on its way out before it was: by then it is gone, and `closed` has told of it.
    sure_at: Option<Instant>,
    addresses: Option<Subscription>,
    /// Sockets that the kernel was about to close: it tells that before it has done so.
    closing: HashMap<u64, Instant>,
    /// Until then the same is to be expected of sockets that it had no room to tell of.
    closing_untold: Option<Instant>,
}

impl Sources {
    /// Opens what there is to be had.
    pub(super) fn open(wanted: ListenerEvents, bell: Bell) -> (Self, Events) {
        let closed = Subscription::to_closed_listeners();
        let bpf = match (&closed, wanted) {
            (_, ListenerEvents::Poll) => Err("`listeners.events` is \"poll\"".to_owned()),
            // Of sockets older than the agent BPF may tell nothing, so both are needed.
            (Err(error), ListenerEvents::Auto) => {
                Err(format!("sock_diag does not tell of sockets that are closed ({error})"))
            }
            (Ok(_), ListenerEvents::Auto) => attach(),
        };
        let (bpf, events) = match bpf {
            Ok(bpf) => (Some(bpf), Events::Bpf),
            Err(why) => (None, Events::Poll { why }),
        };
        let addresses = Subscription::to_addresses();
        let mut sources = Self {
            bell,
            bpf,
            closed: closed.ok(),
            known: HashSet::new(),
            held: HashSet::new(),
            sure_at: None,
            addresses: None,
            closing: HashMap::new(),
            closing_untold: None,
        };
        match addresses {
            Ok(addresses) => {
                sources.addresses = Some(addresses);
                (sources, events)
            }
            Err(error) => {
                let events = sources.do_without_events(format!("rtnetlink does not tell of addresses ({error})"));
                (sources, events)
            }
        }
    }

    /// Gives up on BPF.
    pub(super) fn do_without_events(&mut self, why: String) -> Events {
        self.bpf = None;
        Events::Poll { why }
    }

    /// Waits until something is to be heard, or until then. `deaf` waits for the bell alone.
    pub(super) fn wait(&self, until: Option<Instant>, deaf: bool) -> io::Result<()> {
        let timeout = until.map_or(PollTimeout::NONE, |until| {
            let left = until.saturating_duration_since(Instant::now());
            // Rounded up: one wake-up, and not an early one and then another.
            let millis = left.as_nanos().div_ceil(Duration::from_millis(1).as_nanos());
            i32::try_from(millis).ok().and_then(|millis| PollTimeout::try_from(millis).ok()).unwrap_or(PollTimeout::MAX)
        });
        let others = [
            self.bpf.as_ref().map(AsFd::as_fd),
            self.closed.as_ref().map(AsFd::as_fd),
            self.addresses.as_ref().map(AsFd::as_fd),
        ];
        let heard = others.into_iter().flatten().filter(|_| !deaf);
        let mut readable: Vec<_> =
            [self.bell.0.as_fd()].into_iter().chain(heard).map(|fd| PollFd::new(fd, PollFlags::POLLIN)).collect();
        match poll(&mut readable, timeout) {
            Ok(_) | Err(Errno::EINTR) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Takes in all that there is to be heard, and says whether it was anything; `listens` is told the network namespace (by its
    /// cookie, where that is known) of each socket that has begun to listen.
    pub(super) fn drain(&mut self, now: Instant, mut listens: impl FnMut(Option<u64>)) -> bool {
        self.bell.quiet();
        let mut heard = false;
        if let Some(bpf) = &mut self.bpf {
            let (closing, known) = (&mut self.closing, &mut self.known);
            let tracked = self.closed.is_some();
            let taken = bpf.read(|event| {
                heard = true;
                match event.change {
                    Change::Listens => {
                        // It may be one that was shut down and listens again.
                        closing.remove(&event.socket_cookie);
                        if tracked && known.len() < limits::LISTENERS {
                            known.insert(event.socket_cookie);
                        }
                        listens(event.netns_cookie);
                    }
                    Change::Closes if closing.len() < limits::LISTENERS => {
                        closing.insert(event.socket_cookie, now + limits::LISTENER_CLOSING_TIME);
                    }
                    Change::Closes => {}
                }
            });
            if taken.was_full {
                // Some were not told: they may be anywhere, and what the next look shows of them may be about to end.
                listens(None);
                self.closing_untold = Some(now + limits::LISTENER_CLOSING_TIME);
            }
        }
        for subscription in [&self.closed, &self.addresses].into_iter().flatten() {
            heard |= subscription.drain();
        }
        heard
    }

    /// Does a look still show a socket that the kernel was about to close, or may it? `there` is what it shows, by cookie.
    pub(super) fn shows_closing(&mut self, now: Instant, there: &HashSet<u64>) -> bool {
        self.closing.retain(|cookie, give_up| now < *give_up && there.contains(cookie));
        self.closing_untold = self.closing_untold.filter(|give_up| now < *give_up);
        !self.closing.is_empty() || self.closing_untold.is_some()
    }

    /// A look has shown all sockets of the own network namespace, by cookie, and what it has seen of `others`. Has BPF tell of the ends of those that are older than
    /// it. When it does of each of the own, nothing else needs to: the ends of older ones of other namespaces are told by chance at most.
    pub(super) fn shown<'a>(
        &mut self,
        now: Instant,
        own: &HashMap<u64, &SocketFact>,
        others: impl IntoIterator<Item = &'a SocketFact>,
    ) {
        let (Some(bpf), Some(_)) = (&self.bpf, &self.closed) else { return };
        self.known.retain(|cookie| own.contains_key(cookie));
        self.held.retain(|cookie| own.contains_key(cookie));
        let fresh = |cookie: &u64| !self.known.contains(cookie) && !self.held.contains(cookie);
        let older: Vec<_> = own.iter().filter(|(cookie, _)| fresh(cookie)).collect();
        if !older.is_empty() {
            // Tried again at the next look.
            let Ok(held) = sock_diag::multipath_listeners(limits::LISTENERS_READ) else { return };
            for (cookie, fact) in older {
                let is_followed = !held.contains(cookie) && bpf.follow(fact);
                if is_followed { &mut self.known } else { &mut self.held }.insert(*cookie);
            }
            self.sure_at = Some(now + limits::LISTENER_FOLLOWED_TIME);
        }
        if self.held.is_empty() && self.sure_at.is_none_or(|at| now >= at) {
            for fact in others {
                bpf.follow(fact);
            }
            (self.closed, self.sure_at) = (None, None);
            self.known = HashSet::new();
        }
    }

    /// When another look is due, so that nothing but BPF is listened to.
    pub(super) fn due(&self) -> Option<Instant> {
        self.sure_at.filter(|_| self.held.is_empty())
    }
}

fn attach() -> Result<ListenEvents, String> {
    let root = cgroup::root().map_err(|error| error.to_string())?;
    ListenEvents::attach(&root).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, TcpListener};

    use super::*;

    /// As a look does.
    fn show(sources: &mut Sources, now: Instant) {
        let facts = sock_diag::listening_tcp(1024).unwrap();
        sources.shown(now, &facts.iter().map(|fact| (fact.cookie.unwrap(), fact)).collect(), []);
    }

    #[test]
    fn groups_are_left_when_the_end_of_what_is_older_is_told_without_them() {
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).unwrap();
        let older = TcpListener::bind((Ipv4Addr::UNSPECIFIED, 0)).unwrap();
        let (mut sources, _) = Sources::open(ListenerEvents::Auto, Bell::new().unwrap());
        let younger = TcpListener::bind((Ipv4Addr::UNSPECIFIED, 0)).unwrap();
        let now = Instant::now();
        sources.drain(now, |_| ());
        show(&mut sources, now);
        show(&mut sources, now);
        assert!(sources.closed.is_some(), "one that was on its way out is told of by them");
        let due = sources.due().unwrap();
        show(&mut sources, due);
        assert!(sources.closed.is_none() && sources.due().is_none());
        let cookies: Vec<_> =
            [&older, &younger].iter().map(|listener| socket2::SockRef::from(*listener).cookie().unwrap()).collect();
        drop((older, younger));
        assert!(sources.drain(now, |_| ()));
        assert!(cookies.iter().all(|cookie| sources.closing.contains_key(cookie)));
    }

    #[test]
    fn groups_are_left_at_once_where_nothing_is_older() {
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).unwrap();
        let (mut sources, _) = Sources::open(ListenerEvents::Auto, Bell::new().unwrap());
        show(&mut sources, Instant::now());
        assert!(sources.closed.is_none() && sources.due().is_none());
    }

    #[test]
    fn groups_stay_while_the_kernel_holds_an_older_listener() {
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).unwrap();
        let plain = TcpListener::bind((Ipv4Addr::UNSPECIFIED, 0)).unwrap();
        let multipath =
            socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, Some(socket2::Protocol::MPTCP)).unwrap();
        multipath.bind(&std::net::SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)).into()).unwrap();
        multipath.listen(1).unwrap();
        let (mut sources, _) = Sources::open(ListenerEvents::Auto, Bell::new().unwrap());
        let later = Instant::now() + 2 * limits::LISTENER_FOLLOWED_TIME;
        show(&mut sources, Instant::now());
        show(&mut sources, later);
        assert!(sources.closed.is_some() && sources.due().is_none());
        drop(multipath);
        sources.wait(None, false).unwrap();
        assert!(sources.drain(later, |_| ()), "its end is told by the groups");
        show(&mut sources, later);
        assert!(sources.closed.is_none());
        drop(plain);
    }

    #[test]
    fn after_events_that_found_no_room_a_look_is_made_again_for_a_while() {
        let (mut sources, events) = Sources::open(ListenerEvents::Auto, Bell::new().unwrap());
        assert_eq!(events, Events::Bpf);
        let (now, nothing) = (Instant::now(), HashSet::new());
        // Two events each, of 32 bytes.
        for _ in 0..=limits::LISTENER_RING_BYTES / 64 {
            drop(TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap());
        }
        assert!(sources.drain(now, |_| ()));
        assert!(sources.shows_closing(now, &nothing), "the last one may be in the table still");
        assert!(!sources.shows_closing(now + limits::LISTENER_CLOSING_TIME, &nothing));
    }
}
