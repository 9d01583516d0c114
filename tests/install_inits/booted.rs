//! A root file system of Debian packages, guestd installed into it, and an init system running in it as process 1.
//!
//! It has namespaces of its own: processes, mounts, host name, network. What is known of it from outside is found below its process 1's
//! root. It ends with this value, and with the test's thread should the test be killed.

use std::{
    fs,
    io::{Read, Write},
    os::{
        fd::{AsFd, OwnedFd},
        unix::{
            fs::{OpenOptionsExt, PermissionsExt},
            net::UnixStream,
            process::CommandExt,
        },
    },
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use guestd::{
    config::{self, Config},
    install::{InstallArgs, Report, install},
};
use nix::{
    sys::{
        signal::{Signal, kill},
        socket::{getsockopt, sockopt::PeerCredentials},
    },
    unistd::Pid,
};

use crate::build::Build;

/// Far above what anything here takes, so that only a hang reaches it.
const DEADLINE: Duration = Duration::from_secs(60);

/// The agent must not reach for this machine's own devices and cgroups: no vsock, no BPF, no bridge.
const CONFIG: &str = "vm_id = \"vm-7\"\ndns = [\"2001:db8::53\"]\n[vsock]\nenabled = false\n[bridge]\nauto = false\ntier = \"bind\"\n\
                      [listeners]\nevents = \"poll\"\n";

/// Mounts what a kernel and a VM's early steps would have mounted, and starts process 1, which may load no module and set no clock.
const BOOT: &str = r#"set -e
mount -t proc proc "$root/proc"
mount -t tmpfs -o mode=0755 tmpfs "$root/run"
mount -t tmpfs -o mode=0755 tmpfs "$root/dev"
for node in null zero full random urandom; do
    : >"$root/dev/$node"
    mount --bind "/dev/$node" "$root/dev/$node"
done
: >"$root/dev/console"
mount --bind "$console" "$root/dev/console"
hostname guest
exec setpriv --bounding-set=-sys_module,-sys_time,-sys_boot,-bpf,-perfmon chroot "$root" /sbin/init
"#;

/// A root file system that has not been booted yet.
pub(crate) struct Rootfs {
    build: Build,
}

impl Rootfs {
    /// One in which `/sbin/init` is a link to `init`.
    pub(crate) fn with_init(init: &str) -> Self {
        let packages = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/image/inits");
        assert!(packages.is_dir(), "{} is missing: make it with `just image`", packages.display());
        let build = Build::empty();
        let copied = Command::new("cp").arg("-a").arg(packages.join(".")).arg(build.root()).status().unwrap();
        assert!(copied.success());
        std::os::unix::fs::symlink(init, build.path("/sbin/init")).unwrap();
        let rootfs = Self { build };
        rootfs.write("/etc/hostname", "guest\n", 0o644);
        rootfs.write("/etc/guestd/config.toml", CONFIG, 0o644);
        // Where there is no sshd there is no host key. Nobody starts it.
        rootfs.write("/usr/sbin/sshd", "#!/bin/sh\n", 0o755);
        rootfs
    }

    pub(crate) fn write(&self, path: &str, text: &str, mode: u32) {
        let path = self.build.path(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
    }

    pub(crate) fn remove(&self, path: &str) {
        fs::remove_file(self.build.path(path)).unwrap();
    }

    pub(crate) fn link(&self, target: &str, path: &str) {
        std::os::unix::fs::symlink(target, self.build.path(path)).unwrap();
    }

    /// Puts guestd in.
    pub(crate) fn install(&self) -> Report {
        let args = InstallArgs {
            root: self.build.root(),
            init: None,
            keys: None,
            binary: Some(env!("CARGO_BIN_EXE_guestd").into()),
            dry_run: false,
        };
        install(&args).unwrap()
    }

    /// Starts process 1 and waits until the agent answers.
    pub(crate) fn boot(self) -> Booted {
        let (config, problems) = Config::from_layers(&[config::file(&self.build.path("/etc/guestd/config.toml"))]);
        assert!(!config.vsock_enabled && problems.is_empty(), "this machine's vsock is not for tests");
        let console = Console::open();
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "unshare", "--mount", "--propagation", "private", "--pid", "--fork"]);
        command.args(["--kill-child", "--uts", "--ipc", "--net", "sh", "-c", BOOT]);
        command.env_clear().env("PATH", std::env::var_os("PATH").unwrap_or_default());
        command.env("root", self.build.root()).env("console", &console.path);
        let terminal =
            || fs::OpenOptions::new().write(true).custom_flags(nix::libc::O_NOCTTY).open(&console.path).unwrap();
        command.stdin(Stdio::null()).stdout(terminal()).stderr(terminal()).process_group(0);
        let child = command.spawn().expect("setpriv and unshare of util-linux");
        let mut booted = Booted { child, init: None, console, rootfs: self };
        booted.init = Some(booted.eventually("process 1 runs", |booted| booted.child_of_unshare()));
        booted.agent();
        booted
    }
}

