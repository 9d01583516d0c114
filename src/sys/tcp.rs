//! TCP: socket options that the socket crates lack, and the addresses to connect to.

#![expect(unsafe_code, reason = "setsockopt(2)")]

use std::{
    io, mem,
    net::{SocketAddr, SocketAddrV4, SocketAddrV6},
    os::fd::{AsFd, AsRawFd},
};

use rustix::net::sockopt;

use crate::limits;

/// Has the kernel ask a peer that is silent whether it is still there; a socket that listens hands it on to those that it accepts
/// (tcp(7) does not say so, inet_csk_clone_lock() does it).
pub fn keep_alive(socket: impl AsFd) -> io::Result<()> {
    let socket = socket.as_fd();
    sockopt::set_tcp_keepidle(socket, limits::KEEPALIVE_IDLE)?;
    sockopt::set_tcp_keepintvl(socket, limits::KEEPALIVE_INTERVAL)?;
    sockopt::set_tcp_keepcnt(socket, limits::KEEPALIVE_COUNT)?;
    Ok(sockopt::set_socket_keepalive(socket, true)?)
}

/// IP_BIND_ADDRESS_NO_PORT of ip(7): a bind to port 0 reserves no port; connect(2) chooses one that is free for its
/// destination.
pub fn choose_port_at_connect(socket: impl AsFd) -> io::Result<()> {
    set(socket, libc::IPPROTO_IP, libc::IP_BIND_ADDRESS_NO_PORT, 1)
}

/// SO_BINDTOIFINDEX of socket(7) for `lo`, the first interface of every network namespace.
pub fn stay_on_loopback(socket: impl AsFd) -> io::Result<()> {
    const LOOPBACK_IFINDEX: libc::c_int = 1;
    set(socket, libc::SOL_SOCKET, libc::SO_BINDTOIFINDEX, LOOPBACK_IFINDEX)
}

fn set(socket: impl AsFd, level: libc::c_int, option: libc::c_int, value: libc::c_int) -> io::Result<()> {
    // SAFETY: the pointer and length are those of `value`, which lives through the call.
    let result = unsafe {
        libc::setsockopt(
            socket.as_fd().as_raw_fd(),
            level,
            option,
            (&raw const value).cast(),
            mem::size_of_val(&value) as libc::socklen_t,
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Addresses of this network namespace's interfaces, port 0; link-local ones with their interface.
///
/// # Errors
/// Those of getifaddrs(3).
pub fn own_addresses() -> io::Result<Vec<SocketAddr>> {
    let addresses = nix::ifaddrs::getifaddrs()?.filter_map(|interface| interface.address);
    let address = |address: nix::sys::socket::SockaddrStorage| {
        let v4 = address.as_sockaddr_in().map(|v4| SocketAddrV4::from(*v4).into());
        v4.or_else(|| address.as_sockaddr_in6().map(|v6| SocketAddrV6::from(*v6).into()))
    };
    Ok(addresses.filter_map(address).collect())
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use socket2::{Domain, Socket, Type};

    use super::*;

    #[test]
    fn bind_to_an_address_takes_no_port_before_the_connect() {
        let bound_port = |late: bool| {
            let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
            if late {
                choose_port_at_connect(&socket).unwrap();
            }
            socket.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
            socket.local_addr().unwrap().as_socket().unwrap().port()
        };
        assert_eq!(bound_port(true), 0);
        assert_ne!(bound_port(false), 0);
    }
}
