//! One accept loop for every transport: who may connect, how many at once, and how they end.
//!
//! A connection is served until its peer closes it, asks for nothing for long, or the agent drains: then a running response is
//! completed and the connection closed. Accept errors never end the loop.

use std::{io, sync::Arc, time::Duration};

use axum::{Router, response::IntoResponse};
use hyper::{Request, body::Incoming, service::service_fn};
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    sync::Semaphore,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{error::ApiError, patience::watched};
use crate::{api::ErrorCode, limits, throttle::Throttle};

/// Time that a refused peer has to read why.
const REFUSAL_TIME: Duration = Duration::from_secs(2);

/// Who is at the other end, as the kernel says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Peer {
    /// vsock(7), by context id.
    Vsock {
        /// Context id of the peer.
        cid: u32,
    },
    /// unix(7), by SO_PEERCRED.
    Unix {
        /// User id of the peer.
        uid: u32,
    },
}

impl Peer {
    /// VMADDR_CID_HOST of vsock(7).
    const HOST_CID: u32 = 2;

    /// May this peer use the API of an agent that runs as `agent_uid`?
    ///
    /// # Errors
    /// The reason for the refusal.
    pub fn admit(self, agent_uid: u32) -> Result<(), String> {
        match self {
            Self::Vsock { cid: Self::HOST_CID } => Ok(()),
            Self::Vsock { cid } => Err(format!(
                "vsock is for the host (CID 2) and this peer has CID {cid}; inside the VM, use the Unix socket as root"
            )),
            Self::Unix { uid } if uid == 0 || uid == agent_uid => Ok(()),
            Self::Unix { uid } => Err(format!("the socket is for root and this peer has uid {uid}; use sudo")),
        }
    }
}

/// A transport that hands out connections.
pub trait Accept: Send + 'static {
    /// Its connections.
    type Connection: AsyncRead + AsyncWrite + Unpin + Send + 'static;

    /// Waits for the next connection.
    fn accept(&mut self) -> impl Future<Output = io::Result<(Self::Connection, Peer)>> + Send;
}

/// Serves connections until `drain`, then stops to accept and lets each complete its response.
///
/// `connections` knows every connection, so that the caller can wait for them. `noticed` is called when somebody connects and when a
/// connection breaks off: after a restore, both come soon.
pub async fn serve(
    mut endpoint: impl Accept,
    router: Router,
    connections: TaskTracker,
    drain: CancellationToken,
    noticed: impl Fn() + Clone + Send + 'static,
) {
    let agent_uid = nix::unistd::geteuid().as_raw();
    let served = Arc::new(Semaphore::new(limits::CONNECTIONS));
    let log = Throttle::default();
    let refused = Arc::new(Semaphore::new(limits::REFUSED_CONNECTIONS));
    loop {
        let accepted = tokio::select! {
            accepted = endpoint.accept() => accepted,
            () = drain.cancelled() => return,
        };
        let (connection, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                if let Some(times) = log.pass() {
                    tracing::warn!(%error, times, "accept failed");
                }
                // Out of descriptors or memory: trying again at once would spin.
                tokio::select! {
                    () = tokio::time::sleep(limits::ACCEPT_PAUSE) => continue,
                    () = drain.cancelled() => return,
                }
            }
        };
        let admitted = peer.admit(agent_uid);
        let places = if admitted.is_ok() { &served } else { &refused };
        let Ok(place) = Arc::clone(places).try_acquire_owned() else {
            // No place even for an answer: a closed connection is the answer.
            if let Some(times) = log.pass() {
                tracing::warn!(?peer, times, "connections closed at the limit");
            }
            continue;
        };
        match admitted {
            Ok(()) => {
                noticed();
                let (router, drain, noticed) = (router.clone(), drain.clone(), noticed.clone());
                connections.spawn(async move {
                    if serve_one(connection, peer, router, drain).await.is_err() {
                        noticed();
                    }
                    drop(place);
                });
            }
            Err(why) => {
                if let Some(times) = log.pass() {
                    tracing::warn!(?peer, times, "connections refused");
                }
                connections.spawn(async move {
                    let refuse = Router::new()
                        .fallback(move || async { ApiError::new(ErrorCode::PeerForbidden, why).into_response() });
                    let told = serve_one(connection, peer, refuse, CancellationToken::new());
                    // A refused peer that does not ask anything is simply closed.
                    let _ = tokio::time::timeout(REFUSAL_TIME, told).await;
                    drop(place);
                });
            }
        }
    }
}

