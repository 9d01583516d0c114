//! UDP sockets that take datagrams from anyone, and who owns them. Looked for when somebody asks, never watched.

use std::{
    collections::{HashMap, HashSet},
    io,
};

use super::{Bind, ListenerTable, exposure::process};
use crate::{
    api::{Family, UdpSocket},
    facts::{OwnerFact, ProcessFact, UdpFact},
    limits,
    sys::{netns, proc_pid, sock_diag, socket_owners},
};

/// Ports of HTTP over TLS, where a program that has TCP and UDP speaks QUIC on the latter.
const HTTPS_PORTS: [u16; 3] = [443, 4433, 8443];

/// Programs that serve HTTP/3, by the beginning of their names.
const HTTP3_SERVERS: [&str; 10] =
    ["angie", "caddy", "envoy", "h2o", "haproxy", "litespeed", "lshttpd", "nginx", "openresty", "traefik"];

/// Looks. Blocks for as long as a walk over all processes takes; `tcp` says what listens there. At most
/// [`limits::UDP_SOCKETS`], guestd's own left out.
///
/// # Errors
/// The sockets could not be dumped.
pub fn unconnected_udp(tcp: &ListenerTable) -> io::Result<Vec<UdpSocket>> {
    let mut facts = match sock_diag::unconnected_udp() {
        Err(error) if sock_diag::is_absent(&error) => sock_diag::procfs_unconnected_udp()?,
        facts => facts?,
    };
    if facts.is_empty() {
        // Without a walk over all processes.
        return Ok(Vec::new());
    }
    facts.sort_by_key(|fact| (fact.port, Bind::to(fact.address).family, fact.address, fact.inode));
    let netns = netns::own()?;
    let owners = socket_owners::find(&facts.iter().map(|fact| fact.inode).collect::<HashSet<_>>())?;
    let own = i64::from(std::process::id());
    let mut patience = limits::PROCESS_READ_TIME;
    let mut described = HashMap::new();
    let sockets = facts.into_iter().filter_map(|fact| {
        let holder = owners.get(&fact.inode);
        let is_own = holder.is_some_and(|holder| i64::from(holder.pid) == own);
        let mut describe = |pid| proc_pid::describe(pid, &mut patience).map(|(_, fact)| fact);
        // One process may have thousands.
        let owner =
            holder.and_then(|holder| described.entry(holder.pid).or_insert_with_key(|pid| describe(*pid)).as_ref());
        (!is_own).then(|| socket(&fact, owner, tcp, netns))
    });
    Ok(sockets.take(limits::UDP_SOCKETS).collect())
}

fn socket(fact: &UdpFact, owner: Option<&ProcessFact>, tcp: &ListenerTable, netns: u64) -> UdpSocket {
    let bind = Bind::to(fact.address);
    UdpSocket {
        port: fact.port,
        address: bind.address,
        family: bind.family,
        v6only: fact.v6only && bind.family == Family::Ipv6,
        scope: bind.scope,
        probably_quic: owner.is_some_and(|owner| is_probably_quic(fact.port, owner, tcp)),
        process: owner.map(|owner| process(tcp, owner)),
        netns,
        inode: fact.inode,
        uid: fact.uid,
    }
}

/// Nothing in a socket tells QUIC from other datagrams, and DNS, SIP and many more have TCP and UDP on one port. So the port or the
/// program has to be one of HTTP/3's too.
fn is_probably_quic(port: u16, owner: &ProcessFact, tcp: &ListenerTable) -> bool {
    let of_http3 = HTTPS_PORTS.contains(&port) || HTTP3_SERVERS.iter().any(|name| owner.name.starts_with(name));
    // Of a master and its workers each may hold one of the two sockets.
    let serves = |tcp: &OwnerFact| tcp.process.pid == owner.pid || tcp.process.name == owner.name;
    let on_port = tcp.sockets.iter().filter(|socket| socket.port == port);
    of_http3 && on_port.filter_map(|socket| tcp.processes.get(&socket.inode)).any(serves)
}

#[cfg(test)]
mod tests {
    use std::{net::UdpSocket as Socket, time::Duration};

    use super::*;
    use crate::listeners::tests::{socket as tcp_socket, table};

    fn process(pid: i32, name: &str) -> ProcessFact {
        let started_after_boot = Duration::ZERO;
        ProcessFact { pid, name: name.into(), command: name.into(), uid: 0, cgroup: String::new(), started_after_boot }
    }

    #[test]
    fn quic_is_guessed_where_the_program_has_the_tcp_port_too_and_speaks_http3() {
        let mut tcp = table(vec![tcp_socket("::", 53), tcp_socket("::", 443), tcp_socket("::", 9000)]);
        for (inode, owner) in [(530, process(5, "dnsmasq")), (4430, process(6, "server")), (90000, process(7, "caddy"))]
        {
            tcp.processes.insert(inode, OwnerFact { process: owner.into(), holders: 1 });
        }
        for (port, owner, expected) in [
            (443, process(6, "server"), true),
            (443, process(66, "server"), true),
            (443, process(9, "wireguard"), false),
            (9000, process(7, "caddy"), true),
            (8443, process(6, "server"), false),
            (53, process(5, "dnsmasq"), false),
        ] {
            assert_eq!(is_probably_quic(port, &owner, &tcp), expected, "{port} {owner:?}");
        }
    }

    #[test]
    fn sockets_of_this_process_are_guestds_own() {
        let socket = Socket::bind("127.0.0.1:0").unwrap();
        let port = socket.local_addr().unwrap().port();
        let found = unconnected_udp(&table(Vec::new())).unwrap();
        assert!(found.iter().all(|socket| socket.port != port));
        assert!(found.is_sorted_by_key(|socket| socket.port));
    }
}
