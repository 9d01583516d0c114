//! Sockets and processes to look at.

use std::{
    fmt,
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    process::{Child, Command, Stdio},
};

use anyhow::{Context, Result, ensure};
use serde::Serialize;
use socket2::{Domain, Socket, Type};

use crate::kit::agent::Home;

/// How many of what.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub(crate) struct Spec {
    /// Listening sockets, half of them IPv4 and half IPv6.
    pub(crate) listeners: usize,
    /// Established sockets: two for each connection, both ends are here.
    pub(crate) established: usize,
    /// Processes that sleep.
    pub(crate) processes: usize,
}

impl fmt::Display for Spec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { listeners, established, processes } = self;
        write!(f, "{listeners} listeners")?;
        if *established > 0 {
            write!(f, ", {established} established")?;
        }
        if *processes > 0 {
            write!(f, ", {processes} processes")?;
        }
        Ok(())
    }
}

/// What is looked at, in this order.
pub(crate) const SCENES: [Spec; 6] = [
    Spec { listeners: 10, established: 0, processes: 0 },
    Spec { listeners: 10, established: 1_000, processes: 0 },
    Spec { listeners: 10, established: 20_000, processes: 0 },
    Spec { listeners: 10, established: 0, processes: 1_000 },
    Spec { listeners: 1_000, established: 0, processes: 0 },
    Spec { listeners: 20_000, established: 0, processes: 0 },
];

/// First port of the listeners; those that share a port have addresses of their own.
const FIRST_PORT: u16 = 1_024;
/// Ports before the next address is taken.
const PORTS: usize = 8_192;

/// A set of sockets and processes; gone with this value.
#[derive(Debug)]
pub(crate) struct Scene {
    spec: Spec,
    _listeners: Vec<Socket>,
    _connections: Vec<TcpStream>,
    _processes: Option<Processes>,
}

impl Scene {
    /// Makes them.
    pub(crate) fn set(spec: Spec) -> Result<Self> {
        let listeners: Result<_> = (0..spec.listeners).map(listener).collect();
        let processes = (spec.processes > 0).then(|| Processes::start(spec.processes)).transpose()?;
        Ok(Self {
            spec,
            _listeners: listeners?,
            _connections: connections(spec.established / 2)?,
            _processes: processes,
        })
    }

    /// What it was made from.
    pub(crate) fn spec(&self) -> Spec {
        self.spec
    }
}

/// Brings loopback up in a new network namespace.
pub(crate) fn loopback_up() -> Result<()> {
    let status = Command::new("ip").args(["link", "set", "lo", "up"]).status().context("running ip(8)")?;
    ensure!(status.success(), "`ip link set lo up` failed");
    Ok(())
}

fn listener(index: usize) -> Result<Socket> {
    let port = FIRST_PORT + u16::try_from(index / 2 % PORTS)?;
    let host = u8::try_from(1 + index / 2 / PORTS)?;
    let address: SocketAddr = match (index % 2, host) {
        (0, host) => (Ipv4Addr::new(127, 0, 0, host), port).into(),
        // IPv6 has one loopback address: beyond its ports there are the mapped ones, which are IPv6 sockets too.
        (_, 1) => format!("[::1]:{port}").parse()?,
        (_, host) => format!("[::ffff:127.0.1.{host}]:{port}").parse()?,
    };
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    socket.bind(&address.into()).with_context(|| format!("binding {address}"))?;
    socket.listen(16).with_context(|| format!("listening on {address}"))?;
    Ok(socket)
}

/// Both ends of so many connections. Their listener is gone afterwards.
fn connections(count: usize) -> Result<Vec<TcpStream>> {
    let mut ends = Vec::with_capacity(count * 2);
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("listening for connections")?;
    let address = listener.local_addr()?;
    for _ in 0..count {
        ends.push(TcpStream::connect(address).context("connecting")?);
        ends.push(listener.accept().context("accepting")?.0);
    }
    Ok(ends)
}

/// Processes that sleep, in a cgroup of their own.
#[derive(Debug)]
struct Processes {
    sleepers: Vec<Child>,
    home: Home,
}

impl Processes {
    fn start(count: usize) -> Result<Self> {
        let home = Home::new("sleepers")?;
        let mut all = Self { sleepers: Vec::with_capacity(count), home };
        for _ in 0..count {
            let mut command = all.home.command("sleep");
            let sleeper = command.arg("600").stdin(Stdio::null()).spawn().context("starting sleep(1)")?;
            all.sleepers.push(sleeper);
        }
        Ok(all)
    }
}

impl Drop for Processes {
    fn drop(&mut self) {
        for sleeper in &mut self.sleepers {
            let _ = sleeper.kill();
            let _ = sleeper.wait();
        }
    }
}
