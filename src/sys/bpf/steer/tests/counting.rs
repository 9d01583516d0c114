//! Which listeners are counted, and that each is once, however it is learnt of.

use std::{
    net::{IpAddr, TcpListener},
    os::fd::AsFd,
    sync::atomic::{AtomicBool, Ordering},
    thread,
};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use socket2::{Domain, Protocol, SockRef, Socket, Type};

use super::rig::{Elsewhere, Reached, Rig, VM6, bound, listen};
use crate::{
    limits,
    sys::{
        bpf::steer::{AUTO, Alarm, Class, Kernel, PortCounts, RULE, Steering},
        cgroup, sock_diag,
    },
};

const PORT: u16 = 3000;

fn counts(steering: &Steering, port: u16) -> (u32, u32, u32) {
    let PortCounts { v4, v6, v6_loopback, .. } = steering.port(port);
    (v4, v6, v6_loopback)
}

fn cookie(listener: &TcpListener) -> u64 {
    SockRef::from(listener).cookie().unwrap()
}

fn attach(bridge: &TcpListener, kernel: &Kernel) -> Steering {
    Steering::attach_with(bridge.as_fd(), &cgroup::root().unwrap(), 1024, kernel).unwrap()
}

/// What the bridge does at its start.
fn seed(steering: &Steering) {
    let shown = || sock_diag::listening_tcp(limits::LISTENERS_READ).unwrap();
    let before = shown();
    for fact in &before {
        if let (Some(cookie), Some(class)) = (fact.cookie, Class::of(fact.address)) {
            steering.seed(cookie, fact.port, class).unwrap();
        }
    }
    let after = shown();
    for gone in before.iter().filter(|fact| !after.iter().any(|now| now.cookie == fact.cookie)) {
        steering.forget(gone.cookie.unwrap()).unwrap();
    }
}

#[test]
fn listeners_count_by_what_they_are_bound_to_and_each_change_is_told() {
    let rig = Rig::new();
    let steering = &rig.steering;
    let mut changes = 0;
    for (address, only_v6) in [
        ("0.0.0.0", false),
        ("10.9.0.2", false),
        ("127.0.0.1", false),
        ("127.1.2.3", false),
        ("169.254.9.2", false),
        ("::ffff:0.0.0.0", false),
        ("::ffff:10.9.0.2", false),
        ("::ffff:127.0.0.1", false),
        ("::ffff:169.254.9.2", false),
        ("::", false),
        ("::", true),
        ("::1", true),
        ("fd00:9::2", true),
        ("fe80::2", true),
    ] {
        let class = Class::of(address.parse::<IpAddr>().unwrap());
        let expected = match class {
            None => (0, 0, 0),
            Some(Class::V4) => (1, 0, 0),
            Some(Class::V6) => (0, 1, 0),
            Some(Class::V6Loopback) => (0, 0, 1),
        };
        let listener = listen(address, PORT, only_v6);
        changes += u32::from(class.is_some());
        assert_eq!((counts(steering, PORT), steering.changes(PORT)), (expected, changes), "{address}");
        drop(listener);
        changes += u32::from(class.is_some());
        assert_eq!((counts(steering, PORT), steering.changes(PORT)), ((0, 0, 0), changes), "{address}");
    }
    assert!(!steering.is_full());
}

#[test]
fn only_what_listens_counts() {
    let rig = Rig::new();
    let socket = bound("::", PORT, false).unwrap();
    assert_eq!(counts(&rig.steering, PORT), (0, 0, 0));
    for _ in 0..10 {
        socket.listen(1).unwrap();
        // Only the backlog changes.
        socket.listen(2).unwrap();
        assert_eq!(counts(&rig.steering, PORT), (0, 1, 0));
        socket.shutdown(std::net::Shutdown::Read).unwrap();
        assert_eq!(counts(&rig.steering, PORT), (0, 0, 0));
    }
    // The end of an accepted connection is not its listener's.
    socket.listen(1).unwrap();
    let client = rig.connect_from_outside(VM6, PORT).unwrap();
    let accepted = socket.accept().unwrap();
    drop((client, accepted));
    assert_eq!(counts(&rig.steering, PORT), (0, 1, 0));
    drop(socket);
    assert_eq!(counts(&rig.steering, PORT), (0, 0, 0));
}

