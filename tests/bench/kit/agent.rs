//! A real agent in a cgroup of its own, so that all it leaves behind can be seen, and ended.

use std::fs;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use guestd::sys::cgroup::{Cgroup, CgroupParent};
use tempfile::TempDir;

use super::watch::{Process, eventually};

/// Longest start of an agent on a machine that is busy.
const START: Duration = Duration::from_secs(30);

/// A built file of this project, by its path below `target`; `how` is what makes it.
pub(crate) fn built(path: &str, how: &str) -> Result<PathBuf> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("target").join(path);
    ensure!(path.is_file(), "there is no {}: make it by `{how}`", path.display());
    Ok(path)
}

/// A directory and a cgroup for what is started; both are gone with this value, and every process in the cgroup.
#[derive(Debug)]
pub(crate) struct Home {
    cgroup: Cgroup,
    dir: TempDir,
}

impl Home {
    /// A new one.
    pub(crate) fn new(name: &str) -> Result<Self> {
        let parent =
            CgroupParent::detect().context("a cgroup of one's own is needed: be root, with cgroup2 mounted")?;
        let dir = tempfile::Builder::new().prefix("guestd-load-").tempdir().context("making a directory")?;
        let unique = dir.path().file_name().unwrap_or_default().to_string_lossy().into_owned();
        let cgroup = parent.create(&format!("{unique}-{name}")).context("making a cgroup")?;
        Ok(Self { cgroup, dir })
    }

    /// Its directory.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// A program that runs in this cgroup, and ends with the thread that starts it.
    pub(crate) fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "sh", "-c", r#"echo $$ >"$0" && exec "$@""#]);
        command.arg(self.cgroup.path().join("cgroup.procs")).arg(program);
        command
    }

    /// CPU time of all that ran in it, in seconds, of what has ended, too, and the kernel's work for it.
    pub(crate) fn cpu_seconds(&self) -> Result<f64> {
        cpu_seconds_of(self.cgroup.path())
    }

    /// Cgroups that were made below this one, but for `agent`, where an agent may have put itself.
    pub(crate) fn cgroups(&self) -> Result<Vec<String>> {
        let listed = fs::read_dir(self.cgroup.path()).context("listing a cgroup")?;
        let directories = listed.filter_map(|entry| entry.ok().filter(|entry| entry.path().is_dir()));
        let names = directories.map(|entry| entry.file_name().to_string_lossy().into_owned());
        Ok(names.filter(|name| name != "agent").collect())
    }

    /// Processes in it and below.
    pub(crate) fn members(&self) -> Result<Vec<i32>> {
        self.cgroup.members().context("listing the processes of a cgroup")
    }
}

/// CPU time of a cgroup, in seconds.
pub(crate) fn cpu_seconds_of(cgroup: &Path) -> Result<f64> {
    let path = cgroup.join("cpu.stat");
    let text = fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
    let micros = text.lines().find_map(|line| line.strip_prefix("usage_usec ")?.parse::<u64>().ok());
    Ok(micros.with_context(|| format!("no usage_usec in {}", path.display()))? as f64 / 1e6)
}

impl Drop for Home {
    fn drop(&mut self) {
        if let Err(error) = self.cgroup.kill() {
            eprintln!("killing what is left in {}: {error}", self.cgroup.path().display());
        }
        let gone = eventually("its cgroup is empty", Duration::from_secs(10), || {
            ensure!(self.members()?.is_empty(), "processes {:?}", self.members()?);
            for name in self.cgroups()?.into_iter().chain(["agent".to_owned()]) {
                // Best effort: what cannot be removed fails the removal below, which is reported.
                let _ = fs::remove_dir(self.cgroup.path().join(name));
            }
            self.cgroup.remove().context("removing it")
        });
        if let Err(error) = gone {
            eprintln!("{error:#}");
        }
    }
}

/// A running agent.
#[derive(Debug)]
pub(crate) struct Agent {
    child: Child,
    socket: PathBuf,
}

impl Agent {
    /// Starts this binary as an agent that bridges nothing and has no vsock, and waits until it says that it is ready.
    pub(crate) fn start(home: &Home, guestd: &Path, config: &str) -> Result<Self> {
        let (socket, file, ready) = (home.path("guestd.sock"), home.path("config.toml"), home.path("notify"));
        fs::write(&file, format!("bridge.auto = false\nlog.level = \"error\"\n{config}"))?;
        let notify = UnixDatagram::bind(&ready).context("making a socket for its word that it is ready")?;
        notify.set_read_timeout(Some(START))?;
        let mut command = home.command(guestd);
        command.arg("agent").arg("--no-vsock").arg("--config").arg(&file).arg("--socket").arg(&socket);
        let child = command.env("NOTIFY_SOCKET", &ready).spawn().context("starting the agent")?;
        let agent = Self { child, socket };
        let mut word = [0; 64];
        let length = notify.recv(&mut word).context("the agent did not say that it is ready")?;
        ensure!(word[..length].starts_with(b"READY=1"), "the agent said something else than that it is ready");
        Ok(agent)
    }

    /// Its socket.
    pub(crate) fn socket(&self) -> &Path {
        &self.socket
    }

    /// Its process.
    pub(crate) fn process(&self) -> Process {
        Process(self.child.id())
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
