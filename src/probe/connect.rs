//! The connections of a probe.

use std::{
    collections::BTreeMap,
    io,
    net::SocketAddrV6,
    time::{Duration, Instant},
};

use futures_util::{StreamExt, stream};
use tokio::{
    io::{AsyncRead, AsyncReadExt},
    net::{TcpSocket, TcpStream},
    time::{sleep, timeout},
};

use crate::{api::ProbeOutcome, limits};

/// What came of one connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    /// In the API's words.
    pub outcome: ProbeOutcome,
    /// Until it was accepted or refused.
    pub connect_time: Option<Duration>,
    /// What the service said first, escaped.
    pub banner: Option<String>,
}

impl Seen {
    pub(super) fn only(outcome: ProbeOutcome) -> Self {
        Self { outcome, connect_time: None, banner: None }
    }
}

/// Connects to each target by `dial` and sees what comes of it, some at once, and all within [`limits::PROBE_TIME`]: a target that
/// is not in the answer was not tried. Connections end with this future.
pub async fn connect<D, C, S>(targets: impl IntoIterator<Item = SocketAddrV6>, dial: D) -> BTreeMap<SocketAddrV6, Seen>
where
    D: Fn(SocketAddrV6) -> C,
    C: Future<Output = io::Result<S>>,
    S: AsyncRead + Unpin,
{
    let dial = &dial;
    let tries = stream::iter(targets).map(|target| async move { (target, see(dial(target)).await) });
    tries.buffer_unordered(limits::PROBE_CONNECTIONS).take_until(sleep(limits::PROBE_TIME)).collect().await
}

/// Connects from an address of the VM to the same address.
///
/// # Errors
/// Those of connect(2), and of bind(2) where the VM has lost the address.
pub async fn dial_own(target: SocketAddrV6) -> io::Result<TcpStream> {
    let socket = TcpSocket::new_v6()?;
    // Bound to the address first: should it not be the VM's any more, that fails, and nothing leaves the VM.
    socket.bind(SocketAddrV6::new(*target.ip(), 0, 0, target.scope_id()).into())?;
    if socket.local_addr()?.port() == target.port() {
        // The kernel gave us the very port, so nobody has it; connecting would connect this socket to itself.
        return Err(io::ErrorKind::ConnectionRefused.into());
    }
    socket.connect(target.into()).await
}

async fn see<S: AsyncRead + Unpin>(dialling: impl Future<Output = io::Result<S>>) -> Seen {
    let begun = Instant::now();
    let mut stream = match timeout(limits::PROBE_CONNECT_TIME, dialling).await {
        Err(_) => return Seen::only(ProbeOutcome::TimedOut),
        Ok(Err(error)) => {
            let outcome = outcome_of(&error);
            let answered = matches!(outcome, ProbeOutcome::Refused | ProbeOutcome::Reset);
            let connect_time = answered.then(|| begun.elapsed());
            return Seen { outcome, connect_time, banner: None };
        }
        Ok(Ok(stream)) => stream,
    };
    let connect_time = Some(begun.elapsed());
    let mut first = [0; limits::PROBE_BANNER_BYTES];
    let (outcome, banner) = match timeout(limits::PROBE_LISTEN_TIME, stream.read(&mut first)).await {
        Err(_) => (ProbeOutcome::Accepted, None),
        Ok(Ok(0)) => (ProbeOutcome::Closed, None),
        Ok(Ok(length)) => (ProbeOutcome::Banner, Some(first[..length].escape_ascii().to_string())),
        Ok(Err(_)) => (ProbeOutcome::Reset, None),
    };
    Seen { outcome, connect_time, banner }
}

/// What an error of a connection means.
fn outcome_of(error: &io::Error) -> ProbeOutcome {
    use io::ErrorKind::{
        AddrNotAvailable, BrokenPipe, ConnectionRefused, ConnectionReset, HostUnreachable, NetworkUnreachable,
        PermissionDenied, TimedOut,
    };
    match error.kind() {
        ConnectionRefused => ProbeOutcome::Refused,
        // Accepted and reset before the connect was seen to be over (EPIPE: after an end).
        ConnectionReset | BrokenPipe => ProbeOutcome::Reset,
        TimedOut => ProbeOutcome::TimedOut,
        AddrNotAvailable | HostUnreachable | NetworkUnreachable | PermissionDenied => ProbeOutcome::Unreachable,
        // Out of descriptors, say: nothing is known of the service.
        _ => ProbeOutcome::NotTried,
    }
}

#[cfg(test)]
mod tests {
    use std::{
        net::Ipv6Addr,
        sync::atomic::{AtomicUsize, Ordering::SeqCst},
    };

