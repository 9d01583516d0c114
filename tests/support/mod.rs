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

/// A running agent. It ends with this value, and with the test's thread should the test be killed.
pub(crate) struct TestAgent {
    child: Child,
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
        let (socket, file) = (dir.path().join("guestd.sock"), dir.path().join("config.toml"));
        std::fs::write(&file, config).unwrap();
        let notify = UnixDatagram::bind(dir.path().join("notify")).unwrap();
        notify.set_read_timeout(Some(DEADLINE)).unwrap();
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "TERM"]).args(wrapper).arg(env!("CARGO_BIN_EXE_guestd"));
        command.arg("agent").arg("--no-vsock").arg("--config").arg(&file).arg("--socket").arg(&socket);
        command.env("NOTIFY_SOCKET", dir.path().join("notify"));
        let child = command.spawn().expect("setpriv of util-linux starts the agent");
        let agent = Self { child, socket, _dir: dir };
        let mut message = [0; 64];
        let length = notify.recv(&mut message).expect("the agent says that it is ready");
        assert_eq!(std::str::from_utf8(&message[..length]).unwrap().trim(), "READY=1");
        agent
    }

    /// Path of the Unix socket.
    pub(crate) fn socket(&self) -> &Path {
        &self.socket
    }

    /// Process id of the agent.
    pub(crate) fn pid(&self) -> nix::unistd::Pid {
        nix::unistd::Pid::from_raw(self.child.id().try_into().unwrap())
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
        nix::sys::signal::kill(self.pid(), nix::sys::signal::Signal::SIGTERM).unwrap();
        eventually("the agent has ended", || self.child.try_wait().unwrap())
    }
}

impl Drop for TestAgent {
    fn drop(&mut self) {
        // Asked first, so that the execs of a test that failed end with it. After `terminate` there is nothing left to end.
        if matches!(self.child.try_wait(), Ok(None)) {
            let _ = nix::sys::signal::kill(self.pid(), nix::sys::signal::Signal::SIGTERM);
            let give_up = Instant::now() + DEADLINE;
            while matches!(self.child.try_wait(), Ok(None)) && Instant::now() < give_up {
                std::thread::park_timeout(Duration::from_millis(5));
            }
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
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
