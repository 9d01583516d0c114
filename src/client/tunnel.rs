//! A byte stream to a TCP port of the VM, on a WebSocket, with exact half-close.
//!
//! ```text
//!             local end of file ──> 255,0                  255,1 ──> local shutdown of writing
//!  open ──────────────────────────> one way ────────────────────────> closed
//!   │                                  │
//!   └─ service reset, VM lost ─────────┴─> broken (an error: never taken for an end of file)
//! ```

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

use crate::api::{Channel, ChannelStatus, StreamFrame};
use crate::limits;

use super::frames::status;
use super::http::escaped;
use super::websocket::{Receiver, Sender};
use super::{Call, Client, ClientError, Endpoint};

/// A connection to a TCP port of the VM. Dropping it resets that connection.
#[derive(Debug)]
pub struct Tunnel {
    sender: Sender,
    receiver: Receiver,
    broken: Broken,
}

/// What an error says of a tunnel.
#[derive(Debug, Clone)]
struct Broken {
    endpoint: Endpoint,
    port: u16,
}

impl Broken {
    fn by(&self, why: impl Into<String>) -> ClientError {
        ClientError::TunnelBroken { endpoint: self.endpoint.clone(), port: self.port, why: why.into() }
    }
}

impl Client {
    /// Connects to a TCP port of the VM, at 127.0.0.1 unless `host` names another of its addresses. It is connected when this
    /// returns.
    pub async fn tunnel(&self, port: u16, host: Option<&str>) -> Result<Tunnel, ClientError> {
        let query = host.map_or_else(String::new, |host| format!("?host={}", escaped(host)));
        let target = format!("/v1/tunnel/{port}{query}");
        let (sender, receiver) = self.websocket(Call::get("/v1/tunnel/{port}"), target).await?;
        let broken = Broken { endpoint: self.endpoint().clone(), port };
        Ok(Tunnel { sender, receiver, broken })
    }
}

impl Tunnel {
    /// Passes bytes both ways until both directions have ended, each by itself.
    ///
    /// # Errors
    /// [`ClientError::TunnelBroken`] where the service, the VM or the local side broke off: what was passed may not be all, and
    /// the local connection should be reset.
    pub async fn relay<R, W>(mut self, from: &mut R, to: &mut W) -> Result<(), ClientError>
    where
        R: AsyncRead + Unpin,
        W: AsyncWrite + Unpin,
    {
        let broken = &self.broken;
        let receiver = &mut self.receiver;
        {
            let mut up = std::pin::pin!(up(&mut self.sender, from, broken));
            let mut down_done = false;
            let up_done = {
                let mut down = std::pin::pin!(down(receiver, to, broken));
                tokio::select! {
                    done = &mut up => { done?; down.await?; true }
                    done = &mut down => { done?; down_done = true; false }
                }
            };
            if !up_done && down_done {
                // Nothing more can come but the news that it broke; pings are answered meanwhile.
                tokio::select! {
                    biased;
                    done = &mut up => done?,
                    error = until_broken(receiver, broken) => return Err(error),
                }
            }
        }
        self.sender.close().await;
        Ok(())
    }
}

async fn up<R: AsyncRead + Unpin>(sender: &mut Sender, from: &mut R, broken: &Broken) -> Result<(), ClientError> {
    let mut buffer = vec![0; limits::CLIENT_READ_BYTES];
    loop {
        let read = from.read(&mut buffer).await;
        let length = read.map_err(|error| broken.by(format!("the local side cannot be read: {error}")))?;
        let sent = match length {
            0 => sender.send(Channel::Close, &[Channel::Stdin as u8]).await,
            length => sender.send(Channel::Stdin, &buffer[..length]).await,
        };
        sent.map_err(|why| broken.by(why))?;
        if length == 0 {
            return Ok(());
        }
    }
}

async fn down<W: AsyncWrite + Unpin>(receiver: &mut Receiver, to: &mut W, broken: &Broken) -> Result<(), ClientError> {
    let local = |error: std::io::Error| broken.by(format!("the local side cannot be written: {error}"));
    loop {
        match receiver.next().await {
            Ok(Some((channel, bytes))) => match Channel::try_from(channel) {
                Ok(Channel::Stdout) => {
                    to.write_all(&bytes).await.map_err(local)?;
                    // What is behind it may have a buffer of its own.
                    to.flush().await.map_err(local)?;
                }
                Ok(Channel::Close) if bytes[..] == [Channel::Stdout as u8] => {
                    return to.shutdown().await.map_err(local);
                }
                Ok(Channel::Status) => said(&bytes, broken)?,
                _ => return Err(broken.by(format!("the VM sent a message for channel {channel}"))),
            },
            Ok(None) => return Err(broken.by("the VM closed it without an end of file")),
            Err(why) => return Err(broken.by(why)),
        }
    }
}

/// Reads on after the end of file, until something is wrong. A close is not: then there is just nobody to write to.
async fn until_broken(receiver: &mut Receiver, broken: &Broken) -> ClientError {
    loop {
        match receiver.next().await {
            Ok(Some((channel, bytes))) if channel == Channel::Status as u8 => {
                if let Err(error) = said(&bytes, broken) {
                    return error;
                }
            }
            Ok(Some(_)) => {}
            Ok(None) => return broken.by("the VM closed it while bytes were still to be sent"),
            Err(why) => return broken.by(why),
        }
    }
}

fn said(text: &[u8], broken: &Broken) -> Result<(), ClientError> {
    match status(text) {
        Ok(ChannelStatus::Frame(StreamFrame::Error { message, .. })) => Err(broken.by(message)),
        Ok(_) => Ok(()),
        Err(error) => Err(broken.by(error.to_string())),
    }
}
