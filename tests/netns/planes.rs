//! Data planes that make room for others, are stuck or slow, or are started at once.

use std::{
    io::{BufRead, BufReader, ErrorKind, Read, Write},
    net::TcpStream,
    os::unix::net::{UnixListener, UnixStream},
    path::Path,
    process::{Child, Command, Stdio},
};

use guestd::limits;
use nix::{
    sys::{
        ptrace,
        resource::{Resource, getrlimit, setrlimit},
        signal::{Signal, kill},
        wait::{WaitPidFlag, waitpid},
    },
    unistd::Pid,
};
use serde_json::{Value, json};
use socket2::{Domain, SockAddr, Socket, Type};

use crate::{
    namespace::{
        CLIENT6, Tier, agent_in, config_in, connect, enter, ip, listen, own_listeners, report, try_connect,
        until_bridged,
    },
    plane::{accept, bridged, cgroup_of, exchange, has_route, is_running, plane_beside, plane_pid, port},
    support::{DEADLINE, PROGRAM, TestAgent, eventually},
};

in_both_tiers! {
    plane_that_made_room_still_obeys_and_its_connections_are_told
    plane_that_made_room_is_found_by_every_later_agent
    plane_that_made_room_ends_with_the_grace
    agent_that_is_interrupted_takes_planes_that_made_room_along
    plane_that_is_stuck_is_ended_and_replaced
    plane_that_is_slow_for_a_while_keeps_its_connections
}

/// The next agent has another setting, by which its plane is another one.
fn launch_with_another_plane(agent: &mut TestAgent, tier: Tier, grace_ms: u64) {
    agent.stop(Signal::SIGTERM);
    let config = format!("{}bridge.grace_ms = {grace_ms}\n", config_in(tier));
    std::fs::write(agent.plane_socket().with_file_name("config.toml"), config).unwrap();
    agent.launch(Path::new(PROGRAM), &[]);
}

fn cut(agent: &TestAgent, listen: u16) {
    let (status, answer) = agent.call("POST", "/v1/bridge/cut", &json!({"listen": listen}).to_string());
    assert_eq!(status, 200, "{answer}");
}

fn until_ended(plane: Pid) {
    eventually("the data plane has ended", || (!is_running(plane)).then_some(()));
}

fn assert_reset(stream: &mut TcpStream) {
    assert_eq!(stream.read(&mut [0]).unwrap_err().kind(), ErrorKind::ConnectionReset);
}

/// Files of data planes that are left beside the agent's socket.
fn left_of_planes(agent: &TestAgent) -> Vec<String> {
    let socket = agent.plane_socket();
    let name = socket.file_name().unwrap().to_str().unwrap();
    let entries = std::fs::read_dir(socket.parent().unwrap()).unwrap().flatten();
    let names = entries.map(|entry| entry.file_name().into_string().unwrap());
    names.filter(|entry| entry.starts_with(name)).collect()
}

fn plane_that_made_room_still_obeys_and_its_connections_are_told(tier: Tier) {
    let mut agent = agent_in(tier);
    let (service, mut client, mut served) = bridged(&agent);
    exchange(&mut client, &mut served);
    let old = plane_pid(&agent);
    launch_with_another_plane(&mut agent, tier, 60_000);
    until_bridged(&agent, &service);
    let new = plane_beside(&agent, Some(old));
    let mut other = (connect(3000), accept(&service));
    exchange(&mut client, &mut served);
    exchange(&mut other.0, &mut other.1);
    let told = port(&agent, 3000);
    let counted =
        ["connections", "connections_total", "bytes_in", "bytes_out"].map(|name| told[name].as_u64().unwrap());
    assert_eq!(counted, [2, 2, 30, 30]);
    let pseudo = guestd::bridge::pseudo_ipv4(CLIENT6).to_string();
    let clients = json!([{"pseudo": pseudo, "client": CLIENT6.to_string(), "port": 3000, "connections": 2}]);
    assert_eq!(agent.get("/v1/bridge")["clients"], clients);
    let health = agent.check("bridge");
    assert!(
        health["message"].as_str().unwrap().contains("; 1 data planes of before still have connections"),
        "{health}"
    );
    cut(&agent, 3000);
    for client in [&mut client, &mut other.0] {
        assert_reset(client);
    }
    until_ended(old);
    assert!(is_running(new) && !cgroup_of(old).exists() && has_route());
    // What it has carried still counts.
    let told = eventually("it is told that nothing is open", || {
        let told = port(&agent, 3000);
        (told["connections"] == 0).then_some(told)
    });
    assert_eq!((&told["connections_total"], &told["bytes_in"]), (&2.into(), &30.into()));
    assert_eq!(own_listeners(&agent).len(), 1, "{:?}", own_listeners(&agent));
}

