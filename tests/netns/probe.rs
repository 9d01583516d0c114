//! `GET /v1/listeners?probe=true` and `guestctl ports --probe`: what a proxy would see.

use std::{
    io::Write,
    net::{Ipv6Addr, SocketAddr, TcpListener},
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    thread,
    time::Duration,
};

use serde_json::{Value, json};
use socket2::{Domain, SockRef, Socket, Type};

use crate::{
    namespace::{
        Tier, VM4, VM6, agent, agent_in, connect, enter, ip, listen, netns_of, own_listeners, report, until_bridged,
    },
    support::{TestAgent, eventually},
};

/// Listeners with their probes.
fn probe(agent: &TestAgent) -> Vec<Value> {
    let Value::Array(mut found) = agent.get("/v1/listeners?probe=true") else { panic!("no list") };
    let own = netns_of("thread-self");
    found.retain(|entry| entry["netns"] == own);
    found
}

/// The one on this bind address and port.
fn at<'a>(listeners: &'a [Value], address: &str, port: u16) -> &'a Value {
    let found = listeners.iter().find(|entry| entry["address"] == address && entry["port"] == port);
    found.unwrap_or_else(|| panic!("nothing on {address} {port} in {listeners:?}"))
}

/// Does this with each connection, of which the number is given.
fn serve(listener: TcpListener, with: impl Fn(std::net::TcpStream) + Send + 'static) -> Arc<AtomicUsize> {
    let served = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&served);
    thread::spawn(move || {
        for stream in listener.incoming() {
            count.fetch_add(1, SeqCst);
            with(stream.unwrap());
        }
    });
    served
}

fn wait_for(stream: std::net::TcpStream) {
    let _ = std::io::Read::read(&mut &stream, &mut [0]);
}

