//! How the agent learns of a change: by events where the kernel has them, and where not by looking ever less often.

use std::{fs::File, net::TcpListener, os::fd::AsFd, path::PathBuf};

use guestd::sys::{
    bpf::{ProgramKind, attached_to_cgroup},
    cgroup,
};
use nix::sys::signal::{Signal, kill};

use crate::{
    flood::looks,
    namespace::{VM6, enter, ip, listen, own_listeners},
    support::{TestAgent, eventually},
};

/// No look but the first within a test's time, unless there is cause to.
const EVENTS_ALONE: &str = "bridge.auto = false\nlisteners.poll_ms = 60000\n";

/// What health says of listeners. It does not look for itself.
fn word(agent: &TestAgent) -> String {
    agent.check("listeners")["message"].as_str().unwrap().to_owned()
}

/// Waits until the agent knows so many listeners.
fn until_known(agent: &TestAgent, number: usize) {
    eventually(&format!("{number} listeners are known"), || {
        word(agent).starts_with(&format!("{number} by sock_diag;")).then_some(())
    });
}

#[test]
fn listening_and_closing_are_seen_without_polling() {
    enter();
    let agent = TestAgent::start_with(EVENTS_ALONE, &[]);
    assert!(word(&agent).starts_with("0 by sock_diag; events: bpf"), "{}", word(&agent));
    let features = agent.get("/v1/info")["features"].clone();
    assert!(features.as_array().unwrap().contains(&"listener_events".into()), "{features}");
    let mut held: Vec<TcpListener> = Vec::new();
    for (number, address) in ["0.0.0.0:3000", "[::1]:3001", "127.0.0.1:3002"].into_iter().enumerate() {
        held.push(listen(address));
        until_known(&agent, number + 1);
    }
    while held.pop().is_some() {
        until_known(&agent, held.len());
    }
}

#[test]
fn socket_that_is_shut_down_and_listens_again_is_seen_each_time() {
    enter();
    let agent = TestAgent::start_with(EVENTS_ALONE, &[]);
    let socket = socket2::Socket::from(listen("127.0.0.1:3000"));
    until_known(&agent, 1);
    for _ in 0..20 {
        // It is no end of the socket, so only its change of state tells.
        socket.shutdown(std::net::Shutdown::Read).unwrap();
        until_known(&agent, 0);
        socket.listen(1).unwrap();
        until_known(&agent, 1);
    }
}

#[test]
fn end_of_a_socket_that_is_older_than_the_agent_is_seen_without_polling() {
    enter();
    let (ipv4, ipv6) = (listen("127.0.0.1:3000"), listen("[::1]:3000"));
    for config in [EVENTS_ALONE.to_owned(), format!("{EVENTS_ALONE}listeners.events = \"poll\"\n")] {
        let older = listen("[::]:3001");
        let agent = TestAgent::start_with(&config, &[]);
        until_known(&agent, 3);
        drop(older);
        until_known(&agent, 2);
    }
    drop((ipv4, ipv6));
}

/// The kernel writes a message for each connection that ends while somebody wants to know of ends.
#[test]
fn ends_of_connections_cost_nothing_once_no_listener_is_older_than_the_agent() {
    enter();
    let subscribed = || {
        let sockets = std::fs::read_to_string("/proc/thread-self/net/netlink").unwrap();
        let mut fields = sockets.lines().skip(1).map(|line| line.split_whitespace().collect::<Vec<_>>());
        // Protocol 4 is NETLINK_SOCK_DIAG; then the process, or 0 for the kernel's own, and the groups.
        fields.any(|fields| fields[1] == "4" && fields[2] != "0" && !fields[3].trim_start_matches('0').is_empty())
    };
    let older = listen("127.0.0.1:3000");
    let agent = TestAgent::start_with(EVENTS_ALONE, &[]);
    let younger = listen("127.0.0.1:3001");
    until_known(&agent, 2);
    assert!(subscribed());
    drop(older);
    until_known(&agent, 1);
    eventually("it wants to know of no more ends", || (!subscribed()).then_some(()));
    drop(younger);
    until_known(&agent, 0);
}