fn plane_that_made_room_is_found_by_every_later_agent(tier: Tier) {
    let mut agent = agent_in(tier);
    let (service, mut client, mut served) = bridged(&agent);
    let old = plane_pid(&agent);
    launch_with_another_plane(&mut agent, tier, 60_000);
    until_bridged(&agent, &service);
    agent.stop(Signal::SIGKILL);
    agent.launch(Path::new(PROGRAM), &[]);
    until_bridged(&agent, &service);
    exchange(&mut client, &mut served);
    eventually("its connection is told", || (port(&agent, 3000)["connections"] == 1).then_some(()));
    cut(&agent, 3000);
    assert_reset(&mut client);
    until_ended(old);
}

fn plane_that_made_room_ends_with_the_grace(tier: Tier) {
    enter();
    // Long enough for the next agent to come.
    let mut agent = TestAgent::start_with(&format!("{}bridge.grace_ms = 5000\n", config_in(tier)), &[]);
    let (service, mut client, mut served) = bridged(&agent);
    let old = plane_pid(&agent);
    launch_with_another_plane(&mut agent, tier, 5001);
    until_bridged(&agent, &service);
    exchange(&mut client, &mut served);
    let new = plane_beside(&agent, Some(old));
    agent.stop(Signal::SIGKILL);
    assert_reset(&mut client);
    assert_reset(&mut served);
    until_ended(old);
    until_ended(new);
    assert_eq!(left_of_planes(&agent), Vec::<String>::new());
    assert!(!has_route() && !cgroup_of(old).exists() && !cgroup_of(new).exists());
}

fn agent_that_is_interrupted_takes_planes_that_made_room_along(tier: Tier) {
    let mut agent = agent_in(tier);
    let (service, mut client, _served) = bridged(&agent);
    let old = plane_pid(&agent);
    launch_with_another_plane(&mut agent, tier, 60_000);
    until_bridged(&agent, &service);
    let new = plane_beside(&agent, Some(old));
    agent.stop(Signal::SIGINT);
    assert_reset(&mut client);
    until_ended(old);
    until_ended(new);
    assert_eq!(left_of_planes(&agent), Vec::<String>::new());
    assert!(!has_route() && !cgroup_of(old).exists() && !cgroup_of(new).exists());
}

#[test]
fn of_too_many_planes_that_made_room_the_oldest_is_ended() {
    let mut agent = agent_in(Tier::Steer);
    let service = listen("0.0.0.0:3000");
    until_bridged(&agent, &service);
    let mut pairs = Vec::new();
    for upgrade in 0..=limits::BRIDGE_RETIRED_PLANES as u64 {
        pairs.push((connect(3000), accept(&service)));
        launch_with_another_plane(&mut agent, Tier::Steer, 60_000 + upgrade);
        until_bridged(&agent, &service);
    }
    let mut others = pairs.split_off(1);
    assert_reset(&mut pairs[0].0);
    assert_reset(&mut pairs[0].1);
    for (client, served) in &mut others {
        exchange(client, served);
    }
    assert_eq!(port(&agent, 3000)["connections"], limits::BRIDGE_RETIRED_PLANES);
}

fn plane_that_is_stuck_is_ended_and_replaced(tier: Tier) {
    let mut agent = agent_in(tier);
    let (service, mut client, _served) = bridged(&agent);
    let stuck = plane_pid(&agent);
    kill(stuck, Signal::SIGSTOP).unwrap();
    agent.stop(Signal::SIGKILL);
    // It is ready all the same, and says what it waits for.
    agent.launch(Path::new(PROGRAM), &[]);
    eventually("health says what is the matter", || {
        let health = agent.check("bridge");
        let awaits = format!("the data plane, pid {stuck}, does not answer, and is ended unless it does within 10 s");
        (health["state"] == "degraded" && health["message"].as_str()?.contains(&awaits)).then_some(())
    });
    until_bridged(&agent, &service);
    assert!(!is_running(stuck));
    // The kernel ends the connections of a process that is killed.
    assert_eq!(client.read(&mut [0]).unwrap_or(0), 0);
    let mut client = connect(3000);
    exchange(&mut client, &mut accept(&service));
    let health = agent.check("bridge");
    let why = format!("the data plane of before, pid {stuck}, did not answer for 10 s and was ended");
    assert!(health["message"].as_str().unwrap().contains(&why), "{health}");
    assert_eq!(own_listeners(&agent).len(), 1, "{:?}", own_listeners(&agent));
}

