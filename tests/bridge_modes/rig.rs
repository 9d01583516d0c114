//! A bridge of mode `http` in this process, services that follow a script, and servers of others.

use std::{
    io::{BufRead, BufReader, ErrorKind, Read, Write},
    net::{Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr, TcpListener, TcpStream},
    process::{Child, Command, Stdio},
    sync::{
        Arc,
        atomic::Ordering::Relaxed,
        mpsc::{Receiver, channel},
    },
    thread,
    time::Duration,
};

use guestd::bridge::{PortCounters, http};
use tokio_util::sync::CancellationToken;

/// Far above what anything here takes, so that only a hang reaches it.
pub(crate) const DEADLINE: Duration = Duration::from_secs(30);

/// Who the client is said to be.
pub(crate) const CLIENT: &str = "[2001:db8::1]:56324";

/// The bridge. It ends with this value.
pub(crate) struct Bridge {
    pub(crate) address: SocketAddr,
    pub(crate) counters: Arc<PortCounters>,
    /// Resets all connections.
    pub(crate) cut: CancellationToken,
    _runtime: tokio::runtime::Runtime,
}

impl Bridge {
    /// Leads to this service.
    pub(crate) fn to(service: SocketAddr) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let listener = runtime.block_on(tokio::net::TcpListener::bind((Ipv6Addr::LOCALHOST, 0))).unwrap();
        let address = listener.local_addr().unwrap();
        let counters: Arc<PortCounters> = Arc::default();
        let counted = Arc::clone(&counters);
        let cut = CancellationToken::new();
        let cancel = cut.clone();
        runtime.spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let dial = move || tokio::net::TcpStream::connect(service);
                tokio::spawn(http::serve(stream, CLIENT.parse().unwrap(), dial, Arc::clone(&counted), cancel.clone()));
            }
        });
        Self { address, counters, cut, _runtime: runtime }
    }

    pub(crate) fn connect(&self) -> TcpStream {
        connect(self.address)
    }

    /// All that is answered to these bytes, after which the client says no more.
    pub(crate) fn ask(&self, bytes: &[u8]) -> String {
        ask(self.address, bytes)
    }

    pub(crate) fn errors(&self) -> u64 {
        self.counters.errors.load(Relaxed)
    }
}

pub(crate) fn connect(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    stream.set_write_timeout(Some(DEADLINE)).unwrap();
    stream
}

pub(crate) fn ask(address: SocketAddr, bytes: &[u8]) -> String {
    let mut stream = connect(address);
    // Who refuses may close before all is said.
    let _ = stream.write_all(bytes).and_then(|()| stream.shutdown(Shutdown::Write));
    let mut answer = Vec::new();
    match stream.read_to_end(&mut answer) {
        Ok(_) => {}
        Err(error) => assert_eq!(error.kind(), ErrorKind::ConnectionReset, "{error}"),
    }
    String::from_utf8_lossy(&answer).into_owned()
}

/// A service that does as told with each connection, numbered from 0, and tells what came of it.
pub(crate) fn service<T: Send + 'static>(
    mut serve: impl FnMut(usize, Connection) -> T + Send + 'static,
) -> (SocketAddr, Receiver<T>) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = listener.local_addr().unwrap();
    let (tell, told) = channel();
    thread::spawn(move || {
        for (number, stream) in listener.incoming().enumerate() {
            let stream = stream.unwrap();
            stream.set_read_timeout(Some(DEADLINE)).unwrap();
            if tell.send(serve(number, Connection { reader: BufReader::new(stream) })).is_err() {
                return;
            }
        }
    });
    (address, told)
}

/// A connection as the service has it.
pub(crate) struct Connection {
    reader: BufReader<TcpStream>,
}

impl Connection {
    /// A request's head, without its last empty line; empty at the end.
    pub(crate) fn head(&mut self) -> String {
        let mut head = String::new();
        loop {
            let mut line = String::new();
            if self.reader.read_line(&mut line).unwrap_or(0) == 0 || line == "\r\n" {
                return head;
            }
            head += &line.replace("\r\n", "\n");
        }
    }

    pub(crate) fn exactly(&mut self, length: usize) -> String {
        let mut bytes = vec![0; length];
        self.reader.read_exact(&mut bytes).unwrap();
        String::from_utf8(bytes).unwrap()
    }

    /// All that comes, and whether it ended well.
    pub(crate) fn rest(&mut self) -> (String, bool) {
        let mut bytes = Vec::new();
        let ended = self.reader.read_to_end(&mut bytes).is_ok();
        (String::from_utf8_lossy(&bytes).into_owned(), ended)
    }

    pub(crate) fn answer(&mut self, text: &str) {
        // Who asked may have gone.
        let _ = self.reader.get_mut().write_all(text.as_bytes());
    }

    pub(crate) fn end_output(&self) {
        let _ = self.reader.get_ref().shutdown(Shutdown::Write);
    }
}

/// A service that answers 200 with `body` to all, and tells of each request on the way.
pub(crate) fn obliging(body: &'static str) -> (SocketAddr, Receiver<Vec<String>>) {
    service(move |_, mut connection| {
        let mut heads = Vec::new();
        loop {
            let head = connection.head();
            if head.is_empty() {
                return heads;
            }
            heads.push(head);
            connection.answer(&format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len()));
        }
    })
}

/// A server of others. It ends with this value.
pub(crate) struct Server {
    child: Child,
    pub(crate) address: SocketAddr,
    _dir: tempfile::TempDir,
}

impl Server {
    /// Starts `command` with files of these names and contents in its directory, `PORT` and `DIR` in both replaced, and waits until it
    /// accepts.
    pub(crate) fn start(command: &[&str], files: &[(&str, &str)]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        // Freed for the server to take: an ephemeral port is given again only after all others.
        let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap().port();
        let replaced =
            |text: &str| text.replace("PORT", &port.to_string()).replace("DIR", dir.path().to_str().unwrap());
        for (name, content) in files {
            std::fs::write(dir.path().join(name), replaced(content)).unwrap();
        }
        // It ends with the test's thread, too, should the test be killed.
        let mut server = Command::new("setpriv");
        server.args(["--pdeathsig", "KILL"]).args(command.iter().map(|word| replaced(word))).current_dir(dir.path());
        let child = server.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let mut server = Self { child, address: (Ipv4Addr::LOCALHOST, port).into(), _dir: dir };
        let deadline = std::time::Instant::now() + DEADLINE;
        while TcpStream::connect(server.address).is_err() {
            let ended = server.child.try_wait().unwrap();
            assert!(ended.is_none(), "{command:?} ended at once: {ended:?}");
            assert!(std::time::Instant::now() < deadline, "{command:?} does not listen");
            thread::yield_now();
        }
        server
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
