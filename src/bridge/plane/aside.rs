//! Connections of ports in mode `http`: a proxy that reads requests serves them, on a thread of its own with a tokio runtime. There is
//! none before there is such a port; then it stays, for connections outlive their port's rule.
//!
//! ```text
//! engine's thread ──Handed (never waits)──> Server: entered in `open`, spawned ──> http::serve ──> out of `open`
//! main thread ─────cut, end─────────────────> cancels, and waits until they are out
//! ```

use std::{
    collections::{HashMap, HashSet},
    io,
    net::{IpAddr, Ipv6Addr, SocketAddr},
    os::fd::OwnedFd,
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use tokio::{
    net::TcpStream,
    runtime::{Builder, Handle},
};
use tokio_util::sync::CancellationToken;

use crate::{
    bridge::{
        engine::{Handed, Handler, Port, Seat},
        http,
    },
    limits,
    sys::rtnl,
};

/// The thread, if there is one.
#[derive(Debug, Default)]
pub(super) struct Aside(Mutex<Option<Running>>);

#[derive(Debug)]
struct Running {
    server: Arc<Server>,
    end: CancellationToken,
    thread: JoinHandle<()>,
}

/// What is served.
#[derive(Debug)]
struct Server {
    runtime: Handle,
    /// By number; as many as have a seat.
    open: Mutex<HashMap<u64, Arc<One>>>,
    /// One of them has gone.
    gone: Condvar,
    /// How many there have been: the number of the next.
    served: AtomicU64,
}

/// A connection.
#[derive(Debug)]
pub(super) struct One {
    pub(super) peer: SocketAddr,
    pub(super) local: SocketAddr,
    pub(super) port: Arc<Port>,
    cut: CancellationToken,
}

impl Aside {
    /// For the ports of this mode. Starts the thread if there is none.
    ///
    /// # Errors
    /// Out of descriptors, threads or memory.
    pub(super) fn handler(&self) -> io::Result<Box<Handler>> {
        let mut running = lock(&self.0);
        let running = match &mut *running {
            Some(running) => running,
            none => none.insert(Running::start()?),
        };
        let server = Arc::clone(&running.server);
        Ok(Box::new(move |handed| server.serve(handed)))
    }

    /// Resets those that are so; when this returns, they are gone.
    pub(super) fn cut(&self, so: impl Fn(&One) -> bool) {
        if let Some(running) = &*lock(&self.0) {
            running.server.cut(so);
        }
    }

    /// Looks at each.
    pub(super) fn each(&self, look: impl FnMut(&One)) {
        if let Some(running) = &*lock(&self.0) {
            lock(&running.server.open).values().map(|one| &**one).for_each(look);
        }
    }

    /// Resets all and ends the thread.
    pub(super) fn end(&self) {
        let Some(running) = lock(&self.0).take() else { return };
        running.server.cut(|_| true);
        running.end.cancel();
        // One that panicked has said so, and its connections are closed.
        let _ = running.thread.join();
    }
}

impl Running {
    fn start() -> io::Result<Self> {
        let runtime = Builder::new_current_thread().enable_io().enable_time().build()?;
        let server = Server {
            runtime: runtime.handle().clone(),
            open: Mutex::default(),
            gone: Condvar::new(),
            served: AtomicU64::new(0),
        };
        let end = CancellationToken::new();
        let ended = end.clone();
        let thread = thread::Builder::new().name("bridge-http".to_owned());
        let thread = thread.spawn(move || runtime.block_on(ended.cancelled()))?;
        Ok(Self { server: Arc::new(server), end, thread })
    }
}

impl Server {
    fn serve(self: &Arc<Self>, handed: Handed) {
        let Handed { client, peer, seat } = handed;
        let port = Arc::clone(seat.port());
        let local = rustix::net::getsockname(&client).and_then(SocketAddr::try_from);
        let Ok(local) = local else {
            // It has no address any more because it has ended.
            port.counters().errors.fetch_add(1, Relaxed);
            return;
        };
        let one = Arc::new(One { peer: peer.into(), local, port, cut: CancellationToken::new() });
        let number = self.served.fetch_add(1, Relaxed);
        // Before it runs, so that whoever cuts finds it.
        lock(&self.open).insert(number, Arc::clone(&one));
        let entry = Entry { server: Arc::clone(self), number, seat: Some(seat) };
        self.runtime.spawn(async move {
            let client = match stream(client) {
                Ok(client) => client,
                Err(error) => {
                    one.port.counters().errors.fetch_add(1, Relaxed);
                    tracing::debug!(peer = %one.peer, %error, "bridge: a connection cannot be watched");
                    return;
                }
            };
            let (counters, cut) = (Arc::clone(one.port.counters()), one.cut.clone());
            // Ends with its descriptors, and only then is it gone.
            if let Err(error) = http::serve(client, one.peer, || dial(&one, peer.ip()), counters, cut).await {
                tracing::debug!(peer = %one.peer, to = %one.port.to(), %error, "bridge: connection reset");
            }
            drop(entry);
        });
    }

    fn cut(&self, so: impl Fn(&One) -> bool) {
        // Asked without the lock, for it may take a while, and the engine's threads must not wait.
        let open: Vec<_> = lock(&self.open).iter().map(|(number, one)| (*number, Arc::clone(one))).collect();
        let mut cut = Vec::new();
        for (number, one) in open {
            if so(&one) {
                one.cut.cancel();
                cut.push(number);
            }
        }
        let are_there = |open: &mut HashMap<u64, Arc<One>>| {
            while cut.last().is_some_and(|number| !open.contains_key(number)) {
                cut.pop();
            }
            !cut.is_empty()
        };
        drop(self.gone.wait_timeout_while(lock(&self.open), limits::BRIDGE_CUT_TIME, are_there));
        if !cut.is_empty() {
            tracing::warn!(connections = cut.len(), "bridge: HTTP connections take long to be cut");
        }
    }
}

/// Of an open connection. Dropped when it ends, however that is.
#[derive(Debug)]
struct Entry {
    server: Arc<Server>,
    number: u64,
    seat: Option<Seat>,
}

impl Drop for Entry {
    fn drop(&mut self) {
        // First, so that who waits for the end of a connection does not find it counted still.
        self.seat = None;
        lock(&self.server.open).remove(&self.number);
        self.server.gone.notify_all();
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Without a success the socket is reset, for it has served nobody.
fn stream(socket: OwnedFd) -> io::Result<TcpStream> {
    // Fails only on a socket that is gone.
    let _ = socket2::SockRef::from(&socket).set_linger(Some(Duration::ZERO));
    let stream = TcpStream::from_std(socket.into())?;
    let _ = socket2::SockRef::from(&stream).set_linger(None);
    Ok(stream)
}

/// Connects to the service as the engine does.
async fn dial(one: &One, client: &Ipv6Addr) -> io::Result<TcpStream> {
    let service = TcpStream::from_std(std::net::TcpStream::from(one.port.dial(*client, one.local)?))?;
    service.writable().await?;
    match service.take_error()? {
        Some(error) => Err(error),
        None => Ok(service),
    }
}

/// Was it accepted at an address that the VM has no more? What cannot be told is left alone.
pub(super) fn is_foreign(one: &One, own: &HashSet<IpAddr>) -> bool {
    !own.contains(&one.local.ip()) && !rtnl::is_local(one.local.ip()).unwrap_or(true)
}
