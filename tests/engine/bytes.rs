//! Every byte arrives, once and in its place.

use std::{
    io::{Read, Write},
    net::Shutdown,
    sync::atomic::Ordering::Relaxed,
    thread,
    time::Duration,
};

use socket2::SockRef;

use crate::rig::{Rig, pattern, read_all};

#[test]
fn bytes_arrive_whole_in_both_directions_at_once() {
    let rig = Rig::new();
    let (client, served) = rig.pair();
    let bytes = pattern(24 * 1024 * 1024);
    thread::scope(|scope| {
        for stream in [&client, &served] {
            scope.spawn(|| {
                (&*stream).write_all(&bytes).unwrap();
                stream.shutdown(Shutdown::Write).unwrap();
            });
        }
        for mut stream in [client.try_clone().unwrap(), served.try_clone().unwrap()] {
            let bytes = &bytes;
            scope.spawn(move || {
                let (got, end) = read_all(&mut stream);
                end.unwrap();
                assert!(got == *bytes, "{} of {} bytes", got.len(), bytes.len());
            });
        }
    });
    let counters = rig.port.counters();
    crate::rig::eventually("it is over", || (counters.open.load(Relaxed) == 0).then_some(()));
    assert_eq!(counters.bytes_in.load(Relaxed), bytes.len() as u64);
    assert_eq!(counters.bytes_out.load(Relaxed), bytes.len() as u64);
    assert_eq!(counters.errors.load(Relaxed), 0);
}

#[test]
fn single_bytes_arrive_in_order() {
    let rig = Rig::new();
    let (mut client, mut served) = rig.pair();
    let bytes = pattern(20_000);
    client.set_nodelay(true).unwrap();
    thread::scope(|scope| {
        scope.spawn(|| {
            for byte in bytes.chunks(1) {
                client.write_all(byte).unwrap();
            }
            client.shutdown(Shutdown::Write).unwrap();
        });
        let (got, end) = read_all(&mut served);
        end.unwrap();
        assert!(got == bytes);
    });
}

/// The kernel ends a read early at an urgent byte, and would leave the byte itself out.
#[test]
fn urgent_data_arrive_in_their_place_and_hold_nothing_up() {
    let rig = Rig::new();
    for from_the_client in [true, false] {
        let (mut one, mut other) = rig.pair();
        if !from_the_client {
            std::mem::swap(&mut one, &mut other);
        }
        let bytes = pattern(300_000);
        thread::scope(|scope| {
            scope.spawn(|| {
                for (number, piece) in bytes.chunks(1000).enumerate() {
                    let sent = match number % 3 {
                        0 => SockRef::from(&one).send_out_of_band(piece).unwrap(),
                        _ => 0,
                    };
                    one.write_all(&piece[sent..]).unwrap();
                }
                one.shutdown(Shutdown::Write).unwrap();
            });
            let (got, end) = read_all(&mut other);
            end.unwrap();
            assert!(got == bytes, "{} of {} bytes", got.len(), bytes.len());
        });
    }
}

#[test]
fn tail_that_a_slow_reader_has_not_read_yet_comes_before_the_end() {
    let rig = Rig::new();
    for from_the_client in [true, false] {
        let (mut one, mut other) = rig.pair();
        if !from_the_client {
            std::mem::swap(&mut one, &mut other);
        }
        let bytes = pattern(8 * 1024 * 1024);
        SockRef::from(&other).set_recv_buffer_size(16 * 1024).unwrap();
        thread::scope(|scope| {
            scope.spawn(|| {
                one.write_all(&bytes).unwrap();
                drop(one);
            });
            // Slow is a reader that takes little at a time and lets others run in between.
            let (mut got, mut piece) = (Vec::new(), [0; 3000]);
            loop {
                let length = other.read(&mut piece).unwrap();
                if length == 0 {
                    break;
                }
                got.extend_from_slice(&piece[..length]);
                thread::yield_now();
            }
            assert!(got == bytes, "{} of {} bytes", got.len(), bytes.len());
        });
    }
}

#[test]
fn reader_that_stops_holds_up_nobody_else_and_gets_all_in_the_end() {
    let rig = Rig::new();
    let bytes = pattern(32 * 1024 * 1024);
    thread::scope(|scope| {
        // More than there are pipes, on both threads, so that some have a buffer instead.
        let mut slow: Vec<_> = (0..150)
            .map(|_| {
                let (client, served) = rig.pair();
                served.set_nonblocking(true).unwrap();
                let (mut sent, mut refused) = (0, 0);
                while refused < 20 && sent < bytes.len() {
                    match (&served).write(&bytes[sent..bytes.len().min(sent + 65_536)]) {
                        Ok(length) => sent += length,
                        Err(_) => {
                            refused += 1;
                            thread::park_timeout(Duration::from_millis(1));
                        }
                    }
                }
                assert!(sent < bytes.len(), "there is back-pressure");
                (client, served, sent)
            })
            .collect();
        let (mut client, mut served) = rig.pair();
        for _ in 0..200 {
            client.write_all(b"x").unwrap();
            served.read_exact(&mut [0]).unwrap();
            served.write_all(b"y").unwrap();
            client.read_exact(&mut [0]).unwrap();
        }
        for (mut client, served, sent) in slow.drain(..) {
            scope.spawn(move || drop(served));
            let (got, end) = read_all(&mut client);
            end.unwrap();
            assert!(got == bytes[..sent], "{} of {sent} bytes", got.len());
        }
    });
}

#[test]
fn bulk_does_not_starve_a_ping_pong() {
    let rig = Rig::new();
    let bulk: Vec<_> = (0..8).map(|_| rig.pair()).collect();
    let (mut client, mut served) = rig.pair();
    let block = pattern(256 * 1024);
    thread::scope(|scope| {
        for (client, served) in &bulk {
            scope.spawn(|| while (&*served).write_all(&block).is_ok() {});
            scope.spawn(|| {
                let mut buffer = vec![0; 256 * 1024];
                while (&*client).read(&mut buffer).is_ok_and(|length| length > 0) {}
            });
        }
        // Each has its turn; DEADLINE of the sockets is what fails.
        for _ in 0..500 {
            client.write_all(b"x").unwrap();
            served.read_exact(&mut [0]).unwrap();
            served.write_all(b"y").unwrap();
            client.read_exact(&mut [0]).unwrap();
        }
        for (client, _) in &bulk {
            client.shutdown(Shutdown::Both).unwrap();
        }
    });
}
