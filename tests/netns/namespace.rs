//! A network namespace that looks like a VM's: loopback, and an interface with an IPv4 and an IPv6 address; and one outside of it, to
//! which the interface leads, where clients are.
//!
//! The namespaces belong to the test's thread and to what it starts, so they are gone with them.

use std::{
    cell::RefCell,
    fs::File,
    net::{Ipv6Addr, SocketAddr, TcpListener, TcpStream},
    os::{
        fd::{AsFd, AsRawFd},
        unix::fs::MetadataExt,
    },
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

/// The client's IPv6 address.
pub(crate) const CLIENT6: Ipv6Addr = Ipv6Addr::new(0xfd00, 9, 0, 0, 0, 0, 0, 0x99);

thread_local! {
    /// The namespaces where clients are: the last one is that of where this thread is. An interface goes with its other end's.
    static OUTSIDE: RefCell<Vec<File>> = const { RefCell::new(Vec::new()) };
}

/// How the bridge comes by its connections, as the configuration has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Tier {
    Steer,
    Bind,
}

impl Tier {
    /// As configured; by default it steers, which works where these tests run.
    fn setting(self) -> &'static str {
        match self {
            Self::Steer => "auto",
            Self::Bind => "bind",
        }
    }

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Steer => "steer",
            Self::Bind => "bind",
        }
    }
}

fn this_namespace() -> File {
    File::open("/proc/thread-self/ns/net").unwrap()
}

/// Moves this thread into a namespace of its own.
pub(crate) fn enter() {
    unshare(CloneFlags::CLONE_NEWNET).expect("network namespaces need root");
    let outside = this_namespace();
    ip("link set lo up");
    unshare(CloneFlags::CLONE_NEWNET).unwrap();
    ip("link set lo up");
    ip("link add eth0 type veth peer name outside");
    ip(&format!("link set outside netns /proc/{}/fd/{}", std::process::id(), outside.as_raw_fd()));
    OUTSIDE.with_borrow_mut(|all| all.push(outside));
    outside_do(|| {
        ip(&format!("addr add {CLIENT6}/64 dev outside nodad"));
        ip("link set outside up");
    });
    ip("link set eth0 up");
    ip(&format!("addr add {VM6}/64 dev eth0 nodad"));
    ip(&format!("addr add {VM4}/24 dev eth0"));
}

/// Does something in another namespace that looks the same, and comes back. It lives as long as a process that was started in it.
pub(crate) fn elsewhere<T>(what: impl FnOnce() -> T) -> T {
    let here = this_namespace();
    enter();
    let result = what();
    setns(here, CloneFlags::CLONE_NEWNET).unwrap();
    OUTSIDE.with_borrow_mut(|all| all.rotate_right(1));
    result
}

/// Does something where clients are. A socket that is made there stays there.
pub(crate) fn outside_do<T>(what: impl FnOnce() -> T) -> T {
    let here = this_namespace();
    OUTSIDE.with_borrow(|outside| setns(outside.last().expect("entered"), CloneFlags::CLONE_NEWNET)).unwrap();
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

/// The same, in this tier.
pub(crate) fn agent_in(tier: Tier) -> TestAgent {
    enter();
    TestAgent::start_with(&config_in(tier), &[])
}

/// Its configuration.
pub(crate) fn config_in(tier: Tier) -> String {
    format!("vm_id = \"abc\"\nlisteners.poll_ms = 50\nbridge.tier = \"{}\"\n", tier.setting())
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

/// A client's try to connect to the VM's IPv6 address, from outside.
pub(crate) fn try_connect(port: u16) -> std::io::Result<TcpStream> {
    outside_do(|| TcpStream::connect((VM6, port)))
}

/// A client's connection to the VM's IPv6 address, from outside.
pub(crate) fn connect(port: u16) -> TcpStream {
    let stream = try_connect(port).unwrap_or_else(|error| panic!("connecting to [{VM6}]:{port}: {error}"));
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
