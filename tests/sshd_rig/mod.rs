//! The real sshd and ssh with an installed image, in namespaces in which /etc is the image's and /run is empty, so that the image's
//! files are used as they are and where they are; sshd listens on loopback ports of its own. Needs root, and Debian's packages
//! openssh-server and openssh-client.

use std::{
    fs,
    io::{BufRead, BufReader},
    net::TcpListener,
    path::PathBuf,
    process::{Child, Command, Output, Stdio},
    sync::mpsc,
    thread::JoinHandle,
    time::Duration,
};

use guestd::{
    install::{Init, InstallArgs, install},
    keys,
};
use nix::{
    sys::signal::{Signal, kill},
    unistd::{Pid, geteuid},
};

/// How long sshd may take to listen, on a machine that is busy with other things.
const START_TIME: Duration = Duration::from_secs(60);

/// Enters an image: its /etc in the place of the machine's, and the directories that an init makes in /run.
pub(crate) const ENTER: &str =
    r#"mount --rbind "$0/etc" /etc && mount -t tmpfs tmpfs /run && mkdir -m 0755 /run/sshd && exec "$@""#;

/// Debian's main configuration reads guestd's part first; what follows here would contradict it.
const SSHD_CONFIG: &str = "\
Include /etc/ssh/sshd_config.d/*.conf
AddressFamily inet
PermitRootLogin no
PasswordAuthentication yes
KbdInteractiveAuthentication yes
AuthorizedKeysFile none
UsePAM no
PidFile none
";

/// An installed root file system, with as much of a Debian in its /etc as sshd and ssh need.
pub(crate) struct Image {
    directory: tempfile::TempDir,
}

impl Image {
    pub(crate) fn installed() -> Self {
        assert!(geteuid().is_root(), "only root can log root in and enter an image: run this test as root");
        let image = Self { directory: tempfile::tempdir().unwrap() };
        fs::create_dir(image.root()).unwrap();
        fs::write(image.path("program"), "").unwrap();
        keys::keygen(&image.path("keys")).unwrap();
        install(&InstallArgs {
            root: image.root(),
            init: Some(Init::Systemd),
            keys: Some(image.path("keys")),
            binary: Some(image.path("program")),
            dry_run: false,
        })
        .unwrap();
        image.write("passwd", "root:x:0:0::/run:/bin/sh\nsshd:x:100:65534::/run/sshd:/usr/sbin/nologin\n");
        // Without a password, but not locked: without PAM sshd lets nobody into a locked account.
        image.write("shadow", "root:*:19000::::::\nsshd:!:19000::::::\n");
        image.write("group", "root:x:0:\nnogroup:x:65534:\n");
        image.write("ssh/sshd_config", SSHD_CONFIG);
        image.write("ssh/ssh_config", "Include /etc/ssh/ssh_config.d/*.conf\n");
        image.make_host_key();
        image
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    pub(crate) fn root(&self) -> PathBuf {
        self.path("root")
    }

    pub(crate) fn etc(&self, path: &str) -> PathBuf {
        self.root().join("etc").join(path)
    }

    pub(crate) fn write(&self, path: &str, text: &str) {
        fs::write(self.etc(path), text).unwrap();
    }

    /// A command that runs in the image's namespace; its words are to be added.
    pub(crate) fn enter(&self) -> Command {
        // Processes that outlive sshd or the test end with the process namespace.
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "unshare", "--mount", "--propagation", "private", "--pid", "--fork"]);
        command.args(["--kill-child", "sh", "-c", ENTER]).arg(self.root());
        command.stdin(Stdio::null());
        command
    }

    /// A host key, as ssh-keygen makes it.
    pub(crate) fn make_host_key(&self) {
        let key = self.etc("ssh/ssh_host_ed25519_key");
        run(Command::new("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-C", "", "-f"]).arg(key));
    }

    /// ssh to a VM's name, with guestd's client configuration; only the way through the platform's proxy is cut short.
    pub(crate) fn ssh(&self, sshd: &Sshd) -> Command {
        let mut ssh = self.enter();
        ssh.args(["ssh", "-o", "ProxyCommand=none", "-o", "IdentitiesOnly=yes", "-o", "IdentityAgent=none"]);
        ssh.args(["-o", &format!("HostName={}", sshd.address), "-o", &format!("Port={}", sshd.port)]);
        ssh.args(["-o", &format!("UserKnownHostsFile={}", self.path("known_hosts").display())]);
        ssh.arg("0b5c1f2e.vm.vers.sh");
        ssh
    }
}

/// A running sshd; ended when dropped.
pub(crate) struct Sshd {
    child: Child,
    pub(crate) address: &'static str,
    pub(crate) port: u16,
    /// A word each time that it begins to listen.
    listening: mpsc::Receiver<()>,
    log: Option<JoinHandle<String>>,
}

impl Sshd {
    pub(crate) fn start(image: &Image, address: &'static str) -> Self {
        let port = TcpListener::bind((address, 0)).unwrap().local_addr().unwrap().port();
        let mut command = image.enter();
        command.args(["/usr/sbin/sshd", "-D", "-e", "-p", &port.to_string()]);
        command.args(["-o", &format!("ListenAddress={address}")]);
        let mut child = command
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("setpriv is missing: install Debian's package util-linux");
        let stderr = BufReader::new(child.stderr.take().unwrap());
        let (ready, listening) = mpsc::channel();
        let log = std::thread::spawn(move || {
            let mut log = String::new();
            for line in stderr.lines().map_while(Result::ok) {
                if line.contains("Server listening on") {
                    let _ = ready.send(());
                }
                log += &line;
                log.push('\n');
            }
            log
        });
        let mut sshd = Self { child, address, port, listening, log: Some(log) };
        sshd.wait_listening();
        sshd
    }

    /// Waits for it to listen, after its start or after it was told to start over: between, there is nobody to connect to.
    pub(crate) fn wait_listening(&mut self) {
        if self.listening.recv_timeout(START_TIME).is_err() {
            panic!("sshd does not listen: {}", self.end());
        }
    }

    /// Process id of the sshd that listens.
    pub(crate) fn pid(&self) -> Option<i32> {
        let pid = self.child.id();
        let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
        children.trim().parse().ok()
    }

    /// Ends it and returns what it logged.
    pub(crate) fn end(&mut self) -> String {
        // unshare waits for sshd, so that nothing is left for init to reap.
        match self.pid() {
            Some(sshd) => drop(kill(Pid::from_raw(sshd), Signal::SIGKILL)),
            None => drop(self.child.kill()),
        }
        let _ = self.child.wait();
        self.log.take().map(|log| log.join().unwrap()).unwrap_or_default()
    }
}

impl Drop for Sshd {
    fn drop(&mut self) {
        self.end();
    }
}

pub(crate) fn run(command: &mut Command) -> Output {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    output
}

pub(crate) fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}
