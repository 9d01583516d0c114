//! UDP sockets, apart: the proxy does not carry them.

use std::{net::UdpSocket, process::Command};

use serde_json::json;

use crate::namespace::{agent, listen, own_listeners, report};

fn guestctl(agent: &crate::support::TestAgent, args: &[&str]) -> String {
    let vm = format!("unix:{}", agent.socket().display());
    let output = Command::new(env!("CARGO_BIN_EXE_guestctl")).args(["--vm", &vm]).args(args).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn udp_sockets_are_listed_apart_with_their_owners_and_quic_is_a_guess() {
    let agent = agent();
    let https = listen("[::]:443");
    report(&agent, &https, |_| true);
    let dns = listen("0.0.0.0:53");
    report(&agent, &dns, |_| true);
    let sockets = ["[::]:443", "0.0.0.0:53", "127.0.0.1:323"].map(|at| UdpSocket::bind(at).unwrap());
    let connected = UdpSocket::bind("127.0.0.1:999").unwrap();
    connected.connect("127.0.0.1:323").unwrap();

    let listed = agent.get("/v1/listeners/udp");
    let listed = listed.as_array().unwrap();
    let gist: Vec<_> = listed
        .iter()
        .map(|entry| {
            json!([entry["port"], entry["address"], entry["scope"], entry["probably_quic"], entry["process"]["pid"]])
        })
        .collect();
    let pid = std::process::id();
    assert_eq!(
        gist,
        [
            json!([53, "0.0.0.0", "wildcard", false, pid]),
            json!([323, "127.0.0.1", "loopback", false, pid]),
            json!([443, "::", "wildcard", true, pid]),
        ]
    );
    let inode = nix::sys::stat::fstat(&sockets[0]).unwrap().st_ino;
    assert_eq!((&listed[2]["inode"], &listed[2]["v6only"]), (&json!(inode), &json!(false)));
    // They are no listeners.
    let tcp = own_listeners(&agent);
    assert_eq!(tcp.iter().map(|entry| entry["port"].as_u64().unwrap()).collect::<Vec<_>>(), [53, 443]);

    let name = std::fs::read_to_string("/proc/self/comm").unwrap();
    let name = name.trim();
    let line = format!(
        "\nUDP is not carried by the proxy: 53 ({name}), 443 ({name}, probably QUIC: clients fall back to TCP)\n"
    );
    let table = guestctl(&agent, &["ports"]);
    assert!(table.contains(&line), "{table}");
    let table = guestctl(&agent, &["ports", "--udp"]);
    assert_eq!(
        table.lines().take(4).map(|line| line.split(' ').next().unwrap()).collect::<Vec<_>>(),
        ["PORT", "53", "323", "443"]
    );
    let json: serde_json::Value = serde_json::from_str(&guestctl(&agent, &["ports", "--udp", "--json"])).unwrap();
    assert_eq!(json.as_array().unwrap(), listed);
}
