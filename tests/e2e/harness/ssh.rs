//! The real ssh client with the golden key, straight to a VM or through the edge as the platform's users come.

use std::ffi::OsString;
use std::net::Ipv6Addr;
use std::path::Path;

use anyhow::Result;

use super::command::{DEADLINE, Invocation, Ran};
use super::edge::Edge;
use super::net::Net;

/// A way to log in.
#[derive(Debug)]
pub(crate) struct Ssh<'net> {
    net: &'net Net,
    argv: Vec<OsString>,
}

impl<'net> Ssh<'net> {
    /// To port 22 of an address.
    pub(crate) fn direct(net: &'net Net, key: &Path, address: Ipv6Addr) -> Self {
        Self { net, argv: argv(net, key, &[], &address.to_string()) }
    }

    /// To port 443 of the edge with the platform's ProxyCommand. The name is not resolved: the edge's address stands for it.
    pub(crate) fn through_edge(net: &'net Net, key: &Path, edge: &Edge, name: &str) -> Self {
        let proxy = format!(
            "ProxyCommand=openssl s_client -connect '[{}]:443' -servername %h -quiet -verify_return_error -CAfile {}",
            edge.address(),
            edge.certificate().display()
        );
        Self { net, argv: argv(net, key, &["-o", &proxy], name) }
    }

    /// Runs a line of the remote shell.
    pub(crate) fn run(&self, script: &str) -> Result<Ran> {
        self.invocation(Some(script)).run(DEADLINE)
    }

    /// To be run or shown, with a line for the remote shell or for a login without one.
    pub(crate) fn invocation(&self, script: Option<&str>) -> Invocation {
        self.net.invocation(self.argv.iter().cloned().chain(script.map(OsString::from)))
    }
}

fn argv(net: &Net, key: &Path, extra: &[&str], host: &str) -> Vec<OsString> {
    let known_hosts = format!("UserKnownHostsFile={}", net.dir().join("known_hosts").display());
    let options = [
        "BatchMode=yes",
        "IdentitiesOnly=yes",
        "ConnectTimeout=20",
        // The first contact teaches the key; from then on a VM that shows another one is refused.
        "StrictHostKeyChecking=accept-new",
        "LogLevel=ERROR",
        &known_hosts,
    ];
    // -F none: neither this machine's nor its user's configuration has a say.
    let mut argv: Vec<OsString> = ["ssh", "-F", "none", "-i"].map(OsString::from).to_vec();
    argv.push(key.into());
    argv.extend(options.iter().flat_map(|option| ["-o".into(), OsString::from(option)]));
    argv.extend(extra.iter().map(OsString::from));
    argv.push(format!("root@{host}").into());
    argv
}
