//! What is asked of each relay: streams, connections, ping-pongs.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use serde::Serialize;

use crate::{
    Both, iperf,
    relays::Relay,
    service::{BLOCK, ECHO, MESSAGE, ONCE, STREAM, pattern},
};

/// Before measuring, for windows and buffers to grow.
const WARM_UP: Duration = Duration::from_millis(200);

/// Of each measurement.
const WINDOW: Duration = Duration::from_millis(800);

/// Streams and ping-pongs at once.
const MANY: usize = 64;

/// Threads that open connections, one after the other each.
const OPENERS: usize = 16;

/// Blocks that are compared whole before anything is measured.
const VERIFIED_BLOCKS: usize = 1024;

/// A relay's rate, and what the direct connection did just before.
#[derive(Debug, Clone, Copy, Serialize)]
pub(crate) struct Beside {
    /// Bytes, connections or messages a second.
    pub(crate) relayed: f64,
    /// The same, direct.
    pub(crate) direct: f64,
    /// CPU seconds of the relay in a second.
    pub(crate) cpu: f64,
}

/// What came of one round; none of what was not asked for.
#[derive(Debug, Clone, Copy, Serialize)]
pub(crate) struct Run {
    /// One stream.
    pub(crate) one: Option<Beside>,
    /// Many together.
    pub(crate) many: Option<Beside>,
    /// Connections: connect, a message each way, end.
    pub(crate) connections: Option<Beside>,
    /// Messages there and back, of many connections.
    pub(crate) ping_pongs: Option<Beside>,
    /// Connections and messages that failed.
    pub(crate) errors: u64,
}

/// A connection for a purpose.
pub(crate) fn open(to: SocketAddr, purpose: u8) -> Result<TcpStream> {
    let mut stream = TcpStream::connect(to).with_context(|| format!("connecting to {to}"))?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(Duration::from_secs(20)))?;
    stream.write_all(&[purpose; MESSAGE])?;
    Ok(stream)
}

/// One message there and back.
pub(crate) fn verify_reachable(to: SocketAddr) -> Result<()> {
    let mut answer = Vec::new();
    open(to, ONCE)?.read_to_end(&mut answer)?;
    ensure!(answer == [ONCE; MESSAGE], "the service's answer through {to} has {} bytes", answer.len());
    Ok(())
}

/// Compares every byte of a stream.
pub(crate) fn verify(relay: &Relay) -> Result<()> {
    let mut stream = open(relay.address(), STREAM)?;
    let (mut expected, mut block) = (pattern(), vec![0; BLOCK]);
    for number in 0..VERIFIED_BLOCKS {
        stream.read_exact(&mut block).context("reading a stream")?;
        expected[..8].copy_from_slice(&(number as u64).to_le_bytes());
        ensure!(block == expected, "block {number} is not what was sent");
    }
    Ok(())
}

/// One round of what the environment variable PHASES names, or of all.
pub(crate) fn measure(relay: &Both, direct: &Both) -> Result<Run> {
    let phases = std::env::var("PHASES").unwrap_or_else(|_| "one many connections pings".to_owned());
    let errors = AtomicU64::new(0);
    let beside = |phase: &str, load: &dyn Fn(&Both) -> Result<(f64, f64)>| -> Result<Option<Beside>> {
        if !phases.contains(phase) {
            return Ok(None);
        }
        let (direct, _) = load(direct).context("directly")?;
        match load(relay) {
            Ok((relayed, cpu)) => Ok(Some(Beside { relayed, direct, cpu })),
            // Of a relay that breaks connections there is nothing to compare.
            Err(error) => {
                eprintln!("{} failed at {phase}: {error:#}", relay.service.name());
                errors.fetch_add(1, Relaxed);
                Ok(None)
            }
        }
    };
    let one = beside("one", &|relay| streams(&relay.iperf, 1))?;
    let many = beside("many", &|relay| streams(&relay.iperf, MANY))?;
    let connections = beside("connections", &|relay| connections(&relay.service, &errors))?;
    let ping_pongs = beside("pings", &|relay| ping_pongs(&relay.service))?;
    Ok(Run { one, many, connections, ping_pongs, errors: errors.into_inner() })
}

/// Counts what `work` adds up in all threads together within the window; gives how much, and what CPU time the relay took.
fn count<State: Send>(
    relay: &Relay,
    states: Vec<State>,
    work: impl Fn(State, &AtomicBool, &AtomicU64) -> Result<()> + Sync,
) -> Result<(f64, f64)> {
    let (stop, total) = (AtomicBool::new(false), AtomicU64::new(0));
    thread::scope(|scope| {
        let (work, stop, total) = (&work, &stop, &total);
        let threads: Vec<_> = states.into_iter().map(|state| scope.spawn(move || work(state, stop, total))).collect();
        thread::sleep(WARM_UP);
        let (began, before, cpu_before) = (Instant::now(), total.load(Relaxed), relay.cpu_seconds());
        thread::sleep(WINDOW);
        let (took, after, cpu_after) = (began.elapsed(), total.load(Relaxed), relay.cpu_seconds());
        stop.store(true, Relaxed);
        for thread in threads {
            thread.join().map_err(|_| anyhow::anyhow!("a thread of the load panicked"))??;
        }
        let seconds = took.as_secs_f64();
        Ok(((after - before) as f64 / seconds, (cpu_after? - cpu_before?) / seconds))
    })
}

/// Streams from the service to clients: their rate, and the CPU time of the relay in a second.
fn streams(relay: &Relay, number: usize) -> Result<(f64, f64)> {
    let before = relay.cpu_seconds()?;
    let received = iperf::receive(relay.address(), number)?;
    Ok((received.bytes / received.seconds, (relay.cpu_seconds()? - before) / received.seconds))
}

fn connections(relay: &Relay, errors: &AtomicU64) -> Result<(f64, f64)> {
    count(relay, vec![(); OPENERS], |(), stop, total| {
        while !stop.load(Relaxed) {
            let came = open(relay.address(), ONCE).and_then(|mut stream| {
                let mut answer = Vec::with_capacity(2 * MESSAGE);
                stream.read_to_end(&mut answer)?;
                Ok(answer)
            });
            match came {
                Ok(answer) if answer == [ONCE; MESSAGE] => total.fetch_add(1, Relaxed),
                _ => errors.fetch_add(1, Relaxed),
            };
        }
        Ok(())
    })
}

fn ping_pongs(relay: &Relay) -> Result<(f64, f64)> {
    let streams = (0..MANY).map(|_| open(relay.address(), ECHO)).collect::<Result<Vec<_>>>()?;
    count(relay, streams, |mut stream, stop, total| {
        let mut message = [0; MESSAGE];
        stream.read_exact(&mut message)?;
        while !stop.load(Relaxed) {
            message[1] = message[1].wrapping_add(1);
            stream.write_all(&message)?;
            let mut answer = [0; MESSAGE];
            stream.read_exact(&mut answer)?;
            ensure!(answer == message, "another message came back");
            total.fetch_add(1, Relaxed);
        }
        Ok(())
    })
}
