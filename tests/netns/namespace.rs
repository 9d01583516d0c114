//! A network namespace that looks like a VM's: loopback, and an interface with an IPv4 and an IPv6 address.
//!
//! The namespace belongs to the test's thread and to what it starts, so it is gone with them.

use std::{
    net::{Ipv6Addr, SocketAddr, TcpListener, TcpStream},
    os::{fd::AsFd, unix::fs::MetadataExt},
    process::Command,
};

use nix::sched::{CloneFlags, setns, unshare};
use serde_json::Value;
use socket2::{Domain, Socket, Type};

use crate::support::{DEADLINE, TestAgent, eventually};

/// The VM's IPv6 address.
pub(crate) const VM6: Ipv6Addr = Ipv6Addr::new(0xfd00, 9, 0, 0, 0, 0, 0, 2);
/// The VM's IPv4 address.
pub(crate) const VM4: &str = "10.9.0.2";

/// Moves this thread into a namespace of its own.
pub(crate) fn enter() {
    unshare(CloneFlags::CLONE_NEWNET).expect("network namespaces need root");
    ip("link set lo up");
    ip("link add eth0 type veth peer name outside");
    ip("link set outside up");
    ip("link set eth0 up");
    ip(&format!("addr add {VM6}/64 dev eth0 nodad"));
    ip(&format!("addr add {VM4}/24 dev eth0"));
}

/// Does something in another namespace that looks the same, and comes back. It lives as long as a process that was started in it.
pub(crate) fn elsewhere<T>(what: impl FnOnce() -> T) -> T {
    let here = std::fs::File::open("/proc/thread-self/ns/net").unwrap();
    enter();
    let result = what();
    setns(here, CloneFlags::CLONE_NEWNET).unwrap();
    result
}

/// Number of the namespace that a process, or `thread-self`, is in.
pub(crate) fn netns_of(process: impl std::fmt::Display) -> u64 {
    std::fs::metadata(format!("/proc/{process}/ns/net")).unwrap().ino()
}

/// What the agent says of the listeners of this thread's namespace. Those of other tests are in others.
pub(crate) fn own_listeners(agent: &TestAgent) -> Vec<Value> {
    let own = netns_of("thread-self");
    let answer = agent.get("/v1/listeners");
    let Value::Array(mut listeners) = answer else { panic!("no list of listeners: {answer}") };
    listeners.retain(|entry| entry["netns"] == own);
    listeners
}

/// Runs ip(8).
pub(crate) fn ip(arguments: &str) {
    let status = Command::new("ip").args(arguments.split(' ')).status().expect("iproute2 is installed");
    assert!(status.success(), "ip {arguments}");
}

/// An agent that bridges by itself, in a namespace of the test's own.
pub(crate) fn agent() -> TestAgent {
    enter();
    TestAgent::start_with("vm_id = \"abc\"\nlisteners.poll_ms = 50\n", &[])
}

/// A listening socket of a service.
pub(crate) fn listen(address: &str) -> TcpListener {
    TcpListener::bind(address).unwrap_or_else(|error| panic!("binding {address}: {error}"))
}

/// A socket that is bound and does not listen.
pub(crate) fn bind_only(address: &str, reuse: bool) -> std::io::Result<Socket> {
    let address: SocketAddr = address.parse().unwrap();
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    socket.set_reuse_address(reuse)?;
    socket.bind(&address.into())?;
    Ok(socket)
}

/// A client's connection to the VM's IPv6 address.
pub(crate) fn connect(port: u16) -> TcpStream {
    let stream =
        TcpStream::connect((VM6, port)).unwrap_or_else(|error| panic!("connecting to [{VM6}]:{port}: {error}"));
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    stream.set_write_timeout(Some(DEADLINE)).unwrap();
    stream
}

/// What the agent says of the listener that `socket` is, once `holds` of it.
pub(crate) fn report(agent: &TestAgent, socket: impl AsFd, holds: impl Fn(&Value) -> bool) -> Value {
    let inode = nix::sys::stat::fstat(socket).unwrap().st_ino;
    eventually("the report is as expected", || {
        let listeners = agent.get("/v1/listeners");
        listeners.as_array().unwrap().iter().find(|entry| entry["inode"] == inode && holds(entry)).cloned()
    })
}

/// Waits until the listener is bridged.
pub(crate) fn until_bridged(agent: &TestAgent, socket: impl AsFd) -> Value {
    report(agent, socket, |entry| entry["exposure"] == "bridged")
}
