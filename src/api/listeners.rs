//! Listeners and whether the platform's IPv6-only proxy reaches them.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use super::Probe;

/// One TCP socket in LISTEN state. `GET /v1/listeners` answers a list of these, sorted by port.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Listener {
    /// TCP port.
    pub port: u16,
    /// Bind address. An IPv4-mapped one (`::ffff:a.b.c.d`) is given as the IPv4 address that it is.
    pub address: IpAddr,
    /// What clients can reach it by; `ipv4` for an IPv4-mapped bind.
    pub family: Family,
    /// IPV6_V6ONLY of ipv6(7); false for IPv4.
    pub v6only: bool,
    /// Kind of bind address.
    pub scope: Scope,
    /// Can the proxy reach it?
    pub exposure: Exposure,
    /// Why not, or why it needed a bridge; null for a direct one.
    pub cause: Option<Cause>,
    /// What to do about it, for a person or an agent to read.
    pub hint: Option<String>,
    /// Public URL, when the VM's id is known and the proxy reaches the port.
    pub url: Option<String>,
    /// What came of connecting to it as a proxy would; there where that was asked for, and makes sense.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub probe: Option<Probe>,
    /// Owner, if a process of this VM holds the socket.
    pub process: Option<Process>,
    /// Network namespace as its inode number (`net:[N]` of namespaces(7)).
    pub netns: u64,
    /// Socket inode, the stable key of the socket.
    pub inode: u64,
    /// User id of the socket's owner (fchown(2) changes it). This and what follows is absent where an older agent or the kernel
    /// does not tell it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub uid: Option<u32>,
    /// cgroup v2 id of the socket's maker: the inode number of the cgroup's directory.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cgroup_id: Option<u64>,
    /// Backlog of listen(2) as the kernel keeps it, in connections. It takes one more.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub backlog: Option<u32>,
    /// Connections that wait to be accepted now. The queue is full where this is more than `backlog`, and new ones are dropped.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub accept_queue: Option<u32>,
}

/// Address family that clients use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Family {
    /// IPv4 only.
    Ipv4,
    /// IPv6, and IPv4 too where `v6only` is false.
    Ipv6,
}

/// Kind of a bind address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Scope {
    /// `0.0.0.0` or `::`.
    Wildcard,
    /// One address that is none of the others.
    Address,
    /// `127.0.0.0/8` or `::1`.
    Loopback,
    /// `169.254.0.0/16` or `fe80::/10`.
    LinkLocal,
}

/// Can the proxy reach a listener?
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Exposure {
    /// Over IPv6, with no help.
    Direct,
    /// Through guestd's IPv6-to-IPv4 bridge.
    Bridged,
    /// Not at all.
    Unreachable,
}

/// Why a listener is not reached directly.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Cause {
    /// Bound to `0.0.0.0`: every IPv4 address and no IPv6 one.
    Ipv4OnlyWildcard,
    /// Bound to one IPv4 address.
    Ipv4OnlyAddress,
    /// Bound to `127.0.0.0/8` or `::1`: its owner meant it to be private.
    LoopbackOnly,
    /// Bound to a link-local address, which is not routed.
    LinkLocalOnly,
    /// The platform does not route this port (`network.routable_ports`).
    PortNotRoutable,
    /// Listens in another network namespace (a container).
    OtherNetns,
    /// The VM has no IPv6 address that the proxy could connect to.
    NoIpv6Address,
    /// Bound to an address that the VM does not have (any more).
    AddressNotAvailable,
    /// IPv4-only, and automatic bridging is switched off.
    BridgeOff,
    /// IPv4-only, and the bridge could not be set up; the hint says why.
    BridgeFailed,
}

/// Process that holds a listening socket.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Process {
    /// Process id. The lowest, where several processes share the socket; init's only where no other has it.
    pub pid: i32,
    /// Command name (comm of proc(5)). What is no UTF-8 in it and in the command line is U+FFFD.
    pub name: String,
    /// Command line, arguments joined by spaces, cut at 512 bytes.
    pub command: String,
    /// Real user id.
    pub uid: u32,
    /// systemd unit, read from the process's cgroup.
    pub unit: Option<String>,
    /// The container that it runs in, read from its cgroup. This and what follows is absent where there is none, or where an older agent
    /// does not tell it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub container: Option<Container>,
    /// Seconds since 1970 when it was started, by the clock as it is set now. The kernel counts from its own start, without the
    /// time that a VM stood still as a snapshot: by so much it is too late after a restore.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub started_at: Option<f64>,
    /// Processes that share the socket, where they are more than one, as of the last time that all processes were looked through.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub holders: Option<u32>,
}

/// A container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Container {
    /// What runs it.
    pub runtime: ContainerRuntime,
    /// Its id as the runtime writes it in full, or its name where that is what the runtime goes by (LXC, nspawn).
    pub id: String,
}

/// What runs a container.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ContainerRuntime {
    /// Docker.
    Docker,
    /// Podman.
    Podman,
    /// containerd, by Kubernetes or nerdctl.
    Containerd,
    /// CRI-O.
    Crio,
    /// Kubernetes, where the cgroup does not tell by what.
    Kubernetes,
    /// LXC, Incus, LXD.
    Lxc,
    /// systemd-nspawn.
    Nspawn,
}
