//! Ways to look at the listeners, each timed.

use std::{
    collections::BTreeMap,
    hint::black_box,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use guestd::sys::sock_diag;
use procfs::net::{TcpState, tcp, tcp6};

use crate::{
    kit::{
        agent::{Agent, Home, built},
        http::Http,
        numbers::median,
    },
    scene::Scene,
};

/// A way is taken so often, or for so long, whichever comes first; the median counts.
const MOST_RUNS: usize = 50;
const MOST_TIME: Duration = Duration::from_secs(2);

/// The ways, as the report names them.
pub(crate) const DUMP: &str = "guestd's dump";
pub(crate) const GET: &str = "guestd, GET /v1/listeners";
pub(crate) const GUESTCTL: &str = "guestctl ports --json";
pub(crate) const SS: &str = "ss -Hltn";
pub(crate) const SS_OWNERS: &str = "ss -Hltnp";
pub(crate) const PROC: &str = "/proc/net/tcp, parsed";
pub(crate) const WAYS: [&str; 6] = [DUMP, PROC, GET, SS, GUESTCTL, SS_OWNERS];

/// Milliseconds by the name of the way.
pub(crate) type Times = BTreeMap<&'static str, f64>;

/// An agent to ask, and what is beside it.
#[derive(Debug)]
pub(crate) struct Looks {
    agent: Agent,
    guestctl: std::path::PathBuf,
    // After the agent, which runs in its cgroup.
    _home: Home,
}

impl Looks {
    /// Starts the agent.
    pub(crate) fn start() -> Result<Self> {
        let home = Home::new("listeners")?;
        let agent = Agent::start(&home, &built("static/guestd", "just build")?, "")?;
        Ok(Self { agent, guestctl: built("release/guestctl", "just bench listeners")?, _home: home })
    }

    /// Takes every way. Each must find all listeners of the scene: what finds less is not measured but refused.
    pub(crate) fn measure(&self, scene: &Scene) -> Result<Times> {
        let least = scene.spec().listeners;
        let mut http = Http::connect(self.agent.socket())?;
        let endpoint = format!("unix:{}", self.agent.socket().display());
        let mut times = Times::new();
        let mut time = |way, look: &mut dyn FnMut() -> Result<usize>| -> Result<()> {
            let found = look().with_context(|| format!("{way}: {}", scene.spec()))?;
            ensure!(found >= least, "{way} found {found} of {least} listeners");
            times.insert(way, self::time(look)?);
            Ok(())
        };
        time(DUMP, &mut || Ok(black_box(sock_diag::listening_tcp(usize::MAX)?).len()))?;
        time(PROC, &mut || {
            let all = tcp()?.into_iter().chain(tcp6()?);
            Ok(black_box(all.filter(|entry| entry.state == TcpState::Listen).collect::<Vec<_>>()).len())
        })?;
        time(GET, &mut || {
            let (status, body) = http.call("GET", "/v1/listeners", b"")?;
            ensure!(status == 200, "it was answered {status}");
            Ok(entries(&body))
        })?;
        time(SS, &mut || lines(Command::new("ss").arg("-Hltn")))?;
        time(GUESTCTL, &mut || {
            let mut command = Command::new(&self.guestctl);
            Ok(entries(&run(command.args(["--vm", &endpoint, "--json", "ports"]))?))
        })?;
        time(SS_OWNERS, &mut || lines(Command::new("ss").arg("-Hltnp")))?;
        Ok(times)
    }
}

/// Median of the runs, in milliseconds.
fn time(look: &mut dyn FnMut() -> Result<usize>) -> Result<f64> {
    let began = Instant::now();
    let mut runs = Vec::new();
    while runs.is_empty() || runs.len() < MOST_RUNS && began.elapsed() < MOST_TIME {
        let start = Instant::now();
        look()?;
        runs.push(start.elapsed().as_secs_f64() * 1000.0);
    }
    Ok(median(runs))
}

/// Counted, not parsed: that is the work of who reads it.
fn entries(json: &[u8]) -> usize {
    json.split(|byte| *byte == b'"').filter(|part| *part == b"inode").count()
}

fn lines(command: &mut Command) -> Result<usize> {
    Ok(run(command)?.split(|byte| *byte == b'\n').count() - 1)
}

fn run(command: &mut Command) -> Result<Vec<u8>> {
    let output = command.stdin(Stdio::null()).stderr(Stdio::inherit()).output();
    let output = output.with_context(|| format!("running {:?}", command.get_program()))?;
    ensure!(output.status.success(), "{command:?} ended with {}", output.status);
    Ok(output.stdout)
}
