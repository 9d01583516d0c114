//! Rules of other modes than `tcp`, from the command line to both ends of a connection.

use std::{
    io::{ErrorKind, Read, Write},
    net::{IpAddr, Ipv6Addr, Shutdown, TcpListener, TcpStream},
    path::Path,
    process::Command,
};

use nix::{sys::signal::Signal, unistd::Pid};
use serde_json::json;

use crate::{
    namespace::{CLIENT6, Tier, VM6, agent_in, connect, ip, listen, outside_do, try_connect},
    plane::{accept, exchange, is_running, plane_beside, plane_pid, port},
    support::{PROGRAM, TestAgent, eventually},
};

in_both_tiers! {
    http_tells_the_service_the_true_client_and_keeps_the_connection
    proxy_headers_come_before_what_either_side_says
    http_connection_outlives_an_agent_that_is_killed
    cut_resets_http_connections_on_both_sides
    another_mode_holds_for_new_connections_and_leaves_those_that_are_open
    http_connection_to_an_address_that_was_taken_away_is_reset
}

const REQUEST: &[u8] = b"GET /x HTTP/1.1\r\nHost: vm\r\n\r\n";
const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

/// Gives the command line of `guestctl bridge`, which must succeed.
pub(crate) fn guestctl(agent: &TestAgent, arguments: &str) {
    let vm = format!("unix:{}", agent.socket().display());
    let mut command = Command::new(env!("CARGO_BIN_EXE_guestctl"));
    let output = command.args(["--vm", &vm, "bridge"]).args(arguments.split(' ')).output().unwrap();
    assert!(output.status.success(), "{arguments}: {}", String::from_utf8_lossy(&output.stderr));
}

/// An agent with a private service on 3000, and a rule that leads there from 80.
pub(crate) fn with_rule(tier: Tier, mode: &str) -> (TestAgent, TcpListener) {
    let agent = agent_in(tier);
    let service = listen("127.0.0.1:3000");
    guestctl(&agent, &format!("add 80 127.0.0.1:3000 --mode {mode}"));
    (agent, service)
}

/// What comes, to the end of the first `end`.
fn read_until(stream: &mut TcpStream, end: &[u8]) -> String {
    let mut got = Vec::new();
    while !got.ends_with(end) {
        let mut byte = [0];
        assert_eq!(stream.read(&mut byte).unwrap(), 1, "{}", String::from_utf8_lossy(&got));
        got.extend(byte);
    }
    String::from_utf8(got).unwrap()
}

/// One request, which the service is asked by `served`; gives its head there.
fn ask(client: &mut TcpStream, served: &mut TcpStream) -> String {
    client.write_all(REQUEST).unwrap();
    let head = read_until(served, b"\r\n\r\n");
    served.write_all(ANSWER).unwrap();
    assert!(read_until(client, b"\r\n\r\nok").starts_with("HTTP/1.1 200 OK\r\n"));
    head.to_lowercase()
}

/// A client and its connection to the service, after a first request.
pub(crate) fn asked(service: &TcpListener) -> (TcpStream, TcpStream) {
    let mut client = connect(80);
    client.write_all(REQUEST).unwrap();
    let mut served = accept(service);
    read_until(&mut served, b"\r\n\r\n");
    served.write_all(ANSWER).unwrap();
    read_until(&mut client, b"\r\n\r\nok");
    (client, served)
}

fn assert_reset(stream: &mut TcpStream) {
    assert_eq!(stream.read(&mut [0]).unwrap_err().kind(), ErrorKind::ConnectionReset);
}

/// Names of a process's threads, sorted.
pub(crate) fn threads(pid: Pid) -> Vec<String> {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).unwrap().flatten();
    let mut names: Vec<_> =
        tasks.map(|task| std::fs::read_to_string(task.path().join("comm")).unwrap().trim_end().to_owned()).collect();
    names.sort();
    names
}

fn counted(agent: &TestAgent, names: &[&str]) -> Vec<u64> {
    let port = port(agent, 80);
    names.iter().map(|name| port[name].as_u64().unwrap_or_else(|| panic!("no {name}: {port}"))).collect()
}

