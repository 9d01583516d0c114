//! What is bridged, from which address, and what never is.

use std::{
    collections::{HashMap, HashSet},
    fs,
    io::{ErrorKind, Read, Write},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream},
};

use nix::sys::signal::{Signal, kill};
use serde_json::json;
use socket2::{Domain, Socket, Type};

use crate::{
    namespace::{
        CLIENT6, Tier, VM4, VM6, agent_in, bind_only, config_in, connect, enter, ip, listen, outside_do, own_listeners,
        report, try_connect, until_bridged,
    },
    support::{DEADLINE, TestAgent, eventually},
};

in_both_tiers! {
    ipv4_wildcard_service_is_reached_over_ipv6_and_sees_a_stand_in_for_the_client
    service_on_one_ipv4_address_is_bridged
    loopback_service_is_not_reachable_until_a_rule_asks_for_it
    private_service_that_takes_over_a_public_port_is_never_reached
    service_of_the_loopback_interface_alone_is_never_reached
    guestds_own_sockets_are_not_listed
    clients_inside_the_vm_see_localhost_as_they_did_without_guestd
    dual_stack_service_is_direct_and_left_alone
    bridging_can_be_switched_off_and_on
    vm_without_ipv6_address_says_so_and_bridges_when_it_gets_one
    agent_takes_its_route_and_ports_with_it
    each_client_has_all_ports_of_its_stand_in_and_two_of_one_stand_in_share_them
}

fn ipv4_wildcard_service_is_reached_over_ipv6_and_sees_a_stand_in_for_the_client(tier: Tier) {
    let agent = agent_in(tier);
    let service = listen("0.0.0.0:3000");
    let entry = until_bridged(&agent, &service);
    assert_eq!((&entry["cause"], &entry["url"]), (&"ipv4_only_wildcard".into(), &"https://abc.vm.vers.sh:3000".into()));

    let mut client = connect(3000);
    let (mut served, peer) = service.accept().unwrap();
    client.write_all(b"ping").unwrap();
    let mut four = [0; 4];
    served.read_exact(&mut four).unwrap();
    served.write_all(b"pong").unwrap();
    client.read_exact(&mut four).unwrap();
    assert_eq!(&four, b"pong");
    assert_eq!(peer.ip(), IpAddr::V4(guestd::bridge::pseudo_ipv4(CLIENT6)));
    let bridge = agent.get("/v1/bridge");
    assert_eq!(bridge["tier"], tier.name());
    let port = &bridge["ports"][0];
    assert_eq!((&port["listen"], &port["connections"], &port["auto"]), (&3000.into(), &1.into(), &true.into()));
}

fn service_on_one_ipv4_address_is_bridged(tier: Tier) {
    let agent = agent_in(tier);
    let service = listen(&format!("{VM4}:3000"));
    assert_eq!(until_bridged(&agent, &service)["cause"], "ipv4_only_address");
    let _client = connect(3000);
    assert_eq!(service.accept().unwrap().0.local_addr().unwrap().ip(), VM4.parse::<IpAddr>().unwrap());
}

