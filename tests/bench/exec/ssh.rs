//! OpenSSH with a ControlMaster: an `ssh` for each command, over one connection that stands.
//!
//! sshd runs for this one connection (`sshd -i`) behind a loopback port that the kernel chose, with keys and a configuration of its own,
//! in a mount namespace where the users file says that root's shell is /bin/sh and its home an empty directory: no start-up
//! files, and nothing of the machine is changed.

use std::fs;
use std::net::{Ipv4Addr, TcpListener};
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result, ensure};

use crate::guestd::{program_output, programs_at_once};
use crate::kit::agent::Home;
use crate::kit::watch::{Process, eventually};
use crate::rival::{About, Held, PATIENCE, Rival, TRUE, with_sbin, writer};

/// A mount namespace with the users file and an own /run/sshd; then sshd, which insists on its full path.
const ENTER: &str =
    r#"mount --bind "$0/passwd" /etc/passwd && mount -t tmpfs tmpfs /run && mkdir -m 0755 /run/sshd && exec "$@""#;

const SSHD: &str = "/usr/sbin/sshd";

/// sshd with its one connection, and the client that holds it.
#[derive(Debug)]
pub(crate) struct Service {
    master: Child,
    sshd: Child,
    home: Home,
}

impl Service {
    /// Starts both.
    pub(crate) fn start() -> Result<Self> {
        let home = Home::new("ssh")?;
        let dir = home.path("");
        for name in ["host", "user"] {
            let made = Command::new("ssh-keygen")
                .args(["-q", "-t", "ed25519", "-N", "", "-f"])
                .arg(home.path(name))
                .status()
                .context("starting ssh-keygen: `./dev bench exec` installs it")?;
            ensure!(made.success(), "ssh-keygen failed");
        }
        fs::create_dir(home.path("home"))?;
        fs::set_permissions(&dir, PermissionsExt::from_mode(0o755))?;
        let shown = dir.display();
        let shown = shown.to_string();
        let dir = shown.trim_end_matches('/');
        fs::write(
            home.path("passwd"),
            format!("root:x:0:0::{dir}/home:/bin/sh\nsshd:x:100:65534::/run/sshd:/usr/sbin/nologin\n"),
        )?;
        fs::write(
            home.path("sshd_config"),
            format!(
                "HostKey {dir}/host\nAuthorizedKeysFile {dir}/user.pub\nPermitRootLogin yes\nPasswordAuthentication no\n\
                 UsePAM no\nStrictModes no\nMaxSessions 200\nPrintMotd no\nPrintLastLog no\nPidFile none\nLogLevel ERROR\n"
            ),
        )?;
        let host_key = fs::read_to_string(home.path("host.pub"))?;
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let port = listener.local_addr()?.port();
        fs::write(home.path("known_hosts"), format!("[127.0.0.1]:{port} {host_key}"))?;

        let master = ssh(&home.path(""), port)
            .args(["-o", "ControlMaster=yes", "-N", "127.0.0.1"])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .context("starting ssh: `./dev bench exec` installs it")?;
        let (connection, _) = listener.accept()?;
        connection.set_nodelay(true)?;
        let connection = OwnedFd::from(connection);
        let mut command = home.command("unshare");
        command.args(["--mount", "--propagation", "private", "sh", "-c", ENTER]).arg(dir);
        command.args([SSHD, "-i", "-e", "-f"]).arg(home.path("sshd_config")).env("PATH", with_sbin());
        let sshd = command
            .stdin(connection.try_clone()?)
            .stdout(connection)
            .spawn()
            .context("starting sshd: `./dev bench exec` installs it")?;
        let service = Self { master, sshd, home };
        eventually("the control socket of ssh is there", PATIENCE, || {
            ensure!(service.home.path("control").exists(), "it is not");
            Ok(())
        })?;
        Ok(service)
    }

