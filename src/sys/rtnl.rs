//! Addresses, links and routes of this network namespace, by rtnetlink(7).

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL};
use netlink_packet_route::{
    AddressFamily, RouteNetlinkMessage,
    address::{AddressAttribute, AddressFlags, AddressMessage},
    link::{LinkAttribute, LinkFlags, LinkMessage},
    route::{RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteProtocol, RouteScope, RouteType},
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
    let mut message = LinkMessage::default();
    message.header.index = index;
    message.header.flags = LinkFlags::Up;
    message.header.change_mask = LinkFlags::Up;
    message.attributes.extend(mtu.map(LinkAttribute::Mtu));
    netlink::change(NETLINK_ROUTE, RouteNetlinkMessage::SetLink(message), 0)
}

/// Adds an IPv6 address without duplicate address detection; it is usable at once. One that is there already is no error.
pub fn add_ipv6_address(index: u32, address: Ipv6Addr, prefix_len: u8) -> io::Result<()> {
    let mut message = AddressMessage::default();
    message.header.family = AddressFamily::Inet6;
    message.header.prefix_len = prefix_len;
    message.header.index = index;
    message.attributes.push(AddressAttribute::Address(IpAddr::V6(address)));
    message.attributes.push(AddressAttribute::Flags(AddressFlags::Nodad));
    accept_existing(netlink::change(NETLINK_ROUTE, RouteNetlinkMessage::NewAddress(message), NLM_F_CREATE | NLM_F_EXCL))
}

/// Adds the IPv6 default route. One that is there already is no error.
pub fn add_ipv6_default_route(index: u32, gateway: Ipv6Addr) -> io::Result<()> {
    let mut message = RouteMessage::default();
    message.header.address_family = AddressFamily::Inet6;
    message.header.table = RouteHeader::RT_TABLE_MAIN;
    message.header.protocol = RouteProtocol::Static;
    message.header.scope = RouteScope::Universe;
    message.header.kind = RouteType::Unicast;
    message.attributes.push(RouteAttribute::Gateway(RouteAddress::Inet6(gateway)));
    message.attributes.push(RouteAttribute::Oif(index));
    accept_existing(netlink::change(NETLINK_ROUTE, RouteNetlinkMessage::NewRoute(message), NLM_F_CREATE | NLM_F_EXCL))
}

/// Makes every address of an IPv4 prefix local to this namespace, so that sockets may be bound to it
/// (`ip route add local PREFIX dev lo`). A route that is there already is no error.
pub fn add_local_ipv4_route(prefix: Ipv4Addr, prefix_len: u8) -> io::Result<()> {
    let message = local_ipv4_route(prefix, prefix_len)?;
    accept_existing(netlink::change(NETLINK_ROUTE, RouteNetlinkMessage::NewRoute(message), NLM_F_CREATE | NLM_F_EXCL))
}

/// Takes away what [`add_local_ipv4_route`] added.
pub fn remove_local_ipv4_route(prefix: Ipv4Addr, prefix_len: u8) -> io::Result<()> {
    let message = local_ipv4_route(prefix, prefix_len)?;
    netlink::change(NETLINK_ROUTE, RouteNetlinkMessage::DelRoute(message), 0)
}

fn local_ipv4_route(prefix: Ipv4Addr, prefix_len: u8) -> io::Result<RouteMessage> {
    let mut message = RouteMessage::default();
    message.header.address_family = AddressFamily::Inet;
    message.header.destination_prefix_length = prefix_len;
    message.header.table = libc::RT_TABLE_LOCAL;
    message.header.protocol = RouteProtocol::Static;
    message.header.scope = RouteScope::Host;
    message.header.kind = RouteType::Local;
    message.attributes.push(RouteAttribute::Destination(RouteAddress::Inet(prefix)));
    message.attributes.push(RouteAttribute::Oif(interface_index("lo")?));
    Ok(message)
}

fn accept_existing(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if error.raw_os_error() == Some(libc::EEXIST) => Ok(()),
        other => other,
    }
}
