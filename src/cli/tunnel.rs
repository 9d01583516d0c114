//! `guestctl tunnel`: TCP ports of the VM at a local one, or on standard input and output.
//!
//! Each connection has a WebSocket of its own. Ends are exact: an end of file is passed on as one, and what broke is reset, never
//! ended.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf as _, Bytes};
use serde::Serialize;
use tokio::io::{AsyncRead, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::sleep;

use crate::client::Client;
use crate::limits;

use super::failure::{Failure, exit};
use super::input::{self, Input};
use super::output::{self, Output};
use super::stdout;
use super::text::escape;

/// `[BIND:]PORT:HOST:PORT`, parsed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Route {
    /// Local address.
    bind: SocketAddr,
    /// Address in the VM.
    host: String,
    /// Port in the VM.
    port: u16,
}

impl Route {
    /// As ssh -L has it; IPv6 addresses in brackets.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let usage = "give [BIND:]PORT:HOST:PORT, for example 8080:127.0.0.1:3000; IPv6 addresses in brackets";
        let parts = split(text).ok_or(usage)?;
        let (bind, local, host, port) = match parts[..] {
            [local, host, port] => (None, local, host, port),
            [bind, local, host, port] => (Some(bind), local, host, port),
            _ => return Err(usage.to_owned()),
        };
        let number = |port: &str| port.parse::<u16>().map_err(|_| format!("`{port}` is no port: {usage}"));
        let bind = match bind {
            None | Some("localhost") => IpAddr::V4(Ipv4Addr::LOCALHOST),
            Some(bind) => bind.parse().map_err(|_| format!("`{bind}` is no address to bind to: {usage}"))?,
        };
        let port = number(port).ok().filter(|port| *port > 0).ok_or(usage)?;
        if host.is_empty() {
            return Err(usage.to_owned());
        }
        Ok(Self { bind: SocketAddr::new(bind, number(local)?), host: host.to_owned(), port })
    }
}

/// At colons that stand outside of brackets, which are taken off.
fn split(text: &str) -> Option<Vec<&str>> {
    let (mut parts, mut rest) = (Vec::new(), text);
    loop {
        let (part, after) = match rest.strip_prefix('[') {
            Some(inner) => inner.split_once(']')?,
            None => rest.split_at(rest.find(':').unwrap_or(rest.len())),
        };
        parts.push(part);
        match after.strip_prefix(':') {
            Some(next) => rest = next,
            None if after.is_empty() => return Some(parts),
            None => return None,
        }
    }
}

/// What is said when connections are taken.
#[derive(Debug, Serialize)]
struct Listening {
    listen: SocketAddr,
    host: String,
    port: u16,
}

/// Passes connections on until a signal ends guestctl.
pub(super) async fn listen(client: &Client, route: Route, output: Output) -> Result<u8, Failure> {
    let failed = |error| Failure::Listen { address: route.bind.to_string(), error };
    let listener = TcpListener::bind(route.bind).await.map_err(failed)?;
    let listen = listener.local_addr().map_err(failed)?;
    let said = Listening { listen, host: route.host.clone(), port: route.port };
    output.show(&said, |said, _| {
        format!("{} is port {} of {} in the VM\n", said.listen, said.port, escape(&said.host))
    })?;
    let mut connections = JoinSet::new();
    loop {
        while connections.len() >= limits::CLIENT_TUNNEL_CONNECTIONS {
            connections.join_next().await;
        }
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((local, _)) => {
                    connections.spawn(pass(client.clone(), route.clone(), local));
                }
                // Out of descriptors or memory, or a connection that has gone again: those that run go on.
                Err(error) => {
                    output::stderr(format!("guestctl: cannot accept a connection: {error}\n").as_bytes());
                    sleep(limits::ACCEPT_PAUSE).await;
                }
            },
            Some(_) = connections.join_next() => {}
        }
    }
}

/// One connection. Its failure is told, and is its own.
async fn pass(client: Client, route: Route, mut local: TcpStream) {
    // Where it fails, bytes only wait longer.
    let _ = local.set_nodelay(true);
    let passed = async {
        let tunnel = client.tunnel(route.port, Some(&route.host)).await?;
        let (mut from, mut to) = local.split();
        tunnel.relay(&mut from, &mut to).await
    };
    if let Err(error) = passed.await {
        // A reset, so that what is missing is not taken for the end.
        let _ = local.set_zero_linger();
        output::stderr(Failure::Client(error).lines().as_bytes());
    }
}

/// Passes standard input and output on to one port.
pub(super) async fn stdio(client: &Client, port: u16) -> Result<u8, Failure> {
    let tunnel = client.tunnel(port, None).await?;
    let mut from = Stdin { input: input::start()?, rest: Bytes::new() };
    let (mut to, mut received) = tokio::io::duplex(limits::CLIENT_READ_BYTES);
    // Its failure is told when what came before it is written, which ends when `to` is dropped.
    let relay = async move { Ok(tunnel.relay(&mut from, &mut to).await) };
    let (relayed, received) = tokio::try_join!(relay, stdout::pass_on(&mut received))?;
    relayed?;
    received.map_err(Failure::Stdout)?;
    Ok(exit::OK)
}

/// Standard input, read by its thread.
struct Stdin {
    input: Input,
    rest: Bytes,
}

impl AsyncRead for Stdin {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.rest.is_empty() {
            match ready!(self.input.poll_recv(context)) {
                Some(read) => self.rest = read?,
                None => return Poll::Ready(Ok(())),
            }
        }
        let length = self.rest.len().min(buffer.remaining());
        buffer.put_slice(&self.rest[..length]);
        self.rest.advance(length);
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn route(text: &str) -> Option<(String, String, u16)> {
        Route::parse(text).ok().map(|route| (route.bind.to_string(), route.host, route.port))
    }

    #[test]
    fn a_route_is_written_as_for_ssh() {
        let of = |bind: &str, host: &str, port| Some((bind.to_owned(), host.to_owned(), port));
        assert_eq!(route("8080:127.0.0.1:3000"), of("127.0.0.1:8080", "127.0.0.1", 3000));
        assert_eq!(route("0:localhost:22"), of("127.0.0.1:0", "localhost", 22));
        assert_eq!(route("0.0.0.0:80:127.0.0.1:80"), of("0.0.0.0:80", "127.0.0.1", 80));
        assert_eq!(route("[::1]:80:[fd00::2]:443"), of("[::1]:80", "fd00::2", 443));
    }

    #[test]
    fn what_is_no_route_is_refused() {
        for wrong in [
            "",
            "80",
            "80:80",
            "80::80",
            "80:h:0",
            "80:h:x",
            "h:80:h:80",
            "70000:h:1",
            "[::1:80:h:80",
            "[::1]x:80:h:80",
            "1:2:3:4:5",
        ] {
            assert_eq!(route(wrong), None, "{wrong}");
        }
    }
}
