//! A guest that is not one: a Unix socket on which a test says every byte.

use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::thread::JoinHandle;

/// What happened on one connection, as text: the request line, headers and body, each request one entry.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Request {
    /// Request line and headers.
    pub(crate) head: String,
    /// Body.
    pub(crate) body: String,
}

/// Serves connections, one after the other, until it is dropped.
pub(crate) struct FakeGuest {
    path: PathBuf,
    requests: Receiver<Request>,
    stop: Arc<AtomicBool>,
    server: Option<JoinHandle<()>>,
    _directory: tempfile::TempDir,
}

impl FakeGuest {
    /// Hands each connection, with its number from 0, to `script`.
    pub(crate) fn new(script: impl Fn(usize, &mut Connection) + Send + 'static) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("guest.sock");
        let listener = UnixListener::bind(&path).unwrap();
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let (sender, requests) = channel();
        let server = std::thread::spawn(move || {
            for number in 0.. {
                let (stream, _) = listener.accept().unwrap();
                if stopped.load(Ordering::SeqCst) {
                    return;
                }
                script(number, &mut Connection { stream, requests: sender.clone() });
            }
        });
        Self { path, requests, stop, server: Some(server), _directory: directory }
    }

    /// Answers every request alike.
    pub(crate) fn answering(status: &'static str, body: &'static str) -> Self {
        Self::new(move |_, connection| {
            connection.request();
            connection.answer(status, body);
        })
    }

    /// Answers every request with a stream of these lines.
    pub(crate) fn streaming(lines: &'static [&'static str]) -> Self {
        Self::new(move |_, connection| {
            connection.request();
            connection.stream_head();
            for line in lines {
                connection.packet(format!("{line}\n").as_bytes());
            }
            connection.stream_end();
        })
    }

    /// `unix:PATH` of this guest.
    pub(crate) fn unix(&self) -> String {
        format!("unix:{}", self.path.display())
    }

    /// `fc:PATH` of this guest.
    pub(crate) fn hybrid(&self) -> String {
        format!("fc:{}", self.path.display())
    }

    /// The next request that was read.
    pub(crate) fn next_request(&self) -> Request {
        self.requests.recv().unwrap()
    }
}

impl Drop for FakeGuest {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        // Wakes the server from its accept.
        let _ = UnixStream::connect(&self.path);
        let ended = self.server.take().map(JoinHandle::join);
        if !std::thread::panicking() {
            ended.unwrap().unwrap();
        }
    }
}

/// One connection. Writing to a client that has gone is no error, since some tests make it go.
pub(crate) struct Connection {
    pub(crate) stream: UnixStream,
    requests: std::sync::mpsc::Sender<Request>,
}

impl Connection {
    /// Reads one request whole.
    pub(crate) fn request(&mut self) {
        let head = self.read_to("\r\n\r\n");
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
        let mut body = vec![0; length.map_or(0, |length| length.parse().unwrap())];
        self.stream.read_exact(&mut body).unwrap();
        let body = String::from_utf8(body).unwrap();
        // The test may not be interested.
        let _ = self.requests.send(Request { head, body });
    }

    /// Reads up to and with this ending.
    pub(crate) fn read_to(&mut self, ending: &str) -> String {
        let mut text = Vec::new();
        let mut byte = [0];
        while !text.ends_with(ending.as_bytes()) {
            self.stream.read_exact(&mut byte).unwrap();
            text.extend(byte);
        }
        String::from_utf8(text).unwrap()
    }

    /// Writes bytes as they are; false when the client has gone.
    pub(crate) fn raw(&mut self, bytes: &[u8]) -> bool {
        self.stream.write_all(bytes).is_ok()
    }

    /// A whole response.
    pub(crate) fn answer(&mut self, status: &str, body: &str) {
        let length = body.len();
        self.raw(format!("HTTP/1.1 {status}\r\ncontent-length: {length}\r\n\r\n{body}").as_bytes());
    }

    /// The head of a response whose body follows in packets.
    pub(crate) fn stream_head(&mut self) {
        self.raw(b"HTTP/1.1 200 OK\r\ncontent-type: application/x-ndjson\r\ntransfer-encoding: chunked\r\n\r\n");
    }

    /// A part of that body.
    pub(crate) fn packet(&mut self, bytes: &[u8]) -> bool {
        self.raw(format!("{:x}\r\n", bytes.len()).as_bytes()) && self.raw(bytes) && self.raw(b"\r\n")
    }

    /// The clean end of that body.
    pub(crate) fn stream_end(&mut self) {
        self.raw(b"0\r\n\r\n");
    }

    /// Returns when the client has closed the connection.
    pub(crate) fn until_closed(&mut self) {
        let mut rest = [0; 1024];
        loop {
            match self.stream.read(&mut rest) {
                Ok(0) => return,
                Err(error) if error.kind() == ErrorKind::ConnectionReset => return,
                read => read.unwrap(),
            };
        }
    }
}
