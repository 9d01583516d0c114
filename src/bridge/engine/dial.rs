//! The socket to the service, and the options of both.

use std::{
    io,
    net::{Ipv6Addr, SocketAddr},
    os::fd::{AsFd, OwnedFd},
    time::Duration,
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::Errno,
    net::{AddressFamily, SocketFlags, SocketType, bind, connect, ipproto, socket_with, sockopt},
};

use super::port::Port;
use crate::sys::{rtnl, tcp};

/// Prepares a socket that accepts; what it accepts inherits the options.
pub(super) fn prepare_listener(socket: impl AsFd) -> io::Result<()> {
    sockopt::set_tcp_nodelay(&socket, true)?;
    tcp::keep_alive(&socket)?;
    take_urgent_as_other_bytes(socket)
}

/// Begins to connect to the service. It is in this machine, so its kernel cannot vanish: no keepalive.
pub(super) fn dial(
    port: &Port,
    client: Ipv6Addr,
    local: impl FnOnce() -> io::Result<SocketAddr>,
) -> io::Result<OwnedFd> {
    let to = port.to();
    if port.may_lead_out() && !rtnl::is_local(to.ip())? {
        let error = format!("the VM has no address {} any more, and nothing else is connected to", to.ip());
        return Err(io::Error::new(io::ErrorKind::AddrNotAvailable, error));
    }
    let family = if to.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let socket = socket_with(family, SocketType::STREAM, flags, Some(ipproto::TCP))?;
    take_urgent_as_other_bytes(&socket)?;
    // The port is chosen at connect, per destination: all clients' stand-ins have all ephemeral ports (ip(7)).
    tcp::choose_port_at_connect(&socket)?;
    bind(&socket, &port.source_for(client, local)?)?;
    match connect(&socket, &to) {
        // What becomes of it is an event.
        Ok(()) | Err(Errno::INPROGRESS) => Ok(socket),
        Err(error) => Err(error.into()),
    }
}

/// Would a write take anything now?
pub(super) fn has_room(socket: impl AsFd) -> bool {
    let socket = socket.as_fd();
    let mut watched = [PollFd::new(&socket, PollFlags::OUT)];
    // One that fails says that there is none.
    poll(&mut watched, Some(&Timespec::default())).is_ok() && watched[0].revents().contains(PollFlags::OUT)
}

/// No waiting for the acknowledgement of what was sent before (TCP_NODELAY of tcp(7)).
pub(super) fn send_at_once(socket: impl AsFd) {
    // Fails only on a socket that is gone.
    let _ = sockopt::set_tcp_nodelay(socket, true);
}

/// Reads bytes of urgent data in their place among the others (SO_OOBINLINE of socket(7)); they would be lost. From the beginning: a
/// read may meet one before its event has come.
fn take_urgent_as_other_bytes(socket: impl AsFd) -> io::Result<()> {
    Ok(sockopt::set_socket_oobinline(socket, true)?)
}

/// To be called before the end of file is sent to a service that has not sent its own: this side will be in TIME_WAIT. From a
/// stand-in only: other sources are no strangers to the kernel, and between two addresses of an interface `lo` is no way that it
/// would find.
///
/// Everything local goes through lo. Said aloud, it lets a port be used again a second after its connection has ended rather than
/// a minute (tcp_tw_reuse of ip-sysctl, which knows 127.0.0.0/8 by itself but not the stand-ins); or one client could have no
/// more than 28,000 connections a minute.
pub(super) fn end_first(socket: impl AsFd) {
    // Fails only on a socket that is gone, or with the effect that is told above.
    let _ = tcp::stay_on_loopback(socket);
}

/// Makes the coming close a reset, so that the peer does not take a broken stream for a whole one.
pub(super) fn reset_on_close(socket: impl AsFd) {
    // Fails only on a socket that is gone, which then needs no reset.
    let _ = sockopt::set_socket_linger(socket, Some(Duration::ZERO));
}
