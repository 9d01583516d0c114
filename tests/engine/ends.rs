//! Every kind of end arrives as it was meant.

use std::{
    io::{ErrorKind, Read, Write},
    net::{Shutdown, TcpStream},
    sync::{Arc, atomic::Ordering::Relaxed},
    thread,
    time::Duration,
};

use guestd::bridge::engine::Route;
use socket2::SockRef;

use crate::rig::{
    Rig, assert_reset, engine, eventually, listening, pattern, port_to, read_all, reset, service, with_deadline,
};

/// A connection with its sides named by who acts; both ways round.
fn both_ways(rig: &Rig, mut test: impl FnMut(TcpStream, TcpStream)) {
    let (client, served) = rig.pair();
    test(client, served);
    let (client, served) = rig.pair();
    test(served, client);
}

#[test]
fn half_close_is_one_and_the_other_direction_goes_on() {
    both_ways(&Rig::new(), |mut one, mut other| {
        one.write_all(b"question").unwrap();
        one.shutdown(Shutdown::Write).unwrap();
        let (question, end) = read_all(&mut other);
        end.unwrap();
        assert_eq!(question, b"question");
        let answer = pattern(1024 * 1024);
        thread::scope(|scope| {
            scope.spawn(|| {
                other.write_all(&answer).unwrap();
                drop(other);
            });
            let (got, end) = read_all(&mut one);
            end.unwrap();
            assert!(got == answer);
        });
    });
}

#[test]
fn half_close_without_a_byte_is_one() {
    both_ways(&Rig::new(), |one, mut other| {
        one.shutdown(Shutdown::Write).unwrap();
        assert_eq!(other.read(&mut [0]).unwrap(), 0);
        other.write_all(b"still here").unwrap();
        drop(other);
        let mut one = one;
        assert_eq!(read_all(&mut one).0, b"still here");
    });
}

#[test]
fn reset_is_a_reset() {
    both_ways(&Rig::new(), |one, mut other| {
        reset(one);
        assert_reset(&mut other);
    });
}

#[test]
fn reset_after_bytes_is_a_reset_after_these_bytes() {
    both_ways(&Rig::new(), |mut one, mut other| {
        one.write_all(b"some").unwrap();
        reset(one);
        let (bytes, end) = read_all(&mut other);
        assert_eq!(end.unwrap_err().kind(), ErrorKind::ConnectionReset);
        assert_eq!(bytes, b"some");
    });
}

#[test]
fn reset_after_a_half_close_is_an_end_of_file_and_then_fails_writes() {
    both_ways(&Rig::new(), |mut one, mut other| {
        one.write_all(b"all").unwrap();
        one.shutdown(Shutdown::Write).unwrap();
        reset(one);
        let (bytes, end) = read_all(&mut other);
        end.unwrap();
        assert_eq!(bytes, b"all");
        eventually("writes fail", || other.write(b"x").err());
    });
}

/// Writes until nothing more fits between this end and the other.
fn fill(stream: &TcpStream) {
    stream.set_nonblocking(true).unwrap();
    let block = vec![1; 64 * 1024];
    // The relay takes some more after the buffers are full, so one refusal is not the end.
    let mut refused = 0;
    while refused < 5 {
        match (&*stream).write(&block) {
            Ok(written) => refused = usize::from(written == 0),
            Err(_) => {
                refused += 1;
                thread::park_timeout(Duration::from_millis(5));
            }
        }
    }
    stream.set_nonblocking(false).unwrap();
}

#[test]
fn reset_is_no_clean_end_while_the_other_side_is_sending() {
    let rig = Rig::new();
    for _ in 0..20 {
        both_ways(&rig, |mut one, mut other| {
            fill(&other);
            one.write_all(b"part of the answer").unwrap();
            reset(one);
            assert_reset(&mut other);
        });
    }
}

/// splice(2) says nothing of an error that it met behind bytes that it moved, and the error is not told twice.
#[test]
fn reset_in_the_middle_of_a_write_is_no_clean_end() {
    let rig = Rig::new();
    let mut room = vec![0; 1024 * 1024];
    for round in 0..500 {
        both_ways(&rig, |mut one, mut other| {
            other.set_nonblocking(true).unwrap();
            let block = vec![1; 256 * 1024];
            while other.write(&block).is_ok() {}
            other.set_nonblocking(false).unwrap();
            // Room for some, so that the relay is writing now.
            one.read_exact(&mut room[..(round % 37) * 20_000]).unwrap();
            one.write_all(b"part").unwrap();
            reset(one);
            let (bytes, end) = read_all(&mut other);
            assert_eq!(end.map_err(|error| error.kind()), Err(ErrorKind::ConnectionReset), "round {round}: {bytes:?}");
        });
    }
}

