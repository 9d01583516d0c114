//! What is steered, and what is not.

use std::{net::Ipv6Addr, os::fd::AsFd};

use super::rig::{Elsewhere, OUTSIDE6, Reached, Rig, VM6, VM6_LINK_LOCAL, VM6_OTHER, bridge, enter, listen};
use crate::sys::{
    bpf::{
        Map, Missing, Program, ProgramKind, attached_to_cgroup,
        steer::{AUTO, Kernel, NOT_LOOPBACK, RULE, STEERED, Steering, lookup},
    },
    cgroup,
};

const PORT: u16 = 3000;

#[test]
fn everything_is_to_be_had_on_this_kernel() {
    let rig = Rig::new();
    let said = rig.steering.variant().to_string();
    assert!(said.ends_with("services can bind beside bridged connections"), "{said}");
    assert!(
        said.starts_with("the own listeners count; what comes from inside is known by interface and address"),
        "{said}"
    );
}

#[test]
fn steering_begins_with_listen_and_ends_before_an_ipv6_listen_returns() {
    for no_interfaces in [false, true] {
        let rig = Rig::with(1024, &Kernel { no_interfaces, ..Kernel::default() });
        rig.steering.set_flags(PORT, AUTO);
        for round in 0..200 {
            assert_eq!(rig.outside_reaches(VM6, PORT, None), Reached::Nothing, "round {round}");
            let ipv4 = listen("0.0.0.0", PORT, false);
            assert_eq!(rig.outside_reaches(VM6, PORT, None), Reached::Bridge, "round {round}");
            let ipv6 = listen("::", PORT, true);
            assert_eq!(rig.outside_reaches(VM6, PORT, Some(&ipv6)), Reached::Service, "round {round}");
            drop(ipv6);
            assert_eq!(rig.outside_reaches(VM6, PORT, None), Reached::Bridge, "round {round}");
            drop(ipv4);
        }
    }
}

/// Listeners (address, IPv6 only), flags, destination, and what clients from outside and from inside reach.
type Row = (&'static [(&'static str, bool)], u32, Ipv6Addr, Reached, Reached);

#[test]
fn what_is_steered_is_as_the_table_says() {
    use Reached::{Bridge, Nothing, Service};
    const ONE: Ipv6Addr = Ipv6Addr::LOCALHOST;
    let rig = Rig::new();
    let rows: &[Row] = &[
        (&[("0.0.0.0", false)], 0, VM6, Nothing, Nothing),
        // Unasked: what enters by another interface than the loopback one.
        (&[("0.0.0.0", false)], AUTO, VM6, Bridge, Nothing),
        (&[("10.9.0.2", false)], AUTO, VM6, Bridge, Nothing),
        (&[("::ffff:0.0.0.0", false)], AUTO, VM6, Bridge, Nothing),
        (&[("::ffff:10.9.0.2", false)], AUTO, VM6, Bridge, Nothing),
        (&[("127.0.0.1", false)], AUTO, VM6, Nothing, Nothing),
        (&[("::ffff:127.0.0.1", false)], AUTO, VM6, Nothing, Nothing),
        (&[("169.254.9.2", false)], AUTO, VM6, Nothing, Nothing),
        (&[("0.0.0.0", false), ("::", true)], AUTO, VM6, Service, Service),
        (&[("::", false)], AUTO, VM6, Service, Service),
        (&[("0.0.0.0", false), ("fd00:9::2", true)], AUTO, VM6, Service, Service),
        (&[("0.0.0.0", false), ("::1", true)], AUTO, VM6, Bridge, Nothing),
        (&[("0.0.0.0", false), ("fe80::2", true)], AUTO, VM6, Bridge, Nothing),
        (&[], AUTO, VM6, Nothing, Nothing),
        // A listener there is not counted, and not stolen from.
        (&[("0.0.0.0", false), ("fe80::2", true)], AUTO, VM6_LINK_LOCAL, Service, Service),
        (&[("0.0.0.0", false), ("fe80::2", true)], RULE, VM6_LINK_LOCAL, Service, Service),
        // By a rule: everywhere, whatever listens over IPv4.
        (&[], RULE, VM6, Bridge, Bridge),
        (&[("127.0.0.1", false)], RULE, VM6, Bridge, Bridge),
        (&[("0.0.0.0", false)], RULE | AUTO, VM6, Bridge, Bridge),
        (&[("::", true)], RULE, VM6, Service, Service),
        (&[("fd00:9::2", true)], RULE, VM6, Service, Service),
        (&[("::1", true)], RULE, VM6, Bridge, Bridge),
    ];
    for (number, (listeners, flags, to, outside, inside)) in rows.iter().enumerate() {
        rig.steering.set_flags(PORT, *flags);
        let services: Vec<_> = listeners.iter().map(|(address, only_v6)| listen(address, PORT, *only_v6)).collect();
        let service = services.last();
        assert_eq!(rig.outside_reaches(*to, PORT, service), *outside, "row {number} from outside");
        assert_eq!(rig.inside_reaches(*to, PORT, service), *inside, "row {number} from inside");
    }
    // To [::1] one comes from inside only.
    for (listeners, flags, reached) in [
        (&[("0.0.0.0", false)][..], AUTO, Nothing),
        (&[], RULE, Bridge),
        (&[("::1", true)], RULE, Service),
        (&[("::", true)], RULE, Service),
        (&[], RULE | NOT_LOOPBACK, Nothing),
        (&[("::1", true)], RULE | NOT_LOOPBACK, Service),
    ] {
        rig.steering.set_flags(PORT, flags);
        let services: Vec<_> = listeners.iter().map(|(address, only_v6)| listen(address, PORT, *only_v6)).collect();
        assert_eq!(rig.inside_reaches(ONE, PORT, services.last()), reached, "{listeners:?} {flags}");
    }
}