/// A root file system with an init system running in it.
pub(crate) struct Booted {
    child: Child,
    /// Process 1 of the namespace, by this machine's number.
    init: Option<Pid>,
    console: Console,
    rootfs: Rootfs,
}

/// The console: a terminal, of which all that is written to it is remembered.
struct Console {
    path: PathBuf,
    written: Arc<Mutex<Vec<u8>>>,
    // Held, so that the terminal stays when nobody has it open.
    _terminal: OwnedFd,
}

impl Console {
    fn open() -> Self {
        let pair = nix::pty::openpty(None, None).unwrap();
        let path = nix::unistd::ttyname(&pair.slave).unwrap();
        let written = Arc::new(Mutex::new(Vec::new()));
        let (log, mut master) = (Arc::clone(&written), fs::File::from(pair.master));
        // Ends with the last that has the terminal open.
        std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(length @ 1..) = master.read(&mut buffer) {
                log.lock().unwrap().extend_from_slice(&buffer[..length]);
            }
        });
        Self { path, written, _terminal: pair.slave }
    }
}

impl Booted {
    /// `unshare` has one child, which becomes process 1.
    fn child_of_unshare(&self) -> Option<Pid> {
        let id = self.child.id();
        let children = fs::read_to_string(format!("/proc/{id}/task/{id}/children")).unwrap_or_default();
        let init = children.split_ascii_whitespace().next()?.parse().ok()?;
        // In its own root by now, and not on the way there.
        let root = fs::read_link(format!("/proc/{init}/root")).ok()?;
        (root == self.rootfs.build.root()).then(|| Pid::from_raw(init))
    }

    /// Process 1, by this machine's number.
    pub(crate) fn init(&self) -> Pid {
        self.init.expect("it was booted")
    }

    /// A path of the booted system, as this machine sees it.
    pub(crate) fn path(&self, path: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/root{path}", self.init()))
    }

    pub(crate) fn console(&self) -> String {
        String::from_utf8_lossy(&self.console.written.lock().unwrap()).into_owned()
    }

    /// A connection to the agent that answers now.
    fn connect(&self) -> Option<UnixStream> {
        let stream = UnixStream::connect(self.path("/run/guestd.sock")).ok()?;
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        Some(stream)
    }

    /// The agent's process, once it accepts connections.
    pub(crate) fn agent(&self) -> Pid {
        self.eventually("the agent accepts connections", |booted| {
            let stream = booted.connect()?;
            let peer = getsockopt(&stream.as_fd(), PeerCredentials).unwrap();
            Some(Pid::from_raw(peer.pid()))
        })
    }

    /// How many agents run in it.
    pub(crate) fn agents(&self) -> usize {
        let namespace = |process: &Path| fs::read_link(process.join("ns/pid")).ok();
        let own = namespace(Path::new(&format!("/proc/{}", self.init())));
        let processes = fs::read_dir("/proc").unwrap().map(|entry| entry.unwrap().path());
        let is_agent = |process: &PathBuf| {
            namespace(process) == own
                && fs::read(process.join("cmdline")).is_ok_and(|line| line == b"/usr/local/bin/guestd\0agent\0")
        };
        processes.filter(is_agent).count()
    }

