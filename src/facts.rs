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
    /// cgroup v2 id of its maker at the time (the inode number of the cgroup's directory), where the kernel tells it.
    pub cgroup_id: Option<u64>,
    /// Connections that wait to be accepted, where the kernel tells both figures.
    pub accept_queue: Option<AcceptQueue>,
}

/// The established connections of a listening socket that its service has not accepted yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AcceptQueue {
    /// Connections that wait.
    pub waiting: u32,
    /// Backlog of listen(2), cut by the kernel to `net.core.somaxconn`.
    pub backlog: u32,
}

impl AcceptQueue {
    /// Connections that it holds: the kernel takes one more than the backlog (`sk_acceptq_is_full` of `net/sock.h` is `>`).
    pub fn capacity(self) -> u64 {
        u64::from(self.backlog) + 1
    }

    /// Does the kernel drop what comes now?
    pub fn is_full(self) -> bool {
        u64::from(self.waiting) >= self.capacity()
    }
}

/// A UDP socket that is bound and not connected, of this network namespace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UdpFact {
    /// Bind address as the kernel reports it.
    pub address: IpAddr,
    /// UDP port in host order.
    pub port: u16,
    /// IPV6_V6ONLY; always false for IPv4.
    pub v6only: bool,
    /// Owner of the socket.
    pub uid: u32,
    /// Inode of the socket.
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
