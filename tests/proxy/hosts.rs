//! From a name to a connection: every address is tried, in turn and for a bounded time.

use std::{
    net::{SocketAddr, TcpListener, TcpStream},
    process::Stdio,
    time::{Duration, Instant},
};

use socket2::{Domain, Socket, Type};
use tokio::io::AsyncWriteExt as _;
use tokio::process::Command;

use crate::{
    authority::{Authority, path},
    rig::{Proxy, Server, command},
};

/// The proxy where this text is `/etc/hosts`, and no name server is asked.
fn with_hosts(hosts: &std::path::Path, args: &[&str]) -> Command {
    const WITH: &str = r#"mount --bind "$1" /etc/hosts; mount --bind /dev/null /etc/resolv.conf; shift; exec "$@""#;
    let mut command = Command::new("unshare");
    command.args(["--mount", "--propagation", "private", "sh", "-euc", WITH, "with-hosts"]).arg(hosts);
    command.arg(env!("CARGO_BIN_EXE_guestctl")).arg("proxy").args(args);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    command
}

/// A listener whose queue is full, so that nobody else is accepted: the kernel drops what comes.
struct Deaf {
    address: SocketAddr,
    _listener: Socket,
    _queued: Vec<TcpStream>,
}

impl Deaf {
    fn start(address: &str, port: u16) -> Self {
        let listener = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        let address = SocketAddr::new(address.parse().unwrap(), port);
        listener.bind(&address.into()).unwrap();
        listener.listen(0).unwrap();
        let mut queued = Vec::new();
        // One more than fits is not answered.
        while let Ok(stream) = TcpStream::connect_timeout(&address, Duration::from_millis(300)) {
            queued.push(stream);
            assert!(queued.len() < 8, "its queue does not get full");
        }
        Self { address, _listener: listener, _queued: queued }
    }
}

#[tokio::test]
async fn every_address_of_a_name_is_tried_until_one_accepts() {
    let authority = Authority::new("one");
    let server = Server::start(authority.server("DNS:some.vm.test")).await;
    let port = server.port();
    let deaf = Deaf::start("127.0.0.2", port);
    let hosts = tempfile::NamedTempFile::new().unwrap();
    // Refused over IPv6 and IPv4, silent, and good; getaddrinfo puts the IPv6 address first.
    let text = "::1 some.vm.test\n127.0.0.3 some.vm.test\n127.0.0.2 some.vm.test\n127.0.0.1 some.vm.test\n";
    std::fs::write(hosts.path(), text).unwrap();
    let (port_word, ca) = (port.to_string(), authority.file());
    let args = ["some.vm.test", &port_word, "--ca", path(&ca)];
    let mut proxy = Proxy::spawn(with_hosts(hosts.path(), &args));
    let mut service = server.shake().await;
    assert_eq!(service.get_ref().1.server_name(), Some("some.vm.test"));
    service.shutdown().await.unwrap();
    proxy.end_input();
    proxy.end().await.well();
    drop(deaf);
}

#[tokio::test]
async fn addresses_that_refuse_or_are_silent_are_all_named() {
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let deaf = Deaf::start("127.0.0.2", port);
    let hosts = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(hosts.path(), "127.0.0.2 some.vm.test\n127.0.0.1 some.vm.test\n").unwrap();
    let started = Instant::now();
    let proxy = Proxy::spawn(with_hosts(hosts.path(), &["some.vm.test", &port.to_string()]));
    let ended = proxy.end().await;
    let said = ended.stderr.clone();
    for expected in [
        "guestctl: cannot reach some.vm.test port ",
        &format!("connecting to {} failed: no answer within 5 s", deaf.address),
        &format!("connecting to 127.0.0.1:{port} failed: Connection refused (os error 111)"),
        "\nadvice: check the port, and this system's routes: ip -6 route\n",
    ] {
        assert!(said.contains(expected), "{expected} is not in {said}");
    }
    assert_eq!(ended.code, Some(69));
    assert!(started.elapsed() < Duration::from_secs(30), "{:?}", started.elapsed());
}

#[tokio::test]
async fn a_name_that_nobody_knows_is_told() {
    let hosts = tempfile::NamedTempFile::new().unwrap();
    let mut command = with_hosts(hosts.path(), &["nobody.vm.test"]);
    // There is no way to any name server.
    command.env("RES_OPTIONS", "attempts:1 timeout:1");
    let ended = Proxy::spawn(command).end().await;
    assert_eq!(ended.code, Some(69), "{}", ended.stderr);
    let (cause, advice) = ended.stderr.split_once('\n').unwrap();
    assert!(cause.starts_with("guestctl: cannot reach nobody.vm.test port 443: looking up nobody.vm.test failed: "));
    assert_eq!(advice, "advice: check the VM's name, and this system's name servers in /etc/resolv.conf\n");
}

#[tokio::test]
async fn a_host_that_no_certificate_can_be_for_is_bad_usage() {
    for host in ["", "two words", "a..b", "-oops", "fe80::1%eth0", &"a".repeat(64)] {
        let ended = Proxy::spawn(command([host])).end().await;
        assert_eq!((ended.code, ended.stdout.as_slice()), (Some(2), &b""[..]), "{host}: {}", ended.stderr);
    }
}
