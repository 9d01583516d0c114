//! An engine with one port, a service behind it, and clients in front.

use std::{
    fs,
    io::{self, Read},
    net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream},
    os::fd::OwnedFd,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use guestd::bridge::{
    PortCounters,
    engine::{Engine, ListenerId, Port, Route, Source},
};
use socket2::SockRef;

/// Longer than anything here takes.
pub(crate) const DEADLINE: Duration = Duration::from_secs(30);

/// Own addresses as sources: the stand-ins need a route that only root can add.
pub(crate) const SOURCE: Source = Source::Own(std::net::IpAddr::V4(Ipv4Addr::new(127, 0, 0, 2)));

pub(crate) struct Rig {
    pub(crate) engine: Engine,
    pub(crate) port: Arc<Port>,
    pub(crate) service: TcpListener,
    pub(crate) listener: ListenerId,
    pub(crate) address: SocketAddr,
}

/// A socket for the engine, and its address.
pub(crate) fn listening() -> (OwnedFd, SocketAddr) {
    let listener = TcpListener::bind((Ipv6Addr::LOCALHOST, 0)).unwrap();
    let address = listener.local_addr().unwrap();
    (listener.into(), address)
}

/// A service's socket on IPv4.
pub(crate) fn service() -> TcpListener {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap()
}

/// A way to a service.
pub(crate) fn port_to(service: &TcpListener) -> Port {
    Port::new(service.local_addr().unwrap(), SOURCE, Arc::new(PortCounters::default())).unwrap()
}

pub(crate) fn engine(most_connections: u64) -> Engine {
    Engine::start(most_connections).unwrap()
}

impl Rig {
    pub(crate) fn new() -> Self {
        Self::with(|port| port)
    }

    pub(crate) fn with(change: impl FnOnce(Port) -> Port) -> Self {
        let (engine, service, (socket, address)) = (engine(10_000), service(), listening());
        let port = Arc::new(change(port_to(&service)));
        let listener = engine.listen(socket, Route::To(Arc::clone(&port))).unwrap();
        Self { engine, port, service, listener, address }
    }

    /// A client.
    pub(crate) fn connect(&self) -> TcpStream {
        with_deadline(TcpStream::connect(self.address).unwrap())
    }

    /// Both ends of a new connection.
    pub(crate) fn pair(&self) -> (TcpStream, TcpStream) {
        let client = self.connect();
        (client, with_deadline(self.service.accept().unwrap().0))
    }
}

/// A connection that no engine is part of.
pub(crate) fn direct_pair() -> (TcpStream, TcpStream) {
    let listener = service();
    let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    (with_deadline(client), with_deadline(listener.accept().unwrap().0))
}

pub(crate) fn with_deadline(stream: TcpStream) -> TcpStream {
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    stream.set_write_timeout(Some(DEADLINE)).unwrap();
    stream
}

/// Bytes in which a missing, doubled or swapped piece shows.
pub(crate) fn pattern(length: usize) -> Vec<u8> {
    (0..length as u32).flat_map(|word| word.wrapping_mul(2_654_435_761).to_le_bytes()).take(length).collect()
}

/// Closes with a reset.
pub(crate) fn reset(stream: TcpStream) {
    SockRef::from(&stream).set_linger(Some(Duration::ZERO)).unwrap();
}

/// All that comes, and how it ends.
pub(crate) fn read_all(stream: &mut TcpStream) -> (Vec<u8>, io::Result<()>) {
    let mut bytes = Vec::new();
    let end = stream.read_to_end(&mut bytes).map(drop);
    (bytes, end)
}

/// It ends as a reset connection does.
pub(crate) fn assert_reset(stream: &mut TcpStream) {
    assert_eq!(read_all(stream).1.unwrap_err().kind(), io::ErrorKind::ConnectionReset);
}

/// Looks until it is so.
pub(crate) fn eventually<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let give_up = Instant::now() + DEADLINE;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < give_up, "not within {DEADLINE:?}: {what}");
        thread::park_timeout(Duration::from_millis(2));
    }
}

/// Descriptors of this process.
pub(crate) fn descriptors() -> usize {
    fs::read_dir("/proc/self/fd").unwrap().count()
}

/// Threads of the engine, by their directories in /proc.
pub(crate) fn threads() -> Vec<std::path::PathBuf> {
    let tasks = fs::read_dir("/proc/self/task").unwrap().map(|entry| entry.unwrap().path());
    tasks.filter(|task| fs::read_to_string(task.join("comm")).is_ok_and(|name| name.starts_with("bridge-"))).collect()
}

/// The same of an engine that runs: a thread has its name only when it has given it to itself.
pub(crate) fn running_threads() -> Vec<std::path::PathBuf> {
    eventually("two threads have their names", || Some(threads()).filter(|threads| threads.len() == 2))
}