fn loopback_service_is_not_reachable_until_a_rule_asks_for_it(tier: Tier) {
    let agent = agent_in(tier);
    let private = listen("127.0.0.1:5432");
    let public = listen("0.0.0.0:3000");
    // When the younger one is bridged, the older one would be too.
    until_bridged(&agent, &public);
    let entry = report(&agent, &private, |_| true);
    assert_eq!((&entry["exposure"], &entry["cause"]), (&"unreachable".into(), &"loopback_only".into()));
    assert!(try_connect(5432).is_err());

    let (status, _) =
        agent.call("PUT", "/v1/bridge", &json!({"rules": [{"listen": 8080, "to": "127.0.0.1:5432"}]}).to_string());
    assert_eq!(status, 200);
    let entry = report(&agent, &private, |entry| entry["exposure"] == "bridged");
    assert_eq!(entry["url"], "https://abc.vm.vers.sh:8080");
    // From outside, and from the VM itself.
    let _client = connect(8080);
    assert_eq!(private.accept().unwrap().1.ip(), IpAddr::V4(guestd::bridge::pseudo_ipv4(CLIENT6)));
    for address in [VM6, Ipv6Addr::LOCALHOST] {
        let _client = TcpStream::connect((address, 8080)).unwrap();
        assert_eq!(private.accept().unwrap().1.ip(), IpAddr::V4(guestd::bridge::pseudo_ipv4(address)));
    }

    agent.call("PUT", "/v1/bridge", r#"{"rules": []}"#);
    assert!(try_connect(8080).is_err());
}

/// Two of the clients' network that have the same stand-in; among some ten thousand addresses there are.
fn of_one_stand_in() -> [Ipv6Addr; 2] {
    let mut seen = HashMap::new();
    for number in 0x1000..=u16::MAX {
        let address = Ipv6Addr::new(0xfd00, 9, 0, 0, 0, 0, 1, number);
        if let Some(other) = seen.insert(guestd::bridge::pseudo_ipv4(address), address) {
            return [other, address];
        }
    }
    panic!("no two addresses have the same stand-in");
}

fn each_client_has_all_ports_of_its_stand_in_and_two_of_one_stand_in_share_them(tier: Tier) {
    const PORTS: usize = 8;
    let agent = agent_in(tier);
    let service = listen("0.0.0.0:3000");
    until_bridged(&agent, &service);
    // None of those that a socket of guestd's own may have been given before.
    fs::write("/proc/sys/net/ipv4/ip_local_port_range", "61200 61207").unwrap();
    let [one, two] = of_one_stand_in();
    outside_do(|| [one, two].map(|address| ip(&format!("addr add {address}/64 dev outside nodad"))));
    let from = |address: Ipv6Addr| {
        outside_do(|| {
            let socket = Socket::new(Domain::IPV6, Type::STREAM, None).unwrap();
            socket.bind(&SocketAddr::new(address.into(), 0).into()).unwrap();
            socket.connect(&SocketAddr::new(VM6.into(), 3000).into()).unwrap();
            let mut client = TcpStream::from(socket);
            client.set_read_timeout(Some(DEADLINE)).unwrap();
            // What comes from one client goes to no other.
            let said = client.write_all(&address.octets());
            (client, said)
        })
    };
    let clients: Vec<Ipv6Addr> = [vec![CLIENT6; PORTS], vec![one; PORTS / 2], vec![two; PORTS / 2]].concat();
    let held: Vec<_> = clients.iter().map(|address| from(*address)).collect();
    let served: Vec<_> = clients.iter().map(|_| service.accept().unwrap()).collect();
    assert_eq!(served.iter().map(|(_, peer)| peer).collect::<HashSet<_>>().len(), clients.len());
    let mut said: Vec<(Ipv6Addr, Ipv4Addr)> = Vec::new();
    for (stream, peer) in &served {
        let mut octets = [0; 16];
        (&*stream).read_exact(&mut octets).unwrap();
        let IpAddr::V4(stand_in) = peer.ip() else { panic!("{peer}") };
        said.push((octets.into(), stand_in));
    }
    let mut expected: Vec<_> =
        clients.iter().map(|address| (*address, guestd::bridge::pseudo_ipv4(*address))).collect();
    said.sort();
    expected.sort();
    assert_eq!(said, expected);
    // One more finds no port, which is said by a reset and not by silence: to whichever call comes first.
    let (mut client, said) = from(CLIENT6);
    let refused = said.and_then(|()| client.read(&mut [0])).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::ConnectionReset);
    drop(held);
}

/// A restart with the bind address put right: until the agent has seen it the bridge still accepts on the port.
fn private_service_that_takes_over_a_public_port_is_never_reached(tier: Tier) {
    let agent = agent_in(tier);
    let public = listen("0.0.0.0:3000");
    until_bridged(&agent, &public);
    // It stands still, and finds the connection and the change of the service at the same time.
    kill(agent.pid(), Signal::SIGSTOP).unwrap();
    drop(public);
    let private = listen("127.0.0.1:3000");
    private.set_nonblocking(true).unwrap();
    let client = try_connect(3000);
    kill(agent.pid(), Signal::SIGCONT).unwrap();
    match tier {
        // The kernel knew before the agent.
        Tier::Steer => assert_eq!(client.unwrap_err().kind(), ErrorKind::ConnectionRefused),
        Tier::Bind => assert_eq!(client.unwrap().read(&mut [0]).unwrap_err().kind(), ErrorKind::ConnectionReset),
    }
    assert_eq!(private.accept().unwrap_err().kind(), std::io::ErrorKind::WouldBlock);
}

