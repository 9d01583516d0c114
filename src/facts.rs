//! Plain data about the VM, as `sys` found it. No judgement lives here: models judge, runners act.

use std::{fmt, net::IpAddr, path::PathBuf, sync::Arc, time::Duration};

/// A TCP socket in LISTEN state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SocketFact {
    /// Bind address as the kernel reports it: IPv4-mapped IPv6 addresses are still mapped.
    pub address: IpAddr,
    /// TCP port in host order.
    pub port: u16,
    /// IPV6_V6ONLY; always false for IPv4. The kernel reports true for any specific IPv6 address.
    pub v6only: bool,
    /// Index of the interface that it is bound to (SO_BINDTODEVICE), by which alone clients come; 0 is any. /proc/net does not tell it.
    pub device: u32,
    /// Owner of the socket.
    pub uid: u32,
    /// Inode of the socket, unique while it lives.
    pub inode: u64,
    /// Cookie of the socket (SO_COOKIE), never used again; /proc/net does not tell it.
    pub cookie: Option<u64>,
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

/// A network namespace of the VM that is not guestd's own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NamespaceFact {
    /// Its inode number (`net:[N]` of namespaces(7)), unique while it lives.
    pub netns: u64,
    /// Its listening sockets.
    pub sockets: Vec<SocketFact>,
    /// Addresses of its interfaces.
    pub addresses: Vec<AddressFact>,
}

/// A way to a network namespace.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum NamespaceWay {
    /// A process that is in it.
    Process(i32),
    /// Where it is mounted, as `ip netns add` and container managers do.
    Mount(PathBuf),
}

impl fmt::Display for NamespaceWay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Process(pid) => write!(f, "/proc/{pid}/ns/net"),
            Self::Mount(path) => path.display().fmt(f),
        }
    }
}

/// Something that may hold listeners and could not be looked at: what listens there is not known, which is not "nothing".
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnseenFact {
    /// Inode number of the network namespace, where it is known.
    pub netns: Option<u64>,
    /// What was tried, on what, and why it failed.
    pub why: String,
}

/// Who holds a socket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OwnerFact {
    /// The process: the lowest pid that holds it, and pid 1 only where no other does.
    pub process: Arc<ProcessFact>,
    /// Processes that hold it, this one counted, as of the last walk over all processes.
    pub holders: u32,
}

/// A process that holds a socket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProcessFact {
    /// Process id.
    pub pid: i32,
    /// comm of proc(5), what is no UTF-8 replaced.
    pub name: String,
    /// Command line, arguments joined by spaces, what is no UTF-8 replaced, cut at `limits::PROCESS_COMMAND_BYTES`.
    pub command: String,
    /// Real user id.
    pub uid: u32,
    /// cgroup v2 path, or that of the systemd hierarchy; empty where there is none.
    pub cgroup: String,
    /// From the kernel's start (CLOCK_BOOTTIME) to the process's.
    pub started_after_boot: Duration,
}

/// How scarce things are (PSI of the kernel: shares of the last 10 s in percent), and what the host has taken. None where the kernel does
/// not say.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct MemoryFact {
    /// Somebody waited for a CPU.
    pub cpu_some: Option<f64>,
    /// Somebody waited for memory.
    pub memory_some: Option<f64>,
    /// Everybody did.
    pub memory_full: Option<f64>,
    /// Somebody waited for a disk.
    pub io_some: Option<f64>,
    /// Memory that the host's balloon holds, in bytes.
    pub balloon_bytes: Option<u64>,
}
