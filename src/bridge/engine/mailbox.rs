//! What others tell a thread, and how it is woken up for it.

use std::{
    collections::HashSet,
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    os::fd::OwnedFd,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering::Relaxed},
        mpsc::SyncSender,
    },
};

use rustix::event::{EventfdFlags, eventfd};

use super::port::{Route, Seat};
use crate::bridge::PortCounters;

/// A socket that accepts.
#[derive(Debug)]
pub(super) struct Listener {
    pub(super) id: u64,
    pub(super) socket: OwnedFd,
    pub(super) route: Route,
}

/// A client that was accepted and whose service is still to be connected to.
#[derive(Debug)]
pub(super) struct Accepted {
    pub(super) client: OwnedFd,
    pub(super) peer: std::net::SocketAddrV6,
    pub(super) seat: Seat,
}

/// One connection's client.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct EngineClient {
    /// Who it is.
    pub client: Ipv6Addr,
    /// The port that it connected to.
    pub port: u16,
    /// The IPv4 address that stands for it with the service.
    pub pseudo: Option<Ipv4Addr>,
}

/// Which connections.
#[derive(Debug)]
pub(super) enum Which {
    All,
    /// Those that these count.
    Counted(Arc<PortCounters>),
    /// Those whose local address is not among these, nor local to the kernel in another way.
    Foreign(Arc<HashSet<IpAddr>>),
}

/// What a thread is asked to do. Those with a sender are answered by dropping it.
#[derive(Debug)]
pub(super) enum Order {
    /// Accept.
    Listen(Arc<Listener>),
    /// Do not accept any more.
    Close(u64, SyncSender<()>),
    /// Serve what another thread has accepted.
    Adopt(Accepted),
    /// Reset connections.
    Cut(Which, SyncSender<()>),
    /// Say who is connected. Has room for the answers of all threads, which wait for nobody.
    Clients(SyncSender<Vec<EngineClient>>),
    /// Reset all, and end.
    End,
}

/// A thread's orders. Bounded by what gives them: the engine's owner waits for an answer to each but a new listening socket,
/// and clients are bounded before they are handed over.
#[derive(Debug)]
pub(super) struct Mailbox {
    /// None when nobody takes any more.
    orders: Mutex<Option<Vec<Order>>>,
    /// Readable while there are any.
    pub(super) bell: OwnedFd,
    /// Connections that the thread serves, those that it is asked to among them.
    pub(super) load: AtomicUsize,
}

impl Mailbox {
    pub(super) fn new() -> io::Result<Self> {
        let bell = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        Ok(Self { orders: Mutex::new(Some(Vec::new())), bell, load: AtomicUsize::new(0) })
    }

    /// Gives back what nobody takes any more. Dropped, it is answered.
    pub(super) fn post(&self, order: Order) -> Result<(), Order> {
        match self.orders().as_mut() {
            None => return Err(order),
            Some(orders) => {
                if matches!(order, Order::Adopt(_)) {
                    self.load.fetch_add(1, Relaxed);
                }
                orders.push(order);
            }
        }
        // Fails only where the count is at its end, and then it is readable already.
        let _ = rustix::io::write(&self.bell, &1u64.to_ne_bytes());
        Ok(())
    }

    pub(super) fn take(&self) -> Vec<Order> {
        // Before the orders, so that one that comes in between rings again.
        let _ = rustix::io::read(&self.bell, &mut [0; 8]);
        self.orders().as_mut().map(std::mem::take).unwrap_or_default()
    }

    /// Nothing is taken any more. Gives what was not taken.
    pub(super) fn shut(&self) -> Vec<Order> {
        self.orders().take().unwrap_or_default()
    }

    fn orders(&self) -> MutexGuard<'_, Option<Vec<Order>>> {
        self.orders.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
