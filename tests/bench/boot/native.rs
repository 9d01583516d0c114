//! The same inits without a kernel to boot and without emulation: on this machine's own processor, in namespaces of their own.
//!
//! Root is nobody special there (a user namespace, in which it has the ids that it has outside, and owns the files of the tree): an init that would set
//! the clock, devices or sysctls reaches nothing of the machine. The agent has no vsock there, and looks at listeners from time to time.

use std::{
    fs,
    io::{BufRead, BufReader, Read, Write},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use guestd::{
    api::{Health, Status},
    sys::cgroup,
};
use tempfile::TempDir;

use crate::harness::until_every;

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

    /// Milliseconds from the run of this init until its agent is past its start: ready, or degraded, as without BPF.
    pub(crate) fn boot(&self, init: &str) -> Result<f64> {
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
        let socket = format!("/proc/{}/root/run/guestd.sock", init.trim());
        until_every("the agent is ready, or degraded", DEADLINE, ASK_EVERY, || {
            // It is not there, or not yet as it should be.
            let is_up = |health: &Health| matches!(health.status, Status::Ready | Status::Degraded);
            Ok(health(&socket).ok().filter(is_up).map(drop))
        })?;
        Ok(begun.elapsed().as_secs_f64() * 1000.0)
    }
}

fn health(socket: &str) -> Result<Health> {
    let mut stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(DEADLINE))?;
    stream.write_all(b"GET /v1/health HTTP/1.1\r\nHost: guestd\r\nConnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let (_, body) = answer.split_once("\r\n\r\n").context("no answer")?;
    Ok(serde_json::from_str(body)?)
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
