//! A real `guestd agent` of the test's own, and raw HTTP to it.

use std::{
    io::{ErrorKind, Read, Write},
    os::unix::net::{UnixDatagram, UnixStream},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus},
    time::{Duration, Instant},
};

use serde_json::Value;
use tempfile::TempDir;

/// Far above what anything here takes, so that only a hang reaches it.
pub(crate) const DEADLINE: Duration = Duration::from_secs(30);

/// The program that is tested.
pub(crate) const PROGRAM: &str = env!("CARGO_BIN_EXE_guestd");

/// A running agent. It ends with this value, and with the test's thread should the test be killed.
pub(crate) struct TestAgent {
    child: Option<Child>,
    socket: PathBuf,
    // Holds the socket and the configuration.
    _dir: TempDir,
}

impl TestAgent {
    /// Starts an agent that bridges nothing, and waits until it says that it is ready.
    pub(crate) fn start() -> Self {
        Self::start_with("bridge.auto = false\n", &[])
    }

    /// Starts an agent with this configuration file; `wrapper` is put before its command line.
    pub(crate) fn start_with(config: &str, wrapper: &[&str]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("config.toml"), config).unwrap();
        let mut agent = Self { child: None, socket: dir.path().join("guestd.sock"), _dir: dir };
        agent.launch(Path::new(PROGRAM), wrapper);
        agent
    }

    /// Where the data plane of the bridge listens.
    pub(crate) fn plane_socket(&self) -> PathBuf {
        let mut path = self.socket.clone().into_os_string();
        path.push(".bridge");
        path.into()
    }

    /// Ends the data plane, if there is one, and waits until it is gone.
    fn end_plane(&self) {
        let Ok(mut plane) = UnixStream::connect(self.plane_socket()) else { return };
        let _ = plane.set_read_timeout(Some(DEADLINE));
        let _ = plane.write_all(b"{\"order\":\"end\"}\n");
        let _ = plane.read_to_end(&mut Vec::new());
    }

    /// Path of the Unix socket.
    pub(crate) fn socket(&self) -> &Path {
        &self.socket
    }

    /// Process id of the agent.
    pub(crate) fn pid(&self) -> nix::unistd::Pid {
        let child = self.child.as_ref().expect("it was started");
        nix::unistd::Pid::from_raw(child.id().try_into().unwrap())
    }

    /// A connection.
    pub(crate) fn connect(&self) -> UnixStream {
        let stream = UnixStream::connect(&self.socket).unwrap();
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        stream.set_write_timeout(Some(DEADLINE)).unwrap();
        stream
    }

    /// Sends a request and reads the whole answer: status, and body as JSON (or null).
    pub(crate) fn call(&self, method: &str, path: &str, body: &str) -> (u16, Value) {
        let mut stream = self.connect();
        stream.write_all(request(method, path, body).as_bytes()).unwrap();
        answer(&mut stream)
    }

    /// `GET`, which must succeed.
    pub(crate) fn get(&self, path: &str) -> Value {
        let (status, body) = self.call("GET", path, "");
        assert_eq!(status, 200, "GET {path}: {body}");
        body
    }

    /// The check of this name in the health report.
    pub(crate) fn check(&self, name: &str) -> Value {
        let health = self.get("/v1/health");
        let checks = health["checks"].as_array().unwrap();
        checks
            .iter()
            .find(|check| check["name"] == name)
            .unwrap_or_else(|| panic!("no check {name} in {health}"))
            .clone()
    }

    /// Sends SIGTERM and waits for the end.
    pub(crate) fn terminate(mut self) -> ExitStatus {
        self.stop(nix::sys::signal::Signal::SIGTERM)
    }

    /// Ends the agent by a signal, and waits for its end. What it has started stays.
    pub(crate) fn stop(&mut self, signal: nix::sys::signal::Signal) -> ExitStatus {
        nix::sys::signal::kill(self.pid(), signal).unwrap();
        eventually("the agent has ended", || self.child().try_wait().unwrap())
    }

    /// Starts the agent, for the first time or after [`TestAgent::stop`]. `program` is guestd, or a copy of it.
    pub(crate) fn launch(&mut self, program: &Path, wrapper: &[&str]) {
        self.child = Some(spawn(self._dir.path(), program, wrapper));
    }

    fn child(&mut self) -> &mut Child {
        self.child.as_mut().expect("it was started")
    }
}

