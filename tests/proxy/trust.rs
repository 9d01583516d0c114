//! Who is trusted, and what is said of who is not.

use std::{
    io::{BufRead as _, BufReader},
    process::{Command, Stdio},
};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::{
    authority::{Authority, path},
    rig::{Ended, Proxy, Server, command, soon},
};

/// One byte each way, and the ends.
async fn goes_through(server: Server, mut proxy: Proxy, name: Option<&str>) {
    let mut service = server.shake().await;
    assert_eq!(service.get_ref().1.server_name(), name);
    service.write_all(b"<").await.unwrap();
    service.flush().await.unwrap();
    assert_eq!(proxy.read(1).await, b"<");
    proxy.write(b">").await;
    assert_eq!(service.read_u8().await.unwrap(), b'>');
    service.shutdown().await.unwrap();
    proxy.end_input();
    proxy.end().await.well();
}

/// Nothing is passed on to this server, not even the start of standard input.
async fn refused(server: &Server, mut proxy: Proxy) -> Ended {
    proxy.write(b"secret").await;
    let shaking = async {
        // The client ends it by an alert. A server may have taken its own half of the handshake for the whole.
        if let Ok(mut stream) = server.try_shake().await {
            let read = stream.read(&mut [0]).await;
            assert!(read.is_err(), "{read:?} was received");
        }
    };
    let (ended, ()) = tokio::join!(proxy.end(), soon("a refusal", shaking));
    assert_eq!(ended.stdout, b"");
    ended
}

#[tokio::test]
async fn a_certificate_by_the_authority_of_a_file_is_good_and_the_server_is_told_the_name() {
    let authority = Authority::new("one");
    let server = Server::start(authority.server("DNS:localhost")).await;
    let proxy = Proxy::start(server.port(), &authority);
    goes_through(server, proxy, Some("localhost")).await;
}

#[tokio::test]
async fn a_certificate_by_an_authority_of_ssl_cert_file_is_good() {
    let authority = Authority::with_keys("one", "rsa:2048");
    let server = Server::start(authority.server("DNS:localhost")).await;
    let mut command = command(["localhost", &server.port().to_string()]);
    command.env("SSL_CERT_FILE", authority.file());
    goes_through(server, Proxy::spawn(command), Some("localhost")).await;
}

#[tokio::test]
async fn an_address_is_as_good_as_a_name_if_the_certificate_is_for_it() {
    let authority = Authority::new("one");
    let server = Server::start(authority.server("IP:127.0.0.1")).await;
    let port = server.port().to_string();
    let proxy = Proxy::spawn(command(["127.0.0.1", &port, "--ca", path(&authority.file())]));
    goes_through(server, proxy, None).await;
}

#[tokio::test]
async fn a_certificate_for_another_name_is_refused() {
    let authority = Authority::new("one");
    let server = Server::start(authority.server("DNS:other.test")).await;
    let cause = "cannot reach localhost port PORT: TLS failed: invalid peer certificate: certificate not valid for name \"localhost\"; certificate is only valid for DnsName(\"other.test\")";
    let ended = refused(&server, Proxy::start(server.port(), &authority)).await;
    ended.failed(69, server.port(), cause, "check the VM's name: what answers there is not it");
}

#[tokio::test]
async fn a_wildcard_is_for_one_label_of_a_name() {
    let authority = Authority::new("one");
    for name in ["localhost", "a.b.vm.test"] {
        let server = Server::start(authority.server("DNS:*.vm.test")).await;
        let ended = refused(&server, Proxy::start(server.port(), &authority)).await;
        assert_eq!(ended.code, Some(69), "{name}: {}", ended.stderr);
    }
}

#[tokio::test]
async fn a_certificate_whose_time_is_over_is_refused() {
    let authority = Authority::new("one");
    let server = Server::start(authority.expired_server("DNS:localhost")).await;
    let ended = refused(&server, Proxy::start(server.port(), &authority)).await;
    assert_eq!(ended.code, Some(69));
    let (cause, advice) = ended.stderr.split_once('\n').unwrap();
    assert!(cause.contains("TLS failed: invalid peer certificate: certificate expired: verification time "), "{cause}");
    assert_eq!(advice, "advice: check this system's clock: date\n");
}

#[tokio::test]
async fn a_certificate_by_an_authority_that_is_not_trusted_or_by_none_is_refused() {
    let (authority, other) = (Authority::new("one"), Authority::new("another"));
    for config in [other.server("DNS:localhost"), other.self_signed_server("DNS:localhost")] {
        let server = Server::start(config).await;
        let ended = refused(&server, Proxy::start(server.port(), &authority)).await;
        ended.failed(
            69,
            server.port(),
            "cannot reach localhost port PORT: TLS failed: invalid peer certificate: UnknownIssuer",
            "if its authority is your own, name that one's certificate by --ca or SSL_CERT_FILE; if not, somebody may be in between",
        );
    }
}