fn http_tells_the_service_the_true_client_and_keeps_the_connection(tier: Tier) {
    let (agent, service) = with_rule(tier, "http");
    let mut client = connect(80);
    client.write_all(REQUEST).unwrap();
    let (mut served, peer) = service.accept().unwrap();
    assert_eq!(peer.ip(), IpAddr::V4(guestd::bridge::pseudo_ipv4(CLIENT6)));
    let head = read_until(&mut served, b"\r\n\r\n").to_lowercase();
    served.write_all(ANSWER).unwrap();
    read_until(&mut client, b"\r\n\r\nok");
    for head in [head, ask(&mut client, &mut served)] {
        assert!(head.starts_with("get /x http/1.1\r\n") && head.contains("\r\nhost: vm\r\n"), "{head}");
        assert!(head.contains(&format!("\r\nx-forwarded-for: {CLIENT6}\r\n")), "{head}");
        assert!(head.contains(&format!("\r\nforwarded: for=\"[{CLIENT6}]\"\r\n")), "{head}");
    }
    let in_out = [2 * REQUEST.len() as u64, 2 * ANSWER.len() as u64];
    let expected = [1, 1, in_out[0], in_out[1], 0];
    let names = ["connections", "connections_total", "bytes_in", "bytes_out", "errors_total"];
    // The client may have read what is about to be counted.
    eventually("all is counted", || (counted(&agent, &names) == expected).then_some(()));
    assert_eq!(port(&agent, 80)["mode"], "http");

    client.shutdown(Shutdown::Write).unwrap();
    assert_eq!(client.read(&mut [0]).unwrap(), 0);
    assert_eq!(served.read(&mut [0]).unwrap(), 0);
    eventually("it is not counted as open", || (counted(&agent, &["connections"]) == [0]).then_some(()));
    assert_eq!(counted(&agent, &["connections_total", "errors_total"]), [1, 0]);
}

fn proxy_headers_come_before_what_either_side_says(tier: Tier) {
    let (agent, service) = with_rule(tier, "proxy-v1");
    guestctl(&agent, "add 81 127.0.0.1:3000 --mode proxy-v2");
    for (listen, bytes) in [(80, None), (81, Some(52))] {
        // Its port is in the header.
        let mut client = connect(listen);
        let port = client.local_addr().unwrap().port();
        let mut served = accept(&service);
        // The client says nothing before it was greeted.
        match bytes {
            None => {
                let line = read_until(&mut served, b"\r\n");
                assert_eq!(line, format!("PROXY TCP6 {CLIENT6} {VM6} {port} {listen}\r\n"));
            }
            Some(bytes) => {
                let mut header = vec![0; bytes];
                served.read_exact(&mut header).unwrap();
                let mut expected = b"\r\n\r\n\0\r\nQUIT\n\x21\x21\0\x24".to_vec();
                expected.extend([CLIENT6, VM6].map(|address| address.octets()).concat());
                expected.extend([port, listen].map(u16::to_be_bytes).concat());
                assert_eq!(header, expected);
            }
        }
        exchange(&mut served, &mut client);
    }
    // And before a client who speaks first.
    let mut client = connect(80);
    client.write_all(b"first\n").unwrap();
    let mut served = accept(&service);
    let got = read_until(&mut served, b"first\n");
    assert!(got.starts_with(&format!("PROXY TCP6 {CLIENT6} {VM6} ")) && got.ends_with(" 80\r\nfirst\n"), "{got}");
}

fn http_connection_outlives_an_agent_that_is_killed(tier: Tier) {
    let (mut agent, service) = with_rule(tier, "http");
    let (mut client, mut served) = asked(&service);
    let plane = plane_pid(&agent);
    agent.stop(Signal::SIGKILL);
    ask(&mut client, &mut served);
    let mut meanwhile = asked(&service);
    agent.launch(Path::new(PROGRAM), &[]);
    eventually("the rule holds", || (agent.get("/v1/bridge")["ports"][0]["state"] == "active").then_some(()));
    ask(&mut client, &mut served);
    ask(&mut meanwhile.0, &mut meanwhile.1);
    assert_eq!(plane_pid(&agent), plane);
    assert_eq!(counted(&agent, &["connections", "connections_total", "errors_total"]), [2, 2, 0]);
}

fn cut_resets_http_connections_on_both_sides(tier: Tier) {
    let (agent, service) = with_rule(tier, "http");
    guestctl(&agent, "add 81 127.0.0.1:3000");
    for arguments in ["cut 80", "cut"] {
        let (mut client, mut served) = asked(&service);
        // One that has asked nothing yet, and one that is about to.
        let (mut silent, mut begun) = (connect(80), connect(80));
        begun.write_all(b"GET / HT").unwrap();
        eventually("they are accepted", || (counted(&agent, &["connections"]) == [3]).then_some(()));
        let mut other = (connect(81), accept(&service));
        exchange(&mut other.0, &mut other.1);
        guestctl(&agent, arguments);
        assert_eq!(counted(&agent, &["connections"]), [0]);
        for stream in [&mut client, &mut served, &mut silent, &mut begun] {
            assert_reset(stream);
        }
        match arguments {
            "cut 80" => exchange(&mut other.0, &mut other.1),
            _ => assert_reset(&mut other.0),
        }
        guestctl(&agent, "cut 81");
    }
    // New ones come; and to be cut is no error.
    asked(&service);
    assert_eq!(counted(&agent, &["connections_total", "errors_total"]), [7, 0]);
}

