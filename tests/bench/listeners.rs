//! `just bench listeners`: from listen(2) to those who watch, in a network namespace of the bench's own.
//!
//! The watcher is the agent's own, in this process; the time is taken when the observation with the new listener is there. The last
//! part is what a connection costs beside the agent's programs, which run at every listener and its connections.

#[expect(dead_code, reason = "a bench needs little of the kit")]
#[path = "kit/numbers.rs"]
mod numbers;

use std::{
    net::{Ipv4Addr, TcpListener, TcpStream},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use guestd::{
    config::ListenerEvents,
    listeners::{OwnSockets, WatchSettings, Watcher},
};
use nix::sched::{CloneFlags, unshare};
use numbers::{Spread, median};
use serde_json::json;

/// Listeners that are timed.
const ROUNDS: u32 = 500;

/// From one to the next: no multiple of anything in the agent, and no storm.
const DISTANCE: Duration = Duration::from_millis(83);

/// Connections for the cost of one.
const CONNECTIONS: u32 = 20_000;

/// Far above what anything here takes.
const DEADLINE: Duration = Duration::from_secs(30);

fn watcher(events: ListenerEvents) -> Result<Watcher> {
    let settings = WatchSettings { events, poll_interval: Duration::from_millis(250) };
    Watcher::spawn(settings, OwnSockets::default()).context("starting the listeners' thread")
}

/// Milliseconds from the end of listen(2) to the observation that has the socket, and from the close to one that has not.
async fn latencies(events: ListenerEvents, rounds: u32) -> Result<(Spread, Spread)> {
    let watcher = watcher(events)?;
    let mut observations = watcher.observations();
    let (mut listens, mut closes) = (Vec::new(), Vec::new());
    for round in 0..rounds {
        tokio::time::sleep(DISTANCE + Duration::from_micros(u64::from(round % 97) * 50)).await;
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("listening")?;
        let port = listener.local_addr()?.port();
        for (there, times) in [(true, &mut listens), (false, &mut closes)] {
            let since = Instant::now();
            if !there {
                // What close(2) does first, as far as listening is concerned.
                socket2::SockRef::from(&listener).shutdown(std::net::Shutdown::Read)?;
            }
            let seen =
                observations.wait_for(|seen| seen.table.sockets.iter().any(|socket| socket.port == port) == there);
            tokio::time::timeout(DEADLINE, seen).await.context("it was not seen")??;
            times.push(since.elapsed().as_secs_f64() * 1000.0);
        }
    }
    Ok((Spread::of(listens), Spread::of(closes)))
}

/// Microseconds for a connection to be made, accepted and closed, the median of five tries.
fn connection_us() -> Result<f64> {
    let mut tries = Vec::new();
    for _ in 0..5 {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let address = listener.local_addr()?;
        let began = Instant::now();
        for _ in 0..CONNECTIONS / 5 {
            let client = TcpStream::connect(address)?;
            // A reset leaves no port behind in TIME_WAIT.
            socket2::SockRef::from(&client).set_linger(Some(Duration::ZERO))?;
            drop((listener.accept()?, client));
        }
        tries.push(began.elapsed().as_secs_f64() * 1e6 / f64::from(CONNECTIONS / 5));
    }
    Ok(median(tries))
}

fn main() -> Result<()> {
    unshare(CloneFlags::CLONE_NEWNET).context("network namespaces need root")?;
    let up = std::process::Command::new("ip").args(["link", "set", "lo", "up"]).status()?;
    ensure!(up.success(), "ip link set lo up failed");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;

    let bare = connection_us()?;
    let bpf = watcher(ListenerEvents::Auto)?;
    let mode = bpf.events().to_string();
    let with_bpf = connection_us()?;
    drop(bpf);
    let poll = watcher(ListenerEvents::Poll)?;
    let with_poll = connection_us()?;
    drop(poll);
    let bare_again = connection_us()?;

    let (listen, close) = runtime.block_on(latencies(ListenerEvents::Auto, ROUNDS))?;
    let (poll_listen, poll_close) = runtime.block_on(latencies(ListenerEvents::Poll, 40))?;
    println!("listen(2) to a watcher, {mode:<12} p50 {:>8.2} ms  p99 {:>8.2} ms   at most 5", listen.p50, listen.p99);
    println!("close to a watcher                  p50 {:>8.2} ms  p99 {:>8.2} ms", close.p50, close.p99);
    println!(
        "listen(2) to a watcher, poll        p50 {:>8.2} ms  p99 {:>8.2} ms   at most 1000",
        poll_listen.p50, poll_listen.p99
    );
    println!("close to a watcher, poll            p50 {:>8.2} ms  p99 {:>8.2} ms", poll_close.p50, poll_close.p99);
    println!(
        "a connection, µs: {bare:.1} without an agent, {with_bpf:.1} with one, {with_poll:.1} with one that polls, {bare_again:.1} without"
    );
    println!(
        "{}",
        json!({
            "events": mode, "listen_ms": listen, "close_ms": close, "poll_listen_ms": poll_listen, "poll_close_ms": poll_close,
            "connection_us": {"without": [bare, bare_again], "bpf": with_bpf, "poll": with_poll},
        })
    );
    Ok(())
}