/// Starts an agent and waits until it says that it is ready.
fn spawn(dir: &Path, program: &Path, wrapper: &[&str]) -> Child {
    let path = dir.join("notify");
    let _ = std::fs::remove_file(&path);
    let notify = UnixDatagram::bind(&path).unwrap();
    notify.set_read_timeout(Some(DEADLINE)).unwrap();
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "TERM"]).args(wrapper).arg(program);
    command.arg("agent").arg("--no-vsock").arg("--config").arg(dir.join("config.toml"));
    command.arg("--socket").arg(dir.join("guestd.sock")).env("NOTIFY_SOCKET", &path);
    let mut child = command.spawn().expect("setpriv of util-linux starts the agent");
    let mut message = [0; 64];
    let ready = notify.recv(&mut message);
    let ready = ready.ok().and_then(|length| std::str::from_utf8(&message[..length]).ok()).map(str::trim);
    if ready != Some("READY=1") {
        let _ = child.kill();
        let _ = child.wait();
        panic!("the agent does not say that it is ready: {ready:?}");
    }
    child
}

impl Drop for TestAgent {
    fn drop(&mut self) {
        // One that did not start has ended.
        let Some(mut child) = self.child.take() else { return };
        // Asked first, so that the execs of a test that failed end with it. After `terminate` there is nothing left to end.
        if matches!(child.try_wait(), Ok(None)) {
            let pid = nix::unistd::Pid::from_raw(child.id().try_into().unwrap());
            let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM);
            let give_up = Instant::now() + DEADLINE;
            while matches!(child.try_wait(), Ok(None)) && Instant::now() < give_up {
                std::thread::park_timeout(Duration::from_millis(5));
            }
        }
        let _ = child.kill();
        let _ = child.wait();
        self.end_plane();
    }
}

/// A request with `Connection: close`.
pub(crate) fn request(method: &str, path: &str, body: &str) -> String {
    format!(
        "{method} {path} HTTP/1.1\r\nHost: guestd\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )
}

/// Reads an answer to its end.
pub(crate) fn answer(stream: &mut UnixStream) -> (u16, Value) {
    let mut bytes = Vec::new();
    match stream.read_to_end(&mut bytes) {
        // The agent answered and closed before it had read all that was sent.
        Err(error) if error.kind() == ErrorKind::ConnectionReset && !bytes.is_empty() => {}
        result => drop(result.unwrap()),
    }
    let text = String::from_utf8(bytes).unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no HTTP answer: {text:?}"));
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    let is_chunked = head.to_ascii_lowercase().contains("transfer-encoding: chunked");
    let body = if is_chunked { joined(body) } else { body.to_owned() };
    (status, serde_json::from_str(&body).unwrap_or(Value::Null))
}

/// A body without the framing of its chunks (RFC 9112, section 7.1).
fn joined(mut chunks: &str) -> String {
    let mut body = String::new();
    loop {
        let (size, rest) = chunks.split_once("\r\n").unwrap_or_else(|| panic!("no size of a chunk: {chunks:?}"));
        let size = usize::from_str_radix(size, 16).unwrap();
        if size == 0 {
            return body;
        }
        body.push_str(&rest[..size]);
        chunks = rest[size..].strip_prefix("\r\n").unwrap();
    }
}

/// Asks again until `probe` finds something; the condition is the synchronisation, the pause only spares the CPU.
pub(crate) fn eventually<T>(what: &str, mut probe: impl FnMut() -> Option<T>) -> T {
    let give_up = Instant::now() + DEADLINE;
    loop {
        if let Some(found) = probe() {
            return found;
        }
        assert!(Instant::now() < give_up, "gave up waiting until {what}");
        std::thread::park_timeout(Duration::from_millis(10));
    }
}