#[test]
fn each_way_that_a_service_meets_a_proxy_is_told() {
    let agent = agent();
    agent.call("PUT", "/v1/bridge", r#"{"auto": false}"#);
    let silent = listen("[::]:3001");
    let unbridged = listen("0.0.0.0:3006");
    let private = listen("127.0.0.1:3007");
    let other_half = listen(&format!("{VM4}:3002"));
    for socket in [&silent, &unbridged, &private, &other_half] {
        report(&agent, socket, |_| true);
    }
    let silent = serve(silent, wait_for);
    serve(listen("[::]:3003"), |mut stream| {
        stream.write_all(b"SSH-2.0-test\x1b[2J\r\n").unwrap();
        wait_for(stream);
    });
    serve(listen("[::]:3004"), |stream| {
        stream.shutdown(std::net::Shutdown::Write).unwrap();
        wait_for(stream);
    });
    serve(listen("[::]:3005"), |stream| SockRef::from(&stream).set_linger(Some(Duration::ZERO)).unwrap());
    eventually("all are seen", || (own_listeners(&agent).len() == 7).then_some(()));
    // Without being asked, nobody is connected to.
    assert_eq!(silent.load(SeqCst), 0);

    // What a service does within 250 ms is its own matter on a machine that is busy; sooner or later each is quick enough.
    let found = eventually("the services answer in time", || {
        let found = probe(&agent);
        let outcome = |port| found.iter().find(|entry| entry["port"] == port).unwrap()["probe"]["outcome"].clone();
        ([3003, 3004, 3005].map(outcome) == ["banner", "closed", "reset"]).then_some(found)
    });
    let gist = |address, port| {
        let listener = at(&found, address, port);
        let probe = &listener["probe"];
        assert_eq!(probe["address"], VM6.to_string(), "{listener}");
        assert_eq!(probe["contradicts"], false, "{listener}");
        assert!(probe["connect_ms"].is_number(), "{listener}");
        probe["outcome"].as_str().unwrap().to_owned()
    };
    assert_eq!(gist("::", 3001), "accepted");
    assert_eq!(at(&found, "::", 3003)["probe"]["banner"], r"SSH-2.0-test\x1b[2J\r\n");
    for port in [3003, 3004, 3005] {
        gist("::", port);
    }
    assert_eq!(gist("0.0.0.0", 3006), "refused");
    assert_eq!(gist(VM4, 3002), "refused");
    // Private is private: it is not even knocked at.
    assert_eq!(at(&found, "127.0.0.1", 3007)["probe"], Value::Null);
    private.set_nonblocking(true).unwrap();
    assert_eq!(private.accept().unwrap_err().kind(), std::io::ErrorKind::WouldBlock);
}

/// Where the kernel steers, what comes from inside is not bridged unasked.
#[test]
fn steered_service_is_probed_through_its_rule_alone() {
    let agent = agent();
    let (public, private) = (listen("0.0.0.0:3000"), listen("127.0.0.1:5432"));
    until_bridged(&agent, &public);
    agent.call("PUT", "/v1/bridge", &json!({"rules": [{"listen": 8080, "to": "127.0.0.1:5432"}]}).to_string());
    until_bridged(&agent, &private);
    let found = probe(&agent);
    assert_eq!(at(&found, "0.0.0.0", 3000)["probe"], Value::Null);
    let probe = &at(&found, "127.0.0.1", 5432)["probe"];
    assert_eq!((&probe["contradicts"], &probe["port"]), (&json!(false), &json!(8080)), "{probe}");
}

#[test]
fn bridged_service_is_probed_through_the_bridge_and_once() {
    let agent = agent_in(Tier::Bind);
    let public = listen("0.0.0.0:3000");
    until_bridged(&agent, &public);
    let private = listen("127.0.0.1:5432");
    agent.call("PUT", "/v1/bridge", &json!({"rules": [{"listen": 8080, "to": "127.0.0.1:5432"}]}).to_string());
    until_bridged(&agent, &private);
    let both = [serve(public, wait_for), serve(private, wait_for)];
    let found = probe(&agent);
    for (address, port, public) in [("0.0.0.0", 3000, 3000), ("127.0.0.1", 5432, 8080)] {
        let probe = &at(&found, address, port)["probe"];
        assert_eq!((&probe["outcome"], &probe["port"]), (&json!("accepted"), &json!(public)), "{probe}");
    }
    let served = || [both[0].load(SeqCst), both[1].load(SeqCst)];
    eventually("both have accepted", || (served().iter().min() > Some(&0)).then_some(()));
    assert_eq!(served(), [1, 1]);
}

#[test]
fn probe_that_is_not_as_the_exposure_says_is_told_in_hint_and_table() {
    let agent = agent();
    let service = Socket::new(Domain::IPV6, Type::STREAM, None).unwrap();
    service.bind(&SocketAddr::from((Ipv6Addr::UNSPECIFIED, 3000)).into()).unwrap();
    service.listen(0).unwrap();
    report(&agent, &service, |_| true);
    let _first = connect(3000);
    report(&agent, &service, |entry| entry["accept_queue"] == 1);
    let found = probe(&agent);
    let listener = at(&found, "::", 3000);
    let probe = &listener["probe"];
    assert_eq!((&probe["outcome"], &probe["contradicts"]), (&json!("timed_out"), &json!(true)), "{listener}");
    assert_eq!((&probe["connect_ms"], &listener["exposure"]), (&Value::Null, &json!("direct")), "{listener}");
    let hint = listener["hint"].as_str().unwrap();
    let says = format!("a probe contradicts this: a connection to [{VM6}]:3000 was not accepted within 2 s");
    assert!(hint.starts_with(&says) && hint.contains(". Besides, its accept queue is full"), "{hint}");

    let vm = format!("unix:{}", agent.socket().display());
    let output = Command::new(env!("CARGO_BIN_EXE_guestctl")).args(["--vm", &vm, "ports", "--probe"]).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let row = text.lines().nth(1).unwrap();
    assert!(output.status.success() && row.contains("  direct    ! timed out  "), "{text}");
    assert!(
        text.contains("[::]:3000 is direct: so it is bound, and a probe says otherwise\n    a probe contradicts"),
        "{text}"
    );
}

#[test]
fn vm_that_loses_its_address_is_told_and_nothing_is_sent_to_anyone() {
    enter();
    let service = listen("[::]:3000");
    let agent = TestAgent::start_with("bridge.auto = false\nlisteners.poll_ms = 60000\n", &[]);
    ip(&format!("addr del {VM6}/64 dev eth0"));
    // It is somewhere else now, as far as this VM knows.
    ip(&format!("route add {VM6}/128 dev eth0"));
    let begun = || {
        let text = std::fs::read_to_string("/proc/thread-self/net/snmp").unwrap();
        let mut lines = text.lines().filter(|line| line.starts_with("Tcp:")).map(|line| line.split(' '));
        let (names, values) = (lines.next().unwrap(), lines.next().unwrap());
        let mut both = names.zip(values);
        both.find(|(name, _)| *name == "ActiveOpens").expect("the kernel counts connections").1.parse::<u64>().unwrap()
    };
    let before = begun();
    let found = probe(&agent);
    let listener = at(&found, "::", 3000);
    assert_eq!(listener["probe"]["outcome"], "unreachable", "{listener}");
    assert_eq!(listener["cause"], "no_ipv6_address", "{listener}");
    assert_eq!(begun(), before);
    drop(service);
}

#[test]
fn query_that_is_not_known_is_refused_by_name() {
    let agent = agent();
    for query in ["probe=yes", "port=22", "probe=true&address=::1"] {
        let (status, body) = agent.call("GET", &format!("/v1/listeners?{query}"), "");
        assert_eq!((status, &body["code"]), (400, &json!("bad_request")), "{query}: {body}");
    }
}
