//! Takes a port on one address, and accepts on it until told to stop.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::{Arc, atomic::Ordering::Relaxed},
};

use socket2::{Domain, Protocol, Socket, Type};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Semaphore,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{PSEUDO_IPV4_SERVICE, PortCounters, pseudo_ipv4, relay};
use crate::{limits, listeners::OwnSockets, throttle::Throttle};

/// Connections that the kernel completes before they are accepted (listen(2)).
const BACKLOG: i32 = 1024;

/// What all ports share.
#[derive(Debug, Clone)]
pub(super) struct Shared {
    /// guestd's own listening sockets.
    pub(super) own: OwnSockets,
    /// Bounds the connections over all ports.
    pub(super) connections: Arc<Semaphore>,
    /// Knows every relay.
    pub(super) relays: TaskTracker,
    /// Ends every relay with a reset.
    pub(super) cut: CancellationToken,
    /// Clients trigger what is logged here.
    pub(super) log: Arc<Throttle>,
}

/// Where connections to a service come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum SourceAddress {
    /// The client's stand-in.
    Pseudo,
    /// An address of the VM's own, where stand-ins cannot be used.
    Own(Ipv4Addr),
}

impl SourceAddress {
    /// The address at which a service is dialled from here. One on `0.0.0.0` is dialled at an address that no loopback bind
    /// can receive: at 127.0.0.1, a private service that took over the port a moment ago would answer.
    fn reach(self, service: SocketAddr) -> SocketAddr {
        let address = match self {
            _ if !service.ip().is_unspecified() => service.ip(),
            Self::Pseudo => IpAddr::V4(PSEUDO_IPV4_SERVICE),
            Self::Own(address) => IpAddr::V4(address),
        };
        SocketAddr::new(address, service.port())
    }
}

/// A port taken on one address. Accepts until it is closed.
#[derive(Debug)]
pub(super) struct Taken {
    pub(super) address: Ipv6Addr,
    inode: u64,
    own: OwnSockets,
    stop: CancellationToken,
    task: tokio::task::JoinHandle<()>,
}

impl Taken {
    /// Binds `[address]:port` and starts to accept.
    ///
    /// `SO_REUSEADDR` is set between bind and listen: so the check at bind is exact (a service that has bound the port and
    /// not listened yet is not overtaken), and the accepted sockets have the option, without which they would keep a
    /// service from binding after the bridge let go. `over_own_remains` sets it before the bind, to take a port again on
    /// which connections of the last bridge are still open or in TIME_WAIT.
    pub(super) fn take(
        address: Ipv6Addr,
        port: u16,
        over_own_remains: bool,
        own: &OwnSockets,
        serve: impl FnOnce(TcpListener, CancellationToken) -> tokio::task::JoinHandle<()>,
    ) -> io::Result<Self> {
        let socket = Socket::new(Domain::IPV6, Type::STREAM.nonblocking().cloexec(), Some(Protocol::TCP))?;
        socket.set_only_v6(true)?;
        socket.set_reuse_address(over_own_remains)?;
        socket.bind(&SocketAddr::new(address.into(), port).into())?;
        socket.set_reuse_address(true)?;
        let inode = own.enter(&socket)?;
        let listener = socket.listen(BACKLOG).and_then(|()| TcpListener::from_std(socket.into()));
        let listener = listener.inspect_err(|_| own.forget(inode))?;
        let stop = CancellationToken::new();
        let task = serve(listener, stop.clone());
        Ok(Self { address, inode, own: own.clone(), stop, task })
    }

    /// Lets the port go. When this returns, it is free; accepted connections live on.
    pub(super) async fn close(self) {
        self.stop.cancel();
        // An accept task that panicked has dropped its listener all the same.
        let _ = self.task.await;
        self.own.forget(self.inode);
    }
}

/// Accepts and relays until `stop`.
pub(super) async fn serve(
    listener: TcpListener,
    to: SocketAddr,
    source: SourceAddress,
    counters: Arc<PortCounters>,
    shared: Shared,
    stop: CancellationToken,
) {
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = stop.cancelled() => return,
        };
        match accepted {
            Ok((client, peer)) => {
                counters.accepted.fetch_add(1, Relaxed);
                let Ok(permit) = Arc::clone(&shared.connections).try_acquire_owned() else {
                    if let Some(times) = shared.log.pass() {
                        tracing::warn!(
                            limit = limits::BRIDGE_CONNECTIONS,
                            times,
                            "bridge: connections refused at the limit"
                        );
                    }
                    counters.errors.fetch_add(1, Relaxed);
                    relay::reset_on_close(&client);
                    continue;
                };
                let counters = Arc::clone(&counters);
                let cut = shared.cut.clone();
                shared.relays.spawn(async move {
                    counters.open.fetch_add(1, Relaxed);
                    let result = bridge_one(&client, peer, to, source, &counters, &cut).await;
                    counters.open.fetch_sub(1, Relaxed);
                    if let Err(error) = result {
                        counters.errors.fetch_add(1, Relaxed);
                        relay::reset_on_close(&client);
                        tracing::debug!(%peer, %to, %error, "bridge: connection reset");
                    }
                    drop(permit);
                });
            }
            Err(error) => {
                counters.errors.fetch_add(1, Relaxed);
                if let Some(times) = shared.log.pass() {
                    tracing::warn!(%error, times, "bridge: accept failed");
                }
                // Out of descriptors or memory: the connection stays in the queue, and trying at once would spin.
                tokio::select! {
                    () = tokio::time::sleep(limits::ACCEPT_PAUSE) => {}
                    () = stop.cancelled() => return,
                }
            }
        }
    }
}

async fn bridge_one(
    client: &TcpStream,
    peer: SocketAddr,
    to: SocketAddr,
    source: SourceAddress,
    counters: &PortCounters,
    cut: &CancellationToken,
) -> io::Result<()> {
    let from = match (source, peer.ip()) {
        (SourceAddress::Pseudo, IpAddr::V6(address)) => pseudo_ipv4(address),
        (SourceAddress::Own(address), IpAddr::V6(_)) => address,
        (_, IpAddr::V4(_)) => return Err(io::Error::other("an IPv4 client on an IPv6-only socket")),
    };
    let to = source.reach(to);
    let relayed = async {
        let service = relay::connect(from, to).await?;
        relay::relay(client, &service, counters).await.inspect_err(|_| relay::reset_on_close(&service))
    };
    cut.run_until_cancelled(relayed).await.unwrap_or_else(|| Err(io::Error::other("the agent stops")))
}
