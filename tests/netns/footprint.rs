//! What a data plane has for rules of mode `http`, and what their idle connections cost it.

use std::time::Duration;

use nix::unistd::Pid;

use crate::{
    modes::{asked, guestctl, threads, with_rule},
    namespace::{Tier, agent_in, listen, until_bridged},
    plane::plane_pid,
    support::eventually,
};

/// Times on a processor of all threads of a process, and how often each was put on one.
fn activity(pid: Pid) -> Vec<String> {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).unwrap().flatten();
    tasks.map(|task| std::fs::read_to_string(task.path().join("schedstat")).unwrap()).collect()
}

/// Memory of a process, in bytes.
fn resident(pid: Pid) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024
}

fn descriptors(pid: Pid) -> usize {
    std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count()
}

#[test]
fn idle_http_connections_have_two_descriptors_and_little_memory_and_cost_no_time() {
    const CONNECTIONS: usize = 200;
    let (agent, service) = with_rule(Tier::Steer, "http");
    let plane = plane_pid(&agent);
    let until_quiet = || {
        eventually("no thread of the data plane runs for a second", || {
            let before = activity(plane);
            std::thread::sleep(Duration::from_secs(1));
            (activity(plane) == before).then_some(())
        });
    };
    // What the first costs is not the others'. For a second after its start the plane holds what tells of ends in another way.
    let first = asked(&service);
    until_quiet();
    let (before, memory) = (descriptors(plane), resident(plane));
    let pairs: Vec<_> = (0..CONNECTIONS).map(|_| asked(&service)).collect();
    assert_eq!(descriptors(plane), before + 2 * CONNECTIONS);
    let each = (resident(plane) - memory) / CONNECTIONS as u64;
    println!("{each} bytes for an idle connection");
    assert!(each < 42 * 1024, "{each} bytes for an idle connection");
    // What is to be done after an address has come, and the end of the last request, are over then.
    until_quiet();
    drop((first, pairs));
    eventually("all is given back", || (descriptors(plane) == before - 2).then_some(()));
}

#[test]
fn plane_without_an_http_rule_has_no_thread_for_it() {
    let agent = agent_in(Tier::Steer);
    let service = listen("0.0.0.0:3000");
    until_bridged(&agent, &service);
    let plane = plane_pid(&agent);
    let idle = ["bridge-0", "bridge-1", "guestd-bridge"];
    // A thread gives itself its name.
    eventually("there are the engine's threads alone", || (threads(plane) == idle).then_some(()));
    let without = resident(plane);
    guestctl(&agent, "add 80 127.0.0.1:3000 --mode http");
    let expected = ["bridge-0", "bridge-1", "bridge-http", "guestd-bridge"];
    eventually("there is a thread for it", || (threads(plane) == expected).then_some(()));
    println!("{without} bytes without, {} with", resident(plane));
}