async fn serve_one(
    connection: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    peer: Peer,
    router: Router,
    drain: CancellationToken,
) -> hyper::Result<()> {
    let mut http = hyper::server::conn::http1::Builder::new();
    let (connection, timer) = watched(connection);
    http.timer(timer).header_read_timeout(limits::REQUEST_HEADER_TIME).max_buf_size(limits::REQUEST_HEADER_BYTES);
    let service = service_fn(move |mut request: Request<Incoming>| {
        // Some calls are for the host alone.
        request.extensions_mut().insert(peer);
        tower::Service::call(&mut router.clone(), request)
    });
    let serving = http.serve_connection(TokioIo::new(connection), service).with_upgrades();
    tokio::pin!(serving);
    let result = tokio::select! {
        result = serving.as_mut() => result,
        () = drain.cancelled() => {
            serving.as_mut().graceful_shutdown();
            serving.await
        }
    };
    result.inspect_err(|error| tracing::debug!(%error, "connection ended"))
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
    use tokio::time::{Instant, sleep};

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);
    const REQUEST: &[u8] = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\nhi";

    /// The other end of a connection that is served.
    fn connected() -> DuplexStream {
        let (ours, theirs) = tokio::io::duplex(4096);
        let router = Router::new().fallback(async |_: axum::body::Bytes| "answer");
        tokio::spawn(serve_one(theirs, Peer::Unix { uid: 0 }, router, CancellationToken::new()));
        ours
    }

    async fn ask(connection: &mut DuplexStream, request: &[u8]) {
        connection.write_all(request).await.unwrap();
        let mut answer = Vec::new();
        while !answer.ends_with(b"answer") {
            answer.push(connection.read_u8().await.unwrap());
        }
        assert!(answer.starts_with(b"HTTP/1.1 200 OK\r\n"));
    }

    /// After which time it is closed without an answer.
    async fn closed_after(mut connection: DuplexStream) -> Duration {
        let start = Instant::now();
        assert_eq!(connection.read(&mut [0]).await.unwrap(), 0);
        start.elapsed()
    }

    /// tokio's timers count in milliseconds.
    fn about(found: Duration, expected: Duration) -> bool {
        found >= expected && found < expected + SECOND
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_that_is_kept_may_be_idle_for_long_and_not_for_ever() {
        let mut connection = connected();
        for _ in 0..3 {
            ask(&mut connection, REQUEST).await;
            sleep(limits::IDLE_TIME - SECOND).await;
        }
        ask(&mut connection, REQUEST).await;
        let took = closed_after(connection).await;
        assert!(about(took, limits::IDLE_TIME), "{took:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_head_that_was_begun_has_its_own_time_also_on_a_connection_that_was_idle() {
        let mut connection = connected();
        ask(&mut connection, REQUEST).await;
        sleep(limits::IDLE_TIME / 2).await;
        let (first, rest) = REQUEST.split_at(5);
        connection.write_all(first).await.unwrap();
        sleep(limits::REQUEST_HEADER_TIME - SECOND).await;
        ask(&mut connection, rest).await;
        sleep(limits::IDLE_TIME / 2).await;
        // A byte now and then does not prolong it.
        for byte in &REQUEST[..9] {
            connection.write_all(&[*byte]).await.unwrap();
            sleep(SECOND).await;
        }
        let took = closed_after(connection).await + 9 * SECOND;
        assert!(about(took, limits::REQUEST_HEADER_TIME), "{took:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_that_never_asks_is_closed_soon() {
        let took = closed_after(connected()).await;
        assert!(about(took, limits::REQUEST_HEADER_TIME), "{took:?}");
        let mut connection = connected();
        sleep(5 * SECOND).await;
        connection.write_all(&REQUEST[..9]).await.unwrap();
        let took = closed_after(connection).await + 5 * SECOND;
        assert!(about(took, limits::REQUEST_HEADER_TIME), "{took:?}");
    }

    #[test]
    fn only_the_host_and_root_are_admitted() {
        assert!(Peer::Vsock { cid: 2 }.admit(0).is_ok());
        for cid in [0, 1, 3, 42, u32::MAX] {
            assert!(Peer::Vsock { cid }.admit(0).unwrap_err().contains(&format!("CID {cid}")));
        }
        assert!(Peer::Unix { uid: 0 }.admit(0).is_ok());
        assert!(Peer::Unix { uid: 1000 }.admit(1000).is_ok());
        assert!(Peer::Unix { uid: 1000 }.admit(0).unwrap_err().contains("uid 1000"));
    }
}
