//! The proxy as a program, and a server for it to reach.

use std::{fmt::Display, process::Stdio, sync::Arc, time::Duration};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    process::{Child, Command},
    time::timeout,
};
use tokio_rustls::{TlsAcceptor, rustls::ServerConfig, server::TlsStream};

use crate::authority::{Authority, path};

/// Far above what anything here takes, the proxy's own deadlines too, so that only a hang reaches it.
pub(crate) const DEADLINE: Duration = Duration::from_secs(60);

/// Fails the test when it takes too long.
pub(crate) async fn soon<T>(what: &str, doing: impl Future<Output = T>) -> T {
    timeout(DEADLINE, doing).await.unwrap_or_else(|_| panic!("waited {} s in vain: {what}", DEADLINE.as_secs()))
}

/// A server on a port of loopback.
pub(crate) struct Server {
    listener: TcpListener,
    tls: TlsAcceptor,
}

impl Server {
    pub(crate) async fn start(config: ServerConfig) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        Self { listener, tls: TlsAcceptor::from(Arc::new(config)) }
    }

    pub(crate) fn port(&self) -> u16 {
        self.listener.local_addr().unwrap().port()
    }

    /// The next connection, before its handshake.
    pub(crate) async fn accept(&self) -> TcpStream {
        soon("a connection", self.listener.accept()).await.unwrap().0
    }

    /// The next connection, after it.
    pub(crate) async fn shake(&self) -> TlsStream<TcpStream> {
        self.try_shake().await.unwrap()
    }

    /// The next connection, after a handshake that may fail.
    pub(crate) async fn try_shake(&self) -> std::io::Result<TlsStream<TcpStream>> {
        let stream = self.accept().await;
        soon("a handshake", self.tls.accept(stream)).await
    }
}

/// What a proxy has left when it ended.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: Vec<u8>,
    pub(crate) stderr: String,
}

/// A running `guestctl proxy` with pipes to it; it ends with this value.
pub(crate) struct Proxy {
    pub(crate) child: Child,
}

impl Proxy {
    /// To this port of localhost, trusting an authority.
    pub(crate) fn start(port: u16, authority: &Authority) -> Self {
        Self::spawn(command(["localhost", &port.to_string(), "--ca", path(&authority.file())]))
    }

    pub(crate) fn spawn(mut command: Command) -> Self {
        Self { child: command.spawn().unwrap() }
    }

    pub(crate) async fn write(&mut self, bytes: &[u8]) {
        let stdin = self.child.stdin.as_mut().expect("it was not ended");
        soon("standard input is taken", stdin.write_all(bytes)).await.unwrap();
    }

    pub(crate) fn end_input(&mut self) {
        drop(self.child.stdin.take());
    }

    /// Reads so many bytes.
    pub(crate) async fn read(&mut self, length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        let stdout = self.child.stdout.as_mut().expect("it is read");
        soon("standard output", stdout.read_exact(&mut bytes)).await.unwrap();
        bytes
    }

    /// Reads what is left of standard output, whose end comes while the proxy runs.
    pub(crate) async fn read_to_end(&mut self) -> Vec<u8> {
        let mut bytes = Vec::new();
        let stdout = self.child.stdout.as_mut().expect("it is read");
        soon("the end of standard output", stdout.read_to_end(&mut bytes)).await.unwrap();
        bytes
    }

    pub(crate) fn still_runs(&mut self) {
        assert_eq!(self.child.try_wait().unwrap(), None, "it has ended");
    }

    /// The most memory that it has held, in KiB.
    pub(crate) fn peak_kib(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id().unwrap())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
        line.split_whitespace().next().unwrap().parse().unwrap()
    }

    /// Waits for its end. Standard input stays open if it is.
    pub(crate) async fn end(mut self) -> Ended {
        let stdin = self.child.stdin.take();
        let output = soon("the proxy's end", self.child.wait_with_output()).await.unwrap();
        drop(stdin);
        let stderr = String::from_utf8(output.stderr).unwrap();
        Ended { code: output.status.code(), stdout: output.stdout, stderr }
    }
}

/// `guestctl proxy ARGS` with nothing of this machine's environment that it reads.
pub(crate) fn command<const N: usize>(args: [&str; N]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_guestctl"));
    command.arg("proxy").args(args).env_remove("SSL_CERT_FILE").env("GUESTD_VM", "not asked for");
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    command
}

impl Ended {
    /// It failed with this code and these lines; `PORT` stands for the server's.
    #[track_caller]
    pub(crate) fn failed(&self, code: i32, port: impl Display, cause: &str, advice: &str) {
        let said = self.stderr.replace(&port.to_string(), "PORT");
        assert_eq!((self.code, said.as_str()), (Some(code), &*format!("guestctl: {cause}\nadvice: {advice}\n")));
    }

    /// It went well, and had nothing to say.
    #[track_caller]
    pub(crate) fn well(&self) {
        assert_eq!((self.code, self.stderr.as_str()), (Some(0), ""));
    }
}
