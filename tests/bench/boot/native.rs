//! The same inits without a kernel to boot and without emulation: on this machine's own processor, in namespaces of their own.
//!
//! Root is nobody special there (a user namespace, in which it has the ids that it has outside, and owns the files of the tree): an init that would set
//! the clock, devices or sysctls reaches nothing of the machine. The agent has no vsock there, and looks at listeners from time to time.
//!
//! The agent is also killed there, again and again while it runs execs: how soon is it back?

use std::{
    fs,
    io::{BufRead, BufReader, Write},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use guestd::{
    api::{Health, Service, ServiceState, Status},
    sys::cgroup,
};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::Value;
use tempfile::TempDir;

use crate::{harness::until_every, http::Http};

const DEADLINE: Duration = Duration::from_secs(30);

/// Between two questions.
const ASK_EVERY: Duration = Duration::from_micros(500);

/// `$0` is a cgroup. The first `unshare` makes the namespace of users and waits for its table; the second one all else.
const OUTER: &str = r#"echo $$ >"$0/cgroup.procs" && exec unshare --user sh -c \
    'read go && exec unshare --pid --fork --kill-child --mount --uts --ipc --net --cgroup \
        env -i container=guestd PATH=/usr/sbin:/usr/bin:/sbin:/bin TERM=dumb sh -c "$@"' sh "$@""#;

/// `$0` is the tree, `$1` an empty directory, `$2` the init. What comes last, and is measured with it, is a static program.
const INNER: &str = r#"set -e
mount --make-rprivate /
mount -t tmpfs none "$1"
mkdir "$1/upper" "$1/work" "$1/root"
mount -t overlay -o "lowerdir=$0,upperdir=$1/upper,workdir=$1/work" overlay "$1/root"
cd "$1/root"
mount -t tmpfs none dev
for device in null zero full random urandom tty; do : >dev/$device; mount --bind /dev/$device dev/$device; done
mkdir dev/pts dev/shm
ln -s /proc/self/fd dev/fd
: >dev/console
mount -t proc none proc
mount -t sysfs none sys
mount -t cgroup2 none sys/fs/cgroup
# Until the root is another, no agent of this machine is to be met there.
mount -t tmpfs none /run
printf '[vsock]\nenabled = false\n' >etc/guestd/config.toml
echo ready to run it
exec busybox chroot . "$2" >/dev/null 2>&1 </dev/null"#;

/// An image's files, and where they are mounted.
#[derive(Debug)]
pub(crate) struct Tree {
    dir: TempDir,
}

impl Tree {
    /// Takes them out of an ext4 image.
    pub(crate) fn unpack(image: &Path) -> Result<Self> {
        let tree = Self { dir: tempfile::tempdir()? };
        for path in [tree.files(), tree.mount_point()] {
            fs::create_dir(path)?;
        }
        let dump = format!("rdump / {}", tree.files().display());
        let output = Command::new("debugfs").args(["-R", &dump]).arg(image).output().context("running debugfs")?;
        ensure!(tree.files().join("etc/guestd").is_dir(), "debugfs: {}", String::from_utf8_lossy(&output.stderr));
        Ok(tree)
    }

    fn files(&self) -> PathBuf {
        self.dir.path().join("files")
    }

    fn mount_point(&self) -> PathBuf {
        self.dir.path().join("mounted")
    }

    /// Runs this init until its agent is past its start: ready, or degraded, as without BPF.
    pub(crate) fn boot(&self, init: &str) -> Result<Booted> {
        let cgroup = Cgroup::new()?;
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "sh", "-c", OUTER]).arg(&cgroup.0).arg(INNER);
        command.arg(self.files()).arg(self.mount_point()).arg(init).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = Ended(command.spawn().context("starting setpriv of Debian's package util-linux")?);
        let proc = PathBuf::from(format!("/proc/{}", child.0.id()));
        let own = fs::read_link("/proc/self/ns/user")?;
        until_every("there is a namespace of users", DEADLINE, ASK_EVERY, || {
            Ok((fs::read_link(proc.join("ns/user"))? != own).then_some(()))
        })?;
        for table in ["uid_map", "gid_map"] {
            fs::write(proc.join(table), "0 0 65536").with_context(|| format!("writing {table}"))?;
        }
        child.0.stdin.take().context("no stdin")?.write_all(b"go\n")?;
        let said = BufReader::new(child.0.stdout.take().context("no stdout")?).lines().next();
        ensure!(said.is_some(), "the namespaces could not be made: what they lack is said above");
        let begun = Instant::now();
        let children = proc.join("task").join(child.0.id().to_string()).join("children");
        let init = fs::read_to_string(children).context("reading which process is init")?;
        let socket = format!("/proc/{}/root/run/guestd.sock", init.trim()).into();
        let mut booted = Booted { ms: 0.0, socket, _child: child, cgroup };
        booted.wait()?;
        booted.ms = ms(begun);
        Ok(booted)
    }
}