#[test]
fn addresses_that_come_and_go_are_seen_without_polling() {
    enter();
    let agent = TestAgent::start_with(EVENTS_ALONE, &[]);
    let addresses = || agent.check("ipv6")["message"].as_str().unwrap().to_owned();
    assert_eq!(addresses(), VM6.to_string());
    ip("addr add fd00:9::7/64 dev eth0 nodad");
    eventually("the new address is known", || addresses().contains("fd00:9::7").then_some(()));
    ip("link set eth0 down");
    eventually("the interface is known to be down", || addresses().contains("no interface").then_some(()));
}

/// Program ids of the links that the agent holds.
fn programs(agent: &TestAgent) -> Vec<u32> {
    let directory = PathBuf::from(format!("/proc/{}/fdinfo", agent.pid()));
    let infos = std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
    let texts = infos.filter_map(|path| std::fs::read_to_string(path).ok()).filter(|text| text.contains("link_type"));
    texts
        .map(|text| {
            let id = text.lines().find_map(|line| line.strip_prefix("prog_id:")).expect("a link has a program");
            id.trim().parse().unwrap()
        })
        .collect()
}

#[test]
fn programs_are_gone_when_the_agent_is_however_it_ends() {
    let root = File::open(cgroup::root().unwrap()).unwrap();
    let attached = |kind| attached_to_cgroup(kind, root.as_fd()).unwrap();
    // For what begins to listen and its end; for the end of what is older.
    let attached = || [ProgramKind::sock_ops(""), ProgramKind::sock_release("")].map(attached);
    enter();
    for signal in [Signal::SIGTERM, Signal::SIGKILL] {
        let agent = TestAgent::start();
        let programs = programs(&agent);
        assert_eq!(programs.len(), 2, "{programs:?}");
        let has_one = |attached: &Vec<u32>| programs.iter().filter(|program| attached.contains(program)).count() == 1;
        assert!(attached().iter().all(has_one), "{programs:?} of {:?}", attached());
        kill(agent.pid(), signal).unwrap();
        eventually("its programs are gone", || {
            attached().iter().flatten().all(|program| !programs.contains(program)).then_some(())
        });
    }
}

#[test]
fn agent_that_may_not_use_bpf_says_so_and_polls() {
    enter();
    let without = "-bpf,-sys_admin";
    let weak = ["--bounding-set", without, "--inh-caps", without];
    let agent = TestAgent::start_with("bridge.auto = false\nlisteners.poll_ms = 50\n", &weak);
    let said = word(&agent);
    assert!(said.starts_with("0 by sock_diag; poll: ") && said.contains("it takes CAP_BPF"), "{said}");
    let features = agent.get("/v1/info")["features"].clone();
    assert!(!features.as_array().unwrap().contains(&"listener_events".into()), "{features}");
    let listener = listen("127.0.0.1:3000");
    until_known(&agent, 1);
    drop(listener);
    until_known(&agent, 0);
}

#[test]
fn polling_is_what_the_configuration_may_ask_for() {
    enter();
    let agent =
        TestAgent::start_with("bridge.auto = false\nlisteners.poll_ms = 50\nlisteners.events = \"poll\"\n", &[]);
    let said = word(&agent);
    assert!(said.starts_with("0 by sock_diag; poll: `listeners.events` is \"poll\""), "{said}");
    // Not asked for: those who ask get a look of their own.
    let before = looks(&agent);
    eventually("looks are made", || (looks(&agent) > before + 2).then_some(()));
}

#[test]
fn report_is_as_new_as_its_request_whatever_the_pace() {
    enter();
    let config = "bridge.auto = false\nlisteners.poll_ms = 60000\nlisteners.events = \"poll\"\n";
    let agent = TestAgent::start_with(config, &[]);
    for port in 3000..3020 {
        let listener = listen(&format!("127.0.0.1:{port}"));
        let report = own_listeners(&agent);
        assert_eq!(report.len(), 1, "{report:?}");
        assert_eq!(report[0]["port"], port);
        drop(listener);
        assert!(own_listeners(&agent).is_empty());
    }
}
