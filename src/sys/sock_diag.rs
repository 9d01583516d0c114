//! Listening TCP sockets of the network namespace that this thread is in, by sock_diag(7).
//!
//! Only LISTEN sockets are asked for, so the cost does not grow with the number of connections. A failed dump is an
//! error: the caller then knows nothing new, and must not take it for "no listeners".

use std::{collections::HashSet, io};

use netlink_packet_core::Nla as _;
use netlink_packet_sock_diag::{
    SockDiagMessage,
    constants::{AF_INET, AF_INET6, IPPROTO_TCP, IPPROTO_UDP},
    inet::{ExtensionFlags, InetRequest, InetResponse, SocketId, StateFlags, nlas::Nla},
};
use netlink_sys::protocols::NETLINK_SOCK_DIAG;

use super::netlink;
use crate::{
    facts::{AcceptQueue, SocketFact, UdpFact},
    limits,
};

/// `INET_DIAG_CGROUP_ID` of `linux/inet_diag.h`, a u64. It comes unasked, from Linux 5.9 on.
const INET_DIAG_CGROUP_ID: u16 = 21;

/// `INET_DIAG_ULP_INFO`: what is layered on TCP, of which the first nested attribute is the name. It comes with INET_DIAG_INFO.
const INET_DIAG_ULP_INFO: u16 = 19;

/// Every listening TCP socket, IPv4 and IPv6, up to `most` of each.
///
/// # Errors
/// The kernel has no INET_DIAG (ENOENT), or the dump was cut; see [`procfs_listening_tcp`] for the first.
pub fn listening_tcp(most: usize) -> io::Result<Vec<SocketFact>> {
    let mut facts = dump(AF_INET, most)?;
    match dump(AF_INET6, most) {
        Ok(ipv6) => facts.extend(ipv6),
        // A kernel without IPv6 (`ipv6.disable=1`) has no handler for the family.
        Err(error) if is_absent(&error) => {}
        Err(error) => return Err(error),
    }
    Ok(facts)
}

/// True for the answers of a kernel that lacks what was asked for.
pub fn is_absent(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ENOENT | libc::EAFNOSUPPORT | libc::EPROTONOSUPPORT | libc::EOPNOTSUPP))
}

/// Those that listen on this port alone.
///
/// # Errors
/// As of [`listening_tcp`].
pub fn listening_tcp_on(port: u16, most: usize) -> io::Result<Vec<SocketFact>> {
    let mut facts = dump_port(AF_INET, port, most)?;
    facts.extend(dump_port(AF_INET6, port, most)?);
    Ok(facts)
}