/// One that has booted. It ends when this is dropped.
#[derive(Debug)]
pub(crate) struct Booted {
    /// Milliseconds from the run of its init until its agent was past its start.
    pub(crate) ms: f64,
    socket: PathBuf,
    _child: Ended,
    cgroup: Cgroup,
}

/// An agent's time away, in milliseconds after it was killed.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Away {
    /// Until its next life's process ran.
    pub(crate) process: f64,
    /// Until that was past its start.
    pub(crate) answers: f64,
}

impl Booted {
    fn wait(&self) -> Result<()> {
        until_every("the agent is ready, or degraded", DEADLINE, ASK_EVERY, || {
            // It is not there, or not yet as it should be.
            let is_up = |health: &Health| matches!(health.status, Status::Ready | Status::Degraded);
            Ok(self.get("/v1/health").ok().filter(is_up).map(drop))
        })
    }

    fn get<T: serde::de::DeserializeOwned>(&self, target: &str) -> Result<T> {
        Http::connect(&self.socket)?.ask("GET", target, b"")
    }

    /// Kills the agent of `guestd init` while it runs an exec. Nothing else that init runs may end by it.
    pub(crate) fn kill_agent(&self) -> Result<Away> {
        let before: Vec<Service> = self.get("/v1/services")?;
        ensure!(!before.is_empty(), "it has no agent: is it guestd init?");
        let exec = br#"{"command": ["sleep", "4242"], "detach": true}"#;
        let _: Value = Http::connect(&self.socket)?.ask("POST", "/v1/exec", exec)?;
        let agent = self.outside(before[0].pid.context("it does not run")?)?;
        let killed = Instant::now();
        kill(agent, Signal::SIGKILL).context("killing the agent")?;
        self.wait()?;
        let answers = ms(killed);
        let after: Vec<Service> = self.get("/v1/services")?;
        let ([agent, before @ ..], [next, after @ ..]) = (&before[..], &after[..]) else { bail!("there is no agent") };
        ensure!(next.pid != agent.pid && next.restarts == agent.restarts + 1, "{next:#?}");
        ensure!(next.last_exit.as_deref() == Some("SIGKILL"), "{next:#?}");
        let running = |services: &[Service]| -> Vec<_> {
            let running = services.iter().filter(|service| service.state == ServiceState::Running);
            running.map(|service| (service.name.clone(), service.pid)).collect()
        };
        let lost: Vec<_> = running(before).into_iter().filter(|one| !running(after).contains(one)).collect();
        ensure!(lost.is_empty(), "services that ran do not any more: {lost:?}");
        let (exited, started) = (next.exited_secs.context("it lives")?, next.started_secs.context("it does not run")?);
        Ok(Away { process: (started - exited) * 1000.0, answers })
    }

    /// The number that a process of the boot has on this machine.
    fn outside(&self, pid: i32) -> Result<Pid> {
        let is_it = |process: &i32| {
            let status = fs::read_to_string(format!("/proc/{process}/status")).unwrap_or_default();
            let numbers = status.lines().find_map(|line| line.strip_prefix("NSpid:")).unwrap_or_default().to_owned();
            numbers.split_whitespace().next_back() == Some(&pid.to_string())
        };
        let found = processes(&self.cgroup.0)?.into_iter().find(is_it);
        Ok(Pid::from_raw(found.with_context(|| format!("process {pid} of the boot is not found"))?))
    }
}

/// Those in a cgroup and all below it.
fn processes(cgroup: &Path) -> std::io::Result<Vec<i32>> {
    let own = fs::read_to_string(cgroup.join("cgroup.procs"))?;
    let mut processes: Vec<_> = own.lines().filter_map(|pid| pid.parse().ok()).collect();
    for entry in fs::read_dir(cgroup)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            processes.extend(self::processes(&entry.path())?);
        }
    }
    Ok(processes)
}

fn ms(since: Instant) -> f64 {
    since.elapsed().as_secs_f64() * 1000.0
}

/// Ends with all that it has started: the namespace of processes ends with its first one.
#[derive(Debug)]
struct Ended(Child);

impl Drop for Ended {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// All processes of a boot are in it, and it goes with them.
#[derive(Debug)]
struct Cgroup(PathBuf);

impl Cgroup {
    fn new() -> Result<Self> {
        let path = cgroup::root()?.join(format!("guestd-boot-{}", std::process::id()));
        fs::create_dir(&path).with_context(|| format!("making {}", path.display()))?;
        Ok(Self(path))
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        let until = Instant::now() + DEADLINE;
        while remove_all(&self.0).is_err() {
            if Instant::now() > until {
                eprintln!("{} is left behind", self.0.display());
                return;
            }
            thread::sleep(Duration::from_millis(10));
        }
    }
}

/// Directories alone: what else is in them is the kernel's.
fn remove_all(cgroup: &Path) -> std::io::Result<()> {
    for entry in fs::read_dir(cgroup)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            remove_all(&entry.path())?;
        }
    }
    fs::remove_dir(cgroup)
}
