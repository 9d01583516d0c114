//! Where connections go: a port, its target, and who may have how many.

use std::{
    fmt, io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6},
    os::fd::OwnedFd,
    sync::{
        Arc, PoisonError, RwLock,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
};

use crate::{
    bridge::{PSEUDO_IPV4_SERVICE, PortCounters, pseudo_ipv4},
    limits,
};

/// Where a service sees its connections come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// The client's stand-in in 240.0.0.0/4; of an IPv4 service.
    Pseudo,
    /// An address of this machine's own, of the service's family.
    Own(IpAddr),
    /// That to which the client connected; of a service on IPv6. So a client from outside is no local one for a service that listens
    /// on `::1` and trusts it, and one on `::1` is.
    Meant,
}

/// What makes the bytes that a service gets before the client's, of the client's address and the one that it connected to.
pub type Preface = dyn Fn(SocketAddr, SocketAddr) -> Vec<u8> + Send + Sync;

/// Who serves a port's connections in the engine's place. Called by the engine's threads, so it must not wait.
pub type Handler = dyn Fn(Handed) + Send + Sync;

/// A client of such a port.
#[derive(Debug)]
pub struct Handed {
    /// Its connection, which does not block.
    pub client: OwnedFd,
    /// Who it is.
    pub peer: SocketAddrV6,
    /// Its place under the limits. As there are no more of them, no more can wait to be served than may be open.
    pub seat: Seat,
}

/// One bridged port: where its connections go, and its counters.
pub struct Port {
    to: SocketAddr,
    source: Source,
    preface: Option<Box<Preface>>,
    handler: Option<Box<Handler>>,
    most: u64,
    counters: Arc<PortCounters>,
    refused: AtomicBool,
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
            Source::Meant => false,
        };
        if from_v4 != to.is_ipv4() {
            let error = format!("{to} cannot be reached from {source:?}: give a source of the same family");
            return Err(io::Error::new(io::ErrorKind::InvalidInput, error));
        }
        Ok(Self {
            to,
            source,
            preface: None,
            handler: None,
            most: limits::BRIDGE_CONNECTIONS_OF_PORT as u64,
            counters,
            refused: AtomicBool::new(false),
        })
    }

    /// With something that is written to the service before the client's bytes, such as a PROXY header. Of what it makes, at
    /// most [`limits::BRIDGE_PREFACE_BYTES`]; more ends the connection.
    #[must_use]
    pub fn with_preface(mut self, preface: Box<Preface>) -> Self {
        self.preface = Some(preface);
        self
    }

    /// With somebody else who serves its connections: they are accepted and counted, and then handed over.
    #[must_use]
    pub fn with_handler(mut self, handler: Box<Handler>) -> Self {
        self.handler = Some(handler);
        self
    }

    pub(super) fn handler(&self) -> Option<&Handler> {
        self.handler.as_deref()
    }

    /// Begins to connect to the service for a client, who connected to `local`. The socket does not block.
    ///
    /// # Errors
    /// Those of socket(2), bind(2) and connect(2); the target is an address that this machine does not have.
    pub fn dial(&self, client: Ipv6Addr, local: SocketAddr) -> io::Result<OwnedFd> {
        super::dial::dial(self, client, || Ok(local))
    }

    /// The IPv4 address that stands for this client with the service, if one does.
    pub fn stand_in_for(&self, client: Ipv6Addr) -> Option<Ipv4Addr> {
        self.is_from_stand_ins().then(|| pseudo_ipv4(client))
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

    pub(super) fn is_from_stand_ins(&self) -> bool {
        self.source == Source::Pseudo
    }

    /// Nothing listened there when a client came, or the address was gone.
    pub fn was_refused(&self) -> bool {
        self.refused.load(Relaxed)
    }

    /// Could the target become another machine's address? Those of loopback cannot, and stand-ins connect only while the route is
    /// there that makes them local.
    pub(super) fn may_lead_out(&self) -> bool {
        let ip = self.to.ip();
        let is_stand_in = ip == PSEUDO_IPV4_SERVICE && self.is_from_stand_ins();
        !(ip.is_loopback() || is_stand_in)
    }

    pub(super) fn note_failure(&self, error: &io::Error) {
        self.counters.errors.fetch_add(1, Relaxed);
        if matches!(error.kind(), io::ErrorKind::ConnectionRefused | io::ErrorKind::AddrNotAvailable) {
            self.refused.store(true, Relaxed);
        }
    }

    /// What the service sees this client as, with any port.
    pub(super) fn source_for(
        &self,
        client: Ipv6Addr,
        local: impl FnOnce() -> io::Result<SocketAddr>,
    ) -> io::Result<SocketAddr> {
        let mut source = match self.source {
            Source::Pseudo => SocketAddr::new(pseudo_ipv4(client).into(), 0),
            Source::Own(address) => SocketAddr::new(address, 0),
            // With the interface, if it is of a link.
            Source::Meant => local()?,
        };
        source.set_port(0);
        Ok(source)
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

/// Says where connections go that a socket accepts for more ports than one. Asked by the engine's threads at each, so it must not
/// wait.
pub trait Router: fmt::Debug + Send + Sync {
    /// The port that clients of this number are served by; none is a reset.
    fn port(&self, number: u16) -> Option<Arc<Port>>;
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
}

impl Router for PortTable {
    fn port(&self, number: u16) -> Option<Arc<Port>> {
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
    /// To the port that the client connected to (getsockname(2) of the accepted socket).
    ByLocalPort(Arc<dyn Router>),
}

/// A connection's place under all limits, given back when this goes.
#[derive(Debug)]
pub struct Seat {
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

    /// The port that it is of.
    pub fn port(&self) -> &Arc<Port> {
        &self.port
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.port.counters.open.fetch_sub(1, Relaxed);
        self.all.fetch_sub(1, Relaxed);
    }
}
