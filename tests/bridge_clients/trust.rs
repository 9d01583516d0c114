//! Services that trust localhost trust nobody outside, and services on localhost are nobody's outside, in whichever way the agent
//! takes the connections.

use std::{
    io::{ErrorKind, Read},
    net::TcpListener,
    process::Command,
};

use crate::{
    postgres::{self, Postgres, psql},
    program::{Program, client, find, output, program, refusal, stdout, text},
    world::{BOTH, TIERS, VM4, VM6, Way, World},
};

const REDIS: u16 = 6379;

fn redis(world: &World, address: &str, protected: &str) -> Command {
    let mut command = program("redis-server");
    command.args([
        "--port",
        &REDIS.to_string(),
        "--bind",
        address,
        "--protected-mode",
        protected,
        "--save",
        "",
        "--dir",
    ]);
    command.arg(world.path(""));
    command
}

fn ping(host: &str, port: u16) -> Command {
    let mut command = client("redis-cli");
    command.args(["-h", host, "-p", &port.to_string(), "PING"]);
    command
}

/// A client for which `localhost` is `::1` before it is 127.0.0.1, whatever the machine's own file says.
fn with_localhost(world: &World, name: &str) -> Command {
    let hosts = world.file("hosts", "::1 localhost\n127.0.0.1 localhost\n");
    let enter = r#"mount --bind "$0" /etc/hosts && exec "$@""#;
    let inside = |name: &str| {
        let mut command = client("unshare");
        command.args(["--mount", "--propagation", "private", "sh", "-c", enter]).arg(&hosts).arg(find(name));
        command
    };
    let order = text(inside("getent").args(["ahosts", "localhost"]));
    assert!(order.starts_with("::1 ") && order.contains("\n127.0.0.1 "), "{order}");
    inside(name)
}

#[test]
fn postgres_that_trusts_localhost_refuses_a_bridged_client_as_it_refuses_a_direct_one() {
    for tier in TIERS {
        let world = World::in_tier(tier);
        let postgres = Postgres::start(&world, "host all all 127.0.0.1/32 trust\n");
        let refusals = BOTH.map(|way| {
            let said = world.outside(|| refusal(psql(&way.address().to_string()).args(["-c", "SELECT 1"])));
            let seen = format!("host \"{}\"", way.client_as_seen());
            assert!(said.contains("no pg_hba.conf entry for") && said.contains(&seen), "{way:?}: {said}");
            said.replace(&seen, "host SEEN").replace(&way.address().to_string(), "ADDRESS")
        });
        assert_eq!(refusals[1], refusals[0]);
        let local = text(psql("127.0.0.1").args(["-c", "SELECT host(inet_client_addr())"]));
        assert_eq!(local, "127.0.0.1\n");
        postgres.program.assert_running();
    }
}

/// A bridge that answered at `::1` would be where the client goes first, and it would be refused.
#[test]
fn postgres_keeps_its_trust_for_a_client_to_which_localhost_is_first_an_ipv6_address() {
    for tier in TIERS {
        let world = World::in_tier(tier);
        let _postgres = Postgres::start(&world, "host all all 127.0.0.1/32 trust\n");
        let mut by_name = with_localhost(&world, "psql");
        by_name.args(postgres::arguments("localhost"));
        let by_address = psql("::1,127.0.0.1");
        for mut command in [by_name, by_address] {
            assert_eq!(text(command.args(["-c", "SELECT host(inet_client_addr())"])), "127.0.0.1\n");
        }
    }
}

#[test]
fn redis_in_protected_mode_refuses_a_bridged_client_as_it_refuses_a_direct_one() {
    for tier in TIERS {
        let world = World::in_tier(tier);
        let _server = world.serve(redis(&world, "0.0.0.0", "yes"), REDIS);
        let refusals = BOTH.map(|way| {
            // What it says to a client before this has said anything; redis-cli may find the connection reset before it has read that.
            let mut said = String::new();
            world.connect(way, REDIS).unwrap().read_to_string(&mut said).unwrap();
            assert!(said.starts_with("-DENIED Redis is running in protected mode"), "{way:?}: {said}");
            let answer = world.outside(|| output(&mut ping(&way.address().to_string(), REDIS)));
            assert!(!String::from_utf8_lossy(&answer.stdout).contains("PONG"), "{way:?}: {answer:?}");
            said
        });
        assert_eq!(refusals[1], refusals[0]);
        assert_eq!(text(&mut ping("127.0.0.1", REDIS)), "PONG\n");
        let mut by_name = with_localhost(&world, "redis-cli");
        assert_eq!(text(by_name.args(["-h", "localhost", "-p", &REDIS.to_string(), "PING"])), "PONG\n");
    }
}

