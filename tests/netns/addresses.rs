//! Verdicts that depend on which addresses the VM has, by the kernel's own word.

use std::net::SocketAddr;

use socket2::{Domain, Socket, Type};

use crate::{
    namespace::{VM6, agent, connect, ip, listen, report, until_bridged},
    support::{TestAgent, eventually},
};

fn until(agent: &TestAgent, socket: &impl std::os::fd::AsFd, cause: &str) -> String {
    let entry = report(agent, socket, |entry| entry["cause"] == cause && entry["exposure"] == "unreachable");
    assert_eq!(entry["url"], serde_json::Value::Null);
    entry["hint"].as_str().unwrap().to_owned()
}

fn until_direct(agent: &TestAgent, socket: &impl std::os::fd::AsFd) {
    report(agent, socket, |entry| entry["exposure"] == "direct");
}

/// A service that does not mind whether its address is there.
fn listen_anyway(address: &str) -> Socket {
    let address: SocketAddr = address.parse().unwrap();
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None).unwrap();
    if address.is_ipv6() {
        socket.set_freebind_v6(true).unwrap();
    } else {
        socket.set_freebind_v4(true).unwrap();
    }
    socket.bind(&address.into()).unwrap();
    socket.listen(1).unwrap();
    socket
}

#[test]
fn address_that_is_taken_away_takes_its_listeners_out_of_reach_until_it_is_back() {
    let agent = agent();
    let on_address = listen(&format!("[{VM6}]:3000"));
    let on_all = listen("[::]:3001");
    until_direct(&agent, &on_address);
    until_direct(&agent, &on_all);
    ip(&format!("addr del {VM6}/64 dev eth0"));
    assert!(until(&agent, &on_address, "address_not_available").contains(&VM6.to_string()));
    assert!(until(&agent, &on_all, "no_ipv6_address").contains("guestd.ip6="));
    ip(&format!("addr add {VM6}/64 dev eth0 nodad"));
    until_direct(&agent, &on_address);
    until_direct(&agent, &on_all);
}

#[test]
fn ipv6_listener_on_an_interface_that_is_set_down_is_out_of_reach_and_ipv4_one_is_not() {
    let agent = agent();
    ip("link add eth1 type veth peer name outside1");
    ip("link set eth1 up");
    ip("addr add fd00:8::2/64 dev eth1 nodad");
    ip("addr add 10.8.0.2/24 dev eth1");
    let (ipv6, ipv4) = (listen("[fd00:8::2]:3000"), listen("10.8.0.2:3001"));
    until_direct(&agent, &ipv6);
    until_bridged(&agent, &ipv4);
    ip("link set eth1 down");
    until(&agent, &ipv6, "address_not_available");
    // Linux takes what comes for an IPv4 address of its own on whatever interface, be the address's own one down.
    until_bridged(&agent, &ipv4);
    let client = connect(3001);
    assert_eq!(ipv4.accept().unwrap().0.local_addr().unwrap().ip().to_string(), "10.8.0.2");
    drop(client);
}

#[test]
fn address_that_was_never_there_is_named_and_one_of_a_local_route_is_the_vms_own() {
    let agent = agent();
    let (never, never4) = (listen_anyway("[fd00:7::1]:3000"), listen_anyway("10.7.0.1:3001"));
    assert!(until(&agent, &never, "address_not_available").contains("no interface has fd00:7::1"));
    until(&agent, &never4, "address_not_available");
    assert_eq!(agent.get("/v1/bridge")["ports"], serde_json::json!([]));
    ip("-6 route add local fd00:7::/64 dev lo");
    ip("route add local 10.7.0.0/24 dev lo");
    until_direct(&agent, &never);
    until_bridged(&agent, &never4);
}

#[test]
fn ipv6_listener_on_an_address_that_is_not_there_is_told_to_be_in_the_way_of_the_bridge_and_is_not_once_it_is_gone() {
    let agent = agent();
    let (ipv4, absent) = (listen("0.0.0.0:3000"), listen_anyway("[fd00:7::1]:3000"));
    let in_the_way = eventually("the bridge says so", || {
        let ports = agent.get("/v1/bridge")["ports"].clone();
        ports.as_array().unwrap().iter().find(|port| port["state"] == "failed").cloned()
    });
    let message = in_the_way["message"].as_str().unwrap();
    assert!(message.contains("[fd00:7::1]:3000, an address that the VM does not have"), "{message}");
    drop(absent);
    until_bridged(&agent, &ipv4);
    let client = connect(3000);
    ipv4.accept().unwrap();
    drop(client);
}

#[test]
fn address_of_the_loopback_interface_is_said_to_need_a_route_to_it() {
    let agent = agent();
    ip("addr add fd00:6::1/128 dev lo nodad");
    let service = listen("[fd00:6::1]:3000");
    let entry = report(&agent, &service, |entry| entry["exposure"] == "direct");
    assert!(entry["hint"].as_str().unwrap().contains("on the loopback interface"), "{entry}");
}
