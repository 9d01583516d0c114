//! The data plane outlives the agent, and leaves nothing behind.

use std::{
    io::{BufRead, BufReader, ErrorKind, Read, Write},
    net::{Ipv6Addr, Shutdown, TcpListener, TcpStream},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    process::Command,
};

use nix::{
    sys::{
        resource::{Resource, getrlimit, setrlimit},
        signal::{Signal, kill},
    },
    unistd::Pid,
};
use serde_json::{Value, json};

use crate::{
    namespace::{
        CLIENT6, Tier, VM6, agent_in, config_in, connect, enter, ip, listen, netns_of, outside_do, own_listeners,
        report, try_connect, until_bridged,
    },
    support::{DEADLINE, PROGRAM, TestAgent, eventually},
};

in_both_tiers! {
    connections_and_counters_outlive_an_agent_that_is_killed
    plane_of_another_build_keeps_its_connections_and_takes_no_more
    without_an_agent_everything_is_reset_and_gone_after_the_grace
    plane_that_is_killed_is_replaced
    agent_that_is_interrupted_takes_its_plane_along
    connections_to_an_address_that_was_taken_away_are_reset
    branch_that_keeps_its_parents_address_lets_go_of_its_connections_by_order
    cut_resets_the_connections_of_one_port_or_all
    nothing_of_guestds_own_is_listed_over_restarts
    strangers_and_bad_orders_do_no_harm
    rules_of_every_mode_tell_the_service_who_the_client_is
}

#[test]
fn plane_whose_socket_is_destroyed_is_replaced() {
    let agent = agent_in(Tier::Steer);
    let service = listen("0.0.0.0:3000");
    until_bridged(&agent, &service);
    let plane = plane_pid(&agent);
    let destroy = "-K --listening --tcp state listening sport ge :62801";
    let destroyed = Command::new("ss").args(destroy.split(' ')).output().expect("iproute2 is installed");
    assert!(String::from_utf8_lossy(&destroyed.stdout).contains("[::1]:628"), "{destroyed:?}");
    plane_beside(&agent, Some(plane));
    eventually("it is bridged again", || {
        let Ok(client) = try_connect(3000) else { return None };
        service.accept().unwrap();
        Some(client)
    });
}

/// Process id of the data plane of the agent's socket.
pub(crate) fn plane_pid(agent: &TestAgent) -> Pid {
    plane_beside(agent, None)
}

/// The same, where there is another one that was retired or killed.
pub(crate) fn plane_beside(agent: &TestAgent, other: Option<Pid>) -> Pid {
    let socket = agent.plane_socket();
    let is_plane = |pid: i32| {
        let command = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let arguments: Vec<_> = command.split(|byte| *byte == 0).collect();
        arguments.get(1) == Some(&b"bridge".as_slice())
            && arguments.contains(&socket.as_os_str().as_encoded_bytes())
            && other != Some(Pid::from_raw(pid))
    };
    let pids = || std::fs::read_dir("/proc").unwrap().flatten();
    eventually("there is a data plane", || {
        let mut found =
            pids().filter_map(|entry| entry.file_name().to_str()?.parse().ok()).filter(|pid| is_plane(*pid));
        found.next().map(Pid::from_raw)
    })
}

pub(crate) fn cgroup_of(plane: Pid) -> PathBuf {
    guestd::sys::cgroup::root().unwrap().join(format!("guestd-bridge-{plane}"))
}

pub(crate) fn is_running(pid: Pid) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| !stat.contains(") Z"))
}

pub(crate) fn has_route() -> bool {
    let output = Command::new("ip").args(["route", "show", "table", "local"]).output().unwrap();
    String::from_utf8(output.stdout).unwrap().contains("240.0.0.0/4")
}

/// Numbers of the BPF links that a process holds.
fn links(pid: Pid) -> Vec<u32> {
    let entries = std::fs::read_dir(format!("/proc/{pid}/fdinfo")).unwrap().flatten();
    let infos = entries.filter_map(|entry| std::fs::read_to_string(entry.path()).ok());
    let id = |info: String| info.lines().find_map(|line| line.strip_prefix("link_id:")?.trim().parse().ok());
    infos.filter_map(id).collect()
}