fn another_mode_holds_for_new_connections_and_leaves_those_that_are_open(tier: Tier) {
    let (agent, service) = with_rule(tier, "tcp");
    let plane = plane_pid(&agent);
    let mut raw = (connect(80), accept(&service));
    exchange(&mut raw.0, &mut raw.1);
    let is_aside = || threads(plane).contains(&"bridge-http".to_owned());
    assert!(!is_aside(), "{:?}", threads(plane));
    let set = |mode: &str| {
        let rules = json!({"rules": [{"listen": 80, "to": "127.0.0.1:3000", "mode": mode}]});
        let (status, answer) = agent.call("PUT", "/v1/bridge", &rules.to_string());
        assert_eq!((status, &answer["ports"][0]["state"]), (200, &"active".into()), "{answer}");
    };
    set("http");
    exchange(&mut raw.0, &mut raw.1);
    // A thread gives itself its name.
    eventually("there is a thread for HTTP", || is_aside().then_some(()));
    let (mut client, mut served) = asked(&service);
    assert!(ask(&mut client, &mut served).contains("x-forwarded-for"));

    set("proxy-v1");
    exchange(&mut raw.0, &mut raw.1);
    assert!(ask(&mut client, &mut served).contains("x-forwarded-for"));
    let (_proxied, mut told) = (connect(80), accept(&service));
    assert!(read_until(&mut told, b"\r\n").starts_with("PROXY TCP6 "));
    assert_eq!(counted(&agent, &["connections", "connections_total", "errors_total"]), [3, 3, 0]);

    guestctl(&agent, "remove 80");
    assert_eq!(try_connect(80).unwrap_err().kind(), ErrorKind::ConnectionRefused);
    exchange(&mut raw.0, &mut raw.1);
    assert!(ask(&mut client, &mut served).contains("x-forwarded-for"));
    // The service may close its end, as it pleases: the next request has another connection.
    drop(served);
    client.write_all(REQUEST).unwrap();
    read_until(&mut accept(&service), b"\r\n\r\n");
}

fn http_connection_to_an_address_that_was_taken_away_is_reset(tier: Tier) {
    let (agent, service) = with_rule(tier, "http");
    let (_client, mut served) = asked(&service);
    let second: Ipv6Addr = "fd00:9::3".parse().unwrap();
    ip(&format!("addr add {second}/64 dev eth0 nodad"));
    let mut other = outside_do(|| eventually("the new address is bridged", || TcpStream::connect((second, 80)).ok()));
    other.write_all(REQUEST).unwrap();
    let mut other_served = accept(&service);
    read_until(&mut other_served, b"\r\n\r\n");
    other_served.write_all(ANSWER).unwrap();
    read_until(&mut other, b"\r\n\r\nok");
    ip(&format!("addr del {VM6}/64 dev eth0"));
    assert_reset(&mut served);
    ask(&mut other, &mut other_served);
    assert_eq!(counted(&agent, &["connections"]), [1]);
}

