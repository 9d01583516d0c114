//! What a golden image is for, claim by claim: the demo shows them to people, a test holds them.

use std::net::Ipv4Addr;

use anyhow::{Context, Result, ensure};
use guestd::api::{Cause, Exposure, Family, Status};

use crate::harness::{CLIENTS, Edge, Net, Ran, Route, Ssh, Vm, VmSpec, page};

/// A VM with the platform's edge before it.
pub(crate) struct Stage<'net> {
    /// The VM, perhaps still booting.
    pub(crate) vm: Vm<'net>,
    /// The edge that routes to it.
    pub(crate) edge: Edge,
}

impl<'net> Stage<'net> {
    /// Starts the edge and boots the VM.
    pub(crate) fn set(net: &'net Net) -> Result<Self> {
        let vm = Vm::boot(net, VmSpec::default())?;
        let (name, address) = (vm.name(), vm.address());
        let routes = [Route::new(&name, 3000, address, 3000), Route::new(&name, 443, address, 22)];
        let edge = Edge::start(net, &routes)?;
        Ok(Self { vm, edge })
    }
}

/// What was done to see that a claim is true: commands with their output, and what follows from it.
#[derive(Debug, Default)]
pub(crate) struct Shown(pub(crate) String);

impl Shown {
    fn ran(&mut self, ran: &Ran) {
        self.0 += &format!("$ {}\n", ran.command);
        for text in [ran.out(), ran.err()] {
            if !text.is_empty() {
                self.0 += &format!("{text}\n");
            }
        }
    }

    fn finding(&mut self, finding: impl AsRef<str>) {
        self.0 += &format!("=> {}\n", finding.as_ref());
    }
}