/// Ten bytes each way.
pub(crate) fn exchange(client: &mut TcpStream, served: &mut TcpStream) {
    pass(client, served);
    pass(served, client);
}

fn pass(from: &mut TcpStream, to: &mut TcpStream) {
    from.write_all(b"still here").unwrap();
    let mut got = [0; 10];
    to.read_exact(&mut got).unwrap();
    assert_eq!(&got, b"still here");
}

/// A bridged service, and one connection to it from both ends.
pub(crate) fn bridged(agent: &TestAgent) -> (TcpListener, TcpStream, TcpStream) {
    let service = listen("0.0.0.0:3000");
    until_bridged(agent, &service);
    let client = connect(3000);
    let served = accept(&service);
    (service, client, served)
}

pub(crate) fn accept(service: &TcpListener) -> TcpStream {
    let (served, _) = service.accept().unwrap();
    served.set_read_timeout(Some(DEADLINE)).unwrap();
    served
}

pub(crate) fn port(agent: &TestAgent, listen: u16) -> Value {
    let bridge = agent.get("/v1/bridge");
    let ports = bridge["ports"].as_array().unwrap();
    ports.iter().find(|port| port["listen"] == listen).unwrap_or_else(|| panic!("no port {listen}: {bridge}")).clone()
}

fn connections_and_counters_outlive_an_agent_that_is_killed(tier: Tier) {
    let mut agent = agent_in(tier);
    let (service, mut client, mut served) = bridged(&agent);
    exchange(&mut client, &mut served);
    let plane = plane_pid(&agent);
    agent.stop(Signal::SIGKILL);
    exchange(&mut client, &mut served);
    // New ones come, too.
    let mut meanwhile = (connect(3000), accept(&service));
    exchange(&mut meanwhile.0, &mut meanwhile.1);

    agent.launch(Path::new(PROGRAM), &[]);
    until_bridged(&agent, &service);
    exchange(&mut client, &mut served);
    assert_eq!(plane_pid(&agent), plane);
    let counted = |agent: &TestAgent| {
        let port = port(agent, 3000);
        ["connections", "connections_total", "bytes_in", "bytes_out"].map(|name| port[name].as_u64().unwrap())
    };
    assert_eq!(counted(&agent), [2, 2, 40, 40]);
    let _third = (connect(3000), accept(&service));
    assert_eq!(counted(&agent), [3, 3, 40, 40]);
    let health = agent.check("bridge");
    assert!(health["message"].as_str().unwrap().contains("outlive a restart of the agent"), "{health}");

    // SIGTERM may be a restart.
    agent.stop(Signal::SIGTERM);
    exchange(&mut client, &mut served);
    agent.launch(Path::new(PROGRAM), &[]);
    until_bridged(&agent, &service);
    exchange(&mut client, &mut served);
}

fn plane_of_another_build_keeps_its_connections_and_takes_no_more(tier: Tier) {
    let mut agent = agent_in(tier);
    let (service, mut client, mut served) = bridged(&agent);
    let old = plane_pid(&agent);
    agent.stop(Signal::SIGTERM);
    // A file of the same size and time is another build all the same: images may set all times to one.
    let copy = agent.plane_socket().with_file_name("guestd-of-another-build");
    std::fs::copy(PROGRAM, &copy).unwrap();
    let modified = std::fs::metadata(PROGRAM).unwrap().modified().unwrap();
    std::fs::File::open(&copy).unwrap().set_modified(modified).unwrap();
    agent.launch(&copy, &[]);
    until_bridged(&agent, &service);
    let new = plane_beside(&agent, Some(old));
    exchange(&mut client, &mut served);
    let mut other = (connect(3000), accept(&service));
    exchange(&mut other.0, &mut other.1);
    assert_eq!(port(&agent, 3000)["connections"], 2);
    assert!(is_running(old) && own_listeners(&agent).len() == 1, "{:?}", own_listeners(&agent));

    client.shutdown(Shutdown::Write).unwrap();
    assert_eq!(served.read(&mut [0]).unwrap(), 0);
    drop(served);
    assert_eq!(client.read(&mut [0]).unwrap(), 0);
    eventually("the old data plane has ended", || (!is_running(old)).then_some(()));
    assert_eq!(port(&agent, 3000)["connections"], 1);
    assert!(!cgroup_of(old).exists() && cgroup_of(new).exists() && has_route());
    exchange(&mut other.0, &mut other.1);
    let _another = (connect(3000), accept(&service));
}

