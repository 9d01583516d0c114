//! Plain streams: netcat's half-closes, iperf3, single bytes, and ends in the middle of things.

use std::{
    io::{ErrorKind, Read, Write},
    net::{Shutdown, TcpStream},
    thread,
};

use nix::sys::socket::{setsockopt, sockopt};
use serde_json::Value;
use socket2::SockRef;

use crate::{
    program::{Program, client, line, output_with, program, rest, stdout, text},
    support::eventually,
    world::{BOTH, Way, World, assert_same, pattern},
};

const PORT: u16 = 3000;
const MIB: usize = 1024 * 1024;

/// OpenBSD's netcat, which ends its output where its input ends.
fn netcat(way: Way) -> std::process::Command {
    let mut command = client("nc.openbsd");
    command.args(["-N", &way.address().to_string(), &PORT.to_string()]);
    command
}

/// The client's end of input is what makes the service begin with its answer.
#[test]
fn netcat_ends_its_input_first_and_gets_the_answer_to_all_of_it() {
    let world = World::new();
    let mut command = program("socat");
    // -t: how long the answer may take.
    command.args(["-t", "30", &format!("TCP4-LISTEN:{PORT},fork,reuseaddr"), "SYSTEM:sort -r"]);
    let _server = world.serve(command, PORT);
    let numbers: Vec<_> = (0..400_000).map(|number| format!("{number:07}\n")).collect();
    let backwards: String = numbers.iter().rev().map(String::as_str).collect();
    for way in BOTH {
        let got = world.outside(|| output_with(&mut netcat(way), numbers.concat().as_bytes()));
        assert!(got.status.success(), "{way:?}: {got:?}");
        assert_same(&got.stdout, backwards.as_bytes());
    }
}

#[test]
fn netcat_whose_service_ends_its_output_first_still_delivers_its_input() {
    let world = World::new();
    let bytes = pattern(5 * MIB + 1);
    for (way, port) in BOTH.into_iter().zip(["3000", "3001"]) {
        let mut command = program("nc.openbsd");
        command.args(["-N", "-l", "0.0.0.0", port]);
        let (server, mut greeting, received) = Program::talk(command, &world.path("server.log"));
        world.until(Some(&server), port.parse().unwrap(), "bridged");
        let mut command = client("nc.openbsd");
        command.args(["-N", &way.address().to_string(), port]);
        let (client, mut input, mut output) = world.outside(|| Program::talk(command, &world.path("client.log")));
        writeln!(greeting, "welcome").unwrap();
        drop(greeting);
        // netcat passes on what came before it acts on the end, and the end after that.
        assert_eq!(line(&mut output), "welcome", "{way:?}");
        let bytes = &bytes;
        let got = thread::scope(|scope| {
            scope.spawn(move || {
                input.write_all(bytes).unwrap();
                drop(input);
            });
            rest(received)
        });
        assert_same(&got, bytes);
        assert_eq!(rest(output), b"");
        client.wait();
        server.wait();
    }
}

/// The streams of iperf3 are told apart by what it writes on another connection, by which it also compares both ends' figures.
#[test]
fn iperf3_moves_its_bytes_on_eight_streams_in_each_direction() {
    let world = World::new();
    let bytes = 192 * MIB as u64;
    for (direction, port) in [None, Some("--reverse"), Some("--bidir")].into_iter().zip(["3000", "3001", "3002"]) {
        let mut command = program("iperf3");
        command.args(["--server", "--one-off", "--bind", "0.0.0.0", "--port", port]);
        let server = world.serve(command, port.parse().unwrap());
        let mut command = client("iperf3");
        command.args(["--json", "--parallel", "8", "--bytes", &bytes.to_string(), "--port", port]);
        command.args(direction).args(["--client", &Way::Bridged.address().to_string()]);
        let report: Value = serde_json::from_slice(&world.outside(|| stdout(&mut command))).unwrap();
        let end = &report["end"];
        let count = if direction == Some("--bidir") { 16 } else { 8 };
        let streams = end["streams"].as_array().unwrap();
        assert_eq!(streams.len(), count, "{direction:?}: {report}\n{}", server.log());
        for stream in streams {
            assert!(
                stream["sender"]["bytes"].as_u64() > Some(0) && stream["receiver"]["bytes"].as_u64() > Some(0),
                "{stream}"
            );
        }
        // With both directions at once, the first that has moved so much ends the other.
        let moved = ["sum_sent", "sum_sent_bidir_reverse"].map(|sum| end[sum]["bytes"].as_u64().unwrap_or(0));
        assert!(moved.iter().any(|moved| *moved >= bytes), "{direction:?}: {end}");
    }
}