#[test]
fn close_of_a_side_that_has_not_read_all_is_a_reset() {
    both_ways(&Rig::new(), |one, mut other| {
        fill(&other);
        drop(one);
        assert_reset(&mut other);
    });
}

#[test]
fn reset_is_told_to_a_side_that_neither_reads_nor_can_write() {
    let rig = Rig::new();
    both_ways(&rig, |one, other| {
        fill(&other);
        fill(&one);
        other.set_nonblocking(true).unwrap();
        // Bytes of the other's are unread, so this is a reset.
        drop(one);
        eventually("writes fail", || (&other).write(b"x").err().filter(|error| error.kind() != ErrorKind::WouldBlock));
    });
    eventually("all is over", || (rig.port.counters().open.load(Relaxed) == 0).then_some(()));
}

#[test]
fn clients_that_are_gone_before_the_service_has_room_for_them_hold_no_place() {
    let rig = Rig::new();
    // Two are accepted by the kernel, and the others' handshakes stand still.
    SockRef::from(&rig.service).listen(0).unwrap();
    for _ in 0..50 {
        let mut client = rig.connect();
        client.write_all(b"x").unwrap();
        reset(client);
    }
    eventually("all are over", || {
        let counters = rig.port.counters();
        (counters.accepted.load(Relaxed) == 50 && counters.open.load(Relaxed) == 0).then_some(())
    });
}

#[test]
fn half_close_before_the_service_has_room_for_the_client_is_one() {
    for question in ["", "question"] {
        let rig = Rig::new();
        // One is accepted by the kernel; the next one's handshake stands still, until it is tried again a second later.
        SockRef::from(&rig.service).listen(0).unwrap();
        let first = TcpStream::connect(rig.service.local_addr().unwrap()).unwrap();
        let mut client = rig.connect();
        client.write_all(question.as_bytes()).unwrap();
        client.shutdown(Shutdown::Write).unwrap();
        // So that the engine has read all of it.
        thread::sleep(Duration::from_millis(100));
        assert_eq!(rig.service.accept().unwrap().0.peer_addr().unwrap(), first.local_addr().unwrap());
        let mut served = with_deadline(rig.service.accept().unwrap().0);
        let (came, end) = read_all(&mut served);
        end.unwrap();
        assert_eq!(came, question.as_bytes());
        served.write_all(b"answer").unwrap();
        drop(served);
        assert_eq!(read_all(&mut client).0, b"answer");
    }
}

#[test]
fn service_that_refuses_is_a_reset_and_an_error() {
    let rig = Rig::new();
    let port = std::sync::Arc::clone(&rig.port);
    let Rig { engine: _engine, service, address, .. } = rig;
    drop(service);
    let mut client = crate::rig::with_deadline(TcpStream::connect(address).unwrap());
    assert_reset(&mut client);
    eventually("it is over", || (port.counters().open.load(Relaxed) == 0).then_some(()));
    assert_eq!(port.counters().errors.load(Relaxed), 1);
    assert_eq!(port.counters().accepted.load(Relaxed), 1);
    assert!(port.was_refused());
}

#[test]
fn service_that_refuses_is_known_for_that_though_the_client_has_spoken_first() {
    let (engine, service, (socket, address)) = (engine(10), service(), listening());
    let port = Arc::new(port_to(&service));
    drop(service);
    let mut client = with_deadline(TcpStream::connect(address).unwrap());
    client.write_all(b"early").unwrap();
    engine.listen(socket, Route::To(Arc::clone(&port))).unwrap();
    assert_reset(&mut client);
    eventually("it is over", || (port.counters().open.load(Relaxed) == 0).then_some(()));
    assert!(port.was_refused());
}

#[test]
fn client_that_is_gone_before_it_was_served_leaves_nothing() {
    let rig = Rig::new();
    for _ in 0..100 {
        reset(rig.connect());
        drop(rig.connect());
    }
    eventually("all is over", || {
        rig.service.set_nonblocking(true).unwrap();
        while rig.service.accept().is_ok() {}
        let counters = rig.port.counters();
        (counters.accepted.load(Relaxed) >= 100 && counters.open.load(Relaxed) == 0).then_some(())
    });
}