fn without_an_agent_everything_is_reset_and_gone_after_the_grace(tier: Tier) {
    enter();
    let mut agent = TestAgent::start_with(&format!("{}bridge.grace_ms = 300\n", config_in(tier)), &[]);
    let (_service, mut client, mut served) = bridged(&agent);
    let plane = plane_pid(&agent);
    let steers = !links(plane).is_empty();
    assert_eq!(steers, tier == Tier::Steer);
    assert!(has_route() && cgroup_of(plane).exists());
    agent.stop(Signal::SIGKILL);
    assert_eq!(client.read(&mut [0]).unwrap_err().kind(), ErrorKind::ConnectionReset);
    assert_eq!(served.read(&mut [0]).unwrap_err().kind(), ErrorKind::ConnectionReset);
    eventually("the data plane has ended", || (!is_running(plane)).then_some(()));
    assert!(!has_route() && !cgroup_of(plane).exists() && !agent.plane_socket().exists());
    assert_eq!(try_connect(3000).unwrap_err().kind(), ErrorKind::ConnectionRefused);
}

fn plane_that_is_killed_is_replaced(tier: Tier) {
    let agent = agent_in(tier);
    let (service, mut client, mut served) = bridged(&agent);
    let old = plane_pid(&agent);
    kill(old, Signal::SIGKILL).unwrap();
    // The kernel ends the connections of a process that is killed, in an orderly way.
    assert_eq!(client.read(&mut [0]).unwrap_or(0), 0);
    assert_eq!(served.read(&mut [0]).unwrap_or(0), 0);
    // Its listening socket may be the last to be closed.
    eventually("the plane is gone", || (!Path::new(&format!("/proc/{old}")).exists()).then_some(()));
    eventually("the service is reached again", || try_connect(3000).ok());
    drop(accept(&service));
    until_bridged(&agent, &service);
    eventually("health tells of it", || {
        let health = agent.check("bridge");
        health["message"].as_str().unwrap().contains("the data plane ended (signal: 9").then_some(())
    });
    assert!(!cgroup_of(old).exists());
    assert_eq!(own_listeners(&agent).len(), 1);
}

fn agent_that_is_interrupted_takes_its_plane_along(tier: Tier) {
    let mut agent = agent_in(tier);
    let (_service, mut client, _served) = bridged(&agent);
    let plane = plane_pid(&agent);
    agent.stop(Signal::SIGINT);
    assert_eq!(client.read(&mut [0]).unwrap_err().kind(), ErrorKind::ConnectionReset);
    eventually("the data plane has ended", || (!is_running(plane)).then_some(()));
    assert!(!has_route() && !cgroup_of(plane).exists() && !agent.plane_socket().exists());
}

fn connections_to_an_address_that_was_taken_away_are_reset(tier: Tier) {
    let agent = agent_in(tier);
    let (service, mut client, mut served) = bridged(&agent);
    let second: Ipv6Addr = "fd00:9::3".parse().unwrap();
    ip(&format!("addr add {second}/64 dev eth0 nodad"));
    let mut other = outside_do(|| eventually("the new address is bridged", || TcpStream::connect((second, 3000)).ok()));
    let mut other_served = accept(&service);
    exchange(&mut other, &mut other_served);
    ip(&format!("addr del {VM6}/64 dev eth0"));
    assert_eq!(served.read(&mut [0]).unwrap_err().kind(), ErrorKind::ConnectionReset);
    exchange(&mut other, &mut other_served);
    assert_eq!(port(&agent, 3000)["connections"], 1);
    // No packet reaches the client from an address that is gone.
    client.set_nonblocking(true).unwrap();
    assert!(client.read(&mut [0]).is_err());
}

