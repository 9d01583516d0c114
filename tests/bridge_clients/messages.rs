//! Connections that carry messages both ways: gRPC and WebSocket, of Python's grpcio and websockets.

use std::{io::Write, time::Duration};

use crate::{
    program::{Program, client, line, program, python, text},
    support::eventually,
    world::{BOTH, OUTSIDE6, Way, World},
};

const PORT: u16 = 3000;

/// How long nothing is said on a connection that must stay: far above what any retransmission or settling takes.
const SILENCE: Duration = Duration::from_secs(4);

/// gRPC takes 0.0.0.0 for every address and listens on IPv6 too; an IPv4 address it makes one of IPv6 that stands for it.
#[test]
fn grpc_streams_both_ways_and_ends_as_either_side_wants() {
    let world = World::new();
    let mut command = python(program, "grpc_server.py");
    command.arg(Way::Direct.socket(PORT).to_string());
    let server = world.serve(command, PORT);
    assert_eq!(world.until(None, PORT, "bridged")["cause"], "ipv4_only_address");
    let said = BOTH.map(|way| {
        let scheme = if way == Way::Direct { "ipv4" } else { "ipv6" };
        world.outside(|| text(python(client, "grpc_client.py").arg(format!("{scheme}:{}", way.socket(PORT)))))
    });
    assert_eq!(said[1], said[0]);
    let beginnings: Vec<_> =
        said[1].lines().map(|line| line.split(' ').take(2).collect::<Vec<_>>().join(" ")).collect();
    let expected =
        ["lock-step ('hello',", "bursts [(0,", "failure DATA_LOSS", "cancel CANCELLED", "afterwards ('hello',"];
    assert_eq!(beginnings, expected, "{}", said[1]);
    eventually("the service knows of both cancels", || {
        (server.log().matches("idle has ended").count() == 2).then_some(())
    });
}

fn websocket_server(world: &World) -> Program {
    let mut command = python(program, "websocket_server.py");
    command.arg(PORT.to_string());
    world.serve(command, PORT)
}

fn websocket_client(way: Way, what: &str) -> std::process::Command {
    let mut command = python(client, "websocket_client.py");
    command.arg(what).arg(format!("ws://{}/", way.socket(PORT)));
    command
}

#[test]
fn busy_websocket_carries_every_message_in_order() {
    let world = World::new();
    let _server = websocket_server(&world);
    for way in BOTH {
        assert_eq!(world.outside(|| text(&mut websocket_client(way, "busy"))), "3003\n1000\n", "{way:?}");
    }
}

/// The service is in the same kernel as the bridge; it is the client that can vanish without a word.
#[test]
fn idle_websocket_stays_while_the_kernel_looks_after_the_client() {
    let world = World::new();
    let _server = websocket_server(&world);
    let (client, mut stdin, mut said) =
        world.outside(|| Program::talk(websocket_client(Way::Bridged, "idle"), &world.path("client.log")));
    assert_eq!(line(&mut said), "first", "{}", client.log());
    let half = |filter: String| {
        let sockets = text(program("ss").args(["-H", "-t", "-n", "-o", "state", "established"]).arg(filter));
        assert_eq!(sockets.lines().count(), 1, "{sockets}");
        sockets
    };
    let clients = || half(format!("sport = :{PORT} and dst [{OUTSIDE6}]"));
    // What waits for its acknowledgement shows another timer first.
    let keepalive = eventually("keepalive watches over the client", || {
        clients().split_once("timer:(keepalive,").map(|(_, timer)| timer.to_owned())
    });
    let seconds: u32 = keepalive.split_once("sec,0)").expect(&keepalive).0.parse().unwrap();
    assert!((30..=60).contains(&seconds), "{keepalive}");
    // Silence is what is tested here; there is nothing to wait for.
    std::thread::sleep(SILENCE);
    half(format!("dport = :{PORT} and dst {}", guestd::bridge::PSEUDO_IPV4_SERVICE));
    assert!(clients().contains("timer:(keepalive,"));
    writeln!(stdin, "second").unwrap();
    assert_eq!((line(&mut said), line(&mut said)), ("second".into(), "1000".into()), "{}", client.log());
    client.wait();
}
