//! The network that VMs, clients and the edge share: a network namespace with no name and no way out.
//!
//! Held by one child of this process, `sh` as process 1 of a process namespace of its own, reading a pipe whose other end only
//! we have. When we drop the pipe, or die by whatever signal, `sh` reads end of file, removes the directory and exits; the kernel
//! then kills everything that runs in the process namespace, and frees the network namespace with its taps. There is no name to
//! clean up and nothing that can be left behind.

use std::ffi::OsStr;
use std::io::{BufRead, BufReader};
use std::net::Ipv6Addr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};

use anyhow::{Context, Result, bail};

use super::artifacts;
use super::command::{DEADLINE, Invocation, Ran};

/// Two addresses that clients can come from (`curl --interface`).
pub(crate) const CLIENTS: [Ipv6Addr; 2] =
    [Ipv6Addr::new(0xfd00, 0xc, 0, 0, 0, 0, 0, 1), Ipv6Addr::new(0xfd00, 0xc, 0, 0, 0, 0, 0, 2)];

/// Address of the edge.
pub(crate) const EDGE: Ipv6Addr = Ipv6Addr::new(0xfd00, 0xe, 0, 0, 0, 0, 0, 1);

/// A network of its own, and the directory that belongs to it.
#[derive(Debug)]
pub(crate) struct Net {
    holder: Child,
    dir: PathBuf,
    links: AtomicU16,
}

/// Where a VM is plugged in.
#[derive(Debug, Clone)]
pub(crate) struct Link {
    /// Counts from 1 within the network.
    pub(crate) number: u16,
    /// The tap device.
    pub(crate) tap: String,
    /// Our side of it, the guest's gateway.
    pub(crate) gateway: Ipv6Addr,
    /// The guest's address, in the same /64.
    pub(crate) guest: Ipv6Addr,
}

impl Net {
    /// Makes the namespaces, with loopback, the clients' and the edge's addresses, and routing on.
    pub(crate) fn new() -> Result<Self> {
        artifacts::tools()?;
        let dir = tempfile::Builder::new()
            .prefix("guestd-e2e-")
            .tempdir()
            .context("making a directory for sockets and logs")?;
        let mut holder = Command::new("unshare")
            .args(["--net", "--pid", "--fork", "--kill-child", "--", "sh", "-c"])
            .arg(r#"echo held; cat >/dev/null; rm -rf -- "$1""#)
            .arg("sh")
            .arg(dir.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("starting unshare(1) of util-linux")?;
        let mut line = String::new();
        if let Some(stdout) = holder.stdout.take() {
            BufReader::new(stdout).read_line(&mut line).context("reading from the holder of the network namespace")?;
        }
        let net = Self { holder, dir: dir.keep(), links: AtomicU16::new(0) };
        if line != "held\n" {
            bail!("unshare(1) could not make a network namespace: VM tests need root and /dev/net/tun");
        }
        let addresses = CLIENTS.iter().chain([&EDGE]);
        let add: String = addresses.map(|address| format!("ip -6 addr add {address}/128 dev lo nodad\n")).collect();
        net.setup(&format!("ip link set lo up\n{add}echo 1 > /proc/sys/net/ipv6/conf/all/forwarding\n"))?;
        Ok(net)
    }

    /// Directory for sockets and logs; gone when the network is.
    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    /// A new tap with a /64 of its own, routed to everything else here.
    pub(crate) fn link(&self) -> Result<Link> {
        let number = self.links.fetch_add(1, Ordering::Relaxed) + 1;
        let address = |last| Ipv6Addr::new(0xfd00, 0, 0, number, 0, 0, 0, last);
        let link = Link { number, tap: format!("tap{number}"), gateway: address(1), guest: address(2) };
        let Link { tap, gateway, .. } = &link;
        self.setup(&format!(
            "ip tuntap add {tap} mode tap\nip -6 addr add {gateway}/64 dev {tap} nodad\nip link set {tap} up\n"
        ))?;
        Ok(link)
    }

    /// Runs a program in here to its end.
    pub(crate) fn run<A: AsRef<OsStr>>(&self, argv: impl IntoIterator<Item = A>) -> Result<Ran> {
        self.invocation(argv).run(DEADLINE)
    }

    /// A program to be run in here.
    pub(crate) fn invocation<A: AsRef<OsStr>>(&self, argv: impl IntoIterator<Item = A>) -> Invocation {
        Invocation::new(argv).inside(self.way_in())
    }

    fn setup(&self, script: &str) -> Result<()> {
        self.run(["sh", "-euc", script])?.ok().context("setting up a network namespace").map(drop)
    }

    /// What to put before a program to run it in here. nsenter(1) forks to enter a process namespace; the parent-death signal makes
    /// its child end with it.
    pub(crate) fn way_in(&self) -> Vec<String> {
        let ns = format!("/proc/{}/ns", self.holder.id());
        let words = [
            "nsenter",
            &format!("--net={ns}/net"),
            &format!("--pid={ns}/pid_for_children"),
            "--",
            "setpriv",
            "--pdeathsig=KILL",
            "--",
        ];
        words.map(str::to_owned).to_vec()
    }
}

impl Drop for Net {
    fn drop(&mut self) {
        // End of file for the holder; after the wait everything in the namespaces is dead and the directory removed.
        drop(self.holder.stdin.take());
        let _ = self.holder.wait();
    }
}
