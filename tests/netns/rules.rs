//! Rules for several ports.

use std::{
    io::{ErrorKind, Read},
    net::{IpAddr, TcpListener},
};

use serde_json::json;

use crate::{
    namespace::{
        CLIENT6, Tier, VM4, agent, agent_in, connect, ip, listen, outside_do, report, try_connect, until_bridged,
    },
    support::{DEADLINE, eventually},
};

#[test]
fn a_rule_for_all_ports_follows_what_listens_and_leaves_databases_alone() {
    let agent = agent();
    let before = listen("127.0.0.1:3000");
    let database = listen("127.0.0.1:5432");
    let rules = json!({"rules": [{"listen": "*", "to": "127.0.0.1"}]}).to_string();
    assert_eq!(agent.call("PUT", "/v1/bridge", &rules).0, 200);
    let after = listen("127.0.0.1:3001");
    for (service, port) in [(&before, 3000), (&after, 3001)] {
        until_bridged(&agent, service);
        let _client = connect(port);
        assert_eq!(service.accept().unwrap().1.ip(), IpAddr::V4(guestd::bridge::pseudo_ipv4(CLIENT6)));
    }
    let bridge = agent.get("/v1/bridge");
    let ports = bridge["ports"].as_array().unwrap();
    assert_eq!(ports.iter().map(|port| &port["listen"]).collect::<Vec<_>>(), [3000, 3001]);
    assert!(ports.iter().all(|port| port["rule"] == "*" && port["auto"] == false), "{bridge}");
    let left_out = &bridge["left_out"];
    assert_eq!((&left_out[0]["port"], &left_out[0]["rule"], &left_out[1]), (&5432.into(), &"*".into(), &json!(null)));
    assert!(
        left_out[0]["reason"].as_str().unwrap().contains("`guestctl bridge add 5432 127.0.0.1:5432`"),
        "{left_out}"
    );
    assert_eq!(report(&agent, &database, |_| true)["exposure"], "unreachable");
    assert!(try_connect(5432).is_err());

    drop(after);
    eventually("the port is let go", || {
        let bridge = agent.get("/v1/bridge");
        (bridge["ports"].as_array().unwrap().len() == 1).then_some(())
    });
    let rules = json!({"rules": [{"listen": "*", "to": "127.0.0.1"}, {"listen": 5432, "to": "127.0.0.1:5432"}]});
    assert_eq!(agent.call("PUT", "/v1/bridge", &rules.to_string()).0, 200);
    until_bridged(&agent, &database);
    let _client = connect(5432);
    database.accept().unwrap();
    assert_eq!(agent.get("/v1/bridge")["left_out"], json!(null));
}

in_both_tiers! {
    no_rule_leads_to_another_machine
    service_whose_address_became_another_machines_is_not_looked_for_there
}

/// A socket of another machine, and that nobody has come to it.
fn nobody_came(listener: &TcpListener) {
    listener.set_nonblocking(true).unwrap();
    assert_eq!(listener.accept().unwrap_err().kind(), ErrorKind::WouldBlock);
}

fn no_rule_leads_to_another_machine(tier: Tier) {
    let agent = agent_in(tier);
    outside_do(|| ip("addr add 10.9.0.99/24 dev outside"));
    for target in [format!("[{CLIENT6}]:7001"), "10.9.0.99:7001".to_owned()] {
        let other = outside_do(|| listen(&target));
        let rules = json!({"rules": [{"listen": 8001, "to": target}]}).to_string();
        assert_eq!(agent.call("PUT", "/v1/bridge", &rules).0, 200);
        let port = &agent.get("/v1/bridge")["ports"][0];
        assert!(port["message"].as_str().unwrap().contains("the bridge leads to the VM's own services only"), "{port}");
        assert_eq!(connect(8001).read(&mut [0]).unwrap_err().kind(), ErrorKind::ConnectionReset);
        nobody_came(&other);
    }
}

fn service_whose_address_became_another_machines_is_not_looked_for_there(tier: Tier) {
    let agent = agent_in(tier);
    let service = listen(&format!("{VM4}:3000"));
    until_bridged(&agent, &service);
    ip("addr add 10.9.0.3/24 dev eth0");
    ip(&format!("addr del {VM4}/24 dev eth0"));
    let other = outside_do(|| {
        ip(&format!("addr add {VM4}/24 dev outside"));
        listen(&format!("{VM4}:3000"))
    });
    // Steered still, for the service listens; or the port was bound and has not been let go yet.
    if let Ok(mut client) = try_connect(3000) {
        client.set_read_timeout(Some(DEADLINE)).unwrap();
        assert_eq!(client.read(&mut [0]).unwrap_err().kind(), ErrorKind::ConnectionReset);
    }
    nobody_came(&other);
}

#[test]
fn a_range_bridges_its_own_ports_alone() {
    let agent = agent();
    let inside = listen("127.0.0.1:8500");
    let outside = listen("127.0.0.1:9000");
    let rules = json!({"rules": [{"listen": "8000-8999", "to": "127.0.0.1"}]}).to_string();
    assert_eq!(agent.call("PUT", "/v1/bridge", &rules).0, 200);
    let entry = until_bridged(&agent, &inside);
    assert_eq!((&entry["cause"], &entry["url"]), (&"loopback_only".into(), &"https://abc.vm.vers.sh:8500".into()));
    assert_eq!(report(&agent, &outside, |_| true)["exposure"], "unreachable");
    assert!(try_connect(9000).is_err());
}