#[test]
fn port_that_was_steered_says_so() {
    let rig = Rig::new();
    rig.steering.set_flags(PORT, RULE);
    assert_eq!(rig.steering.port(PORT).flags, RULE);
    assert_eq!(rig.outside_reaches(VM6, PORT, None), Reached::Bridge);
    assert_eq!(rig.steering.port(PORT).flags, RULE | STEERED);
    rig.steering.set_flags(PORT, 0);
    assert_eq!(rig.steering.port(PORT).flags, STEERED);
    rig.steering.ports.set_steered(PORT, false);
    assert_eq!(rig.steering.port(PORT).flags, 0);
    assert_eq!(rig.steering.port(PORT + 1).flags, 0);
}

#[test]
fn connections_from_own_addresses_are_not_steered_unasked_by_which_interface_ever_they_come() {
    for no_interfaces in [false, true] {
        let mut rig = Rig::with(1024, &Kernel { no_interfaces, ..Kernel::default() });
        assert_eq!(rig.steering.variant().by_interface, !no_interfaces);
        rig.steering.set_flags(PORT, AUTO);
        let _service = listen("0.0.0.0", PORT, false);
        // The kernel takes what is sent to an own address for something that comes by the address's interface.
        let from = |source: Ipv6Addr| {
            let socket = socket2::Socket::new(socket2::Domain::IPV6, socket2::Type::STREAM, None).unwrap();
            socket.bind(&std::net::SocketAddr::from((source, 0)).into()).unwrap();
            socket.connect(&std::net::SocketAddr::from((VM6, PORT)).into()).is_ok()
        };
        rig.steering.set_own_addresses(&[]).unwrap();
        assert_eq!((from(VM6), from(VM6_OTHER)), (false, true), "an own address that was not told");
        rig.steering.set_own_addresses(&[VM6_OTHER]).unwrap();
        assert_eq!((from(VM6), from(VM6_OTHER)), (false, false));
        assert_eq!(rig.inside_reaches(Ipv6Addr::LOCALHOST, PORT, None), Reached::Nothing);
    }
}

#[test]
fn nothing_is_steered_until_the_own_addresses_are_known() {
    let mut rig = Rig::new();
    rig.steering.set_flags(PORT, AUTO);
    let _service = listen("0.0.0.0", PORT, false);
    let too_many: Vec<_> = (0..=crate::limits::STEERING_ADDRESSES as u128).map(|n| Ipv6Addr::from(n << 64)).collect();
    rig.steering.set_own_addresses(&too_many).unwrap_err();
    assert_eq!(rig.outside_reaches(VM6, PORT, None), Reached::Nothing);
    // As many as there may be, and others in their place: there is no room for both at once.
    rig.steering.set_own_addresses(&too_many[1..]).unwrap();
    let others: Vec<_> = (1..=crate::limits::STEERING_ADDRESSES as u128).map(|n| Ipv6Addr::from(n << 32)).collect();
    rig.steering.set_own_addresses(&others).unwrap();
    rig.steering.forget_own_addresses();
    assert_eq!(rig.outside_reaches(VM6, PORT, None), Reached::Nothing);
    rig.steering.set_own_addresses(&[VM6]).unwrap();
    assert_eq!(rig.outside_reaches(VM6, PORT, None), Reached::Bridge);
    let untold = Steering::attach(rig.bridge.as_fd(), &cgroup::root().unwrap(), 1024).unwrap();
    assert!(untold.ports.in_doubt(super::super::Doubt::OwnAddresses));
}

