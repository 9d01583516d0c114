//! From listen(2) to the line at a watcher.

use std::{
    io::{BufRead, BufReader},
    net::Ipv4Addr,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use serde::Serialize;
use serde_json::Value;
use socket2::{Domain, Socket, Type};

use crate::kit::{
    agent::{Agent, Home, built},
    http::{Http, NDJSON},
    numbers::Spread,
};

/// Sockets that listen, one after the other.
const LISTENS: usize = 300;
/// The same where a look is awaited for each.
const LISTENS_BY_POLL: usize = 60;
/// Time between two looks where there are no events, in milliseconds.
pub(crate) const POLL_MS: u32 = 250;

/// From one to the next, at least.
const DISTANCE: Duration = Duration::from_millis(40);

/// Milliseconds, with events and without.
#[derive(Debug, Clone, Copy, Serialize)]
pub(crate) struct Latencies {
    /// By the kernel's events.
    pub(crate) events: Spread,
    /// By looks.
    pub(crate) poll: Spread,
}

/// Measures both.
pub(crate) fn measure() -> Result<Latencies> {
    let poll = format!("listeners.events = \"poll\"\nlisteners.poll_ms = {POLL_MS}\n");
    Ok(Latencies { events: spread("", LISTENS)?, poll: spread(&poll, LISTENS_BY_POLL)? })
}

fn spread(config: &str, listens: usize) -> Result<Spread> {
    let home = Home::new("events")?;
    let agent = Agent::start(&home, &built("static/guestd", "just build")?, config)?;
    let mut http = Http::connect(agent.socket())?;
    http.send("GET", "/v1/listeners/watch", NDJSON, b"")?;
    let answer = http.answer()?;
    ensure!(answer.status == 200, "watching was answered {}", answer.status);
    let mut lines = BufReader::new(answer.body);
    until(&mut lines, |event| event["type"] == "synced")?;
    let mut samples = Vec::with_capacity(listens);
    for index in 0..listens {
        // Not in step with anything else, and no storm, which the agent paces.
        thread::sleep(DISTANCE + Duration::from_micros(index as u64 * 7_919 % 20_000));
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
        socket.bind(&std::net::SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into())?;
        let port = socket.local_addr()?.as_socket().context("no address of a bound socket")?.port();
        let began = Instant::now();
        socket.listen(1)?;
        until(&mut lines, |event| event["type"] == "added" && event["listener"]["port"] == port)?;
        samples.push(began.elapsed().as_secs_f64() * 1000.0);
        drop(socket);
        until(&mut lines, |event| event["type"] == "removed" && event["listener"]["port"] == port)?;
    }
    Ok(Spread::of(samples))
}

fn until(lines: &mut impl BufRead, wanted: impl Fn(&Value) -> bool) -> Result<()> {
    let mut line = String::new();
    while lines.read_line(&mut line)? > 0 {
        let event: Value = serde_json::from_str(&line).with_context(|| format!("a watcher's line: {line}"))?;
        if wanted(&event) {
            return Ok(());
        }
        line.clear();
    }
    bail!("the watch ended");
}
