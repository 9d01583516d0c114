//! Tunnels: a TCP port of the VM, from the host, with no network between them.
//!
//! Half-closes are messages (`close(0)`, `close(1)`) and handed on one by one, because a vsock between would turn the end of one
//! direction into that of both. A reset is an error in the tunnel, and a tunnel that breaks is a reset for the service: neither
//! side takes a cut stream for a whole one. The service is connected to before the answer, so that a refusal is an HTTP error.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use axum::{
    extract::{Query, Request, State, rejection::QueryRejection},
    response::Response,
};
use serde::Deserialize;
use socket2::SockRef;
use tokio::{
    io::AsyncWriteExt,
    net::{
        TcpStream,
        tcp::{ReadHalf, WriteHalf},
    },
};
use tokio_util::sync::CancellationToken;

use crate::{
    api::{Channel, ErrorCode},
    limits,
    server::{
        Agent,
        error::ApiError,
        path::Path,
        websocket::{Gone, Incoming, Left, Outgoing, Upgrade, Use, message_of},
    },
    sys::tcp,
};

/// Query of `GET /v1/tunnel/{port}`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Destination {
    /// Address in the VM; default 127.0.0.1.
    host: Option<String>,
}

/// `GET /v1/tunnel/{port}?host=`.
pub(super) async fn open(
    State(agent): State<Arc<Agent>>,
    Path(port): Path<u16>,
    query: Result<Query<Destination>, QueryRejection>,
    mut request: Request,
) -> Result<Response, ApiError> {
    let bad = |why: String| ApiError::new(ErrorCode::BadRequest, why);
    let Query(Destination { host }) = query.map_err(|error| bad(error.body_text()))?;
    let upgrade = Upgrade::of(&mut request)?;
    let addresses = addresses(port, host.as_deref())?;
    let place = agent.sockets.place(Use::Tunnel)?;
    let service = connect(&addresses).await?;
    let drain = agent.sockets.drain.clone();
    Ok(upgrade.start(&agent.sockets, place, move |incoming, outgoing| tunnel(incoming, outgoing, service, drain)))
}

/// Where to connect: to this VM and nowhere else.
fn addresses(port: u16, host: Option<&str>) -> Result<Vec<SocketAddr>, ApiError> {
    let wrong = |why: String| ApiError::new(ErrorCode::InvalidField, why);
    if port == 0 {
        return Err(wrong("there is no port 0; give the one that the service listens on".to_owned()));
    }
    let host = host.unwrap_or("127.0.0.1");
    if host.eq_ignore_ascii_case("localhost") {
        let both: [IpAddr; 2] = [Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()];
        return Ok(both.map(|ip| (ip, port).into()).into());
    }
    let ip = host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>().map_err(|_| {
        wrong(format!("`host` {host:?} is no address; give an IP address of this VM, or leave it out for 127.0.0.1"))
    })?;
    let ip = ip.to_canonical();
    if ip.is_loopback() {
        return Ok(vec![(ip, port).into()]);
    }
    let own = tcp::own_addresses().map_err(|error| {
        ApiError::new(ErrorCode::Internal, format!("the VM's addresses could not be listed: {error}"))
    })?;
    let found = own.into_iter().find(|address| address.ip() == ip);
    let mut address =
        found.ok_or_else(|| wrong(format!("`host` {ip} is not an address of this VM; tunnels end in it")))?;
    address.set_port(port);
    Ok(vec![address])
}

async fn connect(addresses: &[SocketAddr]) -> Result<TcpStream, ApiError> {
    let connected = tokio::time::timeout(limits::TUNNEL_CONNECT_TIME, TcpStream::connect(addresses)).await;
    let service = connected.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
    let service = service.and_then(|service| service.set_nodelay(true).map(|()| service));
    service.map_err(|error| {
        let to: Vec<_> = addresses.iter().map(SocketAddr::to_string).collect();
        let why = format!("connecting to {} in the VM failed: {error}; is the service running?", to.join(" or "));
        ApiError::new(ErrorCode::Unavailable, why)
    })
}

/// How a tunnel ends that does not end by both its half-closes.
#[derive(Debug)]
enum Broken {
    /// The client left before it was over.
    ClientLeft,
    /// The client broke the rules.
    Misused(String),
    /// The service's connection broke.
    Service(io::Error),
    /// The agent ends.
    Draining,
}

async fn tunnel(mut incoming: Incoming, mut outgoing: Outgoing, mut service: TcpStream, drain: CancellationToken) {
    let (mut from_service, mut to_service) = service.split();
    let result = tokio::select! {
        result = both_ways(&mut incoming, &mut outgoing, &mut from_service, &mut to_service) => result,
        () = drain.cancelled() => Err(Broken::Draining),
    };
    if result.is_err() {
        // Fails only on a socket that is gone, which then needs no reset.
        let _ = SockRef::from(&service).set_linger(Some(Duration::ZERO));
    }
    drop(service);
    drop(incoming);
    match result {
        Ok(()) => outgoing.finish().await,
        Err(Broken::ClientLeft) => {}
        Err(Broken::Misused(why)) => outgoing.fail(ErrorCode::BadRequest, why).await,
        Err(Broken::Service(error)) => {
            let why = format!("the service's connection broke: {error}; what came through may not be all");
            outgoing.fail(ErrorCode::Internal, why).await;
        }
        Err(Broken::Draining) => outgoing.fail(ErrorCode::Unavailable, "guestd is ending; try again").await,
    }
}

