//! The real ssh client with the golden key, straight to a VM or through the edge as the platform's users come.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::net::Ipv6Addr;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};

use super::artifacts::root;
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
    /// The ProxyCommand by which the platform tells people to come in.
    pub(crate) const PLATFORM_PROXY_COMMAND: &'static str = "openssl s_client -connect %h:443 -servername %h -quiet";

    /// To port 22 of an address.
    pub(crate) fn direct(net: &'net Net, key: &Path, address: Ipv6Addr) -> Self {
        // -F none: neither this machine's nor its user's configuration has a say.
        Self { net, argv: argv(net, key, OsStr::new("none"), &address.to_string()) }
    }

    /// By name and with the client configuration that is in every image, and the platform's own ProxyCommand in the place of the
    /// image's, whose guestctl is not here: to port 443 of the edge. The name is resolved by a hosts file that this one command sees in
    /// the place of the machine's.
    pub(crate) fn through_edge(net: &'net Net, key: &Path, edge: &Edge, name: &str) -> Result<Self> {
        const WITH_HOSTS: &str = r#"mount --bind "$1" /etc/hosts; shift; exec "$@""#;
        let hosts = net.dir().join("hosts");
        fs::write(&hosts, format!("{} {name}\n", edge.address()))
            .with_context(|| format!("writing {}", hosts.display()))?;
        let shipped = root().join("rootfs-overlay/etc/ssh/ssh_config.d/10-guestd.conf");
        let in_mounts = ["unshare", "--mount", "sh", "-euc", WITH_HOSTS, "with-hosts"].map(OsString::from);
        let ssh = argv(net, key, shipped.as_os_str(), name);
        let ssh = Self { net, argv: in_mounts.into_iter().chain([hosts.into()]).chain(ssh).collect() };
        // What s_client says of the certificate, and does not act on, is no part of this.
        Ok(ssh.with(["-o", &format!("ProxyCommand={} 2>/dev/null", Self::PLATFORM_PROXY_COMMAND)]))
    }

    /// By a program that is the connection, whatever network there is or is not.
    pub(crate) fn by_proxy(net: &'net Net, key: &Path, name: &str, proxy: &Invocation) -> Result<Self> {
        let configuration = net.dir().join(format!("ssh-{name}.conf"));
        fs::write(&configuration, format!("Host {name}\n  ProxyCommand {}\n", proxy.line()))
            .with_context(|| format!("writing {}", configuration.display()))?;
        Ok(Self { net, argv: argv(net, key, configuration.as_os_str(), name) })
    }

    /// The same to another port than 22.
    pub(crate) fn at_port(self, port: u16) -> Self {
        self.with(["-p", &port.to_string()])
    }

    /// With further words before the host, which is the last one.
    fn with(mut self, words: [&str; 2]) -> Self {
        let host = self.argv.len() - 1;
        self.argv.splice(host..host, words.map(OsString::from));
        self
    }

    /// Copies with rsync, which starts this as its remote shell; `vm:` stands for the VM in what it is given.
    pub(crate) fn rsync(&self, from: &str, to: &str, deadline: Duration) -> Result<Ran> {
        let (host, shell) = self.argv.split_last().context("there is no command")?;
        let shell: Vec<_> = shell.iter().map(|word| word.to_string_lossy()).collect();
        let host = format!("{}:", host.to_string_lossy());
        let place = |place: &str| place.strip_prefix("vm:").map_or(place.to_owned(), |path| format!("{host}{path}"));
        let rsync = ["rsync", "--archive", "--hard-links", "--rsh", &shell.join(" "), &place(from), &place(to)];
        self.net.invocation(rsync).run(deadline)
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

fn argv(net: &Net, key: &Path, configuration: &OsStr, host: &str) -> Vec<OsString> {
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
    let mut argv: Vec<OsString> = vec!["ssh".into(), "-F".into(), configuration.into(), "-i".into(), key.into()];
    argv.extend(options.iter().flat_map(|option| ["-o".into(), OsString::from(option)]));
    argv.push(format!("root@{host}").into());
    argv
}
