//! `guestctl proxy HOST [PORT]`: TLS to the platform's proxy on standard input and output, as an ssh ProxyCommand.
//!
//! Owns the ends. Each direction ends by itself, and an end is only handed on if the other side has said that it is one:
//!
//! ```text
//!          standard input ends ──> close_notify, FIN        close_notify ──> standard output ends
//!  open ─────────────────────────> one way ────────────────────────────────> closed: 0
//!   ├── the connection ends without close_notify, or is reset: 125, as what was cut off is not known
//!   └── nobody reads standard output any more (ssh has ended): 141 without a word, as for other tools of a pipe
//! ```
//!
//! Refuses to go without verifying the certificate. Has no idle time-out: a peer that has vanished is noticed by TCP's keepalive.

mod failure;

use std::io;
use std::path::PathBuf;
use std::pin::pin;

use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::dial::{Patience, dial};
use crate::limits;
use crate::sys::tcp;
use crate::tls::{self, ServerName, Trust};

use super::failure::{Failure, exit};
use super::input::{self, Input};
use super::output::Output;
use super::stdout;

pub(super) use failure::ProxyFailure;
use failure::Why;

const PATIENCE: Patience = Patience {
    lookup: limits::PROXY_LOOKUP_TIME,
    address: limits::PROXY_ADDRESS_TIME,
    addresses: limits::PROXY_ADDRESSES,
};

#[derive(Debug, clap::Args)]
pub(super) struct ProxyArgs {
    /// Name of the VM, which the certificate must be for and the proxy is told
    #[arg(value_parser = host)]
    host: ServerName<'static>,
    /// Port of the VM
    #[arg(default_value_t = 443, value_parser = clap::value_parser!(u16).range(1..))]
    port: u16,
    /// Trust the authorities of this file of certificates, and not those of the system
    #[arg(long, value_name = "FILE")]
    ca: Option<PathBuf>,
}

fn host(text: &str) -> Result<ServerName<'static>, String> {
    tls::server_name(text).map_err(|_| "it must be a host's name or an address".to_owned())
}

/// Connects, and passes bytes both ways until both directions have ended.
pub(super) async fn run(args: ProxyArgs, output: Output) -> Result<u8, Failure> {
    if output.json {
        return Err(Failure::NoJson("proxy"));
    }
    let host = args.host.to_str().into_owned();
    let failed = |why| Failure::Proxy(ProxyFailure { host: host.clone(), port: args.port, why });
    let stream = dial(&host, args.port, PATIENCE).await.map_err(|error| failed(Why::NoConnection(error)))?;
    prepare(&stream).map_err(|error| failed(Why::Broken(error)))?;
    let trust = args.ca.map_or(Trust::System, Trust::File);
    let shaking = timeout(limits::PROXY_HANDSHAKE_TIME, tls::connect(args.host, stream, trust));
    let shaken = shaking.await.map_err(|_| failed(Why::NoHandshake))?;
    let (mut receiver, mut sender) = tokio::io::split(shaken.map_err(|error| failed(Why::NotSecure(error)))?);
    relay(&mut receiver, &mut sender, &failed).await
}

/// What somebody types goes at once, and a peer that has vanished does not keep us for ever.
fn prepare(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    tcp::keep_alive(stream)
}

async fn relay<R, W>(receiver: &mut R, sender: &mut W, failed: &impl Fn(Why) -> Failure) -> Result<u8, Failure>
where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin,
{
    let mut input = input::start()?;
    let mut sending = pin!(send(&mut input, sender));
    let mut receiving = pin!(stdout::pass_on(receiver));
    let (received, sent) = tokio::select! {
        received = &mut receiving => (received?, None),
        sent = &mut sending => {
            // What was sent is no whole. Going without close_notify says so.
            if let Err(Stopped::Input(error)) = sent {
                return Err(Failure::Stdin(error));
            }
            let received = tokio::select! {
                received = &mut receiving => received?,
                () = stdout::unread() => return Err(Failure::StdoutClosed),
            };
            (received, Some(sent))
        }
    };
    if let Err(error) = received {
        return Err(if stdout::is_unread() { Failure::StdoutClosed } else { failed(Why::Broken(error)) });
    }
    match match sent {
        Some(sent) => sent,
        None => sending.await,
    } {
        // Of a peer that has ended its own direction, one that does not wait for the end of ours has lost nothing.
        Ok(()) | Err(Stopped::Ending) => Ok(exit::OK),
        Err(Stopped::Input(error)) => Err(Failure::Stdin(error)),
        Err(Stopped::Sending(error)) => Err(failed(Why::Unsent(error))),
    }
}

/// Why not all of the input and its end were sent.
enum Stopped {
    /// It cannot be read.
    Input(io::Error),
    /// Bytes of it could not be sent.
    Sending(io::Error),
    /// All bytes were sent, and not their end.
    Ending,
}

async fn send<W: AsyncWrite + Unpin>(input: &mut Input, sender: &mut W) -> Result<(), Stopped> {
    while let Some(read) = input.recv().await {
        let bytes = read.map_err(Stopped::Input)?;
        sender.write_all(&bytes).await.map_err(Stopped::Sending)?;
        // TLS has a buffer of its own.
        sender.flush().await.map_err(Stopped::Sending)?;
    }
    sender.shutdown().await.map_err(|_| Stopped::Ending)
}
