//! UDP sockets, which the platform's proxy does not carry.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use super::{Family, Process, Scope};

/// A UDP socket that takes datagrams from anyone (bound and not connected). `GET /v1/listeners/udp` answers a list of these,
/// sorted by port.
///
/// None of them is reached from outside of the VM by the proxy, whatever it is bound to.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct UdpSocket {
    /// UDP port.
    pub port: u16,
    /// Bind address; an IPv4-mapped one as the IPv4 address that it is.
    pub address: IpAddr,
    /// What clients can reach it by.
    pub family: Family,
    /// IPV6_V6ONLY of ipv6(7); false for IPv4.
    pub v6only: bool,
    /// Kind of bind address.
    pub scope: Scope,
    /// A guess: the same program also listens on the TCP port, and port or program are those of HTTP/3. Clients of QUIC then fall
    /// back to TCP.
    pub probably_quic: bool,
    /// Owner, if a process of this VM holds the socket.
    pub process: Option<Process>,
    /// Network namespace as its inode number (`net:[N]` of namespaces(7)).
    pub netns: u64,
    /// Socket inode.
    pub inode: u64,
    /// User id of the socket's owner.
    pub uid: u32,
}
