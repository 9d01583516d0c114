//! A registry of the test's own, on loopback: keeps entries as the contract says, or misbehaves as the test says.

use std::{
    collections::BTreeMap,
    io::{BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc, Condvar, Mutex,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    thread::JoinHandle,
    time::Instant,
};

use serde_json::{Value, json};
use tokio_rustls::rustls::{ServerConfig, ServerConnection, StreamOwned};

use crate::support::DEADLINE;

/// A request that came.
#[derive(Debug, Clone)]
pub(crate) struct Request {
    /// Method and path.
    pub(crate) call: String,
    /// Of the Authorization header.
    pub(crate) authorization: Option<String>,
    /// Of the Host header.
    pub(crate) host: String,
    /// JSON, or null.
    pub(crate) body: Value,
}

/// What is answered in place of a registry's answer.
#[derive(Clone)]
pub(crate) enum Reply {
    /// Status and headers, each with its line's end, and a body.
    Answer(u16, String, String),
    /// These bytes, and the end.
    Bytes(Vec<u8>),
    /// These bytes, and others without an end.
    Endless(Vec<u8>),
    /// Nothing; the connection stays open.
    Silence,
}

impl Reply {
    /// A status without a body.
    pub(crate) fn status(status: u16) -> Self {
        Self::Answer(status, String::new(), String::new())
    }
}

type Mood = dyn Fn(&Request) -> Option<Reply> + Send + Sync;

#[derive(Default)]
struct State {
    requests: Vec<Request>,
    entries: BTreeMap<String, Value>,
    mood: Option<Arc<Mood>>,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    news: Condvar,
}

/// The registry. It stops when this is dropped.
pub(crate) struct FakeRegistry {
    address: SocketAddr,
    tls: Option<Arc<ServerConfig>>,
    shared: Arc<Shared>,
    running: Option<(Arc<AtomicBool>, JoinHandle<()>)>,
}

impl FakeRegistry {
    /// Has its address and does not listen on it. In a network namespace of the test's own nobody takes it.
    pub(crate) fn down() -> Self {
        let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        Self { address, tls: None, shared: Arc::default(), running: None }
    }

    /// Listens.
    pub(crate) fn start() -> Self {
        let mut registry = Self::down();
        registry.listen();
        registry
    }

    /// Listens, and speaks TLS.
    pub(crate) fn start_tls(config: ServerConfig) -> Self {
        let mut registry = Self::down();
        registry.tls = Some(Arc::new(config));
        registry.listen();
        registry
    }

    /// Listens again.
    pub(crate) fn listen(&mut self) {
        let listener = TcpListener::bind(self.address).unwrap();
        let stop = Arc::new(AtomicBool::new(false));
        let (stopped, shared, tls) = (Arc::clone(&stop), Arc::clone(&self.shared), self.tls.clone());
        let thread = std::thread::spawn(move || {
            for stream in listener.incoming() {
                if stopped.load(SeqCst) {
                    break;
                }
                let (stream, shared, tls) = (stream.unwrap(), Arc::clone(&shared), tls.clone());
                // A client that goes away ends its thread.
                std::thread::spawn(move || match tls {
                    None => serve(stream, &shared),
                    Some(config) => serve(StreamOwned::new(ServerConnection::new(config).unwrap(), stream), &shared),
                });
            }
        });
        self.running = Some((stop, thread));
    }

    /// Stops listening; connections are refused.
    pub(crate) fn stop(&mut self) {
        let Some((stop, thread)) = self.running.take() else { return };
        stop.store(true, SeqCst);
        // Wakes the thread; it has not gone before.
        drop(TcpStream::connect(self.address));
        thread.join().unwrap();
    }

    pub(crate) fn port(&self) -> u16 {
        self.address.port()
    }

    /// `registry.url`.
    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Answers like this from now on, and like a registry where `mood` has nothing to say.
    pub(crate) fn answer_with(&self, mood: impl Fn(&Request) -> Option<Reply> + Send + Sync + 'static) {
        self.shared.state.lock().unwrap().mood = Some(Arc::new(mood));
    }

    /// Looks at the entries, or changes them.
    pub(crate) fn with_entries<T>(&self, act: impl FnOnce(&mut BTreeMap<String, Value>) -> T) -> T {
        act(&mut self.shared.state.lock().unwrap().entries)
    }

    /// All requests until now.
    pub(crate) fn requests(&self) -> Vec<Request> {
        self.shared.state.lock().unwrap().requests.clone()
    }

    /// Waits for a request after the first `after` for which `found` has something.
    pub(crate) fn wait<T>(&self, what: &str, after: usize, found: impl Fn(&Request) -> Option<T>) -> T {
        let give_up = Instant::now() + DEADLINE;
        let mut state = self.shared.state.lock().unwrap();
        loop {
            if let Some(found) = state.requests.iter().skip(after).find_map(&found) {
                return found;
            }
            let left = give_up.saturating_duration_since(Instant::now());
            assert!(!left.is_zero(), "gave up waiting for {what}; there were {:?}", state.requests);
            state = self.shared.news.wait_timeout(state, left).unwrap().0;
        }
    }

    /// Waits for a call after the first `after` requests.
    pub(crate) fn wait_for(&self, call: &str, after: usize) -> Request {
        self.wait(call, after, |request| (request.call == call).then(|| request.clone()))
    }

    /// Waits until an entry's services have these ports.
    pub(crate) fn wait_for_ports(&self, ports: &[u16]) {
        self.wait(&format!("ports {ports:?}"), 0, |request| {
            let services = request.body["services"].as_array()?;
            let told: Vec<_> = services.iter().filter_map(|service| service["port"].as_u64()).collect();
            told.iter().copied().eq(ports.iter().copied().map(u64::from)).then_some(())
        });
    }
}

impl Drop for FakeRegistry {
    fn drop(&mut self) {
        self.stop();
    }
}

/// One connection, one request.
fn serve(stream: impl Read + Write, shared: &Shared) {
    let mut stream = BufReader::new(stream);
    let Some(request) = read(&mut stream) else { return };
    let mood = {
        let mut state = shared.state.lock().unwrap();
        state.requests.push(request.clone());
        state.mood.clone()
    };
    let reply = mood.and_then(|mood| mood(&request));
    let reply = reply.unwrap_or_else(|| keep(&mut shared.state.lock().unwrap().entries, &request));
    shared.news.notify_all();
    let stream = stream.get_mut();
    // A client that does not want the rest goes away; that is what some tests are about.
    match reply {
        Reply::Answer(status, headers, body) => {
            let head = format!("HTTP/1.1 {status} X\r\n{headers}Content-Length: {}\r\n\r\n{body}", body.len());
            let _ = stream.write_all(head.as_bytes());
        }
        Reply::Bytes(bytes) => drop(stream.write_all(&bytes)),
        Reply::Endless(begin) => {
            let mut sent = stream.write_all(&begin);
            while sent.is_ok() {
                sent = stream.write_all(&[b'a'; 4096]);
            }
        }
        Reply::Silence => drop(stream.read(&mut [0])),
    }
    let _ = stream.flush();
}

/// As the contract says.
fn keep(entries: &mut BTreeMap<String, Value>, request: &Request) -> Reply {
    let (method, path) = request.call.split_once(' ').unwrap();
    let id = path.strip_prefix("/registry/vms").unwrap_or_default().trim_start_matches('/');
    let (id, heartbeat) = id.strip_suffix("/heartbeat").map_or((id, false), |id| (id, true));
    let status = match (method, id) {
        ("POST", "") => {
            let id = request.body["id"].as_str().unwrap_or_default();
            if entries.contains_key(id) {
                409
            } else {
                entries.insert(id.to_owned(), request.body.clone());
                201
            }
        }
        ("POST", id) if heartbeat => {
            if entries.contains_key(id) {
                200
            } else {
                404
            }
        }
        ("PATCH", id) => match entries.get_mut(id) {
            None => 404,
            Some(entry) => {
                for (key, value) in request.body.as_object().unwrap() {
                    entry[key] = value.clone();
                }
                200
            }
        },
        ("DELETE", id) => {
            if entries.remove(id).is_some() {
                200
            } else {
                404
            }
        }
        _ => 405,
    };
    Reply::Answer(status, "Content-Type: application/json\r\n".to_owned(), json!({ "status": status }).to_string())
}

fn read(stream: &mut impl BufRead) -> Option<Request> {
    let mut line = String::new();
    // A handshake that failed has no request.
    stream.read_line(&mut line).ok().filter(|length| *length > 0)?;
    let call = line.rsplit_once(' ')?.0.to_owned();
    let (mut length, mut authorization, mut host) = (0, None, String::new());
    loop {
        line.clear();
        stream.read_line(&mut line).ok()?;
        let Some((name, value)) = line.trim().split_once(": ") else { break };
        match name.to_ascii_lowercase().as_str() {
            "content-length" => length = value.parse().ok()?,
            "authorization" => authorization = Some(value.to_owned()),
            "host" => host = value.to_owned(),
            _ => {}
        }
    }
    let mut body = vec![0; length];
    stream.read_exact(&mut body).ok()?;
    let body = if body.is_empty() { Value::Null } else { serde_json::from_slice(&body).unwrap() };
    Some(Request { call, authorization, host, body })
}
