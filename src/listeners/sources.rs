//! Where word of changes comes from, and waiting for it.
//!
//! ```text
//!   BPF ring: listen(2) and close, every network namespace ─┐
//!   sock_diag: listeners that are gone ─────────────────────┼─ poll(2) ──> heard
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
    limits,
    sys::{
        bpf::{Change, ListenEvents},
        cgroup,
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
    /// Costs every connection's end a message in the kernel, so with BPF it is kept only while there are listeners that BPF does not
    /// know: those older than the agent.
    closed: Option<Subscription>,
    /// Sockets that BPF has told of; not needed any more when `closed` is not.
    announced: HashSet<u64>,
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
            // Of sockets older than the agent BPF tells nothing, so both are needed.
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
            announced: HashSet::new(),
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
            let (closing, announced) = (&mut self.closing, &mut self.announced);
            let tracked = self.closed.is_some();
            let taken = bpf.read(|event| {
                heard = true;
                match event.change {
                    Change::Listens => {
                        // It may be one that was shut down and listens again.
                        closing.remove(&event.socket_cookie);
                        if tracked && announced.len() < limits::LISTENERS {
                            announced.insert(event.socket_cookie);
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

    /// A look has shown all sockets of the own network namespace, by cookie. When BPF has told of each, it will tell of their ends, too.
    /// (Of other namespaces' older ones `closed` tells by chance at most.)
    pub(super) fn shown(&mut self, own: &HashSet<u64>) {
        self.announced.retain(|cookie| own.contains(cookie));
        if self.bpf.is_some() && self.announced.len() == own.len() {
            self.closed = None;
            self.announced = HashSet::new();
        }
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
