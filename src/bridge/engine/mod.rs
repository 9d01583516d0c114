//! The bridge's data plane: takes connections from listening sockets, and moves bytes between clients and services.
//!
//! ```text
//! Engine ──orders──> 2 threads, each with an epoll instance, a slab of connections and a few pipes
//!                    accept ─> dial ─> Connection: copy what is little, splice what is much
//! ```
//!
//! It owns the sockets it was given and those of its connections. It knows nothing of why a port is bridged: who is bridged where,
//! and when no more, its caller says. It refuses to hold anything for a connection that is idle but its two sockets: no buffer, no
//! pipe, no timer; and to take more of a sender than its reader takes, but for a pipe or a buffer full.
//!
//! Its threads are of the kernel's batch kind: woken up they wait for their turn, and meanwhile there comes more to be moved at once. On a
//! machine whose processors are the ends' that is the greatest gain of all: many streams take a third of the time. A thread that waits
//! longer behind a busy neighbour has more to do then, so that even there more gets through.
//!
//! No tokio: a runtime's readiness, wakers and tasks cost what the bytes do not. tests/bench/README.md has the figures for both.

mod connection;
mod dial;
mod mailbox;
mod pipes;
mod port;
mod slab;
mod worker;

use std::{
    collections::HashSet,
    io,
    net::IpAddr,
    os::fd::OwnedFd,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
        mpsc::{SyncSender, sync_channel},
    },
    thread::{self, JoinHandle},
};

pub use mailbox::EngineClient;
use mailbox::{Listener, Mailbox, Order, Which};
use nix::sys::signal::SigSet;
pub use port::{Handed, Handler, Port, PortTable, Preface, Route, Router, Seat, Source};
use worker::{Shared, Worker};

use super::PortCounters;
use crate::{limits, sys::scheduling, throttle::Throttle};

/// The running engine. Dropped, it resets what is open and ends.
#[derive(Debug)]
pub struct Engine {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
    listened: AtomicU64,
}

/// A listening socket that the engine has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ListenerId(u64);

/// Connections over all ports, and what became of those that are not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Totals {
    /// Open now.
    pub open: u64,
    /// Reset because of the bounds, or because there is no route for the port.
    pub refused: u64,
    /// Times that accepting stopped for a moment, out of descriptors or memory.
    pub pauses: u64,
}

impl Engine {
    /// Starts its threads, with at most so many connections.
    ///
    /// # Errors
    /// Out of descriptors, threads or memory.
    pub fn start(most: u64) -> io::Result<Self> {
        let mailboxes = (0..limits::BRIDGE_THREADS).map(|_| Mailbox::new()).collect::<io::Result<_>>()?;
        let shared = Arc::new(Shared {
            mailboxes,
            open: Arc::default(),
            most,
            refused: AtomicU64::new(0),
            pauses: AtomicU64::new(0),
            log: Throttle::default(),
        });
        // What was started before an error ends with this value.
        let mut engine = Self { shared, threads: Vec::new(), listened: AtomicU64::new(0) };
        for number in 0..limits::BRIDGE_THREADS {
            let worker = Worker::new(number, Arc::clone(&engine.shared))?;
            let thread = thread::Builder::new().name(format!("bridge-{number}"));
            engine.threads.push(thread.spawn(move || {
                // splice(2) to a socket that was reset raises SIGPIPE and has no flag against it. Other signals are other threads'.
                if let Err(error) = SigSet::all().thread_block() {
                    tracing::error!(%error, "bridge: blocking signals failed");
                }
                if let Err(error) = scheduling::become_batch() {
                    tracing::warn!(%error, "bridge: its threads interrupt others for little");
                }
                worker.run();
            })?);
        }
        Ok(engine)
    }

    /// Accepts on a socket that listens on IPv6, and does not block. Its options are set for what it will accept.
    ///
    /// # Errors
    /// The socket is none of TCP.
    pub fn listen(&self, socket: OwnedFd, route: Route) -> io::Result<ListenerId> {
        dial::prepare_listener(&socket)?;
        rustix::io::ioctl_fionbio(&socket, true)?;
        let id = self.listened.fetch_add(1, Relaxed);
        let listener = Arc::new(Listener { id, socket, route });
        for mailbox in &self.shared.mailboxes {
            // A thread that has ended has said so; the other one serves.
            let _ = mailbox.post(Order::Listen(Arc::clone(&listener)));
        }
        Ok(ListenerId(id))
    }

    /// Closes a listening socket; when this returns, its address is free. What it has accepted lives on.
    pub fn close(&self, listener: ListenerId) {
        self.ask(|answer| Order::Close(listener.0, answer));
    }

    /// Resets the connections that these counters count, wherever they lead; when this returns, they are gone. New ones are still
    /// accepted.
    pub fn cut_counted(&self, counters: &Arc<PortCounters>) {
        self.cut(|| Which::Counted(Arc::clone(counters)));
    }

    /// Resets the connections to local addresses that are neither among `own` nor the kernel's in another way.
    pub fn cut_foreign(&self, own: HashSet<IpAddr>) {
        let own = Arc::new(own);
        self.cut(|| Which::Foreign(Arc::clone(&own)));
    }

    /// Resets all connections; when this returns, they are gone. New ones are still accepted.
    pub fn cut_all(&self) {
        self.cut(|| Which::All);
    }

    /// Twice: at the first time a thread may hand a client over that it has accepted before, to one that has cut already.
    fn cut(&self, which: impl Fn() -> Which) {
        for _ in 0..2 {
            self.ask(|answer| Order::Cut(which(), answer));
        }
    }

    /// The client of each connection, but of those that were handed to a [`Handler`]. Two system calls for each.
    pub fn clients(&self) -> Vec<EngineClient> {
        let (answer, answers) = sync_channel(self.shared.mailboxes.len());
        for mailbox in &self.shared.mailboxes {
            // One that has ended has no clients.
            let _ = mailbox.post(Order::Clients(answer.clone()));
        }
        drop(answer);
        answers.iter().flatten().collect()
    }

    /// Connections over all ports.
    pub fn totals(&self) -> Totals {
        let shared = &self.shared;
        Totals {
            open: shared.open.load(Relaxed),
            refused: shared.refused.load(Relaxed),
            pauses: shared.pauses.load(Relaxed),
        }
    }

    /// Resets what is open, closes what listens, and ends the threads.
    pub fn end(self) {}

    /// Has an order carried out by all threads. A thread takes some milliseconds at most, for it never waits for anything else.
    fn ask(&self, order: impl Fn(SyncSender<()>) -> Order) {
        let (answer, answered) = sync_channel(0);
        for mailbox in &self.shared.mailboxes {
            // One that has ended has nothing left to do, and what is dropped is answered.
            let _ = mailbox.post(order(answer.clone()));
        }
        drop(answer);
        // An error is what is waited for: the last sender is gone.
        let _ = answered.recv();
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        for mailbox in &self.shared.mailboxes {
            // It may have ended already.
            let _ = mailbox.post(Order::End);
        }
        for thread in self.threads.drain(..) {
            // A thread that panicked has said so, and its sockets are closed.
            let _ = thread.join();
        }
    }
}
