//! What is put into an image, with the real sshd and ssh: the golden key logs in by way of the second authorized keys
//! file, other keys and passwords do not, and both programs accept guestd's configuration.
//!
//! Both run in namespaces in which /etc is the image's and /run is empty, so that the image's files are used as they
//! are and where they are; sshd listens on loopback ports of its own. Needs root, and Debian's packages openssh-server and
//! openssh-client.

#![expect(clippy::unwrap_used, clippy::expect_used, reason = "helpers of tests fail as tests do: at once and by name")]

use std::{
    fs,
    io::{BufRead, BufReader},
    net::TcpListener,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
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
const ENTER: &str =
    r#"mount --bind "$0/etc" /etc && mount -t tmpfs tmpfs /run && mkdir -m 0755 /run/sshd && exec "$@""#;

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
struct Image {
    directory: tempfile::TempDir,
}

impl Image {
    fn installed() -> Self {
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

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn root(&self) -> PathBuf {
        self.path("root")
    }

    fn etc(&self, path: &str) -> PathBuf {
        self.root().join("etc").join(path)
    }

    fn write(&self, path: &str, text: &str) {
        fs::write(self.etc(path), text).unwrap();
    }

    /// A command that runs in the image's namespace; its words are to be added.
    fn enter(&self) -> Command {
        // Processes that outlive sshd or the test end with the process namespace.
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "unshare", "--mount", "--propagation", "private", "--pid", "--fork"]);
        command.args(["--kill-child", "sh", "-c", ENTER]).arg(self.root());
        command.stdin(Stdio::null());
        command
    }

    /// Does what guestd-ssh-hostkeys.service does.
    fn make_host_key(&self) {
        let unit = fs::read_to_string(self.etc("systemd/system/guestd-ssh-hostkeys.service")).unwrap();
        let commands: Vec<_> = unit.lines().filter_map(|line| line.strip_prefix("Exec")?.split_once('=')).collect();
        assert_eq!(commands.iter().map(|(when, _)| *when).collect::<Vec<_>>(), ["StartPre", "Start"]);
        for (_, command) in commands {
            run(self.enter().args(["sh", "-c", command]));
        }
    }

    /// ssh to a VM's name, with guestd's client configuration; only the way through the platform's proxy is cut short.
    fn ssh(&self, sshd: &Sshd) -> Command {
        let mut ssh = self.enter();
        ssh.args(["ssh", "-o", "ProxyCommand=none", "-o", "IdentitiesOnly=yes", "-o", "IdentityAgent=none"]);
        ssh.args(["-o", &format!("HostName={}", sshd.address), "-o", &format!("Port={}", sshd.port)]);
        ssh.args(["-o", &format!("UserKnownHostsFile={}", self.path("known_hosts").display())]);
        ssh.arg("0b5c1f2e.vm.vers.sh");
        ssh
    }
}

/// A running sshd; ended when dropped.
struct Sshd {
    child: Child,
    address: &'static str,
    port: u16,
    log: Option<JoinHandle<String>>,
}

impl Sshd {
    fn start(image: &Image, address: &'static str) -> Self {
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
        let mut sshd = Self { child, address, port, log: Some(log) };
        if listening.recv_timeout(START_TIME).is_err() {
            panic!("sshd does not listen: {}", sshd.end());
        }
        sshd
    }