#[test]
fn plane_that_lets_nobody_in_is_ended_and_replaced() {
    let mut agent = agent_in(Tier::Steer);
    let (service, _client, _served) = bridged(&agent);
    let stuck = plane_pid(&agent);
    kill(stuck, Signal::SIGSTOP).unwrap();
    agent.stop(Signal::SIGKILL);
    let (_, files) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    setrlimit(Resource::RLIMIT_NOFILE, files, files).unwrap();
    let door = SockAddr::unix(agent.plane_socket()).unwrap();
    let knock = || {
        let socket = Socket::new(Domain::UNIX, Type::STREAM.nonblocking(), None).unwrap();
        socket.connect(&door).map(|()| socket)
    };
    let waiting: Vec<_> = std::iter::from_fn(|| knock().ok()).collect();
    assert_eq!(knock().unwrap_err().kind(), ErrorKind::WouldBlock, "after {}", waiting.len());
    agent.launch(Path::new(PROGRAM), &[]);
    until_bridged(&agent, &service);
    assert!(!is_running(stuck));
    let mut client = connect(3000);
    exchange(&mut client, &mut accept(&service));
}

fn plane_that_is_slow_for_a_while_keeps_its_connections(tier: Tier) {
    let agent = agent_in(tier);
    let (_service, mut client, mut served) = bridged(&agent);
    let plane = plane_pid(&agent);
    kill(plane, Signal::SIGSTOP).unwrap();
    // Each waits for as long as an answer should take, and is told what is known.
    for _ in 0..2 {
        assert_eq!(port(&agent, 3000)["state"], "active");
    }
    kill(plane, Signal::SIGCONT).unwrap();
    exchange(&mut client, &mut served);
    eventually("the state is new again", || (port(&agent, 3000)["bytes_in"] == 10).then_some(()));
    assert_eq!(plane_pid(&agent), plane);
    let health = agent.check("bridge");
    assert!(health["state"] == "ok" && !health["message"].as_str().unwrap().contains("reset"), "{health}");
}

/// A plane without an agent.
fn start_plane(socket: &Path) -> Child {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL", PROGRAM, "bridge", "--identity", "x", "--grace-ms", "60000"]);
    command.args(["--log-level", "info", "--socket"]).arg(socket);
    command.stdin(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap()
}

#[test]
fn of_planes_that_are_started_at_once_one_has_the_name_and_the_others_end() {
    enter();
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("plane");
    for round in 0..10 {
        // Of one that is dead, so that all have something to remove.
        drop(UnixListener::bind(&socket).unwrap());
        let mut planes: Vec<_> = (0..4).map(|_| start_plane(&socket)).collect();
        eventually("all others have ended", || {
            let running = planes.iter_mut().filter_map(|plane| plane.try_wait().unwrap().is_none().then_some(()));
            (running.count() == 1).then_some(())
        });
        let found = planes.iter_mut().position(|plane| plane.try_wait().unwrap().is_none()).unwrap();
        let mut plane = planes.swap_remove(found);
        let mut agent = eventually("it lets an agent in", || UnixStream::connect(&socket).ok());
        let mut hello = String::new();
        BufReader::new(&agent).read_line(&mut hello).unwrap();
        let hello: Value = serde_json::from_str(&hello).unwrap();
        assert_eq!(hello["pid"], plane.id(), "round {round}");
        agent.write_all(b"{\"order\":\"end\"}\n").unwrap();
        assert!(plane.wait().unwrap().success());
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0, "something is left");
    }
}

#[test]
fn cut_waits_once_for_connections_that_do_not_end() {
    enter();
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("plane");
    let mut plane = start_plane(&socket);
    let agent = eventually("it lets an agent in", || UnixStream::connect(&socket).ok());
    agent.set_read_timeout(Some(DEADLINE)).unwrap();
    let mut agent = BufReader::new(agent);
    agent.read_line(&mut String::new()).unwrap();
    let mut order = |order: Value| {
        agent.get_mut().write_all(format!("{order}\n").as_bytes()).unwrap();
        let mut answer = String::new();
        agent.read_line(&mut answer).unwrap();
        answer
    };
    let rule = json!({"listen": 8003, "to": "127.0.0.1:9000", "mode": "http", "everywhere": true, "take": true});
    order(json!({"order": "want", "auto": false, "addresses": [], "ports": [rule]}));
    let service = listen("127.0.0.1:9000");
    let mut client = connect(8003);
    client.write_all(b"GET / HTTP/1.1\r\nHost: vm\r\n\r\n").unwrap();
    let _served = accept(&service);
    // The thread that serves it does nothing any more, so that it does not end.
    let tasks = std::fs::read_dir(format!("/proc/{}/task", plane.id())).unwrap().flatten();
    let is_meant = |task: &std::fs::DirEntry| {
        std::fs::read_to_string(task.path().join("comm")).is_ok_and(|name| name == "bridge-http\n")
    };
    let thread = tasks.into_iter().find(is_meant).unwrap().file_name().to_str().unwrap().parse().unwrap();
    let thread = Pid::from_raw(thread);
    ptrace::seize(thread, ptrace::Options::empty()).unwrap();
    ptrace::interrupt(thread).unwrap();
    waitpid(thread, Some(WaitPidFlag::__WALL)).unwrap();
    order(json!({"order": "cut", "listen": 8003}));
    ptrace::detach(thread, None).unwrap();
    assert_reset(&mut client);
    order(json!({"order": "end"}));
    let mut log = String::new();
    plane.stderr.take().unwrap().read_to_string(&mut log).unwrap();
    plane.wait().unwrap();
    assert_eq!(log.matches("HTTP connections take long to be cut").count(), 1, "{log}");
}

