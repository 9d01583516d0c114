//! One guest: booted from an image that stays as it is, driven by the real client, gone with its handle.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::net::Ipv6Addr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use guestd::api::{Health, Listener};

use super::artifacts::Artifacts;
use super::command::{DEADLINE, Invocation, Ran};
use super::net::{Link, Net};
use super::qemu::{Machine, VmSpec, has_kvm, tsc_khz};
use super::running::{Resident, Started};
use super::ssh::Ssh;
use super::vsock::VsockDevice;
use super::{evidence, until};

/// From the start of QEMU until the agent must have answered. An emulated guest on a busy machine takes 10 to 25 s.
const BOOT_DEADLINE: Duration = Duration::from_secs(90);

/// What a failed VM is given to tell its story.
const EVIDENCE_DEADLINE: Duration = Duration::from_secs(15);

/// The platform's domain.
pub(crate) const DOMAIN: &str = "vm.vers.sh";

/// URL of a port of a VM, by address.
pub(crate) fn page(address: Ipv6Addr, port: u16) -> String {
    format!("http://[{address}]:{port}/")
}

/// A running VM. What is not [passed](Vm::passed) leaves its logs in `target/e2e/`.
#[derive(Debug)]
pub(crate) struct Vm<'net> {
    /// Network that it is plugged into.
    pub(crate) net: &'net Net,
    /// Id given to the guest.
    pub(crate) id: String,
    /// Where it is plugged in.
    pub(crate) link: Link,
    /// Firecracker's hybrid vsock.
    pub(crate) uds: PathBuf,
    /// Its processor is emulated, not virtualised.
    pub(crate) emulated: bool,
    tsc_khz: u32,
    artifacts: Artifacts,
    dir: PathBuf,
    qemu: Option<Resident>,
    vsock: Option<VsockDevice>,
    passed: bool,
}

impl<'net> Vm<'net> {
    /// Starts a VM. It is still booting when this returns; with a vsock device, so far that one may connect to it.
    pub(crate) fn boot(net: &'net Net, spec: VmSpec) -> Result<Self> {
        let artifacts = Artifacts::find()?;
        let link = net.link()?;
        let id = format!("vm{}-{}", link.number, std::process::id());
        let dir = net.dir().join(format!("vm{}", link.number));
        fs::create_dir(&dir).with_context(|| format!("making {}", dir.display()))?;
        let uds = dir.join("vsock.uds");
        let cpuinfo = fs::read_to_string("/proc/cpuinfo").context("reading /proc/cpuinfo")?;
        let (emulated, tsc_khz) = (!has_kvm(&cpuinfo), tsc_khz(&cpuinfo));
        let mut vm =
            Self { net, id, link, uds, emulated, tsc_khz, artifacts, dir, qemu: None, vsock: None, passed: false };
        vm.power_on(&spec).with_context(|| format!("booting {}", vm.id))?;
        Ok(vm)
    }

    fn power_on(&mut self, spec: &VmSpec) -> Result<()> {
        if spec.vsock {
            let log = self.log("vsock.log")?;
            self.vsock = Some(VsockDevice::start(self.net, &self.dir, self.cid(), &self.uds, &log)?);
        }
        let machine = Machine {
            spec,
            id: &self.id,
            link: &self.link,
            kernel: self.artifacts.kernel.clone(),
            initramfs: self.artifacts.initramfs.clone(),
            disk: self.artifacts.image.clone(),
            console: self.console(),
            vhost: self.vsock.as_ref().map(|device| device.vhost.clone()),
            kvm: !self.emulated,
            tsc_khz: self.tsc_khz,
        };
        // QEMU makes it too, but later than somebody may look.
        self.log("console.log")?;
        let tmpdir = format!("TMPDIR={}", self.dir.display());
        // An emulated kernel measures its timers while it boots, within milliseconds: one that was held up by a busy machine just then
        // takes its interrupt controller's for broken ("APIC frequency too slow") and hangs. So it goes first.
        let words = ["nice", "-n", "-5", "env", &tmpdir].map(str::to_owned);
        let argv = words.into_iter().chain(machine.argv());
        let qemu = self.net.invocation(argv).keep(&self.log("qemu.log")?)?;
        let qemu = self.qemu.insert(qemu);
        self.vsock.as_mut().map_or(Ok(()), |device| device.wait_driver(BOOT_DEADLINE, || qemu.alive()))
    }

