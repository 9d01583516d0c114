//! Through a real proxy, HAProxy in the place of the platform's, to a service that knows nothing of TLS.

use std::{
    fs,
    io::{Read as _, Write as _},
    net::{Shutdown, TcpListener, TcpStream},
    os::fd::OwnedFd,
    process::{Child, Command, Stdio},
};

use crate::{
    authority::Authority,
    rig::{Proxy, soon},
};

/// HAProxy, which ends TLS and passes on to a service; it ends with this value.
struct Edge {
    haproxy: Child,
    port: u16,
    _dir: tempfile::TempDir,
}

impl Edge {
    fn start(authority: &Authority, service: u16) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let pem = authority.server_files("DNS:localhost").map(|file| fs::read_to_string(file).unwrap()).concat();
        fs::write(dir.path().join("edge.pem"), pem).unwrap();
        let configuration = format!(
            "global\n  maxconn 16\n\
             defaults\n  mode tcp\n  timeout connect 10s\n  timeout client 1m\n  timeout server 1m\n\
             listen edge\n  bind fd@0 ssl crt {}\n  server service 127.0.0.1:{service}\n",
            dir.path().join("edge.pem").display()
        );
        let file = dir.path().join("haproxy.cfg");
        fs::write(&file, configuration).unwrap();
        // Its standard input is the socket that it accepts from, which listens already.
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let mut haproxy = Command::new("setpriv");
        haproxy.args(["--pdeathsig", "KILL", "haproxy", "-db", "-f"]).arg(file).stdin(OwnedFd::from(listener));
        let haproxy = haproxy.stdout(Stdio::null()).spawn().expect("setpriv of util-linux starts haproxy");
        Self { haproxy, port, _dir: dir }
    }
}

impl Drop for Edge {
    fn drop(&mut self) {
        let _ = self.haproxy.kill();
        let _ = self.haproxy.wait();
    }
}

/// A service that is handed each connection.
fn service(serve: impl Fn(TcpStream) + Send + 'static) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            serve(stream.unwrap());
        }
    });
    port
}

#[tokio::test]
async fn a_question_with_an_end_gets_its_whole_answer_from_a_service_behind_haproxy() {
    let authority = Authority::new("one");
    let service = service(|mut stream| {
        let mut question = Vec::new();
        stream.read_to_end(&mut question).unwrap();
        let _ = stream.write_all(&question.repeat(1000));
    });
    let edge = Edge::start(&authority, service);
    let mut proxy = Proxy::start(edge.port, &authority);
    proxy.write(b"0123456789").await;
    proxy.end_input();
    let ended = proxy.end().await;
    ended.well();
    assert_eq!(ended.stdout, b"0123456789".repeat(1000));
}

#[tokio::test]
async fn a_service_behind_haproxy_that_ends_first_is_told_the_rest() {
    let authority = Authority::new("one");
    let (told, rest) = std::sync::mpsc::channel();
    let service = service(move |mut stream| {
        let _ = stream.write_all(b"hello");
        let _ = stream.shutdown(Shutdown::Write);
        let mut rest = Vec::new();
        told.send(stream.read_to_end(&mut rest).map(|_| rest)).unwrap();
    });
    let edge = Edge::start(&authority, service);
    let mut proxy = Proxy::start(edge.port, &authority);
    assert_eq!(proxy.read(5).await, b"hello");
    proxy.write(b"the rest").await;
    proxy.end_input();
    let ended = proxy.end().await;
    ended.well();
    let rest = soon("the rest", tokio::task::spawn_blocking(move || rest.recv())).await.unwrap();
    assert_eq!(rest.unwrap().unwrap(), b"the rest");
}
