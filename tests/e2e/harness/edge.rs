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
}

impl Route {
    /// A route to a port of a VM.
    pub(crate) fn new(name: &str, port: u16, address: Ipv6Addr, to: u16) -> Self {
        Self { name: name.to_owned(), port, to: SocketAddrV6::new(address, to, 0, 0) }
    }
}

/// A running edge; it ends with its network.
#[derive(Debug)]
pub(crate) struct Edge {
    certificate: PathBuf,
}

impl Edge {
    /// Makes a certificate for the domain and starts HAProxy, which listens when this returns.
    pub(crate) fn start(net: &Net, routes: &[Route]) -> Result<Self> {
        let file = |name: &str| net.dir().join(name);
        let (key, certificate, config) = (file("edge.key"), file("edge.crt"), file("haproxy.cfg"));
        make_certificate(net, &key, &certificate)?;
        // HAProxy wants both in one file.
        let both = [&certificate, &key].map(|path| fs::read_to_string(path).unwrap_or_default()).concat();
        let pem = file("edge.pem");
        fs::write(&pem, both).with_context(|| format!("writing {}", pem.display()))?;
        fs::write(&config, configuration(routes, &pem)).with_context(|| format!("writing {}", config.display()))?;
        // -D returns once every port is bound, and the process namespace ends the daemon.
        let config = config.display().to_string();
        net.run(["haproxy", "-D", "-f", &config])?.ok().context("starting the edge")?;
        Ok(Self { certificate })
    }

    /// Address in its network.
    pub(crate) fn address(&self) -> Ipv6Addr {
        EDGE
    }

    /// Certificate, which is its own authority.
    pub(crate) fn certificate(&self) -> &Path {
        &self.certificate
    }
}

fn make_certificate(net: &Net, key: &Path, certificate: &Path) -> Result<()> {
    let (key, certificate) = (key.display().to_string(), certificate.display().to_string());
    let subject = format!("/CN=*.{DOMAIN}");
    let names = format!("subjectAltName=DNS:*.{DOMAIN}");
    let argv = ["openssl", "req", "-x509", "-nodes", "-days", "2", "-newkey", "ec", "-pkeyopt"];
    let rest = ["ec_paramgen_curve:P-256", "-keyout", &key, "-out", &certificate, "-subj", &subject, "-addext", &names];
    net.run(argv.into_iter().chain(rest))?.ok().context("making the edge's certificate").map(drop)
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
        let _ = writeln!(text, "frontend port-{port}\n  bind [{EDGE}]:{port} ssl crt {}", pem.display());
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
}