    /// Public name of the VM.
    pub(crate) fn name(&self) -> String {
        format!("{}.{DOMAIN}", self.id)
    }

    /// Its IPv6 address.
    pub(crate) fn address(&self) -> Ipv6Addr {
        self.link.guest
    }

    /// How guestctl is told to reach it.
    pub(crate) fn endpoint(&self) -> String {
        format!("fc:{}", self.uds.display())
    }

    /// Its vsock CID, unique in its network; 0 to 2 are not for guests.
    pub(crate) fn cid(&self) -> u32 {
        2 + u32::from(self.link.number)
    }

    /// Files that were built for it.
    pub(crate) fn artifacts(&self) -> &Artifacts {
        &self.artifacts
    }

    /// Runs guestctl against it, over vsock.
    pub(crate) fn ctl<A: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = A>) -> Result<Ran> {
        // Longer than it waits itself, so that it is guestctl that says what was in vain.
        self.guestctl(args).run(BOOT_DEADLINE + DEADLINE)
    }

    /// Starts guestctl against it, to be followed while it runs.
    pub(crate) fn ctl_start<A: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = A>) -> Result<Started> {
        self.guestctl(args).start(DEADLINE)
    }

    /// Runs it for what may take longer.
    pub(crate) fn ctl_for<A: AsRef<OsStr>>(
        &self,
        args: impl IntoIterator<Item = A>,
        deadline: Duration,
    ) -> Result<Ran> {
        self.guestctl(args).run(deadline)
    }

    /// Runs a program in the guest by `guestctl exec`; it must succeed.
    pub(crate) fn exec<A: AsRef<OsStr>>(&self, argv: impl IntoIterator<Item = A>) -> Result<Ran> {
        let argv = argv.into_iter().map(|arg| arg.as_ref().to_owned());
        self.ctl(["exec", "--"].map(OsString::from).into_iter().chain(argv))?.ok()
    }

    /// Runs a line of shell in the guest; it must succeed. Gives what it wrote to standard output.
    pub(crate) fn sh(&self, script: &str) -> Result<String> {
        Ok(self.exec(["sh", "-euc", script])?.out())
    }

    /// Waits until the agent says that the VM is ready.
    pub(crate) fn wait_ready(&self) -> Result<Health> {
        let secs = BOOT_DEADLINE.as_secs().to_string();
        self.ctl(["health", "--wait", &secs])?.ok()?;
        self.health()
    }

    /// Waits until the agent answers, whatever it says.
    pub(crate) fn wait_answer(&mut self) -> Result<Health> {
        until("the agent answers over vsock", BOOT_DEADLINE, || {
            self.alive()?;
            Ok(self.health().ok())
        })
    }

    /// What the agent says about the VM, ready or not.
    pub(crate) fn health(&self) -> Result<Health> {
        self.ctl(["--json", "health"])?.json()
    }

    /// What listens in the guest.
    pub(crate) fn ports(&self) -> Result<Vec<Listener>> {
        self.ctl(["--json", "ports"])?.ok()?.json()
    }

    /// Waits until a listener is as `wanted` says, and gives it. `what` completes the sentence "still not: ".
    pub(crate) fn wait_listener(&self, what: &str, wanted: impl Fn(&Listener) -> bool) -> Result<Listener> {
        self.wait_ports(what, |ports| ports.iter().find(|listener| wanted(listener)).cloned())
    }

    /// Waits until `found` finds something in the list of listeners, and gives it.
    pub(crate) fn wait_ports<T>(&self, what: &str, found: impl Fn(&[Listener]) -> Option<T>) -> Result<T> {
        let mut seen = Vec::new();
        until(what, DEADLINE, || {
            seen = self.ports()?;
            Ok(found(&seen))
        })
        .map_err(|error| anyhow!("{error:#}\nlisteners seen last: {seen:#?}"))
    }

    /// SSH over vsock, by `guestctl tunnel --stdio` as its ProxyCommand, as root with the golden key.
    pub(crate) fn ssh_by_tunnel(&self) -> Result<Ssh<'net>> {
        let tunnel = self.guestctl(["tunnel", "--stdio", "22"]);
        Ssh::by_proxy(self.net, &self.artifacts.golden_key, &self.id, &tunnel)
    }

    /// SSH straight to the VM's address, as root with the golden key.
    pub(crate) fn ssh(&self) -> Ssh<'net> {
        Ssh::direct(self.net, &self.artifacts.golden_key, self.address())
    }

    /// Fails when QEMU or the vsock device has ended by itself.
    pub(crate) fn alive(&mut self) -> Result<()> {
        self.qemu.iter_mut().try_for_each(Resident::alive)?;
        self.vsock.iter_mut().try_for_each(VsockDevice::alive)
    }

    /// What the guest wrote to its serial console so far.
    pub(crate) fn console_text(&self) -> Result<String> {
        let path = self.console();
        let bytes = fs::read(&path).with_context(|| format!("reading {}", path.display()))?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    /// The test is over and was good: nothing of this VM is kept.
    pub(crate) fn passed(mut self) -> Result<()> {
        self.alive()?;
        let console = self.console_text()?;
        if let Some(line) = console.lines().find(|line| line.contains("Kernel panic") || line.contains("panicked at")) {
            bail!("the test passed, and something in the guest did not: {line}");
        }
        self.passed = true;
        Ok(())
    }

    fn guestctl<A: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = A>) -> Invocation {
        let program = [self.artifacts.guestctl.clone().into(), OsString::from("--vm"), self.endpoint().into()];
        Invocation::new(program.into_iter().chain(args.into_iter().map(|arg| arg.as_ref().to_owned())))
    }

    /// Log of its serial console.
    pub(crate) fn console(&self) -> PathBuf {
        self.dir.join("console.log")
    }

    /// The guest's journal, by the agent or by sshd.
    fn journal(&self) -> Option<Vec<u8>> {
        let journalctl = ["journalctl", "-b", "--no-pager", "-o", "short-monotonic"];
        let by_agent = ["exec", "--timeout", "10", "--"].into_iter().chain(journalctl);
        let by_agent = self.vsock.is_some().then(|| self.guestctl(by_agent).run(EVIDENCE_DEADLINE).ok());
        let good = |ran: &Ran| ran.code == 0;
        let ran =
            by_agent.flatten().filter(good).or_else(|| self.ssh().run(&journalctl.join(" ")).ok().filter(good))?;
        Some(ran.stdout)
    }

    fn log(&self, name: &str) -> Result<File> {
        let path = self.dir.join(name);
        File::create(&path).with_context(|| format!("making {}", path.display()))
    }
}

impl Drop for Vm<'_> {
    fn drop(&mut self) {
        if self.passed {
            return;
        }
        // The guest's own journal says more than its console, if it can still be had.
        if let Some(journal) = self.journal() {
            let _ = fs::write(self.dir.join("journal.log"), journal);
        }
        let logs = ["console.log", "qemu.log", "vsock.log", "journal.log"].map(|name| self.dir.join(name));
        let logs: Vec<&Path> = logs.iter().map(PathBuf::as_path).collect();
        eprintln!("{}", evidence::keep(&self.id, &logs));
    }
}