/// Something that must be true.
pub(crate) struct Claim {
    /// The claim, as a sentence.
    pub(crate) is: &'static str,
    /// Sees that it is true.
    pub(crate) see: fn(&Stage<'_>) -> Result<Shown>,
}

/// All of them, in the order in which they build on each other.
pub(crate) const CLAIMS: [Claim; 8] = [
    Claim { is: "The VM is ready, and says so over vsock", see: ready_over_vsock },
    Claim { is: "Every listener is listed, with whether the world can reach it", see: listeners_have_a_verdict },
    Claim { is: "An IPv4-only web server answers over IPv6, and can tell its clients apart", see: page_over_ipv6 },
    Claim { is: "The same page comes by HTTPS under the VM's public name", see: page_through_the_edge },
    Claim { is: "SSH works with the golden key through port 443", see: ssh_through_the_edge },
    Claim { is: "The host runs a command", see: exec },
    Claim { is: "Output streams as it is written, standard output and error apart", see: streamed_exec },
    Claim { is: "The exit status of a command is guestctl's own", see: exit_status },
];

fn ready_over_vsock(stage: &Stage<'_>) -> Result<Shown> {
    let mut shown = Shown::default();
    let ran = stage.vm.ctl(["health", "--wait", "60"])?.ok()?;
    shown.ran(&ran);
    let health = stage.vm.health()?;
    ensure!(health.status == Status::Ready, "the agent is not ready: {health:#?}");
    let after = health.ready_after_boot_secs.context("a ready agent must say when it was ready")?;
    ensure!(after > 0.0 && after <= health.uptime_secs, "ready {after} s after boot, up {} s", health.uptime_secs);
    shown.finding(format!("ready {after:.1} s after the start of the kernel"));
    Ok(shown)
}

fn listeners_have_a_verdict(stage: &Stage<'_>) -> Result<Shown> {
    let mut shown = Shown::default();
    let vm = &stage.vm;
    let web = vm.wait_listener("0.0.0.0:3000 is bridged", |l| l.port == 3000 && l.exposure == Exposure::Bridged)?;
    let ssh = vm.wait_listener("sshd listens on IPv6", |l| l.port == 22 && l.family == Family::Ipv6)?;
    let db = vm.wait_listener("127.0.0.1:5432 is listed", |l| l.port == 5432)?;
    shown.ran(&vm.ctl(["ports"])?.ok()?);

    ensure!(web.address == Ipv4Addr::UNSPECIFIED, "the legacy server is not on 0.0.0.0: {web:#?}");
    ensure!(
        web.family == Family::Ipv4 && web.cause == Some(Cause::Ipv4OnlyWildcard),
        "not seen as IPv4-only: {web:#?}"
    );
    let url = web.url.as_deref().unwrap_or_default();
    let expected = format!("https://{}:3000", vm.name());
    ensure!(url.trim_end_matches('/') == expected, "its URL is {url:?} and not {expected}");
    let unit = web.process.as_ref().and_then(|process| process.unit.as_deref());
    ensure!(unit == Some("legacy-web.service"), "its owner is not known: {web:#?}");
    shown.finding(format!("0.0.0.0:3000 of {} is bridged: {url}", unit.unwrap_or_default()));

    ensure!(db.exposure == Exposure::Unreachable && db.cause == Some(Cause::LoopbackOnly), "not kept private: {db:#?}");
    ensure!(db.url.is_none(), "a private listener has a public URL: {db:#?}");
    let attempt = vm.net.run(["curl", "-sS", "--max-time", "10", &page(vm.address(), 5432)])?.exits(7)?;
    shown.ran(&attempt);
    shown.finding("127.0.0.1:5432 is loopback only, and not bridged");

    ensure!(ssh.exposure == Exposure::Direct && ssh.cause.is_none(), "sshd is not direct: {ssh:#?}");
    shown.finding("sshd on [::]:22 is direct");
    Ok(shown)
}

fn page_over_ipv6(stage: &Stage<'_>) -> Result<Shown> {
    let mut shown = Shown::default();
    let vm = &stage.vm;
    let url = page(vm.address(), 3000);
    for client in CLIENTS {
        let from = client.to_string();
        let curl = vm.net.run(["curl", "-sS", "--max-time", "20", "--interface", &from, &url])?.ok()?;
        ensure!(curl.stdout == legacy_page()?, "this is not the legacy server's page:\n{curl}");
        shown.ran(&curl);
    }
    let log = vm.exec(["cat", "/var/log/legacy-web.log"])?;
    shown.ran(&log);
    let clients = clients_logged(&log.out());
    for client in &clients {
        ensure!(client.octets()[0] >= 240, "the server saw {client}, which is no pseudo IPv4 address:\n{log}");
    }
    let mut apart = clients.clone();
    apart.sort_unstable();
    apart.dedup();
    ensure!(apart.len() == CLIENTS.len(), "{} clients, and the server saw {clients:?}:\n{log}", CLIENTS.len());
    shown.finding(format!("the server saw {apart:?}: neither 127.0.0.1, nor one and the same"));
    Ok(shown)
}

fn page_through_the_edge(stage: &Stage<'_>) -> Result<Shown> {
    let mut shown = Shown::default();
    let (vm, edge) = (&stage.vm, &stage.edge);
    let resolve = format!("{}:3000:[{}]", vm.name(), edge.address());
    let url = format!("https://{}:3000/", vm.name());
    let ca = edge.authority().display().to_string();
    let argv = ["curl", "-sS", "--max-time", "20", "--cacert", &ca, "--resolve", &resolve, &url];
    let curl = vm.net.run(argv)?.ok()?;
    shown.ran(&curl);
    ensure!(curl.stdout == legacy_page()?, "this is not the legacy server's page:\n{curl}");
    Ok(shown)
}

fn ssh_through_the_edge(stage: &Stage<'_>) -> Result<Shown> {
    let mut shown = Shown::default();
    let vm = &stage.vm;
    let ssh = Ssh::through_edge(vm.net, &vm.artifacts().golden_key, &stage.edge, &vm.name())?;
    let ran = ssh.run("id -un; cat /proc/cmdline")?.ok()?;
    shown.ran(&ran);
    let out = ran.out();
    ensure!(out.starts_with("root\n") && out.contains(&vm.id), "this is not root on {}:\n{ran}", vm.id);
    Ok(shown)
}

fn exec(stage: &Stage<'_>) -> Result<Shown> {
    let mut shown = Shown::default();
    let ran = stage.vm.exec(["uname", "-a"])?;
    shown.ran(&ran);
    let release = &stage.vm.artifacts().kernel.release;
    ensure!(ran.out().starts_with("Linux ") && ran.out().contains(release), "this is not uname of {release}:\n{ran}");
    Ok(shown)
}

/// The command waits in the middle for a word from us, so its first lines can only be seen early if they are streamed.
fn streamed_exec(stage: &Stage<'_>) -> Result<Shown> {
    let mut shown = Shown::default();
    let vm = &stage.vm;
    vm.sh("mkfifo /run/golden-path.fifo")?;
    let script = "echo out one; echo err one >&2; read word </run/golden-path.fifo; echo out $word; echo err $word >&2";
    let mut running = vm.ctl_start(["exec", "--", "sh", "-c", script])?;
    let early = [running.line()?.trim_end().to_owned(), running.error_line()?.trim_end().to_owned()].join(" and ");
    running.still_runs()?;
    vm.sh("echo two >/run/golden-path.fifo; rm /run/golden-path.fifo")?;
    let ran = running.end()?.ok()?;
    shown.ran(&ran);
    let apart = ran.stdout == b"out one\nout two\n" && ran.stderr == b"err one\nerr two\n";
    ensure!(apart, "the streams are not apart:\n{ran}");
    shown.finding(format!("`{early}` came while the command was still running"));
    Ok(shown)
}

fn exit_status(stage: &Stage<'_>) -> Result<Shown> {
    let mut shown = Shown::default();
    let ran = stage.vm.ctl(["exec", "--", "sh", "-c", "exit 7"])?.exits(7)?;
    shown.ran(&ran);
    shown.finding("exit status 7");
    Ok(shown)
}

/// The page, as the image holds it.
pub(crate) fn legacy_page() -> Result<Vec<u8>> {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/e2e/overlay/srv/legacy-web/index.html");
    std::fs::read(path).with_context(|| format!("reading {path}"))
}

/// Clients in the log of busybox httpd, whose lines begin with `ADDRESS:PORT:` or `[::ffff:ADDRESS]:PORT:`.
pub(crate) fn clients_logged(log: &str) -> Vec<Ipv4Addr> {
    let address = |line: &str| {
        let line = line.trim_start_matches("[::ffff:");
        line.split([':', ']']).next()?.parse().ok()
    };
    log.lines().filter_map(address).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients_are_read_from_either_form_of_the_log() {
        let log =
            "240.1.2.3:40000: response:200\n[::ffff:240.1.2.4]:40001: response:200\n[fd00:c::1]:9: response:200\n";
        let expected = [Ipv4Addr::new(240, 1, 2, 3), Ipv4Addr::new(240, 1, 2, 4)];
        assert_eq!(clients_logged(log), expected);
    }
}