    /// Ends it and returns what it logged.
    fn end(&mut self) -> String {
        // unshare waits for sshd, so that nothing is left for init to reap.
        let pid = self.child.id();
        let sshd = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
        match sshd.trim().parse() {
            Ok(sshd) => drop(kill(Pid::from_raw(sshd), Signal::SIGKILL)),
            Err(_) => drop(self.child.kill()),
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

fn run(command: &mut Command) -> Output {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    output
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

#[test]
fn the_golden_key_logs_in_through_the_second_authorized_keys_file_over_ipv6_and_ipv4() {
    let image = Image::installed();
    for address in ["::1", "127.0.0.1"] {
        let mut sshd = Sshd::start(&image, address);
        let output = image.ssh(&sshd).arg("id -un; echo \"$SSH_CONNECTION\"").output().unwrap();
        let (said, log) = (stdout(&output), sshd.end());
        assert!(output.status.success(), "{output:?}\n{log}");
        assert!(said.starts_with(&format!("root\n{address} ")), "{said}");
        assert!(said.trim_end().ends_with(&format!(" {}", sshd.port)), "{said}");
    }
    assert_eq!(fs::read_to_string(image.path("known_hosts")).unwrap().lines().count(), 2, "host keys were taken down");
}

#[test]
fn another_key_is_refused_and_a_password_is_not_even_asked_for() {
    let image = Image::installed();
    let sshd = Sshd::start(&image, "127.0.0.1");
    fs::remove_file(image.etc("guestd/ssh/golden_ed25519")).unwrap();
    run(Command::new("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(image.path("other")));
    let output = image.ssh(&sshd).arg("-i").arg(image.path("other")).arg("true").output().unwrap();
    assert_eq!(output.status.code(), Some(255));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("Permission denied (publickey)."), "{said}");
}

#[test]
fn a_managed_file_that_others_can_write_is_reported_because_sshd_passes_it_over() {
    let image = Image::installed();
    fs::set_permissions(image.etc("guestd/ssh/authorized_keys/root"), fs::Permissions::from_mode(0o666)).unwrap();
    let mut sshd = Sshd::start(&image, "127.0.0.1");
    let output = image.ssh(&sshd).arg("true").output().unwrap();
    assert_eq!(output.status.code(), Some(255));
    let log = sshd.end();
    let refused = "Authentication refused: bad ownership or modes for file /etc/guestd/ssh/authorized_keys/root";
    assert!(log.contains(refused), "{log}");
    assert!(keys::status(&image.root()).summary().contains("so sshd passes it over"));
}

#[test]
fn sshd_accepts_guestds_part_and_lets_it_win_over_what_follows() {
    let image = Image::installed();
    run(image.enter().args(["/usr/sbin/sshd", "-t"]));
    let effective = stdout(&run(image.enter().args(["/usr/sbin/sshd", "-T"])));
    for expected in [
        "listenaddress [::]:22",
        "listenaddress 0.0.0.0:22",
        "permitrootlogin without-password",
        "passwordauthentication no",
        "kbdinteractiveauthentication no",
        "authorizedkeysfile .ssh/authorized_keys /etc/guestd/ssh/authorized_keys/%u",
    ] {
        assert!(effective.lines().any(|line| line == expected), "{expected} is not in:\n{effective}");
    }
}

#[test]
fn ssh_to_a_vm_goes_through_the_platforms_proxy_with_the_golden_key_and_elsewhere_as_ever() {
    let part = Path::new(env!("CARGO_MANIFEST_DIR")).join("rootfs-overlay/etc/ssh/ssh_config.d/10-guestd.conf");
    let effective = |host: &str| stdout(&run(Command::new("ssh").arg("-G").arg(host).arg("-F").arg(&part)));
    let to_vm = effective("0b5c1f2e.vm.vers.sh");
    for expected in [
        "user root",
        "identityfile /etc/guestd/ssh/golden_ed25519",
        "proxycommand openssl s_client -connect %h:443 -servername %h -quiet 2>/dev/null",
        "stricthostkeychecking accept-new",
        "serveraliveinterval 30",
    ] {
        assert!(to_vm.lines().any(|line| line == expected), "{expected} is not in:\n{to_vm}");
    }
    let elsewhere = effective("vers.sh");
    assert!(!elsewhere.contains("proxycommand") && !elsewhere.contains("/etc/guestd"), "{elsewhere}");
}

#[test]
fn a_host_key_is_made_where_there_is_none_or_only_an_empty_one() {
    let image = Image::installed();
    let key = image.etc("ssh/ssh_host_ed25519_key");
    assert_eq!(fs::metadata(&key).unwrap().permissions().mode() & 0o7777, 0o600);

    let unit = fs::read_to_string(image.etc("systemd/system/guestd-ssh-hostkeys.service")).unwrap();
    let conditions: Vec<_> = unit.lines().filter(|line| line.starts_with("Condition")).collect();
    assert_eq!(conditions.len(), 2, "{conditions:?}");
    let starts =
        || image.enter().args(["systemd-analyze", "condition"]).args(&conditions).output().unwrap().status.success();
    assert!(!starts(), "there is a key");
    fs::write(&key, "").unwrap();
    assert!(starts(), "there is an empty one, as after a power cut");
    image.make_host_key();
    assert!(!starts(), "there is a key again");
    run(Command::new("ssh-keygen").arg("-lf").arg(&key));
}
