//! From an [`Endpoint`] to a byte stream that speaks HTTP.
//!
//! For Firecracker's hybrid vsock: connect to the Unix socket, send `CONNECT PORT\n`, read `OK N\n`. An end of file
//! instead means that nobody listens on that port in the guest yet; or that the guest had a connection with the same two ports a moment
//! ago, which it remembers for some seconds: after a restore the host's side counts its ports anew. So it is tried on the next ones.

use std::fmt;
use std::io;
use std::path::Path;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::UnixStream;
use tokio::time::timeout;
use tokio_vsock::{VsockAddr, VsockStream};

use crate::limits;

use super::{ClientError, ConnectFailure, Endpoint};

/// A connection in both directions. Nothing here shuts down one of them alone.
pub(crate) trait Duplex: AsyncRead + AsyncWrite + Send + Unpin + fmt::Debug {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin + fmt::Debug> Duplex for T {}

/// Connects. The connection, and for a hybrid socket the `OK`, must each come `within` this time.
pub(super) async fn connect(endpoint: &Endpoint, within: Duration) -> Result<Box<dyn Duplex>, ClientError> {
    dial(endpoint, within).await.map_err(|why| ClientError::Unreachable { endpoint: endpoint.clone(), why })
}

async fn dial(endpoint: &Endpoint, within: Duration) -> Result<Box<dyn Duplex>, ConnectFailure> {
    Ok(match endpoint {
        Endpoint::Unix { path } => Box::new(open(within, UnixStream::connect(path)).await?),
        Endpoint::Vsock { cid, port } => {
            let address = VsockAddr::new(*cid, *port);
            Box::new(open(within, VsockStream::connect(address)).await?)
        }
        Endpoint::Firecracker { path, port } => {
            let mut dialled = dial_hybrid(path, *port, within).await;
            for _ in 1..limits::HYBRID_TRIES {
                if !matches!(dialled, Err(ConnectFailure::NobodyListens { .. })) {
                    break;
                }
                dialled = dial_hybrid(path, *port, within).await;
            }
            Box::new(dialled?)
        }
    })
}

async fn dial_hybrid(path: &Path, port: u32, within: Duration) -> Result<UnixStream, ConnectFailure> {
    let mut stream = open(within, UnixStream::connect(path)).await?;
    let shaken = timeout(within, shake_hands(&mut stream, port)).await;
    shaken.map_err(|_| ConnectFailure::NoOk { port, after: within })??;
    Ok(stream)
}

async fn open<T>(within: Duration, connecting: impl Future<Output = io::Result<T>>) -> Result<T, ConnectFailure> {
    timeout(within, connecting)
        .await
        .map_err(|_| ConnectFailure::TimedOut { after: within })?
        .map_err(ConnectFailure::Io)
}

async fn shake_hands(stream: &mut UnixStream, port: u32) -> Result<(), ConnectFailure> {
    let closed = |error: io::Error| match error.kind() {
        io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset | io::ErrorKind::UnexpectedEof => {
            ConnectFailure::NobodyListens { port }
        }
        _ => ConnectFailure::Io(error),
    };
    let request = format!("CONNECT {port}\n");
    stream.write_all(request.as_bytes()).await.map_err(closed)?;

    // Byte by byte, so that nothing that follows the line is taken from whoever reads next.
    let mut line = Vec::new();
    loop {
        match stream.read_u8().await.map_err(closed)? {
            b'\n' => break,
            byte => line.push(byte),
        }
        if line.len() >= limits::HYBRID_ANSWER_BYTES {
            break;
        }
    }
    let number = line.strip_prefix(b"OK ").unwrap_or_default();
    if number.is_empty() || !number.iter().all(u8::is_ascii_digit) {
        let answer = String::from_utf8_lossy(&line).into_owned();
        return Err(ConnectFailure::NotHybrid { answer });
    }
    Ok(())
}
