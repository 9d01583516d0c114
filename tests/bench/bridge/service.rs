//! The service behind all relays: on IPv4, in this process, a few threads that accept and one for each connection that lasts.
//!
//! The first byte of a connection says what it is for.

use std::{
    io::{self, Read, Write},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    thread,
};

use anyhow::{Context, Result};

/// Sends blocks until the client goes.
pub(crate) const STREAM: u8 = b's';
/// Answers each message with the same.
pub(crate) const ECHO: u8 = b'e';
/// Answers one message and closes.
pub(crate) const ONCE: u8 = b'o';

/// A message, in bytes.
pub(crate) const MESSAGE: usize = 64;

/// A block of a stream, in bytes; it begins with its number in the stream, and the rest follows from that.
pub(crate) const BLOCK: usize = 128 * 1024;

/// Threads that accept.
const ACCEPTORS: usize = 8;

/// Ends with the process.
#[derive(Debug)]
pub(crate) struct Service(SocketAddr);

impl Service {
    /// Starts it.
    pub(crate) fn start() -> Result<Self> {
        let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None)?;
        socket.bind(&SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)).into())?;
        socket.listen(4096).context("listening")?;
        let listener = TcpListener::from(socket);
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, listener.local_addr()?.port()));
        for _ in 0..ACCEPTORS {
            let listener = listener.try_clone()?;
            thread::spawn(move || {
                // Each client has its end; an error is that it went early, as those of a round that is over do.
                while let Ok((stream, _)) = listener.accept() {
                    let _ = serve(stream);
                }
            });
        }
        Ok(Self(address))
    }

    /// Where it is.
    pub(crate) fn address(&self) -> SocketAddr {
        self.0
    }
}

fn serve(mut stream: TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut message = [0; MESSAGE];
    stream.read_exact(&mut message)?;
    match message[0] {
        ONCE => {
            stream.write_all(&message)?;
            Ok(())
        }
        ECHO => {
            stream.write_all(&message)?;
            thread::Builder::new().stack_size(64 * 1024).spawn(move || echo(stream))?;
            Ok(())
        }
        _ => {
            thread::spawn(move || send(stream));
            Ok(())
        }
    }
}

fn echo(mut stream: TcpStream) -> io::Result<()> {
    let mut message = [0; MESSAGE];
    loop {
        stream.read_exact(&mut message)?;
        stream.write_all(&message)?;
    }
}

fn send(mut stream: TcpStream) -> io::Result<()> {
    let mut block = pattern();
    for number in 0u64.. {
        block[..8].copy_from_slice(&number.to_le_bytes());
        stream.write_all(&block)?;
    }
    Ok(())
}

/// A block but for its number: bytes in which a missing, doubled or swapped piece shows.
pub(crate) fn pattern() -> Vec<u8> {
    (0..BLOCK as u32 / 4).flat_map(|word| word.wrapping_mul(2_654_435_761).to_le_bytes()).collect()
}
