//! Services that stop, come back and move.

use std::net::{IpAddr, Ipv6Addr};

use crate::{
    namespace::{CLIENT6, Tier, VM6, agent_in, bind_only, connect, listen, report, until_bridged},
    support::eventually,
};

in_both_tiers! {
    service_that_comes_back_is_bridged_again_over_live_connections_of_before
    service_that_moves_to_ipv6_gets_its_port_and_is_direct
    service_that_binds_ipv4_and_then_ipv6_within_the_settle_time_is_never_in_the_way
}

fn service_that_comes_back_is_bridged_again_over_live_connections_of_before(tier: Tier) {
    let agent = agent_in(tier);
    let first = listen("0.0.0.0:3000");
    until_bridged(&agent, &first);
    let _client = connect(3000);
    let _served = first.accept().unwrap();
    drop(first);
    eventually("the port is let go", || bind_only(&format!("[{VM6}]:3000"), true).ok());
    let second = listen("0.0.0.0:3000");
    until_bridged(&agent, &second);
    let _client = connect(3000);
    assert_eq!(second.accept().unwrap().1.ip(), IpAddr::V4(guestd::bridge::pseudo_ipv4(CLIENT6)));
}

fn service_that_moves_to_ipv6_gets_its_port_and_is_direct(tier: Tier) {
    let agent = agent_in(tier);
    let ipv4 = listen("0.0.0.0:3000");
    until_bridged(&agent, &ipv4);
    drop(ipv4);
    let both = eventually("the port is free", || std::net::TcpListener::bind((Ipv6Addr::UNSPECIFIED, 3000)).ok());
    assert_eq!(report(&agent, &both, |_| true)["exposure"], "direct");
    let _client = connect(3000);
    assert_eq!(both.accept().unwrap().1.ip(), IpAddr::V6(CLIENT6));
}

fn service_that_binds_ipv4_and_then_ipv6_within_the_settle_time_is_never_in_the_way(tier: Tier) {
    let agent = agent_in(tier);
    for port in 3000..3020 {
        let ipv4 = listen(&format!("0.0.0.0:{port}"));
        // As nginx and sshd do; the pause of up to 20 ms of a busy service is given by the agent's own poll here.
        eventually("the agent has seen the IPv4 half", || {
            let listeners = agent.get("/v1/listeners");
            listeners.as_array().unwrap().iter().any(|entry| entry["port"] == port).then_some(())
        });
        let ipv6 = socket2::Socket::new(socket2::Domain::IPV6, socket2::Type::STREAM, None).unwrap();
        ipv6.set_only_v6(true).unwrap();
        ipv6.bind(&std::net::SocketAddr::from((Ipv6Addr::UNSPECIFIED, port)).into())
            .expect("the port is the service's");
        ipv6.listen(1).expect("the port is the service's");
        assert_eq!(report(&agent, &ipv4, |entry| entry["exposure"] == "direct")["cause"], serde_json::Value::Null);
    }
    // The listener is reported a moment before the bridge forgets what it waited for, or has steered at once, which is in nobody's way.
    eventually("nothing is bridged and nothing is waited for", || {
        let ports = &agent.get("/v1/bridge")["ports"];
        let waits = |entry: &serde_json::Value| matches!(tier, Tier::Steer) || entry["state"] == "settling";
        assert!(ports.as_array().unwrap().iter().all(waits), "{ports}");
        (*ports == serde_json::json!([])).then_some(())
    });
}
