//! Services that bind a port which connections of the bridge have.

use std::net::{Ipv6Addr, Shutdown, SocketAddr};

use socket2::{Domain, Protocol, Socket, Type};

use super::rig::{Reached, Rig, VM6, bound, listen};
use crate::sys::bpf::steer::{AUTO, RULE};

const PORT: u16 = 3000;

/// What a service may bind to.
const BINDS: [(&str, bool); 7] = [
    ("::", false),
    ("::", true),
    ("fd00:9::2", true),
    ("::1", true),
    ("0.0.0.0", false),
    ("127.0.0.1", false),
    ("::ffff:10.9.0.2", false),
];

fn binds_and_listens(address: &str, only_v6: bool) -> std::io::Result<()> {
    bound(address, PORT, only_v6)?.listen(1)
}

#[test]
fn service_without_reuseaddr_binds_beside_live_connections_and_those_that_the_bridge_has_closed() {
    let rig = Rig::new();
    rig.steering.set_flags(PORT, RULE);
    let client = rig.connect_from_outside(VM6, PORT).unwrap();
    let (live, _) = rig.bridge.accept().unwrap();
    let client_of_closed = rig.connect_from_outside(VM6, PORT).unwrap();
    let (closed, _) = rig.bridge.accept().unwrap();
    // TIME_WAIT is on the side that ends first.
    closed.shutdown(Shutdown::Write).unwrap();
    drop(client_of_closed);
    drop(closed);
    rig.steering.set_flags(PORT, 0);
    for (address, only_v6) in BINDS {
        binds_and_listens(address, only_v6).unwrap_or_else(|error| panic!("{address} {only_v6}: {error}"));
    }
    // It is the program that does it, and over IPv4 there is nothing to do.
    rig.steering.ports.set_steered(PORT, false);
    let refused: Vec<_> = BINDS.into_iter().filter(|(address, v6)| binds_and_listens(address, *v6).is_err()).collect();
    assert_eq!(refused, [("::", false), ("::", true), ("fd00:9::2", true)]);
    drop((client, live));
}

#[test]
fn two_listeners_still_exclude_each_other_and_other_ports_are_left_alone() {
    let rig = Rig::new();
    rig.steering.set_flags(PORT, RULE);
    let client = rig.connect_from_outside(VM6, PORT).unwrap();
    let first = bound("::", PORT, true).unwrap();
    assert!(first.reuse_address().unwrap());
    first.listen(1).unwrap();
    let error = bound("fd00:9::2", PORT, true).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::AddrInUse);
    assert!(!bound("::", PORT + 1, true).unwrap().reuse_address().unwrap());
    assert!(!bound("0.0.0.0", PORT, false).unwrap().reuse_address().unwrap());
    drop(client);
}

#[test]
fn first_connection_that_comes_between_a_services_bind_and_its_listen_is_not_in_its_way() {
    for flags in [AUTO, RULE] {
        let rig = Rig::new();
        rig.steering.set_flags(PORT, flags);
        let ipv4 = listen("0.0.0.0", PORT, false);
        let ipv6 = bound("::", PORT, true).unwrap();
        let client = rig.connect_from_outside(VM6, PORT).unwrap();
        let (live, _) = rig.bridge.accept().unwrap();
        ipv6.listen(1).unwrap();
        assert_eq!(rig.outside_reaches(VM6, PORT, Some(&ipv6.into())), Reached::Service);
        drop((client, live, ipv4));
    }
    // Where nothing is to be steered, services are left alone.
    let rig = Rig::new();
    rig.steering.set_flags(PORT, AUTO);
    assert!(!bound("::", PORT, true).unwrap().reuse_address().unwrap());
}

#[test]
fn multipath_service_binds_beside_live_connections() {
    let rig = Rig::new();
    rig.steering.set_flags(PORT, RULE);
    let client = rig.connect_from_outside(VM6, PORT).unwrap();
    let (live, _) = rig.bridge.accept().unwrap();
    let socket = Socket::new(Domain::IPV6, Type::STREAM, Some(Protocol::MPTCP)).unwrap();
    socket.bind(&SocketAddr::from((Ipv6Addr::UNSPECIFIED, PORT)).into()).unwrap();
    socket.listen(1).unwrap();
    drop((client, live));
}
