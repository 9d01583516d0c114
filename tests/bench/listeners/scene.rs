//! Sockets and processes to look at.

use std::{
    env, fmt,
    io::{self, BufRead, BufReader},
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

/// Sockets of one holder at the most: a process may have some thousands of descriptors everywhere.
const EACH: usize = 4_000;

/// First argument of a holder; what it is to hold follows.
pub(crate) const HOLD: &str = "hold";

/// A set of sockets and processes; gone with this value.
#[derive(Debug)]
pub(crate) struct Scene {
    spec: Spec,
    _processes: Processes,
}

impl Scene {
    /// Makes them.
    pub(crate) fn set(spec: Spec) -> Result<Self> {
        let home = Home::new("scene")?;
        let mut processes = Processes { all: Vec::new(), home };
        for first in (0..spec.listeners).step_by(EACH) {
            processes.hold([first, EACH.min(spec.listeners - first), 0])?;
        }
        for first in (0..spec.established).step_by(EACH) {
            processes.hold([0, 0, EACH.min(spec.established - first)])?;
        }
        for _ in 0..spec.processes {
            let mut command = processes.home.command("sleep");
            let sleeper = command.arg("600").stdin(Stdio::null()).spawn().context("starting sleep(1)")?;
            processes.all.push(sleeper);
        }
        Ok(Self { spec, _processes: processes })
    }

    /// What it was made from.
    pub(crate) fn spec(&self) -> Spec {
        self.spec
    }
}

/// Holds sockets until its standard input ends: listeners from this index on, so many of them, so many established sockets.
pub(crate) fn hold(mut arguments: impl Iterator<Item = String>) -> Result<()> {
    let mut number = || -> Result<usize> { Ok(arguments.next().context("an argument is missing")?.parse()?) };
    let (first, listeners, established) = (number()?, number()?, number()?);
    let _listeners = (first..first + listeners).map(listener).collect::<Result<Vec<_>>>()?;
    let _connections = connections(established / 2)?;
    println!("ready");
    io::copy(&mut io::stdin(), &mut io::sink())?;
    Ok(())
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

/// Processes that hold sockets or only sleep, in a cgroup of their own.
#[derive(Debug)]
struct Processes {
    all: Vec<Child>,
    home: Home,
}

impl Processes {
    fn hold(&mut self, numbers: [usize; 3]) -> Result<()> {
        let mut command = self.home.command(env::current_exe()?);
        command.arg(HOLD).args(numbers.map(|number| number.to_string()));
        let mut holder = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().context("starting a holder")?;
        let output = holder.stdout.take().context("a holder has no output")?;
        self.all.push(holder);
        let mut line = String::new();
        BufReader::new(output).read_line(&mut line)?;
        ensure!(line == "ready\n", "a holder of sockets did not get ready: {line:?}");
        Ok(())
    }
}

impl Drop for Processes {
    fn drop(&mut self) {
        for process in &mut self.all {
            let _ = process.kill();
            let _ = process.wait();
        }
    }
}
