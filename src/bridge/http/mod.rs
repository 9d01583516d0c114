//! A bridge of mode `http`: a reverse proxy for the HTTP/1 connection of one client, which tells the service who the client is.
//!
//! ```text
//! client ──> ClientSide (refuses what can be read in two ways) ──> hyper's server ──> headers ──> hyper's client ──> service
//! ```
//!
//! One connection to the service for each of a client, dialled when the first request comes and anew when the service has closed it.
//! Bodies stream; of each direction hyper holds [`limits::BRIDGE_HTTP_HEAD_BYTES`] at most. There is no time-out, as in the other
//! modes: keepalive finds clients that have vanished, a reset is handed on at once. A client that has only ended its side may wait
//! for its answer still, so the service is not told before it writes in vain. It refuses an upgrade to HTTP/2, in which requests would go by unseen.

mod client_side;
mod headers;
mod requests;
mod shared_stream;

use std::{
    convert::Infallible,
    future::Future,
    io,
    net::SocketAddr,
    pin::pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use bytes::Bytes;
use client_side::{ClientSide, Decision};
use http_body_util::{Either, Full};
use hyper::{
    Method, Request, Response, StatusCode, Version,
    body::{Body as _, Incoming},
    client::conn::http1 as client,
    header::{CONTENT_TYPE, HeaderValue},
    server::conn::http1 as server,
    service::service_fn,
    upgrade::OnUpgrade,
};
use hyper_util::rt::TokioIo;
use shared_stream::{Resettable, SharedStream};
use tokio::{
    io::{Interest, copy_bidirectional},
    net::TcpStream,
    time::timeout,
};
use tokio_util::sync::CancellationToken;

use super::PortCounters;
use crate::limits;

type Body = Either<Incoming, Full<Bytes>>;

/// The answer of guestd itself, where the service gives none.
type Refusal = (StatusCode, String);

/// Both ends of what was a connection of requests.
type Tunnel = (OnUpgrade, OnUpgrade);

/// Serves what a client asks on `stream`, until either end closes it or it is `cut`. `dial` connects to the service, from an address
/// that tells clients apart. Bytes and errors are counted, connections are the caller's to count.
///
/// # Errors
/// The connection broke off on either side, or was cut; both were reset.
pub async fn serve<D, F>(
    stream: TcpStream,
    peer: SocketAddr,
    dial: D,
    counters: Arc<PortCounters>,
    cut: CancellationToken,
) -> io::Result<()>
where
    D: Fn() -> F,
    F: Future<Output = io::Result<TcpStream>>,
{
    let local = stream.local_addr()?;
    let stream = SharedStream::new(stream);
    let decision = Arc::new(Decision::default());
    let proxy = Proxy {
        peer,
        local,
        dial,
        counters: Arc::clone(&counters),
        decision: Arc::clone(&decision),
        service: Mutex::default(),
        service_stream: Mutex::default(),
        tunnel: Mutex::default(),
        requests: AtomicU64::new(0),
    };
    let client = ClientSide::new(stream.clone(), Arc::clone(&counters), decision);
    // What is dropped is closed, and what is closed cannot be reset any more: it lives until that is done.
    let mut requests = pin!(requests(client, &proxy));
    let served = async {
        tokio::select! {
            // What has come to its end has done so, whatever the client does then.
            biased;
            served = requests.as_mut() => served,
            error = reset(stream.get()) => Err(error),
        }
    };
    let served = cut.run_until_cancelled(served).await;
    let was_cut = served.is_none();
    match served.unwrap_or_else(|| Err(io::Error::other("the connection was cut"))) {
        Ok(()) => {
            // The service need not wait for what the client does.
            *lock(&proxy.service) = None;
            cut.run_until_cancelled(linger(stream.get())).await;
            Ok(())
        }
        Err(error) => {
            // To be cut is no failure of anybody, in this mode as in the others.
            if !was_cut {
                counters.errors.fetch_add(1, Relaxed);
            }
            stream.resettable().reset_on_close();
            lock(&proxy.service_stream).reset_on_close();
            Err(error)
        }
    }
}

/// Waits until the client has reset the connection. hyper does not read while the service has not answered.
async fn reset(stream: &TcpStream) -> io::Error {
    match stream.ready(Interest::ERROR).await {
        Ok(_) => io::ErrorKind::ConnectionReset.into(),
        Err(error) => error,
    }
}

async fn requests<D, F>(client: ClientSide, proxy: &Proxy<D>) -> io::Result<()>
where
    D: Fn() -> F,
    F: Future<Output = io::Result<TcpStream>>,
{
    let connection = server::Builder::new()
        .preserve_header_case(true)
        .auto_date_header(false)
        // A client that has said all may still wait for the answer.
        .half_close(true)
        .max_buf_size(limits::BRIDGE_HTTP_HEAD_BYTES)
        .serve_connection(client, service_fn(|request| proxy.answer(request)))
        .with_upgrades();
    let mut connection = pin!(connection);
    match connection.as_mut().await {
        Ok(()) => {}
        // What the client got for an answer says so; it is no broken connection.
        Err(error) if error.is_parse() => return Ok(()),
        Err(error) => {
            lock(&proxy.service_stream).reset_on_close();
            return Err(io::Error::other(error));
        }
    }
    let Some((client, service)) = lock(&proxy.tunnel).take() else { return Ok(()) };
    let client = client.await.map_err(io::Error::other)?;
    let service = service.await.map_err(io::Error::other)?;
    let (mut client, mut service) = (TokioIo::new(client), TokioIo::new(service));
    let copied = copy_bidirectional(&mut client, &mut service).await;
    if copied.is_err() {
        lock(&proxy.service_stream).reset_on_close();
    }
    copied.map(drop)
}

/// Throws away what the client still sends, for a moment.
async fn linger(stream: &TcpStream) {
    let _ = socket2::SockRef::from(stream).shutdown(std::net::Shutdown::Write);
    let discard = async {
        let (mut left, mut piece) = (limits::BRIDGE_HTTP_LINGER_BYTES, [0; 4096]);
        while left > 0 && stream.readable().await.is_ok() {
            match stream.try_read(&mut piece) {
                Ok(0) => return,
                Ok(length) => left = left.saturating_sub(length),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(_) => return,
            }
        }
    };
    // In time or not, it is closed then.
    let _ = timeout(limits::BRIDGE_HTTP_LINGER_TIME, discard).await;
}

struct Proxy<D> {
    peer: SocketAddr,
    /// The address that the client connected to.
    local: SocketAddr,
    dial: D,
    counters: Arc<PortCounters>,
    decision: Arc<Decision>,
    /// The connection to the service, while no request has it.
    service: Mutex<Option<client::SendRequest<Body>>>,
    service_stream: Mutex<Resettable>,
    tunnel: Mutex<Option<Tunnel>>,
    requests: AtomicU64,
}

impl<D, F> Proxy<D>
where
    D: Fn() -> F,
    F: Future<Output = io::Result<TcpStream>>,
{
    async fn answer(&self, request: Request<Incoming>) -> Result<Response<Body>, Infallible> {
        let number = self.requests.fetch_add(1, Relaxed) + 1;
        let answer = self.pass_on(request).await;
        let changes = matches!(&answer, Ok((_, Some(_))));
        self.decision.answered(number, changes);
        Ok(match answer {
            Ok((response, tunnel)) => {
                *lock(&self.tunnel) = tunnel;
                response.map(Either::Left)
            }
            Err((status, why)) => {
                self.counters.errors.fetch_add(1, Relaxed);
                let mut response = Response::new(Either::Right(Full::new(Bytes::from(format!("{why}\n")))));
                *response.status_mut() = status;
                let plain = HeaderValue::from_static("text/plain; charset=utf-8");
                response.headers_mut().insert(CONTENT_TYPE, plain);
                response
            }
        })
    }

    async fn pass_on(&self, mut request: Request<Incoming>) -> Result<(Response<Incoming>, Option<Tunnel>), Refusal> {
        let is_connect = request.method() == Method::CONNECT;
        let client_upgrade = hyper::upgrade::on(&mut request);
        headers::strip_hop_by_hop(request.headers_mut());
        headers::add_client(request.headers_mut(), self.peer.ip().to_canonical());
        let target = request.uri().clone();
        headers::add_host(request.headers_mut(), &target, self.local);
        *request.version_mut() = Version::HTTP_11;
        // Without a body it can be sent twice.
        let request =
            request.map(|body| if body.is_end_stream() { Either::Right(Full::default()) } else { Either::Left(body) });
        let mut response = self.send(request).await?;
        let status = response.status();
        let changes = status == StatusCode::SWITCHING_PROTOCOLS || (is_connect && status.is_success());
        let tunnel = changes.then(|| (client_upgrade, hyper::upgrade::on(&mut response)));
        headers::strip_hop_by_hop(response.headers_mut());
        // hyper says what the client understands.
        *response.version_mut() = Version::HTTP_11;
        Ok((response, tunnel))
    }

    /// Sends it on the connection that there is, or on a new one where the service has closed that.
    async fn send(&self, request: Request<Body>) -> Result<Response<Incoming>, Refusal> {
        let kept = lock(&self.service).take();
        let request = match kept {
            None => request,
            Some(mut service) => {
                // The service may close it at this very moment. What was not sent then is sent on another, and what changes nothing
                // is asked again.
                let harmless = request.method().is_safe() && request.body().is_end_stream();
                let copy = harmless.then(|| copy_of(&request));
                match try_send(&mut service, request).await {
                    Ok(response) => {
                        *lock(&self.service) = Some(service);
                        return Ok(response);
                    }
                    Err((error, unsent)) => unsent.or(copy).ok_or_else(|| refusal(&error))?,
                }
            }
        };
        let mut service = self.connect().await?;
        let response = try_send(&mut service, request).await.map_err(|(error, _)| refusal(&error))?;
        *lock(&self.service) = Some(service);
        Ok(response)
    }

    async fn connect(&self) -> Result<client::SendRequest<Body>, Refusal> {
        let unreachable = |why: String| (StatusCode::BAD_GATEWAY, format!("guestd cannot reach the service: {why}"));
        let stream = (self.dial)().await.map_err(|error| unreachable(error.to_string()))?;
        let stream = SharedStream::new(stream);
        *lock(&self.service_stream) = stream.resettable();
        let (sender, connection) = client::Builder::new()
            .preserve_header_case(true)
            .max_buf_size(limits::BRIDGE_HTTP_HEAD_BYTES)
            .handshake(stream)
            .await
            .map_err(|error| unreachable(error.to_string()))?;
        // It ends when its sender goes, or with the upgraded connection.
        tokio::spawn(async move {
            if let Err(error) = connection.with_upgrades().await {
                tracing::debug!(%error, "bridge: a service's HTTP connection ended");
            }
        });
        Ok(sender)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// With what was not sent, if there was an error.
async fn try_send(
    service: &mut client::SendRequest<Body>,
    request: Request<Body>,
) -> Result<Response<Incoming>, (hyper::Error, Option<Request<Body>>)> {
    if let Err(error) = service.ready().await {
        return Err((error, Some(request)));
    }
    service.try_send_request(request).await.map_err(|mut error| {
        let unsent = error.take_message();
        (error.into_error(), unsent)
    })
}

/// A request without a body, once more.
fn copy_of(request: &Request<Body>) -> Request<Body> {
    let mut copy = Request::new(Either::Right(Full::default()));
    *copy.method_mut() = request.method().clone();
    *copy.uri_mut() = request.uri().clone();
    *copy.headers_mut() = request.headers().clone();
    *copy.extensions_mut() = request.extensions().clone();
    copy
}

fn refusal(error: &hyper::Error) -> Refusal {
    // The client's body is all that we give hyper to send.
    if error.is_user() {
        return (StatusCode::BAD_REQUEST, "the request's body ended before its end, or its chunks are none".to_owned());
    }
    let why = std::error::Error::source(error).map(|source| format!(": {source}")).unwrap_or_default();
    (StatusCode::BAD_GATEWAY, format!("the service gave no answer that is HTTP/1: {error}{why}"))
}