fn service_of_the_loopback_interface_alone_is_never_reached(tier: Tier) {
    let agent = agent_in(tier);
    let private = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    private.bind_device(Some(b"lo")).unwrap();
    private.bind(&SocketAddr::from((Ipv4Addr::UNSPECIFIED, 3000)).into()).unwrap();
    private.listen(1).unwrap();
    private.set_nonblocking(true).unwrap();
    let public = listen("0.0.0.0:3001");
    until_bridged(&agent, &public);
    let entry = report(&agent, &private, |entry| entry["exposure"] == "unreachable");
    assert!(entry["hint"].as_str().unwrap().contains("one interface alone"), "{entry}");
    // The kernel may bring it to the bridge, which has nowhere to lead it.
    let reached = try_connect(3000).and_then(|mut client| client.read(&mut [0]));
    assert!(matches!(reached.unwrap_err().kind(), ErrorKind::ConnectionReset | ErrorKind::ConnectionRefused));
    assert_eq!(private.accept().unwrap_err().kind(), ErrorKind::WouldBlock);
}

#[test]
fn service_that_has_bound_and_does_not_listen_yet_is_never_overtaken() {
    let agent = agent_in(Tier::Bind);
    let later = bind_only(&format!("[{VM6}]:3000"), true).unwrap();
    let service = listen("0.0.0.0:3000");
    report(&agent, &service, |entry| entry["cause"] == "bridge_failed");
    // Time for the second and the third try, which must be as careful as the first: that nothing happens needs a while.
    std::thread::sleep(guestd::limits::BRIDGE_SETTLE_TIME * 6);
    report(&agent, &service, |entry| entry["cause"] == "bridge_failed");
    later.listen(1).expect("the port is the service's");
}

fn guestds_own_sockets_are_not_listed(tier: Tier) {
    let agent = agent_in(tier);
    let services: Vec<_> = (3000..3010).map(|port| listen(&format!("0.0.0.0:{port}"))).collect();
    for service in &services {
        until_bridged(&agent, service);
    }
    let listeners = own_listeners(&agent);
    assert_eq!(listeners.len(), services.len(), "{listeners:?}");
}

fn clients_inside_the_vm_see_localhost_as_they_did_without_guestd(tier: Tier) {
    let agent = agent_in(tier);
    let service = listen("0.0.0.0:3000");
    until_bridged(&agent, &service);
    assert!(TcpStream::connect((Ipv6Addr::LOCALHOST, 3000)).is_err());
    let _client = TcpStream::connect("127.0.0.1:3000").unwrap();
    assert_eq!(service.accept().unwrap().1.ip().to_string(), "127.0.0.1");
}

fn dual_stack_service_is_direct_and_left_alone(tier: Tier) {
    let agent = agent_in(tier);
    let service = listen("[::]:3000");
    let entry = report(&agent, &service, |_| true);
    assert_eq!(
        (&entry["exposure"], &entry["cause"], &entry["v6only"]),
        (&"direct".into(), &json!(null), &false.into())
    );
    let _client = connect(3000);
    assert_eq!(service.accept().unwrap().1.ip(), IpAddr::V6(CLIENT6));
    assert_eq!(agent.get("/v1/bridge")["ports"], json!([]));
}

