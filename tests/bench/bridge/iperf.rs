//! Streams of iperf3, the usual measure of what a path carries: its server behind the relays, its client in front.

use std::{
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    process::{Child, Command, Stdio},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::kit::watch::eventually;

/// The server; ends when it is dropped.
#[derive(Debug)]
pub(crate) struct Iperf {
    child: Child,
    address: SocketAddr,
}

impl Drop for Iperf {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What a client has received.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Received {
    pub(crate) bytes: f64,
    pub(crate) seconds: f64,
}

impl Iperf {
    /// Starts it on IPv4, and waits until it accepts.
    pub(crate) fn start() -> Result<Self> {
        // Free now; nobody else is in this namespace.
        let address = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?;
        let mut command = Command::new("iperf3");
        command.args(["--server", "--version4", "--port", &address.port().to_string()]);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let child = command.spawn().context("starting iperf3 of Debian's package iperf3")?;
        let server = Self { child, address };
        eventually("iperf3 accepts", Duration::from_secs(20), || {
            TcpStream::connect(address).with_context(|| format!("connecting to iperf3 at {address}"))
        })?;
        Ok(server)
    }

    /// Where it is.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }
}

/// So many streams at once from the server that is reached there.
pub(crate) fn receive(from: SocketAddr, streams: usize) -> Result<Received> {
    client(from, streams, ["--time", "1"])
}

/// Does it answer, and is it done with whoever came before?
pub(crate) fn probe(at: SocketAddr) -> Result<()> {
    client(at, 1, ["--bytes", "1M"]).map(drop)
}

fn client(from: SocketAddr, streams: usize, most: [&str; 2]) -> Result<Received> {
    let mut command = Command::new("iperf3");
    command.args(["--json", "--reverse", "--client", &from.ip().to_string(), "--port", &from.port().to_string()]);
    command.args(["--parallel", &streams.to_string()]).args(most);
    let output = command.output().context("running iperf3")?;
    let report: Value = serde_json::from_slice(&output.stdout).context("reading what iperf3 says")?;
    let number = |field: &str| report["end"]["sum_received"][field].as_f64();
    let (Some(bytes), Some(seconds)) = (number("bytes"), number("seconds")) else {
        anyhow::bail!("iperf3 of {streams} streams from {from} failed: {}", report["error"]);
    };
    ensure!(bytes > 0.0 && seconds > 0.0, "iperf3 has received {bytes} bytes in {seconds} s from {from}");
    Ok(Received { bytes, seconds })
}