/// A branch has its parent's connections, whose clients are not there: nothing that it sends reaches them, and no address changes.
fn branch_that_keeps_its_parents_address_lets_go_of_its_connections_by_order(tier: Tier) {
    let agent = agent_in(tier);
    let (service, client, mut served) = bridged(&agent);
    outside_do(|| ip("link set outside down"));
    let (status, answer) = agent.call("POST", "/v1/bridge/cut", "{}");
    assert_eq!((status, &answer["ports"][0]["connections"]), (200, &0.into()), "{answer}");
    assert_eq!(served.read(&mut [0]).unwrap_err().kind(), ErrorKind::ConnectionReset);
    // Its own clients come as before.
    outside_do(|| {
        ip("link set outside up");
        ip(&format!("addr replace {CLIENT6}/64 dev outside nodad"));
    });
    let mut other = eventually("a client of the branch comes in", || try_connect(3000).ok());
    exchange(&mut other, &mut accept(&service));
    drop(client);
}

fn cut_resets_the_connections_of_one_port_or_all(tier: Tier) {
    let agent = agent_in(tier);
    let services = ["0.0.0.0:3000", "0.0.0.0:3001"].map(listen);
    services.iter().for_each(|service| drop(until_bridged(&agent, service)));
    let cut = |body: Value| {
        let (status, answer) = agent.call("POST", "/v1/bridge/cut", &body.to_string());
        assert_eq!(status, 200, "{answer}");
    };
    let connections = || [3000, 3001].map(connect);
    let [mut first, mut second] = connections();
    let _served = services.each_ref().map(accept);
    cut(json!({"listen": 3000}));
    assert_eq!(first.read(&mut [0]).unwrap_err().kind(), ErrorKind::ConnectionReset);
    assert_eq!(
        (port(&agent, 3000)["connections"].clone(), port(&agent, 3001)["connections"].clone()),
        (0.into(), 1.into())
    );
    let [mut third, _fourth] = connections();
    cut(json!({"listen": null}));
    for client in [&mut second, &mut third] {
        assert_eq!(client.read(&mut [0]).unwrap_err().kind(), ErrorKind::ConnectionReset);
    }
}

fn nothing_of_guestds_own_is_listed_over_restarts(tier: Tier) {
    let mut agent = agent_in(tier);
    let service = listen("0.0.0.0:3000");
    for _ in 0..3 {
        until_bridged(&agent, &service);
        let mut watch = agent.connect();
        watch.write_all(crate::support::request("GET", "/v1/listeners/watch", "").as_bytes()).unwrap();
        let listeners = own_listeners(&agent);
        assert_eq!(listeners.len(), 1, "{listeners:?}");
        agent.stop(Signal::SIGKILL);
        let mut told = String::new();
        let _ = watch.read_to_string(&mut told);
        // Of this namespace only the service was ever told of.
        let netns = format!("\"netns\":{},", netns_of("thread-self"));
        let own: Vec<_> = told.lines().filter(|line| line.contains(&netns)).collect();
        assert!(!own.is_empty() && own.iter().all(|line| line.contains("\"port\":3000,")), "{told}");
        agent.launch(Path::new(PROGRAM), &[]);
    }
}

fn strangers_and_bad_orders_do_no_harm(tier: Tier) {
    let agent = agent_in(tier);
    let (_service, mut client, mut served) = bridged(&agent);
    let socket = agent.plane_socket();
    let mode = std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(&socket).unwrap().permissions());
    assert_eq!(mode & 0o777, 0o600);
    let mut caller = BufReader::new(UnixStream::connect(&socket).unwrap());
    let next = |caller: &mut BufReader<UnixStream>, send: &[u8]| {
        caller.get_mut().write_all(send).unwrap();
        let mut line = String::new();
        caller.read_line(&mut line).unwrap();
        serde_json::from_str::<Value>(&line).unwrap()["answer"].as_str().unwrap().to_owned()
    };
    assert_eq!(next(&mut caller, b""), "hello");
    for bad in ["\n", "{}\n", "no JSON\n", "{\"order\":\"want\"}\n", "{\"order\":\"cut\",\"listen\":\"all\"}\n"] {
        assert_eq!(next(&mut caller, bad.as_bytes()), "error");
    }
    assert_eq!(next(&mut caller, b"{\"order\":\"status\"}\n"), "state");
    drop(caller);
    // The agent comes back to its plane.
    eventually("the agent has its plane", || (agent.check("bridge")["state"] == "ok").then_some(()));
    exchange(&mut client, &mut served);
}