    use tokio::io::AsyncWriteExt;

    use super::*;

    fn target(port: u16) -> SocketAddrV6 {
        SocketAddrV6::new(Ipv6Addr::LOCALHOST, port, 0, 0)
    }

    fn targets(count: usize) -> Vec<SocketAddrV6> {
        (1..=count).map(|port| target(port as u16)).collect()
    }

    /// A stream on which the service has said this, and waits if it is to.
    fn said(text: &'static [u8], waits: bool) -> io::Result<Box<dyn AsyncRead + Send + Unpin>> {
        if waits {
            let (ours, mut theirs) = tokio::io::duplex(1024);
            tokio::spawn(async move {
                theirs.write_all(text).await.unwrap();
                std::future::pending::<()>().await;
            });
            return Ok(Box::new(ours));
        }
        Ok(Box::new(text))
    }

    #[tokio::test(start_paused = true)]
    async fn each_way_that_a_service_can_be_is_told_from_the_others() {
        let seen = connect(targets(9), async |target: SocketAddrV6| match target.port() {
            1 => said(b"", true),
            2 => said(b"SSH-2.0-x\r\n\x1b[2J\xff", true),
            3 => said(b"", false),
            4 => Ok(Box::new(reset_at_once()) as Box<dyn AsyncRead + Send + Unpin>),
            5 => Err(io::ErrorKind::ConnectionRefused.into()),
            6 => std::future::pending().await,
            7 => Err(io::Error::from_raw_os_error(libc::EADDRNOTAVAIL)),
            8 => Err(io::Error::from_raw_os_error(libc::EMFILE)),
            _ => said(&[b'a'; 1000], true),
        })
        .await;
        use ProbeOutcome::{Accepted, Banner, Closed, NotTried, Refused, Reset, TimedOut, Unreachable};
        let outcomes: Vec<_> = seen.values().map(|seen| seen.outcome).collect();
        assert_eq!(outcomes, [Accepted, Banner, Closed, Reset, Refused, TimedOut, Unreachable, NotTried, Banner]);
        assert_eq!(seen[&target(2)].banner.as_deref(), Some(r"SSH-2.0-x\r\n\x1b[2J\xff"));
        assert_eq!(seen[&target(9)].banner.as_ref().unwrap().len(), limits::PROBE_BANNER_BYTES);
        let timed: Vec<_> =
            seen.iter().filter(|(_, seen)| seen.connect_time.is_some()).map(|(at, _)| at.port()).collect();
        assert_eq!(timed, [1, 2, 3, 4, 5, 9]);
    }

    /// A connection that is reset at the first read.
    fn reset_at_once() -> impl AsyncRead + Send + Unpin {
        struct Reset;
        impl AsyncRead for Reset {
            fn poll_read(
                self: std::pin::Pin<&mut Self>,
                _: &mut std::task::Context<'_>,
                _: &mut tokio::io::ReadBuf<'_>,
            ) -> std::task::Poll<io::Result<()>> {
                std::task::Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()))
            }
        }
        Reset
    }

    #[tokio::test(start_paused = true)]
    async fn a_probe_makes_no_more_connections_at_once_than_its_limit_and_ends_in_its_time() {
        let (open, most) = (AtomicUsize::new(0), AtomicUsize::new(0));
        let begun = tokio::time::Instant::now();
        let seen = connect(targets(5000), async |_| {
            most.fetch_max(open.fetch_add(1, SeqCst) + 1, SeqCst);
            // Not accepted, and given up by the one who waits.
            sleep(limits::PROBE_CONNECT_TIME / 2).await;
            open.fetch_sub(1, SeqCst);
            Err::<TcpStream, _>(io::ErrorKind::ConnectionRefused.into())
        })
        .await;
        assert_eq!(most.into_inner(), limits::PROBE_CONNECTIONS);
        assert!(seen.len() >= 18 * limits::PROBE_CONNECTIONS && seen.len() <= 20 * limits::PROBE_CONNECTIONS);
        assert!(begun.elapsed() <= limits::PROBE_TIME + Duration::from_millis(10), "{:?}", begun.elapsed());
    }

    #[tokio::test]
    async fn an_address_that_is_not_the_vms_is_never_connected_to() {
        // Documentation's prefix (RFC 3849), which nobody has.
        let elsewhere = SocketAddrV6::new("2001:db8::1".parse().unwrap(), 80, 0, 0);
        let error = dial_own(elsewhere).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AddrNotAvailable);
        let listener = std::net::TcpListener::bind("[::1]:0").unwrap();
        dial_own(target(listener.local_addr().unwrap().port())).await.unwrap();
    }
}