    /// Kills the agent; its successor.
    pub(crate) fn kill_agent(&self) -> Pid {
        let killed = self.agent();
        kill(killed, Signal::SIGKILL).unwrap();
        self.eventually("another agent runs", |booted| {
            let stream = booted.connect()?;
            let peer = Pid::from_raw(getsockopt(&stream.as_fd(), PeerCredentials).unwrap().pid());
            (peer != killed).then_some(peer)
        })
    }

    /// What the agent answers.
    pub(crate) fn get(&self, path: &str) -> serde_json::Value {
        let mut stream = self.connect().unwrap();
        write!(stream, "GET {path} HTTP/1.1\r\nHost: guestd\r\nConnection: close\r\n\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        // The latter is health's, as long as it is not well.
        assert!(head.starts_with("HTTP/1.1 200 ") || head.starts_with("HTTP/1.1 503 "), "{answer}");
        serde_json::from_str(body).unwrap_or_else(|error| panic!("{error}: {answer}"))
    }

    /// Runs a command in the booted system.
    pub(crate) fn run(&self, command: &[&str]) -> Output {
        let init = self.init().to_string();
        Command::new("nsenter")
            .args(["--target", &init, "--mount", "--pid", "--uts", "--net", "--ipc", "--root", "--wd=/"])
            .args(["env", "-i", "PATH=/usr/sbin:/usr/bin:/sbin:/bin"])
            .args(command)
            .stdin(Stdio::null())
            .output()
            .expect("nsenter of util-linux")
    }

    /// Asks until `probe` finds something; the condition is the synchronisation, the pause only spares the CPU.
    pub(crate) fn eventually<T>(&self, what: &str, mut probe: impl FnMut(&Self) -> Option<T>) -> T {
        let give_up = Instant::now() + DEADLINE;
        loop {
            if let Some(found) = probe(self) {
                return found;
            }
            assert!(Instant::now() < give_up, "gave up waiting until {what}; the console:\n{}", self.console());
            std::thread::park_timeout(Duration::from_millis(20));
        }
    }

    /// What the unit of systemd states elsewhere, and what the agent makes of its configuration.
    pub(crate) fn assert_prepared(&self) {
        // It answers before it is ready.
        self.eventually("the agent is ready", |booted| {
            (booted.get("/v1/health")["status"] != "starting").then_some(())
        });
        let agent = self.agent();
        let limits = fs::read_to_string(format!("/proc/{agent}/limits")).unwrap();
        let files: Vec<_> =
            limits.lines().find(|line| line.starts_with("Max open files")).unwrap().split_whitespace().collect();
        assert_eq!(files[3], files[4], "as many open files as there may be: {limits}");
        let key = fs::metadata(self.path("/etc/ssh/ssh_host_ed25519_key")).unwrap();
        assert_eq!(key.permissions().mode() & 0o7777, 0o600);

        self.eventually("the agent has given the VM its name", |booted| {
            (booted.get("/v1/info")["identity"]["hostname"] == "vm-7").then_some(())
        });
        let health = self.get("/v1/health");
        let names = health["checks"].as_array().unwrap().iter().find(|check| check["name"] == "names").unwrap();
        assert_eq!(names["state"], "ok", "{health}");
        assert!(fs::read_to_string(self.path("/etc/hosts")).unwrap().contains("127.0.1.1 vm-7\n"));
        assert!(fs::read_to_string(self.path("/etc/resolv.conf")).unwrap().contains("nameserver 2001:db8::53\n"));
        assert_eq!(fs::read_to_string(self.path("/etc/hostname")).unwrap(), "guest\n");
    }
}

impl Drop for Booted {
    fn drop(&mut self) {
        // The end of process 1 is that of its namespace; `unshare` ends with it.
        if let Some(init) = self.init {
            let _ = kill(init, Signal::SIGKILL);
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("the console:\n{}", self.console());
        }
    }
}
