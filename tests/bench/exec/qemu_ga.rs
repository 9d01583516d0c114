//! qemu-guest-agent: guest-exec, and guest-exec-status asked again without a pause.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use crate::kit::agent::Home;
use crate::kit::watch::{Process, eventually};
use crate::rival::{About, Held, PATIENCE, Rival, TRUE, with_sbin, writer};

/// It keeps no more of a command's output than this (GUEST_EXEC_MAX_OUTPUT), and gives it in one answer.
const MOST_OUTPUT: u64 = 16 * 1024 * 1024;

/// The agent.
#[derive(Debug)]
pub(crate) struct Service {
    child: Child,
    home: Home,
    idle_kib: (u64, u64),
}

impl Service {
    /// Starts it on a Unix socket, its state in a directory of its own.
    pub(crate) fn start() -> Result<Self> {
        let home = Home::new("qemu-ga")?;
        let mut command = home.command("qemu-ga");
        command.args(["-m", "unix-listen", "-p"]).arg(home.path("socket"));
        command.arg("-t").arg(home.path("")).arg("-f").arg(home.path("pid")).env("PATH", with_sbin());
        let child = command.stdin(Stdio::null()).spawn().context("starting qemu-ga: `./dev bench exec` installs it")?;
        let mut service = Self { child, home, idle_kib: (0, 0) };
        let mut client = eventually("qemu-ga listens", PATIENCE, || service.client())
            .context("is qemu-ga installed? `./dev bench exec`")?;
        client.ask("guest-ping", json!({}))?;
        let process = Process(service.child.id());
        service.idle_kib = (process.resident_kib()?, process.anonymous_kib()?);
        Ok(service)
    }

    /// What it is.
    pub(crate) fn about(&self) -> Result<About> {
        let binary = fs::read_link(format!("/proc/{}/exe", self.child.id())).context("finding qemu-ga's file")?;
        let version = Command::new(&binary).arg("--version").output()?.stdout;
        let version = String::from_utf8_lossy(&version).trim().to_owned();
        let (idle_resident_kib, idle_anonymous_kib) = self.idle_kib;
        let binary_bytes = fs::metadata(binary)?.len();
        Ok(About { name: "qemu-ga", version, binary_bytes, is_static: false, idle_resident_kib, idle_anonymous_kib })
    }

    /// A connection; it takes one at a time.
    pub(crate) fn client(&self) -> Result<Client> {
        let stream = UnixStream::connect(self.home.path("socket"))?;
        stream.set_read_timeout(Some(PATIENCE))?;
        Ok(Client(BufReader::with_capacity(256 * 1024, stream)))
    }

    /// Memory of commands that run.
    pub(crate) fn held(&self, commands: usize) -> Result<Held> {
        let mut client = self.client()?;
        let process = Process(self.child.id());
        let before = process.resident_kib()?;
        for _ in 0..commands {
            client.start(&["sleep".to_owned(), "600".to_owned()])?;
        }
        eventually("all commands run", PATIENCE, || {
            let running = self.home.members()?.len();
            ensure!(running == commands + 1, "{running} processes for {commands} commands and the agent");
            Ok(())
        })?;
        let kib = process.resident_kib()?.saturating_sub(before);
        Ok(Held { name: "qemu-ga", commands, kib_each: kib as f64 / commands as f64 })
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A connection to it.
#[derive(Debug)]
pub(crate) struct Client(BufReader<UnixStream>);

impl Client {
    fn ask(&mut self, call: &str, arguments: Value) -> Result<Value> {
        let request = json!({ "execute": call, "arguments": arguments }).to_string();
        self.0.get_mut().write_all(request.as_bytes())?;
        let mut line = String::new();
        self.0.read_line(&mut line)?;
        let mut answer: Value = serde_json::from_str(&line).with_context(|| format!("qemu-ga answered {line:?}"))?;
        ensure!(answer.get("error").is_none(), "qemu-ga: {answer}");
        Ok(answer["return"].take())
    }

    fn start(&mut self, argv: &[String]) -> Result<Value> {
        let (path, rest) = argv.split_first().context("no command")?;
        let mut started = self.ask("guest-exec", json!({ "path": path, "arg": rest, "capture-output": true }))?;
        Ok(started["pid"].take())
    }

    /// Its end, where it has ended.
    fn end(&mut self, pid: &Value) -> Result<Option<Value>> {
        let status = self.ask("guest-exec-status", json!({ "pid": pid }))?;
        if status["exited"] != true {
            return Ok(None);
        }
        ensure!(status["exitcode"] == 0, "{status}");
        Ok(Some(status))
    }

    fn wait(&mut self, pid: &Value) -> Result<Value> {
        loop {
            if let Some(status) = self.end(pid)? {
                return Ok(status);
            }
        }
    }
}

impl Rival for Client {
    fn name(&self) -> &'static str {
        "qemu-ga, polled"
    }

    fn run_true(&mut self) -> Result<()> {
        let pid = self.start(&[TRUE.to_owned()])?;
        self.wait(&pid).map(drop)
    }

    fn run_at_once(&mut self, count: usize) -> Result<()> {
        let mut pids = (0..count).map(|_| self.start(&[TRUE.to_owned()])).collect::<Result<Vec<_>>>()?;
        while let Some(pid) = pids.pop() {
            self.wait(&pid)?;
        }
        Ok(())
    }

    fn take_output(&mut self, bytes: u64) -> Result<u64> {
        use base64::Engine as _;
        let pid = self.start(&writer(bytes))?;
        let status = self.wait(&pid)?;
        let text = status["out-data"].as_str().context("no output")?;
        Ok(base64::engine::general_purpose::STANDARD.decode(text)?.len() as u64)
    }

    fn most_output(&self) -> u64 {
        MOST_OUTPUT
    }
}