/// Cookies of the listeners that the kernel holds for multipath sockets (MPTCP) of services, such as Go's are by default.
///
/// # Errors
/// As of [`listening_tcp`].
pub fn multipath_listeners(most: usize) -> io::Result<HashSet<u64>> {
    let mut all = HashSet::new();
    for family in [AF_INET, AF_INET6] {
        match responses(family, 0, ExtensionFlags::INFO, most) {
            Ok(found) => {
                let multipath = found.iter().filter(|response| response.nlas.iter().any(is_of_multipath));
                all.extend(multipath.map(|response| cookie(response.header.socket_id.cookie)));
            }
            Err(error) if family == AF_INET6 && is_absent(&error) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(all)
}

fn dump(family: u8, most: usize) -> io::Result<Vec<SocketFact>> {
    // Port 0 is any.
    dump_port(family, 0, most)
}

fn dump_port(family: u8, port: u16, most: usize) -> io::Result<Vec<SocketFact>> {
    let facts = responses(family, port, ExtensionFlags::empty(), most)?.into_iter().map(|response| SocketFact {
        address: response.header.socket_id.source_address,
        port: response.header.socket_id.source_port,
        v6only: response.nlas.iter().any(|nla| matches!(nla, Nla::SkV6Only(true))),
        device: response.header.socket_id.interface_id,
        uid: response.header.uid,
        inode: u64::from(response.header.inode),
        cookie: Some(cookie(response.header.socket_id.cookie)),
        cgroup_id: response.nlas.iter().find_map(cgroup_id),
        // Of a LISTEN socket these are the length of the accept queue and the backlog (`tcp_diag_get_info`).
        accept_queue: Some(AcceptQueue { waiting: response.header.recv_queue, backlog: response.header.send_queue }),
    });
    Ok(facts.collect())
}

/// What the kernel says of each listening TCP socket of a family, on this port or on any (0).
fn responses(family: u8, port: u16, extensions: ExtensionFlags, most: usize) -> io::Result<Vec<InetResponse>> {
    let mut socket_id = if family == AF_INET { SocketId::new_v4() } else { SocketId::new_v6() };
    socket_id.source_port = port;
    let states = StateFlags::LISTEN;
    let request = InetRequest { family, protocol: IPPROTO_TCP, extensions, states, socket_id };
    let answers = netlink::dump(NETLINK_SOCK_DIAG, SockDiagMessage::InetRequest(request), most)?;
    let responses = answers.into_iter().filter_map(|answer| match answer {
        SockDiagMessage::InetResponse(response) => Some(*response),
        _ => None,
    });
    Ok(responses.collect())
}

/// Two numbers of 32 bits in the machine's byte order, the low one first (`sock_diag_save_cookie`).
pub(super) fn cookie([a, b, c, d, e, f, g, h]: [u8; 8]) -> u64 {
    u64::from(u32::from_ne_bytes([a, b, c, d])) | u64::from(u32::from_ne_bytes([e, f, g, h])) << 32
}

/// Every UDP socket that is bound and not connected, IPv4 and IPv6, and so takes datagrams from anyone.
///
/// # Errors
/// As of [`listening_tcp`]; the kernel's UDP_DIAG is a module of its own. See [`procfs_unconnected_udp`].
pub fn unconnected_udp() -> io::Result<Vec<UdpFact>> {
    let mut facts = dump_udp(AF_INET)?;
    match dump_udp(AF_INET6) {
        Ok(ipv6) => facts.extend(ipv6),
        Err(error) if is_absent(&error) => {}
        Err(error) => return Err(error),
    }
    Ok(facts)
}

fn dump_udp(family: u8) -> io::Result<Vec<UdpFact>> {
    let socket_id = if family == AF_INET { SocketId::new_v4() } else { SocketId::new_v6() };
    let request = SockDiagMessage::InetRequest(InetRequest {
        family,
        protocol: IPPROTO_UDP,
        extensions: ExtensionFlags::empty(),
        // What UDP calls a socket that is not connected.
        states: StateFlags::CLOSE,
        socket_id,
    });
    let facts =
        netlink::dump(NETLINK_SOCK_DIAG, request, limits::LISTENERS_READ)?.into_iter().filter_map(
            |answer| match answer {
                SockDiagMessage::InetResponse(response) => Some(UdpFact {
                    address: response.header.socket_id.source_address,
                    port: response.header.socket_id.source_port,
                    v6only: response.nlas.iter().any(|nla| matches!(nla, Nla::SkV6Only(true))),
                    uid: response.header.uid,
                    inode: u64::from(response.header.inode),
                }),
                _ => None,
            },
        );
    Ok(facts.filter(|fact| fact.port != 0).collect())
}

/// The same from `/proc/net/udp` and `udp6`, for kernels without UDP_DIAG; `v6only` is false for all.
pub fn procfs_unconnected_udp() -> io::Result<Vec<UdpFact>> {
    use procfs::net::{UdpState, udp, udp6};
    let mut entries = udp().map_err(io::Error::other)?;
    match udp6() {
        Ok(ipv6) => entries.extend(ipv6),
        Err(procfs::ProcError::NotFound(_)) => {}
        Err(error) => return Err(io::Error::other(error)),
    }
    let unconnected = entries.into_iter().filter(|entry| entry.state == UdpState::Close);
    let facts = unconnected.map(|entry| UdpFact {
        address: entry.local_address.ip(),
        port: entry.local_address.port(),
        v6only: false,
        uid: entry.uid,
        inode: entry.inode,
    });
    Ok(facts.filter(|fact| fact.port != 0).collect())
}

fn is_of_multipath(nla: &Nla) -> bool {
    let Nla::Other(other) = nla else { return false };
    if other.kind() != INET_DIAG_ULP_INFO {
        return false;
    }
    let mut bytes = vec![0; other.value_len()];
    other.emit_value(&mut bytes);
    // The name comes first, behind its attribute's header of 4 bytes (`tcp_diag_put_ulp`).
    bytes.get(4..).is_some_and(|name| name.starts_with(b"mptcp\0"))
}

fn cgroup_id(nla: &Nla) -> Option<u64> {
    let Nla::Other(other) = nla else { return None };
    let mut bytes = [0; size_of::<u64>()];
    if other.kind() != INET_DIAG_CGROUP_ID || other.value_len() != bytes.len() {
        return None;
    }
    other.emit_value(&mut bytes);
    Some(u64::from_ne_bytes(bytes))
}

/// The same from `/proc/net/tcp` and `tcp6`, for kernels without INET_DIAG.
///
/// These files do not tell dual-stack from IPv6-only sockets: `v6only` is false for all. They have neither cgroups nor backlogs.
pub fn procfs_listening_tcp(most: usize) -> io::Result<Vec<SocketFact>> {
    use procfs::{FromReadSI, ProcError, current_system_info, net::TcpNetEntries, net::TcpState};
    // Of this thread: `/proc/net` is that of the process's first one, which may be in another namespace.
    let read = |name| TcpNetEntries::from_file(format!("/proc/thread-self/net/{name}"), current_system_info());
    let mut entries = read("tcp").map_err(io::Error::other)?.0;
    match read("tcp6") {
        Ok(ipv6) => entries.extend(ipv6.0),
        // The file is there where the kernel has IPv6.
        Err(ProcError::NotFound(_)) => {}
        Err(error) => return Err(io::Error::other(error)),
    }
    Ok(entries
        .into_iter()
        .filter(|entry| entry.state == TcpState::Listen)
        .take(most)
        .map(|entry| SocketFact {
            address: entry.local_address.ip(),
            port: entry.local_address.port(),
            v6only: false,
            device: 0,
            uid: entry.uid,
            inode: entry.inode,
            cookie: None,
            cgroup_id: None,
            accept_queue: None,
        })
        .collect())
}

#[cfg(test)]
mod tests {
    use std::{
        net::{IpAddr, TcpListener},
        os::fd::{AsFd, AsRawFd},
    };

    use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
    use socket2::{Domain, Socket, Type};

    use super::*;

    fn find(facts: &[SocketFact], fd: &impl AsRawFd) -> SocketFact {
        let link = std::fs::read_link(format!("/proc/self/fd/{}", fd.as_raw_fd())).unwrap();
        let inode: u64 = link.to_str().unwrap().trim_matches(|c: char| !c.is_ascii_digit()).parse().unwrap();
        facts.iter().find(|fact| fact.inode == inode).expect("the socket is in the dump").clone()
    }

    #[test]
    fn multipath_listeners_are_told_apart() {
        let plain = TcpListener::bind("127.0.0.1:0").unwrap();
        let multipath = |domain, address: &str| {
            let socket = Socket::new(domain, Type::STREAM, Some(socket2::Protocol::MPTCP)).unwrap();
            socket.bind(&address.parse::<std::net::SocketAddr>().unwrap().into()).unwrap();
            socket.listen(1).unwrap();
            TcpListener::from(socket)
        };
        let found = multipath_listeners(1024).unwrap();
        for held in [multipath(Domain::IPV4, "127.0.0.1:0"), multipath(Domain::IPV6, "[::1]:0")] {
            let port = held.local_addr().unwrap().port();
            let shown = listening_tcp_on(port, 8).unwrap();
            let fact = shown.iter().find(|fact| fact.port == port).unwrap();
            let cookie = fact.cookie.unwrap();
            assert!(multipath_listeners(1024).unwrap().contains(&cookie) && !found.contains(&cookie));
        }
        let plain = find(&listening_tcp(1024).unwrap(), &plain);
        assert!(!multipath_listeners(1024).unwrap().contains(&plain.cookie.unwrap()));
    }

    fn ipv6_listener(address: &str, only_v6: bool) -> Socket {
        let socket = Socket::new(Domain::IPV6, Type::STREAM, None).unwrap();
        socket.set_only_v6(only_v6).unwrap();
        socket.bind(&format!("[{address}]:0").parse::<std::net::SocketAddr>().unwrap().into()).unwrap();
        socket.listen(1).unwrap();
        socket
    }

    #[test]
    fn dual_stack_and_v6only_sockets_are_told_apart() {
        let dual = ipv6_listener("::", false);
        let only = ipv6_listener("::", true);
        let facts = listening_tcp(usize::MAX).unwrap();
        assert!(!find(&facts, &dual).v6only);
        assert!(find(&facts, &only).v6only);
    }

    #[test]
    fn both_sources_agree_on_address_port_and_inode() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let from_diag = find(&listening_tcp(usize::MAX).unwrap(), &listener);
        let from_procfs = find(&procfs_listening_tcp(usize::MAX).unwrap(), &listener);
        let both_know = SocketFact { cookie: None, cgroup_id: None, accept_queue: None, ..from_diag.clone() };
        assert_eq!(both_know, from_procfs);
        assert_eq!(from_diag.address, "127.0.0.1".parse::<IpAddr>().unwrap());
        assert_eq!(from_diag.port, listener.local_addr().unwrap().port());
        assert_eq!(from_diag.cookie, Some(socket2::SockRef::from(&listener).cookie().unwrap()));
    }

    #[test]
    fn backlog_and_waiting_connections_are_those_of_the_socket() {
        let listener = ipv6_listener("::1", true);
        let address = listener.local_addr().unwrap().as_socket().unwrap();
        let queue = || find(&listening_tcp(usize::MAX).unwrap(), &listener).accept_queue;
        assert_eq!(queue(), Some(AcceptQueue { waiting: 0, backlog: 1 }));
        let _client = std::net::TcpStream::connect(address).unwrap();
        // The connection is in the queue when the handshake's last packet is there: then the listener can be read from.
        let mut readable = [PollFd::new(listener.as_fd(), PollFlags::POLLIN)];
        assert_eq!(poll(&mut readable, PollTimeout::from(30_000u16)).unwrap(), 1);
        assert_eq!(queue(), Some(AcceptQueue { waiting: 1, backlog: 1 }));
    }

    #[test]
    fn a_dump_ends_at_its_bound() {
        let _some: Vec<_> = (0..8).map(|_| TcpListener::bind("127.0.0.1:0").unwrap()).collect();
        for most in [0, 5] {
            assert_eq!(dump(AF_INET, most).unwrap().len(), most);
            assert_eq!(procfs_listening_tcp(most).unwrap().len(), most);
        }
    }

    #[test]
    fn established_connections_are_not_listed() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let client = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let port = client.local_addr().unwrap().port();
        assert!(listening_tcp(usize::MAX).unwrap().iter().all(|fact| fact.port != port));
    }

    #[test]
    fn udp_sockets_are_listed_until_they_are_connected_and_both_sources_agree() {
        let of = |facts: io::Result<Vec<UdpFact>>, port| facts.unwrap().into_iter().find(|fact| fact.port == port);
        let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let port = socket.local_addr().unwrap().port();
        let fact = of(unconnected_udp(), port).expect("the socket is in the dump");
        assert_eq!(fact.address, "127.0.0.1".parse::<IpAddr>().unwrap());
        assert_eq!(fact.inode, nix::sys::stat::fstat(&socket).unwrap().st_ino);
        assert_eq!(of(procfs_unconnected_udp(), port), Some(fact));
        socket.connect("127.0.0.1:9").unwrap();
        assert_eq!((of(unconnected_udp(), port), of(procfs_unconnected_udp(), port)), (None, None));
    }

    #[test]
    fn ipv6_only_udp_sockets_are_told_from_others() {
        let bound = |only_v6| {
            let socket = Socket::new(Domain::IPV6, Type::DGRAM, None).unwrap();
            socket.set_only_v6(only_v6).unwrap();
            socket.bind(&"[::]:0".parse::<std::net::SocketAddr>().unwrap().into()).unwrap();
            socket
        };
        for only_v6 in [false, true] {
            let socket = bound(only_v6);
            let inode = nix::sys::stat::fstat(&socket).unwrap().st_ino;
            let fact = unconnected_udp().unwrap().into_iter().find(|fact| fact.inode == inode).unwrap();
            assert_eq!(fact.v6only, only_v6);
        }
    }
}