/// Connects from outside, at both of the VM's addresses.
fn assert_refused(world: &World, port: u16) {
    for way in BOTH {
        let connected = world.connect(way, port);
        assert_eq!(
            connected.map_err(|error| error.kind()).unwrap_err(),
            ErrorKind::ConnectionRefused,
            "{way:?} {port}"
        );
    }
}

#[test]
fn services_on_loopback_are_refused_from_outside_while_others_are_bridged_and_come_and_go() {
    for tier in TIERS {
        let world = World::in_tier(tier);
        let private = ["127.0.0.1:7001", "127.9.9.9:7003", "[::1]:7005", "[::ffff:127.0.0.1]:7007"];
        let _private = private.map(|address| TcpListener::bind(address).unwrap());
        let _redis = Program::start(redis(&world, "127.0.0.1", "no"), &world.path("redis.log"));
        world.until(None, REDIS, "unreachable");
        // Between and around the private ones.
        let _public = [7000, 7002, 7004, 7006, 7008].map(|port| world.listen(port));
        for round in 0..5 {
            let passing = world.listen(7100 + round);
            drop(world.pair(Way::Bridged, &passing));
            for port in [7001, 7003, 7005, 7007, REDIS] {
                assert_refused(&world, port);
            }
            drop(passing);
            for port in [7001, 7003, 7005, 7007, REDIS] {
                assert_refused(&world, port);
            }
        }
        let said = world.outside(|| refusal(&mut ping(&VM6.to_string(), REDIS)));
        assert!(said.contains("Connection refused"), "{said}");
    }
}

/// `guestctl bridge …`
fn bridge(world: &World, arguments: &[&str]) {
    let mut command = client(env!("CARGO_BIN_EXE_guestctl"));
    command.arg("--vm").arg(format!("unix:{}", world.agent.socket().display())).arg("bridge");
    stdout(command.args(arguments));
}

#[test]
fn private_redis_is_reached_by_its_rule_from_its_addition_to_its_removal_and_nothing_else_is() {
    for tier in TIERS {
        let world = World::in_tier(tier);
        let _redis = Program::start(redis(&world, "127.0.0.1", "no"), &world.path("redis.log"));
        world.until(None, REDIS, "unreachable");
        let _other = TcpListener::bind("127.0.0.1:7001").unwrap();
        let _public = world.listen(7000);
        let vm6 = VM6.to_string();
        for listen in [8080, REDIS] {
            assert_refused(&world, listen);
            bridge(&world, &["add", &listen.to_string(), &format!("127.0.0.1:{REDIS}")]);
            assert_eq!(world.outside(|| text(&mut ping(&vm6, listen))), "PONG\n");
            for port in [7001, REDIS, 8080].into_iter().filter(|port| *port != listen) {
                assert_refused(&world, port);
            }
            let direct = world.outside(|| refusal(&mut ping(&VM4.to_string(), listen)));
            assert!(direct.contains("Connection refused"), "{direct}");
            bridge(&world, &["remove", &listen.to_string()]);
            assert_refused(&world, listen);
        }
    }
}

/// Even a rule makes nobody local: a Redis that protects itself sees that the client is none of the VM's.
#[test]
fn redis_in_protected_mode_on_loopback_refuses_who_comes_by_a_rule() {
    for tier in TIERS {
        let world = World::in_tier(tier);
        for (port, address, target) in [(8080, "127.0.0.1", "127.0.0.1"), (8081, "::1", "[::1]")] {
            let _redis = Program::start(redis(&world, address, "yes"), &world.path("redis.log"));
            world.until(None, REDIS, "unreachable");
            bridge(&world, &["add", &port.to_string(), &format!("{target}:{REDIS}")]);
            let mut said = String::new();
            world.connect(Way::Bridged, port).unwrap().read_to_string(&mut said).unwrap();
            assert!(said.starts_with("-DENIED"), "{address}: {said}");
        }
    }
}
