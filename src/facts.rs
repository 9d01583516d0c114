//! Plain data about the VM, as `sys` found it. No judgement lives here: models judge, runners act.

use std::net::IpAddr;

/// A TCP socket in LISTEN state, of this network namespace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SocketFact {
    /// Bind address as the kernel reports it: IPv4-mapped IPv6 addresses are still mapped.
    pub address: IpAddr,
    /// TCP port in host order.
    pub port: u16,
    /// IPV6_V6ONLY; always false for IPv4. The kernel reports true for any specific IPv6 address.
    pub v6only: bool,
    /// Owner of the socket.
    pub uid: u32,
    /// Inode of the socket, unique while it lives.
    pub inode: u64,
}

/// An address on an interface.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct AddressFact {
    /// Interface name.
    pub interface: String,
    /// The address.
    pub address: IpAddr,
    /// The interface is a loopback one.
    pub loopback: bool,
    /// The interface is up.
    pub up: bool,
}

/// A process that holds a socket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProcessFact {
    /// Process id.
    pub pid: i32,
    /// comm of proc(5).
    pub name: String,
    /// Command line, arguments joined by spaces, cut at `limits::PROCESS_COMMAND_BYTES`.
    pub command: String,
    /// Real user id.
    pub uid: u32,
    /// cgroup v2 path, or that of the systemd hierarchy; empty where there is none.
    pub cgroup: String,
}