#[test]
fn connection_right_after_listen_is_bridged_at_the_first_try() {
    let agent = agent_in(Tier::Steer);
    let first = listen("0.0.0.0:3000");
    until_bridged(&agent, &first);
    for number in 3001..3101 {
        let service = listen(&format!("0.0.0.0:{number}"));
        let mut client = connect(number);
        exchange(&mut client, &mut accept(&service));
    }
}

#[test]
fn listener_older_than_the_agent_is_bridged_and_its_end_is_seen() {
    enter();
    let services = ["0.0.0.0:3000", "[::]:3001", "0.0.0.0:3002"].map(listen);
    let agent = TestAgent::start_with(&config_in(Tier::Steer), &[]);
    until_bridged(&agent, &services[0]);
    let mut client = connect(3000);
    exchange(&mut client, &mut accept(&services[0]));
    report(&agent, &services[1], |entry| entry["exposure"] == "direct");
    let [first, dual, _third] = services;
    drop((first, dual));
    eventually("nothing is steered to what has ended", || {
        let refused = |number| try_connect(number).is_err_and(|error| error.kind() == ErrorKind::ConnectionRefused);
        (refused(3000) && refused(3001)).then_some(())
    });
    // What comes after it is a new one.
    let again = listen("0.0.0.0:3001");
    let mut client = connect(3001);
    exchange(&mut client, &mut accept(&again));
}

#[test]
fn port_whose_service_goes_answers_with_a_reset_at_once() {
    let agent = agent_in(Tier::Steer);
    let (service, mut client, mut served) = bridged(&agent);
    drop(service);
    assert_eq!(try_connect(3000).unwrap_err().kind(), ErrorKind::ConnectionRefused);
    exchange(&mut client, &mut served);
    // It comes back elsewhere, and is found there.
    let moved = listen(&format!("{}:3000", crate::namespace::VM4));
    let mut client = connect(3000);
    exchange(&mut client, &mut accept(&moved));
}

#[test]
fn service_that_turns_to_ipv6_is_direct_when_its_listen_returns() {
    let agent = agent_in(Tier::Steer);
    let (service, mut client, mut served) = bridged(&agent);
    drop(service);
    for round in 0..50 {
        let both = TcpListener::bind((Ipv6Addr::UNSPECIFIED, 3000)).unwrap_or_else(|error| panic!("{round}: {error}"));
        let _client = connect(3000);
        assert_eq!(both.accept().unwrap().1.ip(), std::net::IpAddr::V6(CLIENT6));
        drop(both);
        let ipv4 = listen("0.0.0.0:3000");
        let _client = connect(3000);
        assert_eq!(ipv4.accept().unwrap().1.ip(), std::net::IpAddr::V4(guestd::bridge::pseudo_ipv4(CLIENT6)));
        drop(ipv4);
    }
    exchange(&mut client, &mut served);
}

#[test]
fn clients_are_told_with_their_stand_ins() {
    let agent = agent_in(Tier::Steer);
    let (service, _client, _served) = bridged(&agent);
    let _second = (connect(3000), accept(&service));
    let clients = &agent.get("/v1/bridge")["clients"];
    let stand_in = guestd::bridge::pseudo_ipv4(CLIENT6).to_string();
    let client = json!({"pseudo": stand_in, "client": CLIENT6.to_string(), "port": 3000, "connections": 2});
    assert_eq!(clients, &json!([client]));
}