fn bridging_can_be_switched_off_and_on(tier: Tier) {
    let agent = agent_in(tier);
    let service = listen("0.0.0.0:3000");
    until_bridged(&agent, &service);
    agent.call("PUT", "/v1/bridge", r#"{"auto": false}"#);
    assert!(try_connect(3000).is_err());
    assert_eq!(report(&agent, &service, |_| true)["cause"], "bridge_off");
    assert_eq!(agent.check("bridge")["state"], "off");
    agent.call("PUT", "/v1/bridge", r#"{"auto": true}"#);
    until_bridged(&agent, &service);
    let _client = connect(3000);
}

#[test]
fn port_in_use_is_a_named_failure_until_it_is_free() {
    let agent = agent_in(Tier::Bind);
    let squatter = bind_only(&format!("[{VM6}]:3000"), false).unwrap();
    let service = listen("0.0.0.0:3000");
    let entry = report(&agent, &service, |entry| entry["cause"] == "bridge_failed");
    assert!(entry["hint"].as_str().unwrap().contains("in use"), "{entry}");
    assert_eq!(agent.check("bridge")["state"], "degraded");
    assert_eq!(agent.get("/health")["status"], "degraded");
    drop(squatter);
    until_bridged(&agent, &service);
    assert_eq!(agent.check("bridge")["state"], "ok");
}

fn vm_without_ipv6_address_says_so_and_bridges_when_it_gets_one(tier: Tier) {
    enter();
    ip(&format!("addr del {VM6}/64 dev eth0"));
    let agent = TestAgent::start_with(&config_in(tier), &[]);
    let service = listen("0.0.0.0:3000");
    let entry = report(&agent, &service, |entry| entry["cause"] == "no_ipv6_address");
    assert!(entry["hint"].as_str().unwrap().contains("guestd.ip6="), "{entry}");
    assert!(agent.check("ipv6")["message"].as_str().unwrap().contains("guestd.ip6="));
    ip(&format!("addr add {VM6}/64 dev eth0 nodad"));
    until_bridged(&agent, &service);
    assert_eq!(agent.check("ipv6")["state"], "ok");
}

#[test]
fn without_the_right_to_add_a_route_services_see_the_vms_own_address_and_never_localhost() {
    enter();
    let weak = ["--bounding-set", "-net_admin", "--inh-caps", "-net_admin"];
    let agent = TestAgent::start_with("listeners.poll_ms = 50\n", &weak);
    let service = listen("0.0.0.0:3000");
    until_bridged(&agent, &service);
    let _client = connect(3000);
    assert_eq!(service.accept().unwrap().1.ip(), VM4.parse::<IpAddr>().unwrap());
    assert_eq!(agent.check("pseudo_ipv4")["state"], "degraded");
}

#[test]
fn configured_address_is_set_with_its_route_and_mtu() {
    enter();
    ip(&format!("addr del {VM6}/64 dev eth0"));
    // The first interface of the namespace beside lo is one of the veth pair's ends.
    let agent = TestAgent::start_with("ip6 = \"fd00:9::7/64,fd00:9::1,1400\"\n", &[]);
    eventually("the address is set", || (agent.check("ipv6")["state"] == "ok").then_some(()));
    let show = |arguments: &str| {
        let output = std::process::Command::new("ip").args(arguments.split(' ')).output().unwrap();
        String::from_utf8(output.stdout).unwrap()
    };
    assert!(agent.check("ipv6")["message"].as_str().unwrap().contains("fd00:9::7"));
    assert!(show("-6 addr show").contains("inet6 fd00:9::7/64"));
    assert!(show("-6 route show default").contains("via fd00:9::1"));
    assert!(show("link show").contains("mtu 1400"));
}

fn agent_takes_its_route_and_ports_with_it(tier: Tier) {
    enter();
    let mut agent = TestAgent::start_with(&format!("{}bridge.grace_ms = 0\n", config_in(tier)), &[]);
    let service = listen("0.0.0.0:3000");
    until_bridged(&agent, &service);
    let route = || {
        let output = std::process::Command::new("ip").args(["route", "show", "table", "local"]).output().unwrap();
        String::from_utf8(output.stdout).unwrap().contains("240.0.0.0/4")
    };
    assert!(route());
    assert!(agent.stop(Signal::SIGTERM).success());
    eventually("the data plane has ended", || (!route()).then_some(()));
    assert!(bind_only(&format!("[{VM6}]:3000"), false).is_ok());
}
