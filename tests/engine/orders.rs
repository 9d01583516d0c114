//! What the engine is told, and what it leaves.

use std::{
    io::{Read, Write},
    net::{Ipv6Addr, TcpListener, TcpStream},
    sync::{Arc, atomic::Ordering::Relaxed},
};

use guestd::bridge::engine::{PortTable, Route};

use crate::rig::{
    Rig, assert_reset, descriptors, engine, eventually, listening, pattern, port_to, read_all, running_threads,
    service, threads, with_deadline,
};

#[test]
fn closed_listener_frees_its_address_and_its_connections_live_on() {
    let rig = Rig::new();
    let (mut client, mut served) = rig.pair();
    rig.engine.close(rig.listener);
    assert!(TcpStream::connect(rig.address).is_err());
    // Accepted sockets keep an address from being bound without this option, which the standard library sets.
    drop(TcpListener::bind(rig.address).unwrap());
    client.write_all(b"x").unwrap();
    served.read_exact(&mut [0]).unwrap();
    drop(served);
    assert_eq!(client.read(&mut [0]).unwrap(), 0);
}

#[test]
fn cut_of_a_port_resets_its_connections_and_no_others() {
    let rig = Rig::new();
    let (other_service, (socket, address)) = (service(), listening());
    let other_port = Arc::new(port_to(&other_service));
    rig.engine.listen(socket, Route::To(Arc::clone(&other_port))).unwrap();
    let mut cut: Vec<_> = (0..10).map(|_| rig.pair()).collect();
    let mut other = TcpStream::connect(address).unwrap();
    let mut other_served = other_service.accept().unwrap().0;
    other.write_all(b"x").unwrap();
    other_served.read_exact(&mut [0]).unwrap();
    rig.engine.cut_counted(rig.port.counters());
    assert_eq!(rig.port.counters().open.load(Relaxed), 0);
    assert_eq!(rig.engine.totals().open, 1);
    for (client, served) in &mut cut {
        assert_reset(client);
        assert_reset(served);
    }
    other.write_all(b"y").unwrap();
    other_served.read_exact(&mut [0]).unwrap();
    // The port itself goes on.
    let (mut client, mut served) = rig.pair();
    client.write_all(b"z").unwrap();
    served.read_exact(&mut [0]).unwrap();
    rig.engine.cut_all();
    assert_eq!(rig.engine.totals().open, 0);
    assert_reset(&mut other);
    assert_reset(&mut client);
}

#[test]
fn end_resets_what_is_open_and_leaves_no_descriptor_and_no_thread() {
    let before = descriptors();
    let rig = Rig::new();
    running_threads();
    let block = pattern(4 * 1024 * 1024);
    let mut pairs: Vec<_> = (0..20).map(|_| rig.pair()).collect();
    for (_, served) in &pairs {
        // Some bytes are on their way in pipes.
        served.set_nonblocking(true).unwrap();
        let _ = (&*served).write(&block).unwrap();
    }
    let Rig { engine, service, .. } = rig;
    engine.end();
    for (client, _) in &mut pairs {
        assert_reset(client);
    }
    drop((pairs, service));
    assert!(threads().is_empty());
    assert_eq!(descriptors(), before);
}

#[test]
fn preface_comes_before_the_clients_bytes() {
    let rig = Rig::with(|port| port.with_preface(Box::new(|client, local| format!("{client} {local}\n").into())));
    let (mut client, mut served) = rig.pair();
    client.write_all(b"hello").unwrap();
    let wanted = format!("{} {}\nhello", client.local_addr().unwrap(), rig.address);
    let mut got = vec![0; wanted.len()];
    served.read_exact(&mut got).unwrap();
    assert_eq!(String::from_utf8(got).unwrap(), wanted);
}

#[test]
fn preface_comes_even_if_the_client_says_nothing() {
    let rig = Rig::with(|port| port.with_preface(Box::new(|_, _| b"PROXY".to_vec())));
    let (client, mut served) = rig.pair();
    drop(client);
    assert_eq!(read_all(&mut served).0, b"PROXY");
}

#[test]
fn one_socket_serves_many_ports_by_the_number_that_the_client_connected_to() {
    let (engine, table, one, other) = (engine(10_000), Arc::new(PortTable::default()), service(), service());
    let (sockets, addresses): (Vec<_>, Vec<_>) = (0..3).map(|_| listening()).unzip();
    for socket in sockets {
        engine.listen(socket, Route::ByLocalPort(table.clone())).unwrap();
    }
    table.set(addresses[0].port(), Arc::new(port_to(&one)));
    table.set(addresses[1].port(), Arc::new(port_to(&other)));
    for (address, service) in [(addresses[0], &one), (addresses[1], &other)] {
        let mut client = TcpStream::connect(address).unwrap();
        client.write_all(b"x").unwrap();
        service.accept().unwrap().0.read_exact(&mut [0]).unwrap();
    }
    assert_reset(&mut with_deadline(TcpStream::connect(addresses[2]).unwrap()));
    assert_eq!(engine.totals().refused, 1);
    // Changed while it runs.
    table.set(addresses[0].port(), Arc::new(port_to(&other)));
    let mut client = TcpStream::connect(addresses[0]).unwrap();
    client.write_all(b"x").unwrap();
    other.accept().unwrap().0.read_exact(&mut [0]).unwrap();
    assert!(table.remove(addresses[1].port()).is_some());
    assert_reset(&mut with_deadline(TcpStream::connect(addresses[1]).unwrap()));
}

#[test]
fn ipv6_service_is_reached_from_the_address_that_the_client_connected_to() {
    let service = TcpListener::bind((Ipv6Addr::LOCALHOST, 0)).unwrap();
    let source = guestd::bridge::engine::Source::Meant;
    let to = service.local_addr().unwrap();
    let port = guestd::bridge::engine::Port::new(to, source, Arc::default()).unwrap();
    let (engine, (socket, address)) = (engine(10_000), listening());
    engine.listen(socket, Route::To(port.into())).unwrap();
    let mut client = TcpStream::connect(address).unwrap();
    client.write_all(b"x").unwrap();
    let (mut served, peer) = service.accept().unwrap();
    served.read_exact(&mut [0]).unwrap();
    assert_eq!(peer.ip(), Ipv6Addr::LOCALHOST);
    assert!(guestd::bridge::engine::Port::new(to, crate::rig::SOURCE, Arc::default()).is_err());
}

#[test]
fn connections_are_spread_over_both_threads() {
    let rig = Rig::new();
    let pairs: Vec<_> = (0..40).map(|_| rig.pair()).collect();
    let worked = || -> Vec<u64> {
        let ran = |task: std::path::PathBuf| {
            let stat = std::fs::read_to_string(task.join("schedstat")).unwrap();
            stat.split(' ').next().unwrap().parse().unwrap()
        };
        running_threads().into_iter().map(ran).collect()
    };
    let before = worked();
    let block = pattern(1024 * 1024);
    eventually("both have worked", || {
        for (client, served) in &pairs {
            (&*client).write_all(&block[..1000]).unwrap();
            (&*served).read_exact(&mut [0; 1000]).unwrap();
        }
        // Nobody of them has done a hundredth of the work only.
        let did: Vec<u64> = worked().iter().zip(&before).map(|(after, before)| after - before).collect();
        let (least, most) = (did.iter().min().unwrap(), did.iter().max().unwrap());
        (*most > 5_000_000 && *least * 10 > *most).then_some(())
    });
}