    /// What it is. Idle is the sshd of one connection, its processes' shares of memory summed up.
    pub(crate) fn about(&self) -> Result<About> {
        let version = Command::new("ssh").arg("-V").output()?.stderr;
        let version = String::from_utf8_lossy(&version).trim().to_owned();
        let binary_bytes = fs::metadata(SSHD)?.len();
        let (mut resident, mut anonymous) = (0, 0);
        for process in self.daemons()? {
            resident += process.resident_kib()?;
            anonymous += process.anonymous_kib()?;
        }
        Ok(About {
            name: "sshd",
            version,
            binary_bytes,
            is_static: false,
            idle_resident_kib: resident,
            idle_anonymous_kib: anonymous,
        })
    }

    /// sshd's own processes, the commands left out.
    fn daemons(&self) -> Result<Vec<Process>> {
        let all = self.home.members()?.into_iter().filter_map(|pid| u32::try_from(pid).ok());
        let is_sshd = |pid: &u32| fs::read_link(format!("/proc/{pid}/exe")).is_ok_and(|exe| exe == Path::new(SSHD));
        Ok(all.filter(is_sshd).map(Process).collect())
    }

    fn share_kib(&self) -> Result<u64> {
        let clients = self.home.path("control");
        ensure!(clients.exists(), "the connection was lost");
        self.daemons()?.into_iter().map(Process::share_kib).sum()
    }

    /// A client for each command.
    pub(crate) fn client(&self) -> Client {
        Client(self.home.path(""))
    }

    /// Memory of commands that run: sshd's growth, and the client that waits for each.
    pub(crate) fn held(&self, commands: usize) -> Result<Held> {
        let before = self.share_kib()?;
        let mut clients = Vec::new();
        for _ in 0..commands {
            let mut client = self.client().command();
            clients.push(client.args(["sleep", "600"]).stdout(Stdio::null()).stderr(Stdio::null()).spawn()?);
        }
        let grown = eventually("all commands run", PATIENCE, || {
            let all = self.home.members()?.len();
            let daemons = self.daemons()?.len();
            ensure!(all - daemons >= commands, "{} of {commands} commands run", all - daemons);
            Ok(self.share_kib()?.saturating_sub(before))
        });
        for client in &mut clients {
            client.kill()?;
            client.wait()?;
        }
        Ok(Held { name: "sshd", commands, kib_each: grown? as f64 / commands as f64 })
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        for child in [&mut self.master, &mut self.sshd] {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// ssh with nothing of this machine's or its user's configuration.
fn ssh(dir: &Path, port: u16) -> Command {
    let option = |key: &str, name: &str| format!("{key}={}", dir.join(name).display());
    let mut command = Command::new("ssh");
    command.args(["-F", "none", "-p", &port.to_string(), "-l", "root", "-i"]).arg(dir.join("user"));
    command.args([
        "-o",
        "BatchMode=yes",
        "-o",
        "IdentitiesOnly=yes",
        "-o",
        "StrictHostKeyChecking=yes",
        "-o",
        "LogLevel=ERROR",
    ]);
    command.args(["-o", &option("UserKnownHostsFile", "known_hosts"), "-o", &option("ControlPath", "control")]);
    command
}

/// An `ssh` for each command.
#[derive(Debug)]
pub(crate) struct Client(PathBuf);

impl Client {
    fn command(&self) -> Command {
        let mut command = ssh(&self.0, 1);
        // Port and host do not matter to a client that finds the control socket; without it, it would be refused.
        command.args(["-o", "ControlMaster=no", "127.0.0.1"]).stdin(Stdio::null());
        command
    }
}

impl Rival for Client {
    fn name(&self) -> &'static str {
        "ssh, ControlMaster"
    }

    fn starts_programs(&self) -> bool {
        true
    }

    fn run_true(&mut self) -> Result<()> {
        ensure!(self.command().arg(TRUE).status()?.success());
        Ok(())
    }

    fn run_at_once(&mut self, count: usize) -> Result<()> {
        programs_at_once(count, || {
            let mut command = self.command();
            command.arg(TRUE);
            command
        })
    }

    fn take_output(&mut self, bytes: u64) -> Result<u64> {
        program_output(self.command().args(writer(bytes)))
    }
}
