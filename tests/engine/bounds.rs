//! What the engine holds, and what it does at its bounds.

use std::{
    fs,
    io::{Read, Write},
    net::TcpStream,
    sync::{Arc, atomic::Ordering::Relaxed},
    thread,
    time::Duration,
};

use guestd::bridge::engine::Route;
use nix::sys::resource::{Resource, getrlimit, setrlimit};

use crate::rig::{
    Rig, assert_reset, descriptors, engine, eventually, listening, port_to, running_threads, service, with_deadline,
};

/// Resident memory of this process that is no file's, in bytes.
fn anonymous() -> usize {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<usize>().unwrap() * 1024
}

/// CPU time and switches of the engine's threads.
fn activity() -> Vec<String> {
    running_threads().into_iter().map(|task| fs::read_to_string(task.join("schedstat")).unwrap()).collect()
}

#[test]
fn idle_connections_hold_two_descriptors_and_little_memory_and_wake_nobody() {
    // Four descriptors each, with both ends in this process.
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    setrlimit(Resource::RLIMIT_NOFILE, most, most).unwrap();
    let number = usize::try_from(most).unwrap().min(20_000) / 4 - 100;
    assert!(number >= 900, "raise the limit of descriptors: {most}");
    let (engine, service, (socket, address)) = (engine(20_000), service(), listening());
    engine.listen(socket, Route::To(Arc::new(port_to(&service).with_most_connections(20_000)))).unwrap();
    let pair = || {
        let mut client = with_deadline(TcpStream::connect(address).unwrap());
        let mut served = service.accept().unwrap().0;
        // Each has been used, both ways.
        client.write_all(b"x").unwrap();
        served.read_exact(&mut [0]).unwrap();
        served.write_all(b"y").unwrap();
        client.read_exact(&mut [0]).unwrap();
        (client, served)
    };
    let mut pairs = Vec::with_capacity(number);
    pairs.extend((0..100).map(|_| pair()));
    let (memory, open) = (anonymous(), descriptors());
    pairs.extend((100..number).map(|_| pair()));
    let added = number - 100;
    assert_eq!(descriptors() - open, 4 * added);
    let each = anonymous().saturating_sub(memory) / added;
    assert!(each <= 1024, "{each} bytes for each idle connection");
    let before = activity();
    thread::sleep(Duration::from_millis(500));
    assert_eq!(activity(), before, "the threads ran");
    // Still alive, all of them.
    for (client, served) in &mut pairs {
        client.write_all(b"z").unwrap();
        served.read_exact(&mut [0]).unwrap();
    }
    assert_eq!(engine.totals().open, number as u64);
    drop(pairs);
    eventually("all are over", || (engine.totals().open == 0).then_some(()));
}

#[test]
fn idle_connection_that_moved_bulk_holds_no_pipe_and_no_buffer() {
    let rig = Rig::new();
    let bytes = vec![7; 4 * 1024 * 1024];
    let mut pairs = Vec::new();
    let mut open = 0;
    for number in 0..50 {
        let (mut client, mut served) = rig.pair();
        thread::scope(|scope| {
            scope.spawn(|| served.write_all(&bytes).unwrap());
            client.read_exact(&mut vec![0; bytes.len()]).unwrap();
        });
        pairs.push((client, served));
        if number == 20 {
            open = descriptors();
        }
    }
    // Both threads have their few pipes by now, or had them before.
    assert!(descriptors() <= open + 4 * 29 + 2 * 2 * 4, "{} descriptors, {open} before", descriptors());
}

#[test]
fn connections_beyond_the_ports_bound_are_reset_until_others_end() {
    let rig = Rig::with(|port| port.with_most_connections(3));
    let mut pairs: Vec<_> = (0..3).map(|_| rig.pair()).collect();
    assert_reset(&mut rig.connect());
    assert_eq!((rig.engine.totals().open, rig.engine.totals().refused), (3, 1));
    assert_eq!(rig.port.counters().errors.load(Relaxed), 1);
    drop(pairs.pop());
    eventually("one is over", || (rig.engine.totals().open == 2).then_some(()));
    let (mut client, mut served) = rig.pair();
    client.write_all(b"x").unwrap();
    served.read_exact(&mut [0]).unwrap();
}

#[test]
fn connections_beyond_the_bound_of_all_are_reset() {
    let (engine, service, (socket, address)) = (engine(2), service(), listening());
    engine.listen(socket, Route::To(Arc::new(port_to(&service)))).unwrap();
    let mut pairs = Vec::new();
    for _ in 0..2 {
        pairs.push((TcpStream::connect(address).unwrap(), service.accept().unwrap()));
    }
    assert_reset(&mut with_deadline(TcpStream::connect(address).unwrap()));
    assert_eq!(engine.totals().refused, 1);
}

#[test]
fn clients_wait_when_descriptors_run_out_and_are_served_when_there_are_some_again() {
    let rig = Rig::new();
    let (mut client, mut served) = rig.pair();
    // Sockets of the test's own, made before there are no more.
    let clients: Vec<_> =
        (0..20).map(|_| socket2::Socket::new(socket2::Domain::IPV6, socket2::Type::STREAM, None).unwrap()).collect();
    // In one step from enough to nothing: what is taken is given back at once.
    let mut taken = Vec::new();
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    setrlimit(Resource::RLIMIT_NOFILE, descriptors() as u64 + 30, hard).unwrap();
    while let Ok(file) = fs::File::open("/dev/null") {
        taken.push(file);
    }
    // One is left, for a client, and the reserve for its service.
    drop(taken.pop());
    for client in &clients {
        client.connect(&rig.address.into()).unwrap();
    }
    eventually("accepting pauses", || (rig.engine.totals().pauses > 0).then_some(()));
    // What is open is served, and nothing spins.
    client.write_all(b"x").unwrap();
    served.read_exact(&mut [0]).unwrap();
    let pauses = rig.engine.totals().pauses;
    thread::sleep(Duration::from_millis(300));
    // Two threads, each of which tries every 75 ms; with room for a time that was longer on a busy machine.
    assert!(rig.engine.totals().pauses - pauses <= 40, "{} pauses more", rig.engine.totals().pauses - pauses);
    setrlimit(Resource::RLIMIT_NOFILE, soft, hard).unwrap();
    drop(taken);
    let mut clients: Vec<TcpStream> = clients.into_iter().map(|client| with_deadline(client.into())).collect();
    for client in &mut clients {
        client.write_all(b"x").unwrap();
    }
    for _ in &clients {
        let mut served = with_deadline(rig.service.accept().unwrap().0);
        served.read_exact(&mut [0]).unwrap();
        served.write_all(b"y").unwrap();
    }
    for client in &mut clients {
        client.read_exact(&mut [0]).unwrap();
    }
    assert_eq!(rig.port.counters().errors.load(Relaxed), 0);
}