#[test]
fn each_namespace_has_its_own_steering() {
    let here = Rig::new();
    let there = Elsewhere::new();
    let steering = there.run(|| {
        let bridge = bridge();
        let mut steering = Steering::attach(bridge.as_fd(), &cgroup::root().unwrap(), 1024).unwrap();
        steering.set_own_addresses(&[]).unwrap();
        (steering, bridge)
    });
    here.steering.set_flags(PORT, RULE);
    steering.0.set_flags(PORT + 1, RULE);
    let tries = || [PORT, PORT + 1].map(|port| std::net::TcpStream::connect((Ipv6Addr::LOCALHOST, port)).is_ok());
    assert_eq!((tries(), there.run(tries)), ([true, false], [false, true]));
    drop(steering);
    assert_eq!((tries(), there.run(tries)), ([true, false], [false, false]));
}

#[test]
fn nothing_is_left_when_it_is_dropped() {
    let rig = Rig::new();
    rig.steering.set_flags(PORT, RULE);
    assert_eq!(rig.outside_reaches(VM6, PORT, None), Reached::Bridge);
    let program = |link: &super::super::Link| link.program().unwrap();
    let (count, bind) = (program(&rig.steering._count), program(rig.steering._bind.as_ref().unwrap()));
    let root = std::fs::File::open(cgroup::root().unwrap()).unwrap();
    let attached = || {
        [(ProgramKind::sock_ops(""), count), (ProgramKind::bind6(""), bind)]
            .map(|(kind, id)| attached_to_cgroup(kind, root.as_fd()).unwrap().contains(&id))
    };
    assert_eq!(attached(), [true, true]);
    let Rig { steering, bridge, outside } = rig;
    drop(steering);
    assert_eq!(attached(), [false, false]);
    let refused = outside.run(|| std::net::TcpStream::connect((VM6, PORT)).unwrap_err());
    assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused);
    drop(bridge);
}

#[test]
fn nothing_is_steered_when_the_bridges_socket_is_closed() {
    let mut rig = Rig::new();
    rig.steering.set_flags(PORT, RULE);
    assert_eq!(rig.outside_reaches(VM6, PORT, None), Reached::Bridge);
    rig.bridge = listen("127.0.0.1", 0, false);
    assert_eq!(rig.outside_reaches(VM6, PORT, None), Reached::Nothing);
}

#[test]
fn socket_that_does_not_listen_and_directory_that_is_no_cgroup_are_refused() {
    let _outside = enter();
    let bound = super::rig::bound("::1", 0, true).unwrap();
    let refused = Steering::attach(bound.as_fd(), &cgroup::root().unwrap(), 1024).unwrap_err();
    assert!(matches!(refused, Missing::Listener(_)), "{refused}");
    let refused = Steering::attach(bridge().as_fd(), std::path::Path::new("/nonexistent"), 1024).unwrap_err();
    assert!(matches!(refused, Missing::Cgroup { .. }), "{refused}");
}

/// What a lookup costs is printed; `--no-capture` shows it.
#[test]
fn program_chooses_the_same_socket_a_million_times() {
    let rig = Rig::new();
    let sockets = Map::sockets("test", 1).unwrap();
    let descriptor = u64::from(std::os::fd::AsRawFd::as_raw_fd(&rig.bridge).cast_unsigned());
    sockets.insert(&[0; 4], &descriptor.to_ne_bytes()).unwrap();
    let code = lookup::program(rig.steering.ports.as_fd(), sockets.as_fd(), rig.steering.own_addresses.0.as_fd(), true)
        .unwrap();
    let program = Program::load(ProgramKind::sk_lookup("test"), &code).unwrap();
    // struct bpf_sk_lookup: from outside to VM6 and the port; a test has no interface.
    let mut context = [0_u8; 72];
    let mut put = |at: usize, bytes: &[u8]| context[at..at + bytes.len()].copy_from_slice(bytes);
    put(8, &(libc::AF_INET6 as u32).to_ne_bytes());
    put(12, &(libc::IPPROTO_TCP as u32).to_ne_bytes());
    put(44, &VM6.octets());
    put(60, &u32::from(PORT).to_ne_bytes());
    put(20, &OUTSIDE6.octets());
    let cookie = socket2::SockRef::from(&rig.bridge).cookie().unwrap();
    let service = listen("0.0.0.0", PORT, false);
    for (flags, chosen) in [(0, 0), (RULE, cookie), (AUTO, cookie)] {
        rig.steering.set_flags(PORT, flags);
        let (result, time, after) = program.test_run(&context, 1_000_000).unwrap();
        assert_eq!((result, u64::from_ne_bytes(after[..8].try_into().unwrap())), (1, chosen), "flags {flags}");
        println!("a lookup with flags {flags}: {time:?}");
    }
    drop(service);
}
