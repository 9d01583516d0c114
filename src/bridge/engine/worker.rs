//! One of the engine's threads: its events, its orders, its clients.

use std::{
    collections::VecDeque,
    io,
    net::{IpAddr, SocketAddr},
    os::fd::OwnedFd,
    sync::{Arc, atomic::AtomicU64, atomic::Ordering::Relaxed},
    time::{Duration, Instant},
};

use rustix::{
    event::{
        Timespec,
        epoll::{self, CreateFlags, EventData, EventFlags},
    },
    io::Errno,
    net::{SocketFlags, acceptfrom_with},
};

use super::{
    connection::{Connection, Next, Side, Tools},
    dial,
    mailbox::{Accepted, EngineClient, Listener, Mailbox, Order, Which},
    pipes::Pipes,
    port::{Handed, Route, Seat},
    slab::{Slab, Token},
};
use crate::{limits, sys::rtnl, throttle::Throttle};

/// Events taken at once.
const EVENTS: usize = 128;

/// Clients taken at once from one listening socket. More would be one more call for each that comes alone, to learn that it did.
const ACCEPTS: usize = 1;

/// So many connections more than another thread has are not worth to be handed over: short ones are over sooner.
const UNEVEN: usize = 16;

/// What a connection's sockets are watched for.
const WATCHED: EventFlags = EventFlags::IN.union(EventFlags::RDHUP).union(EventFlags::PRI).union(EventFlags::ET);

/// And those that had no room once. Most connections never fill a buffer, and would be told twice of room that they know.
const WATCHED_FOR_ROOM: EventFlags = WATCHED.union(EventFlags::OUT);

/// Event data of the mailbox.
const BELL: u64 = u64::MAX;

/// Bit that listening sockets have in their event data, and connections have not.
const LISTENER: u64 = 1 << 63;

/// What all threads share.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) mailboxes: Vec<Mailbox>,
    /// Connections, over all ports.
    pub(super) open: Arc<AtomicU64>,
    /// Their bound.
    pub(super) most: u64,
    /// Connections reset because of the bounds, or for want of a route.
    pub(super) refused: AtomicU64,
    /// Times that accepting stopped for a moment, out of descriptors or memory.
    pub(super) pauses: AtomicU64,
    /// Clients trigger what is logged here.
    pub(super) log: Throttle,
}

/// A thread's own.
#[derive(Debug)]
pub(super) struct Worker {
    number: usize,
    shared: Arc<Shared>,
    epoll: OwnedFd,
    listeners: Vec<Arc<Listener>>,
    connections: Slab,
    /// Those that have more to do than one turn.
    queue: VecDeque<Token>,
    tools: Tools,
    /// A descriptor in reserve, so that a client who was accepted with the last one is served.
    reserve: Option<OwnedFd>,
    /// Clients for whose service there was no descriptor; no more than have a seat.
    waiting: Vec<Accepted>,
    /// Out of descriptors or memory: nothing is accepted until then.
    paused: Option<Instant>,
}

impl Worker {
    pub(super) fn new(number: usize, shared: Arc<Shared>) -> io::Result<Self> {
        let epoll = epoll::create(CreateFlags::CLOEXEC)?;
        epoll::add(&epoll, &shared.mailboxes[number].bell, EventData::new_u64(BELL), EventFlags::IN)?;
        let reserve = Some(epoll.try_clone()?);
        Ok(Self {
            number,
            shared,
            epoll,
            listeners: Vec::new(),
            connections: Slab::default(),
            queue: VecDeque::new(),
            tools: Tools { buffer: vec![0; limits::BRIDGE_COPY_BYTES].into(), pipes: Pipes::default() },
            reserve,
            waiting: Vec::new(),
            paused: None,
        })
    }

    fn mailbox(&self) -> &Mailbox {
        &self.shared.mailboxes[self.number]
    }

