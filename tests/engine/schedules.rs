//! Random schedules of writes, half-closes and resets: what each side sees is what it sees without an engine.

use std::{
    io::{ErrorKind, Write},
    net::{Shutdown, TcpStream},
};

use proptest::{collection::vec, prelude::*};

use crate::rig::{Rig, direct_pair, pattern, read_all, reset};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    Write(usize),
    HalfClose,
    /// Lets the engine do what it has to, or not.
    Yield,
}

/// Steps, each by the client or not; and who resets the connection in the end, if anybody.
#[derive(Debug, Clone)]
struct Schedule {
    steps: Vec<(bool, Step)>,
    reset_by_client: Option<bool>,
}

fn schedule() -> impl Strategy<Value = Schedule> {
    let step = prop_oneof![
        5 => prop_oneof![1usize..10, 1000usize..6000].prop_map(Step::Write),
        1 => Just(Step::HalfClose),
        2 => Just(Step::Yield),
    ];
    (vec((any::<bool>(), step), 0..8), any::<Option<bool>>())
        .prop_map(|(steps, reset_by_client)| Schedule { steps, reset_by_client })
}

/// What a side that did not reset sees: bytes, and whether they end with an end of file.
#[derive(Debug, PartialEq, Eq)]
struct Seen {
    bytes: Vec<u8>,
    end_of_file: bool,
}

/// Does it all, and gives what the client and the service see.
fn play(schedule: &Schedule, client: TcpStream, served: TcpStream) -> [Option<Seen>; 2] {
    let bytes = pattern(64 * 1024);
    // Else a reset overtakes what is held back for a fuller packet.
    [&client, &served].into_iter().for_each(|stream| stream.set_nodelay(true).unwrap());
    let mut sides = [Some(client), Some(served)];
    let mut written = [0, 0];
    let mut closed = [false, false];
    for (by_client, step) in &schedule.steps {
        let side = usize::from(!by_client);
        let stream = sides[side].as_mut().unwrap();
        match step {
            Step::Write(_) | Step::HalfClose if closed[side] => {}
            Step::Write(length) => {
                // All of a side's bytes are less than the sockets hold, so this never waits for the other side.
                stream.write_all(&bytes[written[side]..written[side] + length]).unwrap();
                written[side] += length;
            }
            Step::HalfClose => {
                stream.shutdown(Shutdown::Write).unwrap();
                closed[side] = true;
            }
            Step::Yield => std::thread::yield_now(),
        }
    }
    match schedule.reset_by_client {
        Some(by_client) => reset(sides[usize::from(!by_client)].take().unwrap()),
        None => {
            for (stream, _) in sides.iter().flatten().zip(closed).filter(|(_, closed)| !closed) {
                stream.shutdown(Shutdown::Write).unwrap();
            }
        }
    }
    sides.map(|stream| {
        let (bytes, end) = read_all(&mut stream?);
        if let Err(error) = &end {
            assert_eq!(error.kind(), ErrorKind::ConnectionReset);
        }
        Some(Seen { bytes, end_of_file: end.is_ok() })
    })
}

/// Lengths and ends, for people.
fn told(seen: &[Option<Seen>; 2]) -> String {
    let side = |seen: &Seen| {
        format!("{} bytes and {}", seen.bytes.len(), if seen.end_of_file { "the end" } else { "a reset" })
    };
    let told: Vec<_> = seen.iter().map(|seen| seen.as_ref().map_or("(has reset it)".to_owned(), side)).collect();
    told.join("; ")
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 600, ..ProptestConfig::default() })]

    #[test]
    fn each_side_sees_what_it_sees_of_a_direct_connection(schedule in schedule()) {
        thread_local!(static RIG: Rig = Rig::new());
        let (client, served) = direct_pair();
        let direct = play(&schedule, client, served);
        let bridged = RIG.with(|rig| {
            let (client, served) = rig.pair();
            play(&schedule, client, served)
        });
        prop_assert!(bridged == direct, "bridged {}, direct {}", told(&bridged), told(&direct));
    }
}