#[test]
fn low_limit_of_open_files_is_told_and_still_allows_a_good_part() {
    enter();
    let agent = TestAgent::start_with(&config_in(Tier::Steer), &["prlimit", "--nofile=1024:1024"]);
    let (service, ..) = bridged(&agent);
    let pairs: Vec<_> = (0..100).map(|_| (connect(3000), accept(&service))).collect();
    assert_eq!(port(&agent, 3000)["connections"], pairs.len());
    let health = agent.check("bridge");
    assert_eq!(health["state"], "degraded");
    let why = "the limit of open files leaves it 256 connections at once; raise LimitNOFILE of the unit";
    assert!(health["message"].as_str().unwrap().contains(why), "{health}");
}

#[test]
fn what_is_in_the_way_of_steering_is_told_unasked_and_over_by_itself() {
    let agent = agent_in(Tier::Steer);
    let service = listen("0.0.0.0:3000");
    until_bridged(&agent, &service);
    let batch = tempfile::NamedTempFile::new().unwrap();
    let lines: String = (0..=limits::STEERING_ADDRESSES)
        .map(|number| format!("addr add fd00:77::{number:x}/128 dev lo nodad\n"))
        .collect();
    std::fs::write(batch.path(), lines).unwrap();
    ip(&format!("-batch {}", batch.path().display()));
    // By what the agent knows: the plane is not asked for it.
    let entry = report(&agent, &service, |entry| entry["exposure"] == "unreachable");
    assert_eq!(entry["cause"], "bridge_failed");
    assert_eq!(try_connect(3000).unwrap_err().kind(), ErrorKind::ConnectionRefused);
    ip("addr flush dev lo to fd00:77::/120");
    until_bridged(&agent, &service);
    exchange(&mut connect(3000), &mut accept(&service));
}

/// As another user, so many sockets that listen on the ports from there on at this address, of a process that ends with its input.
const MANY_LISTENERS: &str = "
import os, resource, socket, sys
first, count, address = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
os.setuid(1000)
held = []
for port in range(first, first + count):
    one = socket.socket(socket.AF_INET6)
    one.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    one.bind((address, port))
    one.listen(1)
    held.append(one)
print(len(held), flush=True)
sys.stdin.read()
";

#[test]
fn flood_of_listeners_of_another_user_is_told_and_when_it_is_over_all_is_bridged_again() {
    let agent = agent_in(Tier::Steer);
    let service = listen("0.0.0.0:3000");
    until_bridged(&agent, &service);
    let each = 14_000;
    let many = |first: usize, address: &str| {
        let mut command = Command::new("setpriv");
        command.args([
            "--pdeathsig",
            "KILL",
            "python3",
            "-c",
            MANY_LISTENERS,
            &first.to_string(),
            &each.to_string(),
            address,
        ]);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap()
    };
    let firsts = (0..6).map(|number| (10_000 + number % 3 * each, if number < 3 { "::1" } else { "fd00:9::2" }));
    let mut floods: Vec<_> = firsts.map(|(first, address)| many(first, address)).collect();
    for flood in &mut floods {
        let mut count = String::new();
        BufReader::new(flood.stdout.as_mut().unwrap()).read_line(&mut count).unwrap();
        assert_eq!(count.trim(), each.to_string());
    }
    assert!(6 * each > limits::STEERING_LISTENERS);
    assert_eq!(try_connect(3000).unwrap_err().kind(), ErrorKind::ConnectionRefused);
    let why = format!(
        "more than {} sockets listen, so that nothing is bridged until there are fewer",
        limits::STEERING_LISTENERS
    );
    let told = port(&agent, 3000);
    assert_eq!((&told["state"], &told["message"]), (&"failed".into(), &json!(why)));
    assert!(agent.check("bridge")["message"].as_str().unwrap().contains(&why));
    for mut flood in floods {
        drop(flood.stdin.take());
        flood.wait().unwrap();
    }
    // By itself: nothing is asked of the agent meanwhile, and nothing else changes.
    let mut client = eventually("the service is bridged again", || try_connect(3000).ok());
    exchange(&mut client, &mut accept(&service));
    assert_eq!(port(&agent, 3000)["state"], "active");
}
