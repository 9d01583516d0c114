//! psql against PostgreSQL, redis-cli against Redis.

use std::{fs, io::Write, process::Command};

use crate::{
    postgres::{Postgres, psql},
    program::{Program, assert_success, client, line, output_with, program, rest, stdout, text},
    support::eventually,
    world::{BOTH, Way, World, assert_same},
};

/// Lets everybody in.
const OPEN: &str = "host all all 0.0.0.0/0 trust\n";

fn through(way: Way) -> Command {
    psql(&way.address().to_string())
}

#[test]
fn psql_copies_many_mebibytes_in_and_out() {
    let world = World::new();
    let postgres = Postgres::start(&world, OPEN);
    let rows: String = (0..150_000).map(|row| format!("{row}\trow {row} {}\n", "ä".repeat(row % 40))).collect();
    let file = world.file("rows", &rows);
    for way in BOTH {
        postgres.ask("DROP TABLE IF EXISTS rows");
        postgres.ask("CREATE TABLE rows (number int, text text)");
        let back = world.path("back");
        let mut command = through(way);
        command.arg("-c").arg(format!("\\copy rows FROM '{}'", file.display()));
        command.arg("-c").arg(format!("\\copy (SELECT * FROM rows ORDER BY number) TO '{}'", back.display()));
        world.outside(|| stdout(&mut command));
        assert_same(&fs::read(back).unwrap(), rows.as_bytes());
        let seen = world.outside(|| text(through(way).args(["-c", "SELECT host(inet_client_addr())"])));
        assert_eq!(seen.trim_end(), way.client_as_seen().to_string());
    }
}

/// A cancel is a connection of its own, which names the process that has the query.
#[test]
fn psql_cancels_a_query_that_runs() {
    let world = World::new();
    let postgres = Postgres::start(&world, OPEN);
    for way in BOTH {
        let mut command = through(way);
        command.args(["-c", "SELECT pg_sleep(1000)"]);
        let query = world.outside(|| Program::start(command, &world.path("psql.log")));
        let running = "SELECT count(*) FROM pg_stat_activity WHERE query LIKE 'SELECT pg_sleep%' AND state = 'active'";
        eventually("the query runs", || (postgres.ask(running) == "1").then_some(()));
        query.interrupt();
        let (code, said) = query.end();
        assert_eq!(code, Some(1), "{way:?}: {said}");
        assert!(said.contains("canceling statement due to user request"), "{way:?}: {said}");
    }
}

#[test]
fn psql_hears_what_another_one_notifies() {
    let world = World::new();
    let _postgres = Postgres::start(&world, OPEN);
    for way in BOTH {
        let (listener, mut stdin, mut said) = world.outside(|| Program::talk(through(way), &world.path("psql.log")));
        writeln!(stdin, "LISTEN news;\n\\echo listening").unwrap();
        assert_eq!(line(&mut said), "listening", "{}", listener.log());
        world.outside(|| stdout(through(way).args(["-c", "NOTIFY news, 'it rains'"])));
        // psql looks for notifications after a query; the server sends what it has before it is ready for the next.
        writeln!(stdin, "SELECT 'asked';").unwrap();
        assert_eq!(line(&mut said), "asked");
        assert!(line(&mut said).starts_with("Asynchronous notification \"news\" with payload \"it rains\" received"));
        drop(stdin);
        assert_eq!(rest(said), b"");
        listener.wait();
    }
}

#[test]
fn redis_cli_pipelines_a_hundred_thousand_commands() {
    const PORT: u16 = 6379;
    let world = World::new();
    let mut command = program("redis-server");
    command.args(["--port", &PORT.to_string(), "--bind", "0.0.0.0", "--protected-mode", "no", "--save", ""]);
    command.args(["--enable-debug-command", "local", "--dir"]).arg(world.path(""));
    let _server = world.serve(command, PORT);
    let commands: String = (0..100_000)
        .map(|number| {
            let (key, value) = (format!("key{number}"), "v".repeat(number % 60));
            format!("*3\r\n$3\r\nSET\r\n${}\r\n{key}\r\n${}\r\n{value}\r\n", key.len(), value.len())
        })
        .collect();
    let cli = |host: &str| {
        let mut command = client("redis-cli");
        command.args(["-h", host, "-p", &PORT.to_string()]);
        command
    };
    let digests = BOTH.map(|way| {
        let host = way.address().to_string();
        let mut pipe = cli(&host);
        let output = world.outside(|| output_with(pipe.arg("--pipe"), commands.as_bytes()));
        assert_success(&pipe, &output);
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(said.ends_with("errors: 0, replies: 100000\n"), "{way:?}: {said}");
        let digest = text(cli("127.0.0.1").args(["DEBUG", "DIGEST"]));
        // One by one.
        let gets: String = (0..10_000).map(|number| format!("GET key{number}\n")).collect();
        let output = world.outside(|| output_with(&mut cli(&host), gets.as_bytes()));
        let values: String = (0..10_000).map(|number| "v".repeat(number % 60) + "\n").collect();
        assert_same(&output.stdout, values.as_bytes());
        assert_eq!(world.outside(|| text(cli(&host).arg("FLUSHALL"))), "OK\n");
        digest
    });
    assert_eq!(digests[1], digests[0]);
    assert_ne!(digests[0].trim(), "0".repeat(40));
}
