//! What a relay holds for connections that do nothing.

use std::{io::Read, net::TcpStream, time::Duration};

use anyhow::{Context, Result};
use serde::Serialize;

use crate::{
    kit::watch::eventually,
    load,
    relays::Relay,
    service::{ECHO, MESSAGE},
};

/// Connections.
const IDLE: usize = 1000;

/// Of each idle connection.
#[derive(Debug, Clone, Copy, Serialize)]
pub(crate) struct Idle {
    /// Bytes of the relay's processes (their shares).
    pub(crate) bytes: f64,
    /// Descriptors.
    pub(crate) descriptors: f64,
    /// CPU seconds a second, of all of them together.
    pub(crate) cpu: f64,
}

fn one(relay: &Relay) -> Result<TcpStream> {
    let mut stream = load::open(relay.address(), ECHO)?;
    stream.read_exact(&mut [0; MESSAGE]).context("reading an answer")?;
    Ok(stream)
}

/// Opens connections, each of which has had a message each way, and looks what was added.
pub(crate) fn measure(relay: &Relay) -> Result<Idle> {
    // What each does at its first use only is no part of this.
    for _ in 0..64 {
        one(relay)?;
    }
    let settled = |wanted: usize| {
        eventually("a relay has closed what is over", Duration::from_secs(20), || {
            let held = relay.held()?;
            anyhow::ensure!(held.1 <= wanted, "{} descriptors, of {wanted}", held.1);
            Ok(held)
        })
    };
    let before = settled(relay.descriptors_at_start() + 40)?;
    let streams = (0..IDLE).map(|_| one(relay)).collect::<Result<Vec<_>>>()?;
    let after = relay.held()?;
    let cpu_before = relay.cpu_seconds()?;
    std::thread::sleep(Duration::from_secs(1));
    let cpu = relay.cpu_seconds()? - cpu_before;
    let each = |before: usize, after: usize| (after as f64 - before as f64) / streams.len() as f64;
    Ok(Idle { bytes: each(before.0, after.0), descriptors: each(before.1, after.1), cpu })
}
