//! guestd as its users have it: the static binary, an agent with one rule, and the data plane that it starts.

use std::{
    fs,
    io::{Read, Write},
    net::SocketAddr,
    os::unix::net::UnixStream,
    path::PathBuf,
    process::Command,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use guestd::sys::cgroup;
use serde_json::Value;

use crate::kit::{
    agent::{Agent, Home, built, cpu_seconds_of},
    watch::{Process, eventually},
};

/// A running agent and its data plane, which has a cgroup of its own at the tree's root.
#[derive(Debug)]
pub(crate) struct Guestd {
    agent: Option<Agent>,
    plane: Process,
    plane_cgroup: PathBuf,
    socket: PathBuf,
    home: Home,
}

impl Drop for Guestd {
    fn drop(&mut self) {
        // Without an agent nobody starts another plane.
        drop(self.agent.take());
        if let Err(error) = self.end_plane() {
            eprintln!("ending the data plane {}: {error:#}", self.plane.0);
        }
    }
}

impl Guestd {
    /// Starts it with a rule from a port to a service.
    pub(crate) fn start(listen: SocketAddr, to: SocketAddr) -> Result<Self> {
        let home = Home::new("guestd")?;
        let rule = format!("bridge.rules = [\"{}={to}\"]\n", listen.port());
        let agent = Agent::start(&home, &built("static/guestd", "just build")?, &rule)?;
        let plane = eventually("the agent has started the data plane", Duration::from_secs(20), || {
            let children = agent.process().children()?;
            let is_plane = |pid: &u32| {
                fs::read_to_string(format!("/proc/{pid}/cmdline"))
                    .is_ok_and(|line| line.split('\0').nth(1) == Some("bridge"))
            };
            children.into_iter().map(|(pid, _)| pid).find(is_plane).context("no child is one")
        })?;
        eventually("the rule is active", Duration::from_secs(20), || {
            let guestctl = built("release/guestctl", "just bench bridge")?;
            let vm = format!("unix:{}", agent.socket().display());
            let output = Command::new(guestctl).args(["--vm", &vm, "--json", "bridge"]).output()?;
            let bridge: Value = serde_json::from_slice(&output.stdout).context("reading what guestctl says")?;
            ensure!(bridge["ports"][0]["state"] == "active" && bridge["tier"] == "steer", "the bridge is {bridge}");
            Ok(())
        })?;
        let path = fs::read_to_string(format!("/proc/{plane}/cgroup")).context("reading the data plane's cgroup")?;
        let path = path.lines().find_map(|line| line.strip_prefix("0::/")).context("it has no cgroup2")?;
        let plane_cgroup = cgroup::root()?.join(path);
        let socket = agent.socket().with_extension("sock.bridge");
        Ok(Self { agent: Some(agent), plane: Process(plane), plane_cgroup, socket, home })
    }

    /// CPU time of agent and data plane, in seconds.
    pub(crate) fn cpu_seconds(&self) -> Result<f64> {
        Ok(self.home.cpu_seconds()? + cpu_seconds_of(&self.plane_cgroup)?)
    }

    /// Its processes.
    pub(crate) fn processes(&self) -> impl Iterator<Item = Process> {
        self.agent.as_ref().map(Agent::process).into_iter().chain([self.plane])
    }

    fn end_plane(&self) -> Result<()> {
        let mut stream = UnixStream::connect(&self.socket).context("connecting to it")?;
        stream.write_all(b"{\"order\":\"end\"}\n")?;
        stream.set_read_timeout(Some(Duration::from_secs(10)))?;
        // To the end: then it has let go of everything.
        let _ = stream.read_to_end(&mut Vec::new());
        eventually("its cgroup is gone", Duration::from_secs(10), || {
            ensure!(!self.plane_cgroup.exists(), "{} is there", self.plane_cgroup.display());
            Ok(())
        })
    }
}
