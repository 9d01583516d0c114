//! Where connections go: a port, its target, and who may have how many.

use std::{
    fmt, io,
    net::{IpAddr, Ipv6Addr, SocketAddr},
    sync::{
        Arc, PoisonError, RwLock,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use crate::{
    bridge::{PortCounters, pseudo_ipv4},
    limits,
};

/// Where a service sees its connections come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// The client's stand-in in 240.0.0.0/4; of an IPv4 service.
    Pseudo,
    /// An address of this machine's own, of the service's family.
    Own(IpAddr),
}

/// What makes the bytes that a service gets before the client's, of the client's address and the one that it connected to.
pub type Preface = dyn Fn(SocketAddr, SocketAddr) -> Vec<u8> + Send + Sync;

/// One bridged port: where its connections go, and its counters.
pub struct Port {
    to: SocketAddr,
    source: Source,
    preface: Option<Box<Preface>>,
    most: u64,
    counters: Arc<PortCounters>,
}

impl Port {
    /// Connections to `to`, from `source`.
    ///
    /// # Errors
    /// The two are of different families.
    pub fn new(to: SocketAddr, source: Source, counters: Arc<PortCounters>) -> io::Result<Self> {
        let from_v4 = match source {
            Source::Pseudo => true,
            Source::Own(address) => address.is_ipv4(),
        };
        if from_v4 != to.is_ipv4() {
            let error = format!("{to} cannot be reached from {source:?}: give a source of the same family");
            return Err(io::Error::new(io::ErrorKind::InvalidInput, error));
        }
        Ok(Self { to, source, preface: None, most: limits::BRIDGE_CONNECTIONS_OF_PORT as u64, counters })
    }

    /// With something that is written to the service before the client's bytes, such as a PROXY header. Of what it makes, at
    /// most [`limits::BRIDGE_PREFACE_BYTES`]; more ends the connection.
    #[must_use]
    pub fn with_preface(mut self, preface: Box<Preface>) -> Self {
        self.preface = Some(preface);
        self
    }

    /// With another bound for its connections than [`limits::BRIDGE_CONNECTIONS_OF_PORT`].
    #[must_use]
    pub fn with_most_connections(mut self, most: u64) -> Self {
        self.most = most;
        self
    }

    /// Where it leads.
    pub fn to(&self) -> SocketAddr {
        self.to
    }

    /// Its traffic.
    pub fn counters(&self) -> &Arc<PortCounters> {
        &self.counters
    }

    /// What the service sees this client as.
    pub(super) fn source_for(&self, client: Ipv6Addr) -> IpAddr {
        match self.source {
            Source::Pseudo => pseudo_ipv4(client).into(),
            Source::Own(address) => address,
        }
    }

    /// What goes ahead of the client's bytes.
    pub(super) fn preface(
        &self,
        client: SocketAddr,
        local: impl FnOnce() -> io::Result<SocketAddr>,
    ) -> io::Result<Vec<u8>> {
        let Some(preface) = &self.preface else { return Ok(Vec::new()) };
        let bytes = preface(client, local()?);
        if bytes.len() > limits::BRIDGE_PREFACE_BYTES {
            return Err(io::Error::other(format!(
                "{} bytes to be sent ahead to {}, of {} that may be",
                bytes.len(),
                self.to,
                limits::BRIDGE_PREFACE_BYTES
            )));
        }
        Ok(bytes)
    }
}

impl fmt::Debug for Port {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Port").field("to", &self.to).field("source", &self.source).finish_non_exhaustive()
    }
}

/// Ports by the number that a client connected to, for one socket that accepts for them all. Can be changed at any time.
#[derive(Debug, Default)]
pub struct PortTable(RwLock<Vec<(u16, Arc<Port>)>>);

impl PortTable {
    /// Connections to `number` go there from now on; those that are open stay where they are.
    pub fn set(&self, number: u16, port: Arc<Port>) {
        let mut ports = self.0.write().unwrap_or_else(PoisonError::into_inner);
        match ports.binary_search_by_key(&number, |entry| entry.0) {
            Ok(found) => ports[found].1 = port,
            Err(place) => ports.insert(place, (number, port)),
        }
    }

    /// Connections to `number` are reset from now on; those that are open live on. Gives what was there.
    pub fn remove(&self, number: u16) -> Option<Arc<Port>> {
        let mut ports = self.0.write().unwrap_or_else(PoisonError::into_inner);
        let found = ports.binary_search_by_key(&number, |entry| entry.0).ok()?;
        Some(ports.remove(found).1)
    }

    pub(super) fn get(&self, number: u16) -> Option<Arc<Port>> {
        let ports = self.0.read().unwrap_or_else(PoisonError::into_inner);
        let found = ports.binary_search_by_key(&number, |entry| entry.0).ok()?;
        Some(Arc::clone(&ports[found].1))
    }
}

/// Where what a listening socket accepts goes.
#[derive(Debug, Clone)]
pub enum Route {
    /// To one port.
    To(Arc<Port>),
    /// To the port of the table that the client connected to (getsockname(2) of the accepted socket).
    ByLocalPort(Arc<PortTable>),
}

/// A connection's place under all limits, given back when this goes.
#[derive(Debug)]
pub(super) struct Seat {
    port: Arc<Port>,
    all: Arc<AtomicU64>,
}

impl Seat {
    /// A place, if there is one in the port and in all of them together.
    pub(super) fn take(port: &Arc<Port>, all: &Arc<AtomicU64>, most: u64) -> Option<Self> {
        let seat = Self { port: Arc::clone(port), all: Arc::clone(all) };
        // Taken first and looked at then, so that two threads cannot both have the last one.
        let of_port = port.counters.open.fetch_add(1, Relaxed);
        let of_all = all.fetch_add(1, Relaxed);
        (of_port < port.most && of_all < most).then_some(seat)
    }

    pub(super) fn port(&self) -> &Arc<Port> {
        &self.port
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.port.counters.open.fetch_sub(1, Relaxed);
        self.all.fetch_sub(1, Relaxed);
    }
}
