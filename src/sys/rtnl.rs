//! Addresses, links and routes of this network namespace, by rtnetlink(7).

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use netlink_packet_core::{
    DecodeError, DefaultNla, Emitable, NLM_F_CREATE, NLM_F_EXCL, NetlinkDeserializable, NetlinkHeader,
    NetlinkSerializable,
};
use netlink_sys::protocols::NETLINK_ROUTE;

use super::netlink;
use crate::facts::AddressFact;

/// Every address on every interface.
pub fn addresses() -> io::Result<Vec<AddressFact>> {
    use nix::net::if_::InterfaceFlags;
    let mut facts: Vec<_> = nix::ifaddrs::getifaddrs()?
        .filter_map(|entry| {
            let storage = entry.address?;
            let address = match (storage.as_sockaddr_in(), storage.as_sockaddr_in6()) {
                (Some(ipv4), _) => IpAddr::V4(ipv4.ip()),
                (_, Some(ipv6)) => IpAddr::V6(ipv6.ip()),
                _ => return None,
            };
            Some(AddressFact {
                interface: entry.interface_name,
                address,
                loopback: entry.flags.contains(InterfaceFlags::IFF_LOOPBACK),
                up: entry.flags.contains(InterfaceFlags::IFF_UP),
            })
        })
        .collect();
    facts.sort();
    facts.dedup();
    Ok(facts)
}

