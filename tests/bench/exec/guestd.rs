//! guestd: the real static binary over a Unix socket, by a kept connection, by a new one for each command, and by guestctl.

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use guestd::api::{Channel, ChannelStatus, ExecResult, StreamFrame};
use serde_json::json;

use crate::bare::drain;
use crate::kit::agent::{Agent, Home, built};
use crate::kit::http::{Http, NDJSON, OCTETS};
use crate::kit::watch::eventually;
use crate::rival::{About, Held, PATIENCE, Rival, TRUE, writer};

/// The agent.
#[derive(Debug)]
pub(crate) struct Service {
    agent: Agent,
    home: Home,
    binary: PathBuf,
    idle_kib: (u64, u64),
}

impl Service {
    /// Starts it.
    pub(crate) fn start() -> Result<Self> {
        let binary = built("static/guestd", "just build")?;
        let home = Home::new("bench")?;
        let agent = Agent::start(&home, &binary, "exec.max_running = 128\n")?;
        let idle_kib = (agent.process().resident_kib()?, agent.process().anonymous_kib()?);
        Ok(Self { agent, home, binary, idle_kib })
    }

    /// What it is.
    pub(crate) fn about(&self) -> Result<About> {
        let version = Command::new(&self.binary).arg("version").output()?.stdout;
        let version = String::from_utf8_lossy(&version).lines().next().unwrap_or_default().to_owned();
        let (idle_resident_kib, idle_anonymous_kib) = self.idle_kib;
        let binary_bytes = fs::metadata(&self.binary)?.len();
        Ok(About { name: "guestd", version, binary_bytes, is_static: true, idle_resident_kib, idle_anonymous_kib })
    }

    /// By one connection that is kept, as an orchestrator has it.
    pub(crate) fn kept(&self) -> Result<Kept> {
        Ok(Kept { http: self.connect()?, socket: self.agent.socket().to_owned() })
    }

    /// By a connection for each command.
    pub(crate) fn anew(&self) -> Anew {
        Anew(self.agent.socket().to_owned())
    }

    /// By a guestctl for each command.
    pub(crate) fn guestctl(&self) -> Result<Guestctl> {
        let program = built("release/guestctl", "just bench exec")?;
        Ok(Guestctl { program, endpoint: format!("unix:{}", self.agent.socket().display()) })
    }

    fn connect(&self) -> Result<Http> {
        Http::connect(self.agent.socket())
    }

    /// Memory of commands that run.
    pub(crate) fn held(&self, commands: usize) -> Result<Held> {
        let process = self.agent.process();
        let before = process.resident_kib()?;
        let mut connections = Vec::new();
        for _ in 0..commands {
            let mut http = Http::with_buffer(self.agent.socket(), 4096)?;
            http.send("POST", "/v1/exec", "application/json", &command(&["sleep", "600"]))?;
            connections.push(http);
        }
        eventually("all commands run", PATIENCE, || {
            let running = self.home.members()?.len();
            ensure!(running == commands + 1, "{running} processes for {commands} commands and the agent");
            Ok(())
        })?;
        let kib = process.resident_kib()?.saturating_sub(before);
        Ok(Held { name: "guestd", commands, kib_each: kib as f64 / commands as f64 })
    }
}

fn command(argv: &[impl AsRef<str>]) -> Vec<u8> {
    let argv: Vec<&str> = argv.iter().map(AsRef::as_ref).collect();
    json!({ "command": argv }).to_string().into_bytes()
}

fn run_true(http: &mut Http) -> Result<()> {
    let result: ExecResult = http.ask("POST", "/v1/exec", &command(&[TRUE]))?;
    ensure!(result.exit_code == 0 && !result.exec_id.is_empty(), "{result:?}");
    Ok(())
}

/// All requests are out before the first answer is read.
fn run_at_once(socket: &std::path::Path, count: usize) -> Result<()> {
    let mut connections = Vec::with_capacity(count);
    for _ in 0..count {
        let mut http = Http::with_buffer(socket, 4096)?;
        http.send("POST", "/v1/exec", "application/json", &command(&[TRUE]))?;
        connections.push(http);
    }
    for mut http in connections {
        let (status, body) = http.answer()?.whole()?;
        ensure!(status == 200, "{}", String::from_utf8_lossy(&body));
    }
    Ok(())
}

/// Over a connection that is kept.
#[derive(Debug)]
pub(crate) struct Kept {
    http: Http,
    socket: PathBuf,
}

impl Rival for Kept {
    fn name(&self) -> &'static str {
        "guestd, kept connection"
    }

    /// The agent closes a connection that nobody uses for `limits::REQUEST_HEADER_TIME`, and the others' turns take longer.
    fn get_ready(&mut self) -> Result<()> {
        self.http = Http::connect(&self.socket)?;
        Ok(())
    }

    fn run_true(&mut self) -> Result<()> {
        run_true(&mut self.http)
    }

    fn run_at_once(&mut self, count: usize) -> Result<()> {
        run_at_once(&self.socket, count)
    }

    fn take_output(&mut self, bytes: u64) -> Result<u64> {
        self.http.send("POST", "/v1/exec/stream", OCTETS, &stream_of(bytes))?;
        binary_bytes(&mut self.http.answer()?.success()?)
    }

    fn take_other_output(&mut self, bytes: u64) -> Result<Option<(&'static str, u64)>> {
        self.http.send("POST", "/v1/exec/stream", NDJSON, &stream_of(bytes))?;
        let came = line_bytes(&mut self.http.answer()?.success()?)?;
        Ok(Some(("NDJSON", came)))
    }
}

