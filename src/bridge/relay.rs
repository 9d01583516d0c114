//! One bridged connection: bytes both ways, and every end of them as the peers meant it.
//!
//! A half-close is handed on as a half-close, a reset as a reset. An idle connection holds its two sockets and no buffer.

use std::{
    io,
    net::{Ipv4Addr, Shutdown, SocketAddr},
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::Duration,
};

use socket2::{Domain, Protocol, SockRef, Socket, TcpKeepalive, Type};
use tokio::net::{TcpSocket, TcpStream};

use super::PortCounters;
use crate::sys::tcp;

/// Bytes moved at once; held only while data flows.
const BUFFER_BYTES: usize = 64 * 1024;

/// Reads in a row after which other tasks get their turn.
const READS_PER_TURN: usize = 16;

/// A service in the same VM that does not accept within this time has a full queue and is stuck.
const CONNECT_TIME: Duration = Duration::from_secs(10);

/// Idle connections live for ever, as long as the peer's kernel answers.
const KEEPALIVE: TcpKeepalive =
    TcpKeepalive::new().with_time(Duration::from_secs(60)).with_interval(Duration::from_secs(15)).with_retries(4);

/// Connects to the service from `source`.
pub(super) async fn connect(source: Ipv4Addr, to: SocketAddr) -> io::Result<TcpStream> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM.nonblocking().cloexec(), Some(Protocol::TCP))?;
    // The port is chosen at connect, per destination: all clients' stand-ins have all ephemeral ports (ip(7)).
    tcp::choose_port_at_connect(&socket)?;
    socket.bind(&SocketAddr::new(source.into(), 0).into())?;
    let connected = TcpSocket::from_std_stream(socket.into()).connect(to);
    tokio::time::timeout(CONNECT_TIME, connected).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}

/// Relays until both directions have ended. Resets both sides if either was reset.
pub(super) async fn relay(client: &TcpStream, service: &TcpStream, counters: &PortCounters) -> io::Result<()> {
    for stream in [client, service] {
        stream.set_nodelay(true)?;
        SockRef::from(stream).set_tcp_keepalive(&KEEPALIVE)?;
    }
    let inward = pump(client, service, &counters.bytes_in);
    let outward = pump(service, client, &counters.bytes_out);
    tokio::pin!(inward, outward);
    let (first, inward_is_left) = tokio::select! {
        ended = &mut inward => (ended, false),
        ended = &mut outward => (ended, true),
    };
    match first {
        // A peer that reset its connection will neither send nor read any more.
        Err(PumpError::Read(error)) => Err(error),
        // A peer that does not read any more may have sent something before; that is still delivered.
        Err(PumpError::Write(error)) => {
            let _ = if inward_is_left { inward.await } else { outward.await };
            Err(error)
        }
        // Handed on here and not by the pump: after a reset that a write has met, a read of 0 is no end that the peer meant.
        Ok(()) => {
            let (first_to, second_to) = if inward_is_left { (client, service) } else { (service, client) };
            end_output(first_to);
            if inward_is_left { inward.await } else { outward.await }?;
            end_output(second_to);
            Ok(())
        }
    }
}

/// Hands on an end of file. A peer that is gone already needs none.
fn end_output(to: &TcpStream) {
    let _ = SockRef::from(to).shutdown(Shutdown::Write);
}

/// Makes the coming close a reset, so that the peer does not take a broken stream for a whole one.
pub(super) fn reset_on_close(stream: &TcpStream) {
    // Fails only on a socket that is gone, which then needs no reset.
    let _ = SockRef::from(stream).set_linger(Some(Duration::ZERO));
}

/// What ended a direction early.
#[derive(Debug)]
enum PumpError {
    Read(io::Error),
    Write(io::Error),
}

impl From<PumpError> for io::Error {
    fn from(error: PumpError) -> Self {
        match error {
            PumpError::Read(error) | PumpError::Write(error) => error,
        }
    }
}

/// Moves bytes until the end of file.
async fn pump(from: &TcpStream, to: &TcpStream, bytes: &AtomicU64) -> Result<(), PumpError> {
    loop {
        from.readable().await.map_err(PumpError::Read)?;
        let mut buffer = vec![0; BUFFER_BYTES];
        for turn in 1.. {
            match from.try_read(&mut buffer) {
                Ok(0) => return Ok(()),
                Ok(length) => {
                    write_all(to, &buffer[..length]).await.map_err(PumpError::Write)?;
                    bytes.fetch_add(length as u64, Relaxed);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => return Err(PumpError::Read(error)),
            }
            if turn % READS_PER_TURN == 0 {
                tokio::task::yield_now().await;
            }
        }
    }
}

async fn write_all(to: &TcpStream, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        match to.try_write(bytes) {
            Ok(length) => bytes = &bytes[length..],
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => to.writable().await?,
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
