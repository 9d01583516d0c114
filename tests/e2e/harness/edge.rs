//! The platform's TLS proxy in small: HAProxy ends TLS and opens plain TCP to a VM over IPv6, by server name and port.

use std::fmt::Write as _;
use std::fs;
use std::net::{Ipv6Addr, SocketAddrV6};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::net::{EDGE, Net};
use super::vm::DOMAIN;

/// Connections to one name and port go to one place.
#[derive(Debug, Clone)]
pub(crate) struct Route {
    /// Server name, in full.
    pub(crate) name: String,
    /// Port of the edge.
    pub(crate) port: u16,
    /// Where to.
    pub(crate) to: SocketAddrV6,
    /// The protocol that clients are offered (ALPN of RFC 7301), where they insist on one.
    pub(crate) alpn: Option<&'static str>,
}

impl Route {
    /// A route to a port of a VM.
    pub(crate) fn new(name: &str, port: u16, address: Ipv6Addr, to: u16) -> Self {
        Self { name: name.to_owned(), port, to: SocketAddrV6::new(address, to, 0, 0), alpn: None }
    }

    /// For clients of gRPC, who want to be told that HTTP/2 is spoken.
    pub(crate) fn with_http_2(self) -> Self {
        Self { alpn: Some("h2"), ..self }
    }
}

/// A running edge; it ends with its network.
#[derive(Debug)]
pub(crate) struct Edge {
    authority: PathBuf,
}

impl Edge {
    /// Makes a certificate for the domain and starts HAProxy, which listens when this returns.
    pub(crate) fn start(net: &Net, routes: &[Route]) -> Result<Self> {
        let (authority, pem) = make_certificate(net)?;
        let config = net.dir().join("haproxy.cfg");
        fs::write(&config, configuration(routes, &pem)).with_context(|| format!("writing {}", config.display()))?;
        // -D returns once every port is bound, and the process namespace ends the daemon.
        let config = config.display().to_string();
        net.run(["haproxy", "-D", "-f", &config])?.ok().context("starting the edge")?;
        Ok(Self { authority })
    }

    /// Address in its network.
    pub(crate) fn address(&self) -> Ipv6Addr {
        EDGE
    }

    /// Certificate of the authority that has signed its own.
    pub(crate) fn authority(&self) -> &Path {
        &self.authority
    }
}

/// An authority, and a certificate by it for all names of the domain, which comes in one file with its key. Gives the file of either.
fn make_certificate(net: &Net) -> Result<(PathBuf, PathBuf)> {
    const SCRIPT: &str = r#"cd "$0"
        config() { printf '[req]\ndistinguished_name=dn\nprompt=no\nx509_extensions=ext\n[dn]\nCN=%s\n[ext]\n%s\n%s\n' "$@"; }
        config 'edge of a test' 'basicConstraints=critical,CA:TRUE' '' >authority.cnf
        config "*.$1" 'basicConstraints=critical,CA:FALSE' "subjectAltName=DNS:*.$1" >edge.cnf
        new() { name=$1; shift; openssl req -x509 -nodes -days 2 -newkey ec -pkeyopt ec_paramgen_curve:P-256 \
            -config "$name.cnf" -keyout "$name.key" -out "$name.crt" "$@"; }
        new authority
        new edge -CA authority.crt -CAkey authority.key
        cat edge.crt edge.key >edge.pem"#;
    let dir = net.dir().display().to_string();
    net.run(["sh", "-euc", SCRIPT, &dir, DOMAIN])?.ok().context("making the edge's certificate")?;
    Ok((net.dir().join("authority.crt"), net.dir().join("edge.pem")))
}

/// TCP mode throughout: any protocol passes. A name that is not routed is hung up on.
fn configuration(routes: &[Route], pem: &Path) -> String {
    let mut text = String::from(
        "global\n  maxconn 256\n\
         defaults\n  mode tcp\n  timeout connect 10s\n  timeout client 1h\n  timeout server 1h\n",
    );
    let mut ports: Vec<u16> = routes.iter().map(|route| route.port).collect();
    ports.sort_unstable();
    ports.dedup();
    // Writing to a String cannot fail.
    for port in ports {
        let alpn = routes.iter().find_map(|route| route.alpn.filter(|_| route.port == port));
        let alpn = alpn.map_or_else(String::new, |alpn| format!(" alpn {alpn}"));
        let _ = writeln!(text, "frontend port-{port}\n  bind [{EDGE}]:{port} ssl crt {}{alpn}", pem.display());
        for (n, route) in routes.iter().enumerate().filter(|(_, route)| route.port == port) {
            let _ = writeln!(text, "  use_backend route-{n} if {{ ssl_fc_sni -i {} }}", route.name);
        }
    }
    for (n, route) in routes.iter().enumerate() {
        let _ = writeln!(text, "backend route-{n}\n  server vm {}", route.to);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_edge_routes_by_name_and_port() {
        let address = Ipv6Addr::new(0xfd00, 0, 0, 1, 0, 0, 0, 2);
        let routes = [Route::new("a", 443, address, 22), Route::new("b", 443, address, 23)];
        let text = configuration(&routes, Path::new("/edge.pem"));
        assert_eq!(text.matches("bind ").count(), 1, "{text}");
        assert!(text.contains("use_backend route-1 if { ssl_fc_sni -i b }"), "{text}");
        assert!(text.contains("backend route-0\n  server vm [fd00:0:0:1::2]:22\n"), "{text}");
    }

    #[test]
    fn http_2_is_offered_on_the_ports_that_are_for_it_alone() {
        let address = Ipv6Addr::new(0xfd00, 0, 0, 1, 0, 0, 0, 2);
        let routes = [Route::new("a", 443, address, 22), Route::new("a", 50051, address, 50051).with_http_2()];
        let text = configuration(&routes, Path::new("/edge.pem"));
        assert!(
            text.contains(":443 ssl crt /edge.pem\n") && text.contains(":50051 ssl crt /edge.pem alpn h2\n"),
            "{text}"
        );
    }
}