#[tokio::test]
async fn with_a_file_of_authorities_those_of_the_system_are_not_trusted() {
    let (authority, other) = (Authority::new("one"), Authority::new("another"));
    let server = Server::start(authority.server("DNS:localhost")).await;
    let mut command = command(["localhost", &server.port().to_string(), "--ca", path(&other.file())]);
    command.env("SSL_CERT_FILE", authority.file());
    let ended = refused(&server, Proxy::spawn(command)).await;
    assert!(ended.stderr.contains("UnknownIssuer"), "{}", ended.stderr);
}

#[tokio::test]
async fn a_file_of_authorities_that_cannot_be_read_is_named() {
    let server = Server::start(Authority::new("one").server("DNS:localhost")).await;
    let port = server.port();
    let proxy = Proxy::spawn(command(["localhost", &port.to_string(), "--ca", "/nonexistent.pem"]));
    let (_connection, ended) = tokio::join!(server.accept(), proxy.end());
    ended.failed(
        125,
        port,
        "cannot reach localhost port PORT: reading the trusted certificates of /nonexistent.pem failed: No such file or directory (os error 2)",
        "install the package ca-certificates, or name a file of certificates by --ca or SSL_CERT_FILE",
    );
}

#[tokio::test]
async fn a_server_that_speaks_no_tls_is_told_by_its_first_words() {
    let authority = Authority::new("one");
    let server = Server::start(authority.server("DNS:localhost")).await;
    for words in ["SSH-2.0-OpenSSH_9.2p1\r\n", "HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n"] {
        let proxy = Proxy::start(server.port(), &authority);
        let mut service = server.accept().await;
        service.write_all(words.as_bytes()).await.unwrap();
        proxy.end().await.failed(
            69,
            server.port(),
            "cannot reach localhost port PORT: TLS failed: received corrupt message of type InvalidContentType",
            "check the port: what answers there does not speak TLS",
        );
    }
}

#[tokio::test]
async fn a_server_that_hangs_up_in_the_handshake_is_named() {
    let authority = Authority::new("one");
    let server = Server::start(authority.server("DNS:localhost")).await;
    let proxy = Proxy::start(server.port(), &authority);
    let mut service = server.accept().await;
    // All of its first message is read, so that the end is one, and no reset.
    assert!(service.read(&mut [0; 4096]).await.unwrap() > 0);
    drop(service);
    proxy.end().await.failed(
        69,
        server.port(),
        "cannot reach localhost port PORT: TLS failed: tls handshake eof",
        "check the VM's name and port: the platform's proxy hangs up on those that it does not know",
    );
}

#[tokio::test]
async fn a_server_that_hangs_in_the_handshake_is_given_up() {
    let authority = Authority::new("one");
    let server = Server::start(authority.server("DNS:localhost")).await;
    let proxy = Proxy::start(server.port(), &authority);
    let _silent = server.accept().await;
    proxy.end().await.failed(
        69,
        server.port(),
        "cannot reach localhost port PORT: it accepted a connection and did not answer in TLS within 15 s",
        "the platform's proxy may be busy, or the port may have no TLS: try again, or another port",
    );
}

#[tokio::test]
async fn a_server_of_an_older_version_of_tls_is_told_from_a_bad_one() {
    let authority = Authority::new("one");
    let [certificate, key] = authority.server_files("DNS:localhost");
    let mut openssl = Command::new("setpriv");
    openssl.args(["--pdeathsig", "KILL", "openssl", "s_server", "-tls1_2", "-accept", "127.0.0.1:0"]);
    openssl.args(["-cert", path(&certificate), "-key", path(&key)]).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut openssl = openssl.stderr(Stdio::null()).spawn().expect("setpriv of util-linux starts openssl");
    let said = BufReader::new(openssl.stdout.take().unwrap());
    let port = said.lines().find_map(|line| line.unwrap().strip_prefix("ACCEPT 127.0.0.1:")?.parse::<u16>().ok());
    let port = port.expect("it says where it listens");
    let ended = Proxy::start(port, &authority).end().await;
    let _ = openssl.kill();
    openssl.wait().unwrap();
    ended.failed(
        69,
        port,
        "cannot reach localhost port PORT: TLS failed: received fatal alert: ProtocolVersion",
        "guestctl speaks TLS 1.3 alone; for an older server use openssl s_client",
    );
}
