//! The listeners as they are, with what the kernel's view hides made plain: an IPv4-mapped bind is an IPv4 bind.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    time::Duration,
};

use crate::{
    api::{Family, Scope},
    facts::{AddressFact, NamespaceFact, OwnerFact, SocketFact, UnseenFact},
};

/// One look at the VM's sockets, addresses and their owners.
///
/// Sockets of other network namespaces are apart from the own ones, so that nothing that acts on a listener takes a container's for
/// one that it can reach.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ListenerTable {
    /// The VM's own network namespace, which is guestd's, as its inode number.
    pub netns: u64,
    /// Its listening sockets, by port, address and inode.
    pub sockets: Vec<SocketFact>,
    /// Addresses of its interfaces.
    pub addresses: Vec<AddressFact>,
    /// Bind addresses that the kernel does not take for its own.
    pub absent: BTreeSet<IpAddr>,
    /// Other network namespaces, by number.
    pub others: Vec<NamespaceFact>,
    /// What could not be looked at.
    pub unseen: Vec<UnseenFact>,
    /// Processes whose network namespace could not be told, in a sentence.
    pub unreadable: Option<String>,
    /// Owners by socket inode, in all namespaces, where one was found. Inodes of sockets are unique over namespaces.
    pub processes: BTreeMap<u64, OwnerFact>,
    /// The kernel's start, since 1970.
    pub booted_at: Duration,
}

impl ListenerTable {
    /// IPv6 addresses that something outside of the VM can connect to: on an interface that is up, not loopback, not
    /// link-local.
    pub fn reachable_ipv6(&self) -> impl Iterator<Item = Ipv6Addr> {
        self.addresses.iter().filter(|fact| fact.up && !fact.loopback).filter_map(|fact| match fact.address {
            IpAddr::V6(address) if !address.is_unicast_link_local() && !address.is_loopback() => Some(address),
            _ => None,
        })
    }

    /// IPv4 addresses of interfaces that are up, without loopback and link-local ones.
    pub fn own_ipv4(&self) -> impl Iterator<Item = Ipv4Addr> {
        self.addresses.iter().filter(|fact| fact.up && !fact.loopback).filter_map(|fact| match fact.address {
            IpAddr::V4(address) if !address.is_link_local() && !address.is_loopback() => Some(address),
            _ => None,
        })
    }

    /// By port, the socket that serves it over IPv6 for clients outside of the VM.
    pub fn ipv6_listeners(&self) -> BTreeMap<u16, &SocketFact> {
        self.public_ipv6(|bind| !self.absent.contains(&bind.address))
    }

    /// By port, a socket that would, on an address that the VM does not have.
    pub fn absent_ipv6_listeners(&self) -> BTreeMap<u16, &SocketFact> {
        self.public_ipv6(|bind| self.absent.contains(&bind.address))
    }

    /// All that serve a port so.
    pub fn public_ipv6_on(&self, port: u16) -> impl Iterator<Item = &SocketFact> {
        self.sockets.iter().filter(move |socket| {
            let bind = Bind::of(socket);
            socket.port == port && bind.is_public_ipv6() && !self.absent.contains(&bind.address)
        })
    }

    fn public_ipv6(&self, so: impl Fn(&Bind) -> bool) -> BTreeMap<u16, &SocketFact> {
        let mut listeners = BTreeMap::new();
        for socket in &self.sockets {
            let bind = Bind::of(socket);
            if bind.is_public_ipv6() && so(&bind) {
                listeners.entry(socket.port).or_insert(socket);
            }
        }
        listeners
    }

    /// Sockets of every namespace, the own one's first.
    pub fn all_sockets(&self) -> impl Iterator<Item = &SocketFact> {
        self.sockets.iter().chain(self.others.iter().flat_map(|other| &other.sockets))
    }

    /// The same, to be changed.
    pub fn all_sockets_mut(&mut self) -> impl Iterator<Item = &mut SocketFact> {
        self.sockets.iter_mut().chain(self.others.iter_mut().flat_map(|other| &mut other.sockets))
    }
}

/// What a bind address means to clients.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bind {
    /// The address; IPv4-mapped IPv6 addresses (RFC 4291, section 2.5.5.2) as the IPv4 ones that they are.
    pub address: IpAddr,
    /// Family that clients use.
    pub family: Family,
    /// Kind of the address.
    pub scope: Scope,
}

impl Bind {
    fn is_public_ipv6(&self) -> bool {
        self.family == Family::Ipv6 && matches!(self.scope, Scope::Wildcard | Scope::Address)
    }