/// Each byte is a segment of its own, and socat reads and writes one at a time.
#[test]
fn single_bytes_come_back_one_by_one() {
    let world = World::new();
    let mut command = program("socat");
    command.args(["-b", "1", "-t", "30", &format!("TCP4-LISTEN:{PORT},fork,reuseaddr,nodelay"), "PIPE"]);
    let _server = world.serve(command, PORT);
    let bytes = pattern(20_000);
    for way in BOTH {
        let stream = world.connect(way, PORT).unwrap();
        stream.set_nodelay(true).unwrap();
        let mut reader = stream.try_clone().unwrap();
        // One byte at a time and there at once …
        for byte in &bytes[..2_000] {
            (&stream).write_all(&[*byte]).unwrap();
            let mut got = [0];
            reader.read_exact(&mut got).unwrap();
            assert_eq!(got, [*byte]);
        }
        // … and as fast as they go.
        thread::scope(|scope| {
            scope.spawn(|| {
                for byte in &bytes[2_000..] {
                    (&stream).write_all(&[*byte]).unwrap();
                }
                stream.shutdown(Shutdown::Write).unwrap();
            });
            assert_same(&rest(reader), &bytes[2_000..]);
        });
    }
}

/// Which end of a connection acts.
#[derive(Debug, Clone, Copy)]
enum Actor {
    Client,
    Service,
}

/// Does the same on a direct and on a bridged connection, with either end as the one that acts.
fn every_way(test: impl Fn(&World, TcpStream, TcpStream)) {
    let world = World::new();
    let listener = world.listen(PORT);
    for way in BOTH {
        for actor in [Actor::Client, Actor::Service] {
            eprintln!("{way:?}, {actor:?} acts");
            let (client, served) = world.pair(way, &listener);
            match actor {
                Actor::Client => test(&world, client, served),
                Actor::Service => test(&world, served, client),
            }
        }
    }
}

/// Waits until the kernel at the other end of this very connection has all that was sent: the client's, the service's or guestd's.
fn until_acknowledged(world: &World, sender: &TcpStream) {
    let filter = format!("src {} and dst {}", sender.local_addr().unwrap(), sender.peer_addr().unwrap());
    let sockets = || text(program("ss").args(["-H", "-t", "-n", "state", "established"]).arg(&filter));
    eventually("all is acknowledged", || {
        // It is in one of the two namespaces.
        let found = sockets() + &world.outside(sockets);
        let columns: Vec<_> = found.split_whitespace().collect();
        assert_eq!(columns.len(), 4, "{found}");
        (columns[1] == "0").then_some(())
    });
}

fn reset(stream: TcpStream) {
    SockRef::from(&stream).set_linger(Some(std::time::Duration::ZERO)).unwrap();
}

#[test]
fn eight_mebibytes_reach_a_slow_reader_after_the_sender_has_closed() {
    let bytes = pattern(8 * MIB);
    every_way(|_, mut sender, mut reader| {
        // Room for all of it in the sender's kernel, so that nothing but kernels and the bridge has it once it is closed.
        setsockopt(&sender, sockopt::SndBufForce, &(32 * MIB)).unwrap();
        sender.write_all(&bytes).unwrap();
        drop(sender);
        let mut got = Vec::new();
        let mut piece = vec![0; 1021];
        loop {
            match reader.read(&mut piece).unwrap() {
                0 => break,
                length => got.extend_from_slice(&piece[..length]),
            }
        }
        assert_same(&got, &bytes);
    });
}

#[test]
fn reset_comes_after_the_bytes_that_had_arrived_before_it() {
    let bytes = pattern(10_000);
    every_way(|world, mut sender, mut reader| {
        sender.write_all(&bytes).unwrap();
        until_acknowledged(world, &sender);
        reset(sender);
        let mut got = Vec::new();
        assert_eq!(reader.read_to_end(&mut got).unwrap_err().kind(), ErrorKind::ConnectionReset);
        assert_same(&got, &bytes);
    });
}

#[test]
fn reset_of_a_reader_ends_the_writer_at_once_and_with_an_error() {
    every_way(|_, mut reader, mut writer| {
        let writing = thread::spawn(move || writer.write_all(&vec![1; 64 * MIB]).unwrap_err().kind());
        reader.read_exact(&mut vec![0; MIB]).unwrap();
        reset(reader);
        let kind = writing.join().unwrap();
        assert!(matches!(kind, ErrorKind::ConnectionReset | ErrorKind::BrokenPipe), "{kind:?}");
    });
}

/// Writes until nothing more fits between the two ends, and returns how much did.
fn fill(stream: &TcpStream, bytes: &[u8]) -> usize {
    let mut written = 0;
    stream.set_nonblocking(true).unwrap();
    // What is on the way still makes room for a while.
    let mut refused = 0;
    while refused < 10 {
        match (&*stream).write(&bytes[written..]) {
            Ok(0) => panic!("all {written} bytes fit"),
            Ok(length) => (written, refused) = (written + length, 0),
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::WouldBlock);
                refused += 1;
                thread::park_timeout(std::time::Duration::from_millis(5));
            }
        }
    }
    stream.set_nonblocking(false).unwrap();
    written
}

/// Nobody has read a byte when both ends say that they are done.
#[test]
fn all_that_was_sent_comes_before_the_end_when_both_directions_were_full() {
    let bytes = pattern(64 * MIB);
    every_way(|_, one, other| {
        let filled = [&one, &other].map(|stream| {
            let length = fill(stream, &bytes);
            stream.shutdown(Shutdown::Write).unwrap();
            length
        });
        thread::scope(|scope| {
            for (stream, length) in [(&one, filled[1]), (&other, filled[0])] {
                let expected = &bytes[..length];
                scope.spawn(move || assert_same(&rest(stream), expected));
            }
        });
    });
}