/// Go's listeners are such ones by default.
#[test]
fn multipath_listeners_count_like_others() {
    let rig = Rig::new();
    rig.steering.set_flags(PORT, AUTO);
    let listener = |address: &str| {
        let address = std::net::SocketAddr::new(address.parse().unwrap(), PORT);
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::MPTCP)).unwrap();
        socket.set_reuse_address(true).unwrap();
        if address.is_ipv6() {
            socket.set_only_v6(true).unwrap();
        }
        socket.bind(&address.into()).unwrap();
        socket.listen(16).unwrap();
        TcpListener::from(socket)
    };
    let ipv4 = listener("0.0.0.0");
    assert_eq!(counts(&rig.steering, PORT), (1, 0, 0));
    assert_eq!(rig.outside_reaches(VM6, PORT, None), Reached::Bridge);
    let ipv6 = listener("::");
    assert_eq!(counts(&rig.steering, PORT), (1, 1, 0));
    assert_eq!(rig.outside_reaches(VM6, PORT, Some(&ipv6)), Reached::Service);
    drop(ipv6);
    assert_eq!(rig.outside_reaches(VM6, PORT, None), Reached::Bridge);
    drop(ipv4);
    assert_eq!(counts(&rig.steering, PORT), (0, 0, 0));
}

#[test]
fn listeners_of_other_namespaces_do_not_count_where_the_kernel_tells_them() {
    let listen_elsewhere = || {
        let other = Elsewhere::new();
        other.run(|| listen("0.0.0.0", 0, false))
    };
    let port = |listener: &TcpListener| listener.local_addr().unwrap().port();
    let rig = Rig::new();
    assert!(rig.steering.variant().own_namespace_only);
    let other = listen_elsewhere();
    assert_eq!(rig.steering.port(port(&other)), PortCounts::default());
    let number = port(&other);
    drop(other);
    assert_eq!(rig.steering.port(number), PortCounts::default());

    // Those of other tests count, too.
    let rig = Rig::with(1024, &Kernel { no_cookies: true, ..Kernel::default() });
    assert!(!rig.steering.variant().own_namespace_only);
    let why = rig.steering.variant().no_rebind.clone().unwrap();
    assert!(why.contains("cookie"), "{why}");
    let other = listen_elsewhere();
    assert!(counts(&rig.steering, port(&other)).0 >= 1);
}

#[test]
fn listener_that_is_older_counts_once_it_is_seeded_and_until_it_is_forgotten() {
    let outside = super::rig::enter();
    let (older, bridge) = (listen("0.0.0.0", PORT, false), super::rig::bridge());
    let steering = attach(&bridge, &Kernel { no_releases: true, ..Kernel::default() });
    assert!(!steering.hears_of_ends());
    let younger = listen("::", PORT, true);
    assert_eq!(counts(&steering, PORT), (0, 1, 0));
    for _ in 0..2 {
        seed(&steering);
        assert_eq!(counts(&steering, PORT), (1, 1, 0));
    }
    let gone = cookie(&older);
    assert!(steering.forget(gone).unwrap() && !steering.forget(gone).unwrap());
    assert_eq!(counts(&steering, PORT), (0, 1, 0));
    seed(&steering);
    assert_eq!(counts(&steering, PORT), (1, 1, 0));
    drop(older);
    // If another program has asked to be told of its end, it is uncounted already; it is not uncounted twice.
    steering.forget(gone).unwrap();
    assert_eq!(counts(&steering, PORT), (0, 1, 0));
    let gone = cookie(&younger);
    drop(younger);
    assert_eq!(counts(&steering, PORT), (0, 0, 0));
    assert!(!steering.forget(gone).unwrap());
    assert_eq!(counts(&steering, PORT), (0, 0, 0));
    drop(outside);
}

#[test]
fn end_of_a_listener_that_is_older_uncounts_it_where_the_kernel_tells_of_ends() {
    let outside = super::rig::enter();
    let older = listen("0.0.0.0", PORT, false);
    // Of one that is shut down first, and of one that another process has, too.
    let (shut, shared) = (listen("::", PORT, true), listen("0.0.0.0", PORT + 1, false));
    let bridge = super::rig::bridge();
    let steering = attach(&bridge, &Kernel::default());
    assert!(steering.hears_of_ends());
    seed(&steering);
    assert_eq!((counts(&steering, PORT), counts(&steering, PORT + 1)), ((1, 1, 0), (1, 0, 0)));
    // The ends of connections are not theirs.
    let client = std::net::TcpStream::connect(("127.0.0.1", PORT)).unwrap();
    drop((client, older.accept().unwrap()));
    let kept = shared.try_clone().unwrap();
    drop(shared);
    assert_eq!((counts(&steering, PORT), counts(&steering, PORT + 1)), ((1, 1, 0), (1, 0, 0)));
    drop((older, kept));
    assert_eq!((counts(&steering, PORT), counts(&steering, PORT + 1)), ((0, 1, 0), (0, 0, 0)));
    SockRef::from(&shut).shutdown(std::net::Shutdown::Read).unwrap();
    let gone = cookie(&shut);
    drop(shut);
    assert_eq!(counts(&steering, PORT), (0, 0, 0));
    assert!(!steering.forget(gone).unwrap());
    drop(outside);
}

