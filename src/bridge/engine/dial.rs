//! The socket to the service, and the options of both.

use std::{
    io,
    net::{Ipv6Addr, SocketAddr},
    os::fd::{AsFd, OwnedFd},
    time::Duration,
};

use rustix::{
    io::Errno,
    net::{AddressFamily, SocketFlags, SocketType, bind, connect, ipproto, socket_with, sockopt},
};

use super::port::Port;
use crate::{limits, sys::tcp};

/// A client that vanished without a word is noticed 2 minutes after its last one: 60 s, and 4 questions 15 s apart. There is no
/// TCP_USER_TIMEOUT: it would also cut a reader that lives and has stopped reading (measured on Linux 6.18: 3.5 s after it
/// with one of 3 s), and a bridged connection may stand still for as long as a direct one.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(60);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(15);
const KEEPALIVE_COUNT: u32 = 4;

/// Prepares a socket that accepts; what it accepts inherits the options (tcp(7) does not say so, inet_csk_clone_lock() does it).
pub(super) fn prepare_listener(socket: impl AsFd) -> io::Result<()> {
    let socket = socket.as_fd();
    sockopt::set_tcp_nodelay(socket, true)?;
    sockopt::set_tcp_keepidle(socket, KEEPALIVE_IDLE)?;
    sockopt::set_tcp_keepintvl(socket, KEEPALIVE_INTERVAL)?;
    sockopt::set_tcp_keepcnt(socket, KEEPALIVE_COUNT)?;
    sockopt::set_socket_keepalive(socket, true)?;
    Ok(())
}

/// Begins to connect to the service. It is in this machine, so its kernel cannot vanish: no keepalive.
pub(super) fn dial(port: &Port, client: Ipv6Addr) -> io::Result<OwnedFd> {
    let to = port.to();
    let family = if to.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let socket = socket_with(family, SocketType::STREAM, flags, Some(ipproto::TCP))?;
    // The port is chosen at connect, per destination: all clients' stand-ins have all ephemeral ports (ip(7)).
    tcp::choose_port_at_connect(&socket)?;
    // Everything local goes through lo. Said aloud, it lets a port be used again a second after its connection has ended rather than
    // a minute (tcp_tw_reuse of ip-sysctl, which knows 127.0.0.0/8 by itself but not the stand-ins); or one client could have no
    // more than 28,000 connections a minute.
    tcp::stay_on_loopback(&socket)?;
    bind(&socket, &SocketAddr::new(port.source_for(client), 0))?;
    sockopt::set_tcp_nodelay(&socket, true)?;
    tcp::set_connect_retries(&socket, limits::BRIDGE_CONNECT_RETRIES)?;
    match connect(&socket, &to) {
        // What becomes of it is an event.
        Ok(()) | Err(Errno::INPROGRESS) => Ok(socket),
        Err(error) => Err(error.into()),
    }
}

/// Makes the coming close a reset, so that the peer does not take a broken stream for a whole one.
pub(super) fn reset_on_close(socket: impl AsFd) {
    // Fails only on a socket that is gone, which then needs no reset.
    let _ = sockopt::set_socket_linger(socket, Some(Duration::ZERO));
}