/// Does the kernel take what comes for this address as its own? So it does for addresses on interfaces, for all of loopback, and for
/// prefixes that a `local` route names; and for an IPv4 address, not an IPv6 one, whose interface is down.
pub fn is_local(address: IpAddr) -> io::Result<bool> {
    let (family, prefix_len, octets) = match address {
        IpAddr::V4(address) => (libc::AF_INET, 32, address.octets().to_vec()),
        IpAddr::V6(address) => (libc::AF_INET6, 128, address.octets().to_vec()),
    };
    let header = route_header(family, prefix_len, libc::RT_TABLE_UNSPEC, libc::RT_SCOPE_UNIVERSE, libc::RTN_UNSPEC);
    let request = Change { kind: libc::RTM_GETROUTE, header, attributes: vec![attribute(libc::RTA_DST, octets)] };
    match netlink::ask(NETLINK_ROUTE, request) {
        // The answer begins with a struct rtmsg as well; its eighth byte is the route's type.
        Ok(answer) => Ok(answer.is_some_and(|route| route.header.get(7) == Some(&libc::RTN_LOCAL))),
        Err(error) if matches!(error.raw_os_error(), Some(libc::ENETUNREACH | libc::EHOSTUNREACH)) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Index of an interface; an error where there is none of that name.
pub fn interface_index(name: &str) -> io::Result<u32> {
    Ok(nix::net::if_::if_nametoindex(name)?)
}

/// Index of the first interface that is no loopback one; None where there is none yet.
pub fn first_interface() -> io::Result<Option<u32>> {
    let interfaces = nix::net::if_::if_nameindex()?;
    Ok(interfaces.iter().filter(|interface| interface.name() != c"lo").map(|interface| interface.index()).min())
}

/// Sets an interface up, with an MTU in bytes if one is given.
pub fn set_link_up(index: u32, mtu: Option<u32>) -> io::Result<()> {
    let up = (libc::IFF_UP as u32).to_ne_bytes();
    // struct ifinfomsg: family, padding, device type, index, flags, mask of the flags that change.
    let header = [&[0; 4][..], &index.to_ne_bytes(), &up, &up].concat();
    let attributes = mtu.map(|mtu| attribute(libc::IFLA_MTU, mtu.to_ne_bytes())).into_iter().collect();
    Change { kind: libc::RTM_SETLINK, header, attributes }.make(0)
}

/// Adds an IPv6 address without duplicate address detection; it is usable at once. One that is there already is no error.
pub fn add_ipv6_address(index: u32, address: Ipv6Addr, prefix_len: u8) -> io::Result<()> {
    // struct ifaddrmsg: family, prefix length, flags, scope, index.
    let flags = libc::IFA_F_NODAD as u8;
    let header = [&[libc::AF_INET6 as u8, prefix_len, flags, 0][..], &index.to_ne_bytes()].concat();
    let attributes = vec![attribute(libc::IFA_ADDRESS, address.octets())];
    accept_existing(Change { kind: libc::RTM_NEWADDR, header, attributes }.make(NLM_F_CREATE | NLM_F_EXCL))
}

/// IPv6 addresses of an interface with the lengths of their prefixes, but for its link-local ones.
pub fn ipv6_addresses(index: u32) -> io::Result<Vec<(Ipv6Addr, u8)>> {
    Ok(parse_if_inet6(&std::fs::read_to_string("/proc/net/if_inet6")?, index))
}

/// Each line: address, interface, length of the prefix, scope, flags, all in hexadecimal, and the interface's name.
fn parse_if_inet6(text: &str, index: u32) -> Vec<(Ipv6Addr, u8)> {
    const LINK_LOCAL: u8 = 0x20;
    let parsed = text.lines().filter_map(|line| {
        let mut fields = line.split_whitespace();
        let address = u128::from_str_radix(fields.next()?, 16).ok()?;
        let interface = u32::from_str_radix(fields.next()?, 16).ok()?;
        let mut byte = || u8::from_str_radix(fields.next()?, 16).ok();
        let (length, scope) = (byte()?, byte()?);
        (interface == index && scope != LINK_LOCAL).then_some((Ipv6Addr::from_bits(address), length))
    });
    parsed.collect()
}

/// Takes an IPv6 address away, and the routes that came with it. One that is not there is no error.
pub fn remove_ipv6_address(index: u32, address: Ipv6Addr, prefix_len: u8) -> io::Result<()> {
    let header = [&[libc::AF_INET6 as u8, prefix_len, 0, 0][..], &index.to_ne_bytes()].concat();
    let attributes = vec![attribute(libc::IFA_ADDRESS, address.octets())];
    match (Change { kind: libc::RTM_DELADDR, header, attributes }).make(0) {
        Err(error) if error.raw_os_error() == Some(libc::EADDRNOTAVAIL) => Ok(()),
        other => other,
    }
}

/// Takes all IPv6 default routes of an interface away, those of router advertisements too.
pub fn remove_ipv6_default_routes(index: u32) -> io::Result<()> {
    // One at a time; the bound is for a router that announces itself as fast as this.
    for _ in 0..64 {
        let header = route_header(libc::AF_INET6, 0, libc::RT_TABLE_MAIN, libc::RT_SCOPE_UNIVERSE, libc::RTN_UNSPEC);
        let header = [&header[..5], &[libc::RTPROT_UNSPEC], &header[6..]].concat();
        let attributes = vec![attribute(libc::RTA_OIF, index.to_ne_bytes())];
        match (Change { kind: libc::RTM_DELROUTE, header, attributes }).make(0) {
            Ok(()) => {}
            Err(error) if error.raw_os_error() == Some(libc::ESRCH) => return Ok(()),
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Adds the IPv6 default route. One that is there already is no error.
pub fn add_ipv6_default_route(index: u32, gateway: Ipv6Addr) -> io::Result<()> {
    let header = route_header(libc::AF_INET6, 0, libc::RT_TABLE_MAIN, libc::RT_SCOPE_UNIVERSE, libc::RTN_UNICAST);
    let attributes =
        vec![attribute(libc::RTA_GATEWAY, gateway.octets()), attribute(libc::RTA_OIF, index.to_ne_bytes())];
    accept_existing(Change { kind: libc::RTM_NEWROUTE, header, attributes }.make(NLM_F_CREATE | NLM_F_EXCL))
}

/// Makes every address of an IPv4 prefix local to this namespace, so that sockets may be bound to it
/// (`ip route add local PREFIX dev lo`). A route that is there already is no error.
pub fn add_local_ipv4_route(prefix: Ipv4Addr, prefix_len: u8) -> io::Result<()> {
    accept_existing(local_ipv4_route(libc::RTM_NEWROUTE, prefix, prefix_len)?.make(NLM_F_CREATE | NLM_F_EXCL))
}

/// Takes away what [`add_local_ipv4_route`] added.
pub fn remove_local_ipv4_route(prefix: Ipv4Addr, prefix_len: u8) -> io::Result<()> {
    local_ipv4_route(libc::RTM_DELROUTE, prefix, prefix_len)?.make(0)
}

fn local_ipv4_route(kind: u16, prefix: Ipv4Addr, prefix_len: u8) -> io::Result<Change> {
    let loopback = interface_index("lo")?;
    let header = route_header(libc::AF_INET, prefix_len, libc::RT_TABLE_LOCAL, libc::RT_SCOPE_HOST, libc::RTN_LOCAL);
    let attributes = vec![attribute(libc::RTA_DST, prefix.octets()), attribute(libc::RTA_OIF, loopback.to_ne_bytes())];
    Ok(Change { kind, header, attributes })
}

/// struct rtmsg: family, lengths of the destination's and the source's prefix, TOS, table, protocol, scope, type; flags.
fn route_header(family: libc::c_int, prefix_len: u8, table: u8, scope: u8, kind: u8) -> Vec<u8> {
    let mut header = vec![family as u8, prefix_len, 0, 0, table, libc::RTPROT_STATIC, scope, kind];
    header.extend([0; 4]);
    header
}

fn attribute(kind: u16, value: impl Into<Vec<u8>>) -> DefaultNla {
    DefaultNla::new(kind, value.into())
}

fn accept_existing(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if error.raw_os_error() == Some(libc::EEXIST) => Ok(()),
        other => other,
    }
}

/// A request that changes something: the struct of its kind (linux/rtnetlink.h) and attributes. These few are put together
/// here, because the crate with all of rtnetlink's messages is a tenth of the whole binary.
#[derive(Debug)]
struct Change {
    kind: u16,
    header: Vec<u8>,
    attributes: Vec<DefaultNla>,
}

impl Change {
    fn make(self, flags: u16) -> io::Result<()> {
        netlink::change(NETLINK_ROUTE, self, flags)
    }
}

impl NetlinkSerializable for Change {
    fn message_type(&self) -> u16 {
        self.kind
    }

    fn buffer_len(&self) -> usize {
        self.header.len() + self.attributes.as_slice().buffer_len()
    }

    fn serialize(&self, buffer: &mut [u8]) {
        let (header, attributes) = buffer.split_at_mut(self.header.len());
        header.copy_from_slice(&self.header);
        self.attributes.as_slice().emit(attributes);
    }
}

impl NetlinkDeserializable for Change {
    type Error = DecodeError;

    /// The answer to a change is an acknowledgement, which has no content of this kind; that to a question is kept whole.
    fn deserialize(header: &NetlinkHeader, payload: &[u8]) -> Result<Self, DecodeError> {
        Ok(Self { kind: header.message_type, header: payload.to_vec(), attributes: Vec::new() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_an_interface_are_read_without_those_of_its_link() {
        let text = "fd000000000000010000000000000002 02 40 00 80     eth0\n\
                    fe80000000000000505400fffe000001 02 40 20 80     eth0\n\
                    00000000000000000000000000000001 01 80 10 80       lo\n";
        assert_eq!(parse_if_inet6(text, 2), [("fd00:0:0:1::2".parse().unwrap(), 64)]);
        assert_eq!(parse_if_inet6(text, 3), []);
    }
}