fn rules_of_every_mode_tell_the_service_who_the_client_is(tier: Tier) {
    let agent = agent_in(tier);
    let service = listen("127.0.0.1:9000");
    let rule = |listen: u16, mode: &str| json!({"listen": listen, "to": "127.0.0.1:9000", "mode": mode});
    let rules = json!({"rules": [rule(8001, "proxy-v1"), rule(8002, "proxy-v2"), rule(8003, "http")]});
    let (status, answer) = agent.call("PUT", "/v1/bridge", &rules.to_string());
    assert_eq!(status, 200, "{answer}");
    let read = |served: &mut TcpStream, until: &[u8]| {
        let mut got = Vec::new();
        while !got.windows(until.len()).any(|part| part == until) {
            let mut piece = [0; 1024];
            let length = served.read(&mut piece).unwrap();
            assert_ne!(length, 0, "{}", String::from_utf8_lossy(&got));
            got.extend_from_slice(&piece[..length]);
        }
        got
    };
    let request = b"GET / HTTP/1.1\r\nHost: vm\r\n\r\n";
    for (listen, told) in [
        (8001, format!("PROXY TCP6 {CLIENT6} {VM6} ").into_bytes()),
        (8002, b"\r\n\r\n\0\r\nQUIT\n".to_vec()),
        (8003, format!("for=\"[{CLIENT6}]").into_bytes()),
    ] {
        let mut client = connect(listen);
        client.write_all(request).unwrap();
        let mut served = accept(&service);
        assert_eq!(served.peer_addr().unwrap().ip(), std::net::IpAddr::V4(guestd::bridge::pseudo_ipv4(CLIENT6)));
        // The order of the parts is the modes' own affair, and their tests'.
        let mut got = read(&mut served, b"Host: vm\r\n");
        if listen == 8003 && !got.ends_with(b"\r\n\r\n") {
            got.extend(read(&mut served, b"\r\n\r\n"));
        }
        let shows = |part: &[u8]| got.windows(part.len()).any(|found| found.eq_ignore_ascii_case(part));
        assert!(shows(&told), "{}", String::from_utf8_lossy(&got));
        served.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").unwrap();
        let mut client_got = Vec::new();
        while !client_got.ends_with(b"ok") {
            let mut piece = [0; 256];
            let length = client.read(&mut piece).unwrap();
            assert_ne!(length, 0);
            client_got.extend_from_slice(&piece[..length]);
        }
        assert_eq!(port(&agent, listen)["connections"], 1);
        let (status, _) = agent.call("POST", "/v1/bridge/cut", &json!({"listen": listen}).to_string());
        assert_eq!(status, 200);
        assert_eq!(client.read(&mut [0]).unwrap_err().kind(), ErrorKind::ConnectionReset);
    }
}

/// Times on a processor of all threads of a process, and how often each was put on one.
fn activity(pid: Pid) -> Vec<String> {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).unwrap().flatten();
    tasks.map(|task| std::fs::read_to_string(task.path().join("schedstat")).unwrap()).collect()
}

/// Ten thousand, or as many as the limit of open files allows the plane.
#[test]
fn ten_thousand_idle_connections_cost_the_plane_no_time() {
    let (_, files) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    setrlimit(Resource::RLIMIT_NOFILE, files, files).unwrap();
    // A port may have half of what all may have; and here are both ends.
    let of_port = usize::try_from(files).unwrap().saturating_sub(1100).min(20_000) / 4;
    assert!(of_port >= 4_000, "raise the limit of open files: {files}");
    let agent = agent_in(Tier::Steer);
    let services = ["0.0.0.0:3000", "0.0.0.0:3001"].map(listen);
    services.iter().for_each(|service| drop(until_bridged(&agent, service)));
    let mut pairs = Vec::with_capacity(2 * of_port);
    for (service, number) in services.iter().zip([3000, 3001]) {
        for _ in 0..of_port {
            let mut pair = (connect(number), accept(service));
            exchange(&mut pair.0, &mut pair.1);
            pairs.push(pair);
        }
        assert_eq!(port(&agent, number)["connections"], of_port);
    }
    let plane = plane_pid(&agent);
    // What it has just answered is soon over, and the look that follows a change of the interfaces' addresses, which may come late: the
    // kernel takes a second or two over a link-local one. What came again and again would never let it rest so long.
    eventually("no thread of the data plane runs for 3 seconds", || {
        let before = activity(plane);
        std::thread::sleep(std::time::Duration::from_secs(3));
        (activity(plane) == before).then_some(())
    });
    let (client, served) = pairs.last_mut().unwrap();
    exchange(client, served);
}