    /// Serves until it is told to end.
    pub(super) fn run(mut self) {
        let mut events = Vec::with_capacity(EVENTS);
        loop {
            let wait = self.wait_time();
            match epoll::wait(&self.epoll, rustix::buffer::spare_capacity(&mut events), wait.as_ref()) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(error) => {
                    tracing::error!(%error, "bridge: epoll_wait failed, a thread of the bridge ends");
                    return self.cut(&Which::All);
                }
            }
            for event in events.drain(..) {
                let flags = event.flags;
                match event.data.u64() {
                    BELL => {
                        if self.obey().is_break() {
                            return self.cut(&Which::All);
                        }
                    }
                    listener if listener & LISTENER != 0 => self.accept(listener & !LISTENER),
                    data => {
                        let (token, side) = Token::from_data(data);
                        let Some(connection) = self.connections.get(token) else { continue };
                        connection.note(side, flags);
                        if !connection.queued {
                            self.turn(token);
                        }
                    }
                }
            }
            for _ in 0..self.queue.len() {
                let Some(token) = self.queue.pop_front() else { break };
                let Some(connection) = self.connections.get(token) else { continue };
                connection.queued = false;
                self.turn(token);
            }
            self.end_pause();
        }
    }

    fn wait_time(&self) -> Option<Timespec> {
        if !self.queue.is_empty() {
            return Some(Timespec { tv_sec: 0, tv_nsec: 0 });
        }
        let left = self.paused?.saturating_duration_since(Instant::now()) + Duration::from_millis(1);
        Timespec::try_from(left).ok()
    }

    fn turn(&mut self, token: Token) {
        let Some(connection) = self.connections.get(token) else { return };
        match connection.turn(&mut self.tools) {
            Next::Wait => self.watch_for_room(token),
            Next::More => {
                connection.queued = true;
                self.queue.push_back(token);
                self.watch_for_room(token);
            }
            Next::Over => drop(self.remove(token)),
            Next::Reset(error) => self.reset(token, &error),
        }
    }

    /// Of a connection in the epoll instance, whichever sides have no room for the first time.
    fn watch_for_room(&mut self, token: Token) {
        for side in [Side::Client, Side::Service] {
            let Some(connection) = self.connections.get(token) else { return };
            if !connection.is_watched() || !connection.begins_to_want_room(side) {
                continue;
            }
            // It tells at once of what has come meanwhile (epoll_ctl(2)).
            let data = EventData::new_u64(token.data(side));
            if let Err(error) = epoll::modify(&self.epoll, connection.socket(side), data, WATCHED_FOR_ROOM) {
                return self.reset(token, &error.into());
            }
        }
    }

    fn remove(&mut self, token: Token) -> Option<Connection> {
        let mut connection = self.connections.remove(token)?;
        connection.release(&mut self.tools);
        self.mailbox().load.fetch_sub(1, Relaxed);
        Some(connection)
    }

    fn reset(&mut self, token: Token, error: &io::Error) {
        let Some(connection) = self.remove(token) else { return };
        let port = connection.seat().port();
        port.note_failure(error);
        tracing::debug!(to = %port.to(), %error, "bridge: connection reset");
        connection.reset_on_close();
    }

    /// Resets connections.
    fn cut(&mut self, which: &Which) {
        let is_meant = |seat: &Seat, client: &OwnedFd| match which {
            Which::All => true,
            Which::Counted(counters) => Arc::ptr_eq(seat.port().counters(), counters),
            Which::Foreign(own) => local(client).is_ok_and(|local| {
                // What cannot be told is left alone.
                !own.contains(&local.ip()) && !rtnl::is_local(local.ip()).unwrap_or(true)
            }),
        };
        for token in self.connections.those(|open| is_meant(open.seat(), open.socket(Side::Client))) {
            if let Some(connection) = self.remove(token) {
                connection.reset_on_close();
            }
        }
        let mailbox = &self.shared.mailboxes[self.number];
        for accepted in self.waiting.extract_if(.., |waiting| is_meant(&waiting.seat, &waiting.client)) {
            mailbox.load.fetch_sub(1, Relaxed);
            dial::reset_on_close(&accepted.client);
        }
    }

    /// Who is connected, to which port, and who stands for it.
    fn clients(&self) -> Vec<EngineClient> {
        let client = |connection: &Connection| {
            let socket = connection.socket(Side::Client);
            let IpAddr::V6(client) = SocketAddr::try_from(rustix::net::getpeername(socket).ok()??).ok()?.ip() else {
                return None;
            };
            let pseudo = connection.seat().port().stand_in_for(client);
            Some(EngineClient { client, port: local(socket).ok()?.port(), pseudo })
        };
        self.connections.iter().filter_map(client).collect()
    }

    fn obey(&mut self) -> std::ops::ControlFlow<()> {
        for order in self.mailbox().take() {
            match order {
                Order::Listen(listener) => {
                    if self.paused.is_none() {
                        self.arm(&listener);
                    }
                    self.listeners.push(listener);
                }
                Order::Close(id, _answer) => drop(self.forget(id)),
                Order::Adopt(accepted) => self.serve(accepted),
                // Who asked may have given up.
                Order::Clients(answer) => drop(answer.send(self.clients())),
                Order::Cut(which, _answer) => self.cut(&which),
                Order::End => return std::ops::ControlFlow::Break(()),
            }
        }
        std::ops::ControlFlow::Continue(())
    }

    /// Only one of the threads is woken up for a client.
    fn arm(&self, listener: &Listener) {
        let data = EventData::new_u64(LISTENER | listener.id);
        if let Err(error) = epoll::add(&self.epoll, &listener.socket, data, EventFlags::IN | EventFlags::EXCLUSIVE) {
            tracing::error!(%error, "bridge: a listening socket cannot be watched; another thread may serve it");
        }
    }

    fn accept(&mut self, id: u64) {
        let Some(listener) = self.listeners.iter().find(|listener| listener.id == id).map(Arc::clone) else { return };
        for _ in 0..ACCEPTS {
            if self.paused.is_some() {
                return;
            }
            match acceptfrom_with(&listener.socket, SocketFlags::NONBLOCK | SocketFlags::CLOEXEC) {
                Ok((client, peer)) => {
                    let Some(Ok(SocketAddr::V6(peer))) = peer.map(SocketAddr::try_from) else {
                        self.refuse(&client, "an IPv4 client on a socket that is for IPv6");
                        continue;
                    };
                    self.take_in(&listener.route, client, peer);
                }
                Err(Errno::AGAIN) => return,
                // What became of that one client (accept(2)); the next may be well.
                Err(
                    Errno::CONNABORTED
                    | Errno::INTR
                    | Errno::PROTO
                    | Errno::PERM
                    | Errno::NETDOWN
                    | Errno::NOPROTOOPT
                    | Errno::HOSTDOWN
                    | Errno::NONET
                    | Errno::HOSTUNREACH
                    | Errno::OPNOTSUPP
                    | Errno::NETUNREACH,
                ) => {}
                // It does not listen any more, as one that was destroyed (SOCK_DESTROY).
                Err(Errno::INVAL) => return self.lose(id),
                // Out of descriptors or memory.
                Err(error) => return self.pause(&error.into()),
            }
        }
    }

    fn lose(&mut self, id: u64) {
        if let Some(listener) = self.forget(id) {
            let local = local(&listener.socket).map_or_else(|error| error.to_string(), |local| local.to_string());
            tracing::error!(local, "bridge: a listening socket was destroyed (ss -K); no client comes by it any more");
        }
    }

    fn forget(&mut self, id: u64) -> Option<Arc<Listener>> {
        let place = self.listeners.iter().position(|listener| listener.id == id)?;
        let listener = self.listeners.swap_remove(place);
        // The other thread may hold the socket for a moment, and this epoll would see it as long.
        let _ = epoll::delete(&self.epoll, &listener.socket);
        Some(listener)
    }

    fn take_in(&mut self, route: &Route, client: OwnedFd, peer: std::net::SocketAddrV6) {
        let port = match route {
            Route::To(port) => Some(Arc::clone(port)),
            Route::ByLocalPort(table) => local(&client).ok().and_then(|local| table.port(local.port())),
        };
        let Some(port) = port else { return self.refuse(&client, "no route for the port") };
        port.counters().accepted.fetch_add(1, Relaxed);
        let Some(seat) = Seat::take(&port, &self.shared.open, self.shared.most) else {
            port.counters().errors.fetch_add(1, Relaxed);
            return self.refuse(&client, "too many connections");
        };
        if let Some(handler) = port.handler() {
            return handler(Handed { client, peer, seat });
        }
        let accepted = Accepted { client, peer, seat };
        let load = |mailbox: &Mailbox| mailbox.load.load(Relaxed);
        let least = self.shared.mailboxes.iter().min_by_key(|mailbox| load(mailbox));
        let least = least.filter(|least| load(least) + UNEVEN <= load(self.mailbox()));
        let left = match least {
            // One that has ended gives it back.
            Some(least) => match least.post(Order::Adopt(accepted)) {
                Err(Order::Adopt(accepted)) => accepted,
                _ => return,
            },
            None => accepted,
        };
        self.mailbox().load.fetch_add(1, Relaxed);
        self.serve(left);
    }

    fn refuse(&self, client: &OwnedFd, why: &'static str) {
        self.shared.refused.fetch_add(1, Relaxed);
        dial::reset_on_close(client);
        if let Some(times) = self.shared.log.pass() {
            tracing::warn!(why, times, "bridge: connections refused");
        }
    }

    /// Connects to the service. The load is counted already.
    fn serve(&mut self, accepted: Accepted) {
        let port = Arc::clone(accepted.seat.port());
        let local = || local(&accepted.client);
        let begun = port.preface(accepted.peer.into(), local).and_then(|preface| {
            let dial = || dial::dial(&port, *accepted.peer.ip(), local);
            let service = match dial() {
                Err(error) if is_out_of_descriptors(&error) && self.reserve.take().is_some() => {
                    self.pause(&error);
                    dial()
                }
                dialled => dialled,
            }?;
            Ok((service, preface))
        });
        let (service, preface) = match begun {
            Ok(begun) => begun,
            // The other thread may have taken the one that was in reserve here.
            Err(error) if is_out_of_descriptors(&error) => {
                self.waiting.push(accepted);
                return self.pause(&error);
            }
            Err(error) => {
                self.mailbox().load.fetch_sub(1, Relaxed);
                port.note_failure(&error);
                dial::reset_on_close(&accepted.client);
                tracing::debug!(to = %port.to(), %error, "bridge: no connection to the service");
                return;
            }
        };
        let Accepted { client, seat, .. } = accepted;
        let token = self.connections.insert(Connection::new(client, service, preface, seat));
        // A request is often there already, and a service in this machine connected: what can be done now needs no event.
        self.turn(token);
        for side in [Side::Client, Side::Service] {
            let Some(connection) = self.connections.get(token) else { return };
            let data = EventData::new_u64(token.data(side));
            let watched = if connection.begins_to_want_room(side) { WATCHED_FOR_ROOM } else { WATCHED };
            if let Err(error) = epoll::add(&self.epoll, connection.socket(side), data, watched) {
                return self.reset(token, &error.into());
            }
        }
        if let Some(connection) = self.connections.get(token) {
            connection.set_watched();
        }
    }

    /// Trying again at once would spin: the clients stay in the queue.
    fn pause(&mut self, error: &io::Error) {
        if self.paused.is_none() {
            for listener in &self.listeners {
                let _ = epoll::delete(&self.epoll, &listener.socket);
            }
        }
        self.paused = Some(Instant::now() + limits::ACCEPT_PAUSE);
        self.shared.pauses.fetch_add(1, Relaxed);
        if let Some(times) = self.shared.log.pass() {
            tracing::warn!(%error, times, "bridge: accepting pauses; close descriptors or raise LimitNOFILE");
        }
    }

    /// Accepts again when the time is over and the reserve is there.
    fn end_pause(&mut self) {
        let Some(until) = self.paused else { return };
        if Instant::now() < until {
            return;
        }
        if self.reserve.is_none() {
            self.reserve = self.epoll.try_clone().ok();
        }
        if self.reserve.is_none() {
            self.paused = Some(Instant::now() + limits::ACCEPT_PAUSE);
            return;
        }
        self.paused = None;
        for listener in &self.listeners {
            self.arm(listener);
        }
        for accepted in std::mem::take(&mut self.waiting) {
            self.serve(accepted);
        }
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        for order in self.mailbox().shut() {
            if let Order::Adopt(accepted) = order {
                dial::reset_on_close(&accepted.client);
            }
        }
    }
}

fn is_out_of_descriptors(error: &io::Error) -> bool {
    [Errno::MFILE, Errno::NFILE].into_iter().any(|errno| error.raw_os_error() == Some(errno.raw_os_error()))
}

/// The address that a client connected to.
fn local(client: &OwnedFd) -> io::Result<SocketAddr> {
    Ok(SocketAddr::try_from(rustix::net::getsockname(client)?)?)
}