    /// Reads a socket's bind.
    pub fn of(socket: &SocketFact) -> Self {
        Self::to(socket.address)
    }

    /// Reads a bind address.
    pub fn to(address: IpAddr) -> Self {
        let address = address.to_canonical();
        let family = if address.is_ipv4() { Family::Ipv4 } else { Family::Ipv6 };
        let link_local = match address {
            IpAddr::V4(address) => address.is_link_local(),
            IpAddr::V6(address) => address.is_unicast_link_local(),
        };
        let scope = if address.is_unspecified() {
            Scope::Wildcard
        } else if address.is_loopback() {
            Scope::Loopback
        } else if link_local {
            Scope::LinkLocal
        } else {
            Scope::Address
        };
        Self { address, family, scope }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::facts::ProcessFact;

    /// A socket on `address`, its inode made from the port.
    pub(crate) fn socket(address: &str, port: u16) -> SocketFact {
        let address: IpAddr = address.parse().unwrap();
        let v6only = address.is_ipv6() && !address.is_unspecified();
        let inode = u64::from(port) * 10;
        SocketFact {
            address,
            port,
            v6only,
            device: 0,
            uid: 0,
            inode,
            cookie: None,
            cgroup_id: None,
            accept_queue: None,
        }
    }

    /// An address on an interface that is up.
    pub(crate) fn address(interface: &str, address: &str) -> AddressFact {
        AddressFact {
            interface: interface.to_owned(),
            address: address.parse().unwrap(),
            loopback: interface == "lo",
            up: true,
        }
    }

    /// A table of these sockets in a VM with one IPv4 and one IPv6 address.
    pub(crate) fn table(sockets: Vec<SocketFact>) -> ListenerTable {
        let addresses =
            [("lo", "127.0.0.1"), ("lo", "::1"), ("eth0", "10.0.0.2"), ("eth0", "fd00::2"), ("eth0", "fe80::2")];
        ListenerTable {
            netns: 1,
            sockets,
            addresses: addresses.map(|(interface, ip)| address(interface, ip)).to_vec(),
            ..ListenerTable::default()
        }
    }

    /// A process that has held a socket since the kernel's start.
    pub(crate) fn owner(pid: i32, name: &str, command: &str, cgroup: &str) -> OwnerFact {
        let process = ProcessFact {
            pid,
            name: name.to_owned(),
            command: command.to_owned(),
            uid: 0,
            cgroup: cgroup.to_owned(),
            started_after_boot: Duration::ZERO,
        };
        OwnerFact { process: Arc::new(process), holders: 1 }
    }

    #[test]
    fn binds_are_read_as_clients_see_them() {
        let read = |address: &str| {
            let bind = Bind::of(&socket(address, 80));
            (bind.address.to_string(), bind.family, bind.scope)
        };
        use Family::{Ipv4, Ipv6};
        assert_eq!(read("0.0.0.0"), ("0.0.0.0".into(), Ipv4, Scope::Wildcard));
        assert_eq!(read("::"), ("::".into(), Ipv6, Scope::Wildcard));
        assert_eq!(read("::ffff:0.0.0.0"), ("0.0.0.0".into(), Ipv4, Scope::Wildcard));
        assert_eq!(read("::ffff:127.0.0.1"), ("127.0.0.1".into(), Ipv4, Scope::Loopback));
        assert_eq!(read("127.8.0.1"), ("127.8.0.1".into(), Ipv4, Scope::Loopback));
        assert_eq!(read("::1"), ("::1".into(), Ipv6, Scope::Loopback));
        assert_eq!(read("fe80::2"), ("fe80::2".into(), Ipv6, Scope::LinkLocal));
        assert_eq!(read("169.254.1.1"), ("169.254.1.1".into(), Ipv4, Scope::LinkLocal));
        assert_eq!(read("fd00::2"), ("fd00::2".into(), Ipv6, Scope::Address));
        assert_eq!(read("10.0.0.2"), ("10.0.0.2".into(), Ipv4, Scope::Address));
    }

    #[test]
    fn only_routed_addresses_of_live_interfaces_are_reachable() {
        let mut table = table(Vec::new());
        table.addresses.push(AddressFact { up: false, ..address("eth1", "fd00::3") });
        assert_eq!(table.reachable_ipv6().collect::<Vec<_>>(), ["fd00::2".parse::<Ipv6Addr>().unwrap()]);
        assert_eq!(table.own_ipv4().collect::<Vec<_>>(), [Ipv4Addr::new(10, 0, 0, 2)]);
    }
}