/// Bytes of output in a stream of lines, which must end with exit status 0.
fn line_bytes(body: &mut impl Read) -> Result<u64> {
    let mut came = 0;
    let mut exited = false;
    for line in BufReader::with_capacity(256 * 1024, body).lines() {
        match serde_json::from_str(&line?)? {
            StreamFrame::Chunk { data_b64, .. } => came += STANDARD.decode(data_b64)?.len() as u64,
            StreamFrame::Exit { exit_code: 0, .. } => exited = true,
            other => bail!("{other:?}"),
        }
    }
    ensure!(exited, "the stream was cut off");
    Ok(came)
}

fn stream_of(bytes: u64) -> Vec<u8> {
    json!({ "command": writer(bytes), "lossless": true }).to_string().into_bytes()
}

/// Payload bytes of an exec's binary stream, which must end with exit status 0.
fn binary_bytes(body: &mut impl Read) -> Result<u64> {
    let mut body = BufReader::with_capacity(256 * 1024, body);
    let mut came = 0;
    loop {
        let mut header = [0; 8];
        body.read_exact(&mut header).context("reading the header of a frame")?;
        let [channel, _, _, _, length @ ..] = header;
        let length = u64::from(u32::from_be_bytes(length));
        let mut payload = (&mut body).take(length);
        match Channel::try_from(channel) {
            Ok(Channel::Stdout) => came += drain_fully(&mut payload, length)?,
            Ok(Channel::Status) => {
                let mut text = Vec::new();
                payload.read_to_end(&mut text)?;
                match serde_json::from_slice(&text)? {
                    ChannelStatus::Attached { attached: 0, .. } => {}
                    ChannelStatus::Frame(StreamFrame::Exit { exit_code: 0, .. }) => {
                        ensure!(drain(&mut body)? == 0, "something follows the exit");
                        return Ok(came);
                    }
                    other => bail!("{other:?}"),
                }
            }
            other => bail!("a frame of channel {other:?}"),
        }
    }
}

fn drain_fully(payload: &mut impl BufRead, length: u64) -> Result<u64> {
    let mut left = length;
    while left > 0 {
        let count = payload.fill_buf()?.len();
        ensure!(count > 0, "cut off inside a frame");
        payload.consume(count);
        left -= count as u64;
    }
    Ok(length)
}

/// Over a connection for each command.
#[derive(Debug)]
pub(crate) struct Anew(PathBuf);

impl Rival for Anew {
    fn name(&self) -> &'static str {
        "guestd, new connections"
    }

    fn run_true(&mut self) -> Result<()> {
        run_true(&mut Http::connect(&self.0)?)
    }

    fn run_at_once(&mut self, count: usize) -> Result<()> {
        run_at_once(&self.0, count)
    }

    fn take_output(&mut self, bytes: u64) -> Result<u64> {
        let mut http = Http::connect(&self.0)?;
        http.send("POST", "/v1/exec/stream", OCTETS, &stream_of(bytes))?;
        binary_bytes(&mut http.answer()?.success()?)
    }
}

/// By the command line client.
#[derive(Debug)]
pub(crate) struct Guestctl {
    program: PathBuf,
    endpoint: String,
}

impl Guestctl {
    fn exec<W: AsRef<std::ffi::OsStr>>(&self, argv: impl IntoIterator<Item = W>) -> Command {
        let mut command = Command::new(&self.program);
        command.args(["--vm", &self.endpoint, "exec", "--"]).args(argv).stdin(Stdio::null());
        command
    }
}

impl Rival for Guestctl {
    fn name(&self) -> &'static str {
        "guestctl exec"
    }

    fn starts_programs(&self) -> bool {
        true
    }

    fn run_true(&mut self) -> Result<()> {
        ensure!(self.exec([TRUE]).status()?.success());
        Ok(())
    }

    fn run_at_once(&mut self, count: usize) -> Result<()> {
        programs_at_once(count, || self.exec([TRUE]))
    }

    fn take_output(&mut self, bytes: u64) -> Result<u64> {
        program_output(&mut self.exec(writer(bytes)))
    }
}

/// Starts so many programs, and waits for all.
pub(crate) fn programs_at_once(count: usize, mut program: impl FnMut() -> Command) -> Result<()> {
    let started = (0..count).map(|_| program().spawn()).collect::<Result<Vec<_>, _>>()?;
    for mut child in started {
        ensure!(child.wait()?.success());
    }
    Ok(())
}

/// Counts what a program prints into a pipe.
pub(crate) fn program_output(program: &mut Command) -> Result<u64> {
    let mut child = program.stdout(Stdio::piped()).spawn()?;
    let came = drain(child.stdout.as_mut().context("its output is no pipe")?)?;
    ensure!(child.wait()?.success());
    Ok(came)
}