#[test]
fn after_an_upgrade_bytes_pass_as_they_are() {
    let (agent, service) = with_rule(Tier::Steer, "http");
    let mut client = connect(80);
    client
        .write_all(b"GET /chat HTTP/1.1\r\nHost: vm\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: x\r\n\r\n")
        .unwrap();
    let mut served = accept(&service);
    let head = read_until(&mut served, b"\r\n\r\n").to_lowercase();
    assert!(head.contains("\r\nupgrade: websocket\r\n") && head.contains("\r\nconnection: upgrade\r\n"), "{head}");
    assert!(head.contains(&format!("\r\nx-forwarded-for: {CLIENT6}\r\n")), "{head}");
    served
        .write_all(b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n\x81\x02hi")
        .unwrap();
    let answer = read_until(&mut client, b"\r\n\r\n").to_lowercase();
    assert!(answer.starts_with("http/1.1 101 "), "{answer}");
    let mut frame = [0; 4];
    client.read_exact(&mut frame).unwrap();
    assert_eq!(&frame, b"\x81\x02hi");
    // All bytes that there are, which no HTTP has.
    let all: Vec<u8> = (0..=255).cycle().take(100_000).collect();
    let pass = |from: &mut TcpStream, to: &mut TcpStream| {
        std::thread::scope(|scope| {
            scope.spawn(|| from.write_all(&all).unwrap());
            let mut got = vec![0; all.len()];
            to.read_exact(&mut got).unwrap();
            assert!(got == all);
        });
    };
    pass(&mut client, &mut served);
    pass(&mut served, &mut client);
    client.shutdown(Shutdown::Write).unwrap();
    assert_eq!(served.read(&mut [0]).unwrap(), 0);
    served.write_all(b"the rest").unwrap();
    drop(served);
    read_until(&mut client, b"the rest");
    assert_eq!(client.read(&mut [0]).unwrap(), 0);
    eventually("it is over", || (counted(&agent, &["connections"]) == [0]).then_some(()));
    assert_eq!(counted(&agent, &["errors_total"]), [0]);
}

#[test]
fn ambiguous_framing_is_refused_before_the_service_hears_of_it() {
    let (agent, service) = with_rule(Tier::Steer, "http");
    let mut client = connect(80);
    client
        .write_all(b"POST / HTTP/1.1\r\nHost: vm\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n")
        .unwrap();
    let mut answer = String::new();
    client.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 400 "), "{answer}");
    service.set_nonblocking(true).unwrap();
    assert_eq!(service.accept().unwrap_err().kind(), ErrorKind::WouldBlock);
    eventually("it is over", || (counted(&agent, &["connections"]) == [0]).then_some(()));
    assert_eq!(counted(&agent, &["connections_total", "errors_total"]), [1, 1]);
}

#[test]
fn service_that_is_down_is_a_502_and_can_come_back_within_a_connection() {
    let (agent, service) = with_rule(Tier::Steer, "http");
    drop(service);
    let mut client = connect(80);
    for _ in 0..2 {
        client.write_all(REQUEST).unwrap();
        let head = read_until(&mut client, b"\r\n\r\n");
        assert!(head.starts_with("HTTP/1.1 502 Bad Gateway\r\n"), "{head}");
        let text = read_until(&mut client, b"\n");
        assert!(text.starts_with("guestd cannot reach the service: ") && text.contains("refused"), "{text}");
    }
    assert_eq!(counted(&agent, &["connections", "connections_total", "errors_total"]), [1, 1, 2]);
    let service = listen("127.0.0.1:3000");
    client.write_all(REQUEST).unwrap();
    let mut served = accept(&service);
    read_until(&mut served, b"\r\n\r\n");
    served.write_all(ANSWER).unwrap();
    read_until(&mut client, b"\r\n\r\nok");
}

#[test]
fn http_leads_to_a_service_on_ipv6_loopback_too() {
    let agent = agent_in(Tier::Steer);
    let service = listen("[::1]:3000");
    guestctl(&agent, "add 80 [::1]:3000 --mode http");
    let mut client = connect(80);
    client.write_all(REQUEST).unwrap();
    let (mut served, peer) = service.accept().unwrap();
    // As ::1 it would be trusted like a client inside.
    assert_eq!(peer.ip(), VM6);
    assert!(read_until(&mut served, b"\r\n\r\n").to_lowercase().contains(&format!("x-forwarded-for: {CLIENT6}\r\n")));
}

#[test]
fn http_connection_keeps_a_retired_plane_until_its_end() {
    let (mut agent, service) = with_rule(Tier::Steer, "http");
    let (mut client, mut served) = asked(&service);
    let old = plane_pid(&agent);
    agent.stop(Signal::SIGTERM);
    let copy = agent.plane_socket().with_file_name("guestd-of-another-build");
    std::fs::copy(PROGRAM, &copy).unwrap();
    agent.launch(&copy, &[]);
    let new = plane_beside(&agent, Some(old));
    eventually("the rule holds", || (agent.get("/v1/bridge")["ports"][0]["state"] == "active").then_some(()));
    ask(&mut client, &mut served);
    let mut other = asked(&service);
    assert!(is_running(old));
    drop(client);
    assert_eq!(served.read(&mut [0]).unwrap(), 0);
    eventually("the old data plane has ended", || (!is_running(old)).then_some(()));
    assert!(is_running(new));
    ask(&mut other.0, &mut other.1);
}

#[test]
fn end_of_the_plane_resets_http_connections() {
    let (mut agent, service) = with_rule(Tier::Steer, "http");
    let (mut client, mut served) = asked(&service);
    let plane = plane_pid(&agent);
    agent.stop(Signal::SIGINT);
    assert_reset(&mut client);
    assert_reset(&mut served);
    eventually("the data plane has ended", || (!is_running(plane)).then_some(()));
}
