//! One guest: booted from an image that stays as it is, driven by the real client, gone with its handle.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::net::Ipv6Addr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use guestd::api::{Health, Listener};

use super::artifacts::Artifacts;
use super::command::{DEADLINE, Invocation, Ran, on_this_machine};
use super::net::{Link, Net};
use super::qemu::{Disk, MINIMAL_INIT, Machine, VmSpec, has_kvm, tsc_khz};
use super::qmp::Qmp;
use super::running::{Resident, Started};
use super::ssh::Ssh;
use super::vsock::VsockDevice;
use super::{evidence, until, until_every};

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
    pub(super) dir: PathBuf,
    pub(super) qemu: Option<Resident>,
    pub(super) vsock: Option<VsockDevice>,
    /// Takes orders, where it can be branched.
    pub(super) qmp: Option<Qmp>,
    /// Of a branch: the commit that it goes on from.
    pub(super) commit: Option<PathBuf>,
    /// How often its vsock device was plugged in.
    pub(super) plugs: u32,
    passed: bool,
}

impl<'net> Vm<'net> {
    /// Starts a VM. It is still booting when this returns; with a vsock device, so far that one may connect to it.
    pub(crate) fn boot(net: &'net Net, spec: VmSpec) -> Result<Self> {
        let mut vm = Self::new(net)?;
        vm.power_on(&spec).with_context(|| format!("booting {}", vm.id))?;
        Ok(vm)
    }

    /// One that does not run yet.
    pub(super) fn new(net: &'net Net) -> Result<Self> {
        let artifacts = Artifacts::find()?;
        let link = net.link()?;
        let id = format!("vm{}-{}", link.number, std::process::id());
        let dir = net.dir().join(format!("vm{}", link.number));
        fs::create_dir(&dir).with_context(|| format!("making {}", dir.display()))?;
        let uds = dir.join("vsock.uds");
        let cpuinfo = fs::read_to_string("/proc/cpuinfo").context("reading /proc/cpuinfo")?;
        let (emulated, tsc_khz) = (!has_kvm(&cpuinfo), tsc_khz(&cpuinfo));
        let (qemu, vsock, qmp, commit) = (None, None, None, None);
        Ok(Self {
            net,
            id,
            link,
            uds,
            emulated,
            tsc_khz,
            artifacts,
            dir,
            qemu,
            vsock,
            qmp,
            commit,
            plugs: 0,
            passed: false,
        })
    }

    pub(super) fn power_on(&mut self, spec: &VmSpec) -> Result<()> {
        // A branch is given its device when it goes on.
        if spec.vsock && self.commit.is_none() {
            let log = self.log("vsock.log")?;
            self.vsock = Some(VsockDevice::start(self.net, &self.dir, self.cid(), &self.uds, &log)?);
        }
        let machine = Machine {
            spec,
            id: &self.id,
            link: &self.link,
            kernel: &self.artifacts.kernel,
            disk: if spec.branchable { self.layered_disk()? } else { self.disk(spec)? },
            console: self.console(),
            vhost: self.vsock.as_ref().map(|device| device.vhost.clone()),
            kvm: !self.emulated,
            tsc_khz: self.tsc_khz,
            qmp: spec.branchable.then(|| self.dir.join("qmp.sock")),
            memory: self.commit.as_ref().map(|commit| commit.join("memory")),
        };
        let qmp = machine.qmp.clone();
        // QEMU makes it too, but later than somebody may look.
        self.log("console.log")?;
        let tmpdir = format!("TMPDIR={}", self.dir.display());
        // An emulated kernel measures its timers while it boots, within milliseconds: one that was held up by a busy machine just then
        // takes its interrupt controller's for broken ("APIC frequency too slow") and hangs. So it goes first.
        let words = ["nice", "-n", "-5", "env", &tmpdir].map(str::to_owned);
        let argv = words.into_iter().chain(machine.argv());
        let qemu = self.net.invocation(argv).keep(&self.log("qemu.log")?)?;
        let qemu = self.qemu.insert(qemu);
        if let Some(path) = qmp {
            self.qmp = Some(Qmp::connect(&path, || qemu.alive())?);
        }
        self.vsock.as_mut().map_or(Ok(()), |device| device.wait_driver(BOOT_DEADLINE, || qemu.alive()))
    }

    /// The file that its disk is.
    fn disk(&self, spec: &VmSpec) -> Result<PathBuf> {
        let image = match spec.init {
            None => &self.artifacts.image,
            Some(MINIMAL_INIT) => &self.artifacts.minimal,
            Some(_) => &self.artifacts.inits,
        };
        let Disk::Own(files) = &spec.disk else { return Ok(image.clone()) };
        let disk = self.own_disk();
        let (from, to) = (image.display().to_string(), disk.display().to_string());
        on_this_machine(["cp", "--sparse=always", "--", &from, &to])?.ok()?;
        for (number, (path, text)) in files.iter().enumerate() {
            let content = self.dir.join(format!("file{number}"));
            fs::write(&content, text).with_context(|| format!("writing {}", content.display()))?;
            // One that is there is replaced; the error for one that is not is debugfs's own to tell, and no failure of it.
            for request in [format!("rm {path}"), format!("write {} {path}", content.display())] {
                on_this_machine(["debugfs", "-w", "-R", &request, &to])?.ok()?;
            }
        }
        Ok(disk)
    }

    /// Its own disk, where it has one.
    pub(crate) fn own_disk(&self) -> PathBuf {
        self.dir.join("disk.ext4")
    }

    /// Waits for the VM to end by itself, and gives how long that took.
    pub(crate) fn wait_end(&mut self, deadline: Duration) -> Result<Duration> {
        let (begun, Some(qemu)) = (Instant::now(), &mut self.qemu) else { bail!("{} was never booted", self.id) };
        until_every("the VM has ended", deadline, Duration::from_millis(5), || Ok(qemu.has_ended()?.then_some(())))?;
        Ok(begun.elapsed())
    }

    /// The test is over and was good, and the VM has ended: nothing of it is kept.
    pub(crate) fn passed_ended(mut self) {
        self.passed = true;
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

    pub(super) fn log(&self, name: &str) -> Result<File> {
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
