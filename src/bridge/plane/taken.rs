//! A port held on one address by binding it (tier `bind`).

use std::{
    io,
    net::{Ipv6Addr, SocketAddr},
};

use socket2::{Domain, Protocol, Socket, Type};

use crate::bridge::engine::{Engine, ListenerId, Route};

/// Connections that the kernel completes before they are accepted (listen(2)).
const BACKLOG: i32 = 1024;

/// A port on one address.
#[derive(Debug)]
pub(super) struct Taken {
    pub(super) address: Ipv6Addr,
    pub(super) inode: u64,
    state: Stage,
}

#[derive(Debug)]
enum Stage {
    /// Bound, and not to listen before the agent knows its inode, or it would be listed as a service's.
    Bound(Option<Socket>),
    Listening(ListenerId),
}

impl Taken {
    /// Binds `[address]:port`.
    ///
    /// `SO_REUSEADDR` is set between bind and listen: so the check at bind is exact (a service that has bound the port and
    /// not listened yet is not overtaken), and the accepted sockets have the option, without which they would keep a
    /// service from binding after the bridge let go. `over_own_remains` sets it before the bind, to take a port again on
    /// which connections of the last bridge are still open or in TIME_WAIT.
    pub(super) fn bind(address: Ipv6Addr, port: u16, over_own_remains: bool) -> io::Result<Self> {
        let socket = Socket::new(Domain::IPV6, Type::STREAM.nonblocking().cloexec(), Some(Protocol::TCP))?;
        socket.set_only_v6(true)?;
        socket.set_reuse_address(over_own_remains)?;
        socket.bind(&SocketAddr::new(address.into(), port).into())?;
        socket.set_reuse_address(true)?;
        let inode = nix::sys::stat::fstat(&socket)?.st_ino;
        Ok(Self { address, inode, state: Stage::Bound(Some(socket)) })
    }

    pub(super) fn is_pending(&self) -> bool {
        matches!(self.state, Stage::Bound(_))
    }

    /// Accepts, if it does not yet.
    pub(super) fn listen(&mut self, engine: &Engine, route: Route) -> io::Result<()> {
        let Stage::Bound(socket) = &mut self.state else { return Ok(()) };
        let Some(socket) = socket.take() else { return Err(io::ErrorKind::NotConnected.into()) };
        socket.listen(BACKLOG)?;
        self.state = Stage::Listening(engine.listen(socket.into(), route)?);
        Ok(())
    }

    /// Lets the port go. When this returns, it is free; accepted connections live on.
    pub(super) fn close(self, engine: &Engine) {
        if let Stage::Listening(listener) = self.state {
            engine.close(listener);
        }
    }
}

/// Why a port could not be had, and what to do.
pub(super) fn describe(address: Ipv6Addr, port: u16, error: &io::Error) -> String {
    match error.raw_os_error() {
        Some(libc::EADDRINUSE) => format!("[{address}]:{port} is in use by another socket, see `ss -tlnp` for whose"),
        Some(libc::EADDRNOTAVAIL) => format!("{address} is not usable yet (duplicate address detection)"),
        _ => format!("binding [{address}]:{port} failed: {error}"),
    }
}