/// Which directions have ended.
#[derive(Debug, Default)]
struct Ends {
    inward: CancellationToken,
    outward: CancellationToken,
}

/// Relays until both directions have ended.
async fn both_ways(
    incoming: &mut Incoming,
    outgoing: &mut Outgoing,
    from_service: &mut ReadHalf<'_>,
    to_service: &mut WriteHalf<'_>,
) -> Result<(), Broken> {
    let ends = Ends::default();
    let mut refusal = None;
    let result = tokio::select! {
        broken = inward(incoming, to_service, &ends, &mut refusal) => Err(broken),
        result = async {
            outward(from_service, outgoing).await?;
            ends.outward.cancel();
            tokio::select! {
                () = ends.inward.cancelled() => Ok(()),
                Gone = outgoing.answer_pings() => Err(Broken::ClientLeft),
            }
        } => result,
    };
    match refusal {
        // What the service had sent before it stopped to read is delivered by now.
        Some(error) if result.is_ok() => Err(Broken::Service(error)),
        _ => result,
    }
}

/// From the client to the service. Goes on after the end of input, to see the client leave.
async fn inward(
    incoming: &mut Incoming,
    to_service: &mut WriteHalf<'_>,
    ends: &Ends,
    refusal: &mut Option<io::Error>,
) -> Broken {
    loop {
        let (channel, payload) = match incoming.next().await {
            Ok(message) => message,
            // It is over, and the client closed before we did.
            Err(Left::Closed) if ends.inward.is_cancelled() && ends.outward.is_cancelled() => {
                return std::future::pending().await;
            }
            Err(Left::Closed | Left::Gone) => return Broken::ClientLeft,
            Err(Left::Misused(why)) => return Broken::Misused(why),
        };
        let written = match channel {
            Channel::Stdin if refusal.is_some() => Ok(()),
            Channel::Stdin if ends.inward.is_cancelled() => {
                return Broken::Misused("input came after its end".to_owned());
            }
            Channel::Stdin => to_service.write_all(&payload).await,
            Channel::Close if payload[..] == [Channel::Stdin as u8] => {
                ends.inward.cancel();
                // A service that is gone already needs no end of input.
                let _ = to_service.shutdown().await;
                Ok(())
            }
            other => return Broken::Misused(format!("a tunnel takes input and its end, and {other:?} is neither")),
        };
        if let Err(error) = written {
            *refusal = Some(error);
            ends.inward.cancel();
        }
    }
}

/// From the service to the client, up to the end of file.
async fn outward(from_service: &mut ReadHalf<'_>, outgoing: &mut Outgoing) -> Result<(), Broken> {
    loop {
        tokio::select! {
            ready = from_service.readable() => ready.map_err(Broken::Service)?,
            Gone = outgoing.answer_pings() => return Err(Broken::ClientLeft),
        }
        // Room is taken only now that there is something, so that an idle tunnel costs no buffer.
        let mut message = message_of(Channel::Stdout, limits::TUNNEL_CHUNK_BYTES);
        let sent = match from_service.try_read_buf(&mut message) {
            Ok(0) => {
                let ended = outgoing.send(Channel::Close, &[Channel::Stdout as u8]).await;
                return ended.map_err(|Gone| Broken::ClientLeft);
            }
            Ok(_) => outgoing.message(message).await,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => continue,
            Err(error) => return Err(Broken::Service(error)),
        };
        sent.map_err(|Gone| Broken::ClientLeft)?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(port: u16, host: &str) -> String {
        addresses(port, Some(host)).unwrap_err().0.error
    }

    #[test]
    fn a_tunnel_leads_to_the_vms_own_loopback_unless_told() {
        assert_eq!(addresses(80, None).unwrap(), ["127.0.0.1:80".parse().unwrap()]);
        assert_eq!(addresses(80, Some("127.9.9.9")).unwrap(), ["127.9.9.9:80".parse().unwrap()]);
        assert_eq!(addresses(80, Some("[::1]")).unwrap(), ["[::1]:80".parse().unwrap()]);
        assert_eq!(addresses(80, Some("::ffff:127.0.0.1")).unwrap(), ["127.0.0.1:80".parse().unwrap()]);
        assert_eq!(addresses(80, Some("localhost")).unwrap().len(), 2);
    }

    #[test]
    fn a_tunnel_never_leads_out_of_the_vm() {
        for host in ["192.0.2.1", "2001:db8::1", "0.0.0.0", "::", "240.1.2.3"] {
            assert!(refusal(80, host).contains("not an address of this VM"), "{host}");
        }
    }

    #[test]
    fn names_and_port_0_are_refused_with_what_to_do() {
        assert!(refusal(80, "example.org").contains("give an IP address"));
        assert!(refusal(0, "::1").contains("port 0"));
    }
}
