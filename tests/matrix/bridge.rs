//! What accepts what is steered, in place of a bridge.

use std::{
    collections::VecDeque,
    io,
    net::{Ipv6Addr, SocketAddr, TcpListener},
    os::fd::AsFd,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use socket2::{Domain, Socket, Type};

use crate::world::{DEADLINE, HELD};

/// Of so many connections the bridge ends one by itself, so that it goes through TIME_WAIT; the others are reset.
const ENDED: u64 = 64;

/// The next connection and its client's port, if there is one.
pub(crate) fn accept(listener: &Socket) -> io::Result<Option<(Socket, u16)>> {
    match listener.accept() {
        Ok((accepted, peer)) => Ok(Some((accepted, peer.as_socket().map_or(0, |peer| peer.port())))),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
        Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => Ok(None),
        Err(error) => Err(error),
    }
}

/// An accept loop.
pub(crate) struct Bridge {
    state: Arc<BridgeState>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct BridgeState {
    stop: AtomicBool,
    accepted: AtomicU64,
    held: Mutex<Held>,
}

/// Connections.
#[derive(Default)]
struct Held {
    /// The last ones, with their clients' ports.
    last: VecDeque<(u16, Socket)>,
    /// Those that stay.
    kept: Vec<Socket>,
}

impl Bridge {
    pub(crate) fn listener() -> io::Result<TcpListener> {
        let socket = Socket::new(Domain::IPV6, Type::STREAM, None)?;
        socket.set_only_v6(true)?;
        socket.bind(&SocketAddr::from((Ipv6Addr::LOCALHOST, 0)).into())?;
        // After the bind, which it is to be exclusive, and before the listen: connections inherit it.
        socket.set_reuse_address(true)?;
        socket.listen(4096)?;
        socket.set_nonblocking(true)?;
        Ok(socket.into())
    }

    pub(crate) fn start(listener: TcpListener) -> Self {
        let state = Arc::new(BridgeState::default());
        let shared = Arc::clone(&state);
        let thread = thread::spawn(move || {
            let listener = Socket::from(listener);
            while !shared.stop.load(Ordering::Relaxed) {
                let mut ready = [PollFd::new(listener.as_fd(), PollFlags::POLLIN)];
                let _ = poll(&mut ready, PollTimeout::from(20u16));
                while let Ok(Some((accepted, peer))) = accept(&listener) {
                    let number = shared.accepted.load(Ordering::Relaxed);
                    let Ok(mut held) = shared.held.lock() else { return };
                    held.last.push_back((peer, accepted));
                    if held.last.len() > HELD
                        && let Some((_, oldest)) = held.last.pop_front()
                        && number % ENDED != 0
                    {
                        let _ = oldest.set_linger(Some(Duration::ZERO));
                    }
                    drop(held);
                    shared.accepted.store(number + 1, Ordering::Release);
                }
            }
        });
        Self { state, thread: Some(thread) }
    }

    /// Connections that have come.
    pub(crate) fn accepted(&self) -> u64 {
        self.state.accepted.load(Ordering::Acquire)
    }

    /// Waits until the connection of this client is there, and keeps it.
    pub(crate) fn keep(&self, port: u16) -> Result<()> {
        let until = Instant::now() + DEADLINE;
        loop {
            let mut held = self.state.held.lock().ok().context("the bridge panicked")?;
            if let Some(at) = held.last.iter().position(|(peer, _)| *peer == port) {
                let kept = held.last.remove(at).map(|(_, connection)| connection);
                held.kept.extend(kept);
                return Ok(());
            }
            drop(held);
            ensure!(Instant::now() < until, "the bridge got no connection");
            thread::sleep(Duration::from_micros(100));
        }
    }

    /// Ends all connections.
    pub(crate) fn release(&self) {
        if let Ok(mut held) = self.state.held.lock() {
            for connection in held.last.drain(..).map(|(_, connection)| connection).collect::<Vec<_>>() {
                let _ = connection.set_linger(Some(Duration::ZERO));
            }
            for connection in held.kept.drain(..) {
                let _ = connection.set_linger(Some(Duration::ZERO));
            }
        }
    }

    /// Is the connection of this client there?
    pub(crate) fn has(&self, port: u16) -> bool {
        self.state.held.lock().is_ok_and(|held| held.last.iter().any(|(peer, _)| *peer == port))
    }
}

impl Drop for Bridge {
    fn drop(&mut self) {
        self.state.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