#[test]
fn seeded_socket_that_listens_anew_elsewhere_counts_there() {
    let rig = Rig::new();
    let socket = bound("::", PORT, false).unwrap();
    let cookie = socket.cookie().unwrap();
    // As if a dump had shown it on another port before.
    assert!(rig.steering.seed(cookie, PORT + 1, Class::V4).unwrap());
    assert_eq!(counts(&rig.steering, PORT + 1), (1, 0, 0));
    socket.listen(1).unwrap();
    assert_eq!((counts(&rig.steering, PORT + 1), counts(&rig.steering, PORT)), ((0, 0, 0), (0, 1, 0)));
}

#[test]
fn full_table_ends_all_steering_until_it_is_trusted_again() {
    let rig = Rig::with(2, &Kernel::default());
    rig.steering.set_flags(PORT, AUTO);
    rig.steering.set_flags(PORT + 1, RULE);
    let first = listen("0.0.0.0", PORT, false);
    let second = listen("0.0.0.0", PORT + 2, false);
    assert_eq!(rig.outside_reaches(VM6, PORT, None), Reached::Bridge);
    assert!(!rig.steering.is_full());
    // It would be stolen from.
    let third = listen("::", PORT + 1, true);
    assert!(rig.steering.is_full());
    assert_eq!(rig.outside_reaches(VM6, PORT + 1, Some(&third)), Reached::Service);
    assert_eq!(rig.outside_reaches(VM6, PORT, None), Reached::Nothing);
    // Also when guestd finds no room.
    rig.steering.set_full(false);
    assert!(!rig.steering.seed(cookie(&third), PORT + 1, Class::V6).unwrap());
    assert!(rig.steering.is_full());
    assert_eq!(counts(&rig.steering, PORT + 1), (0, 0, 0));
    drop(second);
    rig.steering.set_full(false);
    assert!(rig.steering.seed(cookie(&third), PORT + 1, Class::V6).unwrap());
    assert!(!rig.steering.is_full());
    assert_eq!(counts(&rig.steering, PORT + 1), (0, 1, 0));
    assert_eq!(rig.outside_reaches(VM6, PORT, None), Reached::Bridge);
    drop((first, third));
}

#[test]
fn that_the_table_became_full_is_told_once() {
    let mut rig = Rig::with(2, &Kernel::default());
    let mut alarm = rig.steering.take_alarm().unwrap();
    let rings = |alarm: &Alarm| {
        let mut readable = [PollFd::new(alarm.as_fd(), PollFlags::POLLIN)];
        poll(&mut readable, PollTimeout::ZERO).unwrap() == 1
    };
    let mut held: Vec<_> = (PORT..PORT + 2).map(|port| listen("0.0.0.0", port, false)).collect();
    assert!(!rings(&alarm));
    for _ in 0..3 {
        held.push(listen("0.0.0.0", PORT + held.len() as u16, false));
    }
    assert!(rig.steering.is_full() && rings(&alarm));
    alarm.hear();
    held.push(listen("0.0.0.0", PORT + held.len() as u16, false));
    assert!(!rings(&alarm), "it was said already");
    rig.steering.set_full(false);
    held.push(listen("0.0.0.0", PORT + held.len() as u16, false));
    assert!(rig.steering.is_full() && rings(&alarm));
}

#[test]
fn listeners_that_come_and_go_while_they_are_seeded_are_counted_right_in_the_end() {
    const ROUNDS: u16 = 2000;
    let rig = Rig::new();
    let here = std::fs::File::open("/proc/thread-self/ns/net").unwrap();
    let done = AtomicBool::new(false);
    let left = thread::scope(|scope| {
        let flap = |first: u16| {
            let here = &here;
            scope.spawn(move || {
                nix::sched::setns(here, nix::sched::CloneFlags::CLONE_NEWNET).unwrap();
                let mut kept = Vec::new();
                for round in 0..ROUNDS {
                    let port = first + round % 4;
                    let listener = listen(if round % 2 == 0 { "0.0.0.0" } else { "::" }, port, true);
                    if round >= ROUNDS - 4 {
                        kept.push(listener);
                    }
                }
                kept
            })
        };
        let flappers = [flap(4000), flap(5000)];
        let seeder = scope.spawn(|| {
            nix::sched::setns(&here, nix::sched::CloneFlags::CLONE_NEWNET).unwrap();
            while !done.load(Ordering::Relaxed) {
                seed(&rig.steering);
            }
        });
        let left = flappers.map(|flapper| flapper.join().unwrap());
        done.store(true, Ordering::Relaxed);
        seeder.join().unwrap();
        left
    });
    for first in [4000, 5000] {
        for port in first..first + 4 {
            let expected = if port % 2 == 0 { (1, 0, 0) } else { (0, 1, 0) };
            assert_eq!(counts(&rig.steering, port), expected, "port {port}");
        }
    }
    drop(left);
    for port in (4000..4004).chain(5000..5004) {
        assert_eq!(counts(&rig.steering, port), (0, 0, 0), "port {port}");
    }
}
