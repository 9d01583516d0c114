//! The agent's own end is nobody else's.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use guestd::api::{Info, Service, ServiceState};

use super::{is_process_1, service};
use crate::harness::{Net, PATIENCE, Vm, VmSpec, until};

/// How often it is killed.
const KILLS: u32 = 100;

/// From its death to its next life's process.
const MOST_AWAY_MS: f64 = 100.0;

/// Of the kills, those for which that must hold. Of the others the emulator itself may not have been run for a while; they have a second.
const HELD: usize = 95;
const MOST_HELD_UP_MS: f64 = 1000.0;

/// Kills the agent again and again while it runs execs, one of whose children has left it as far as it can, and tells each time of the services when it
/// is back. Run by sshd, which is no part of the agent.
const KILL: &str = "for kill in $(seq KILLS); do
  guestctl exec -d -- sh -c 'setsid -f sleep 4242; sleep 4242' >/dev/null
  kill -KILL $(cat /sys/fs/cgroup/guestd.service/agent/cgroup.procs /sys/fs/cgroup/guestd~*.service/agent/cgroup.procs 2>/dev/null)
  guestctl health --wait 30 >/dev/null
  guestctl --json service list
done";

#[test]
fn an_agent_that_is_killed_a_hundred_times_is_back_at_once_and_costs_nobody_else_anything() -> Result<()> {
    let net = Net::new()?;
    let vm = Vm::boot(&net, VmSpec::with_guestd_init())?;
    vm.wait_ready()?;
    until("sshd runs", PATIENCE, || Ok((service(&vm, "sshd")?.state == ServiceState::Running).then_some(())))?;
    let before = service(&vm, "sshd")?.pid;
    let script = KILL.replace("KILLS", &KILLS.to_string());
    let ran = vm.ssh().invocation(Some(&script)).run(Duration::from_secs(460))?.ok()?;
    let told: Vec<Vec<Service>> = ran.out().lines().map(serde_json::from_str).collect::<Result<_, _>>()?;
    ensure!(told.len() == KILLS as usize, "{ran}");
    let (mut away, mut last) = (Vec::new(), None);
    for services in &told {
        let agent = services.first().context("no service")?;
        ensure!(agent.name == "guestd" && agent.pid.is_some() && agent.pid != last, "{agent:#?}");
        ensure!(agent.last_exit.as_deref() == Some("SIGKILL"), "{agent:#?}");
        let (started, exited) =
            (agent.started_secs.context("it does not run")?, agent.exited_secs.context("it lives")?);
        away.push((started - exited) * 1000.0);
        last = agent.pid;
    }
    away.sort_by(f64::total_cmp);
    let (median, held, most) = (away[away.len() / 2], away[HELD - 1], away[away.len() - 1]);
    println!(
        "the agent was away for {median:.0} ms, median of {KILLS}, {held:.0} ms in {HELD} of them and {most:.0} ms at most"
    );
    ensure!(held < MOST_AWAY_MS && most < MOST_HELD_UP_MS, "it was away for too long: {away:?}");
    let agent = service(&vm, "guestd")?;
    ensure!(agent.restarts == KILLS, "{agent:#?}");
    let info: Info = vm.ctl(["--json", "info"])?.ok()?.json()?;
    let crash = info.agent_crashes.last().context("no record of its end")?;
    ensure!(crash.exit == "SIGKILL" && Some(crash.at_secs) == agent.exited_secs, "{crash:#?}");
    ensure!(service(&vm, "sshd")?.pid == before, "sshd is another one");
    is_process_1(&vm)?;
    // What execs have left ends with the agent that ran them.
    until("what execs left has ended", PATIENCE, || {
        Ok((vm.ctl(["exec", "--", "pgrep", "-f", "sleep 4242"])?.code == 1).then_some(()))
    })?;
    until("one agent has a cgroup", PATIENCE, || {
        Ok((vm.sh("ls -d /sys/fs/cgroup/guestd*.service | wc -l")? == "1").then_some(()))
    })?;
    vm.passed()
}

#[test]
fn an_agent_that_crashes_leaves_a_record_with_a_backtrace() -> Result<()> {
    let net = Net::new()?;
    let vm = Vm::boot(&net, VmSpec::with_guestd_init())?;
    vm.wait_ready()?;
    let pid = service(&vm, "guestd")?.pid.context("the agent has no process")?;
    // Whoever asks for it is ended with the agent.
    vm.ctl(["exec", "--", "kill", "-SEGV", &pid.to_string()])?;
    vm.wait_ready()?;
    let shown = vm.ctl(["info"])?.ok()?;
    println!("{shown}");
    let out = shown.out();
    ensure!(out.contains(&format!("agent {pid} ended by SIGSEGV")), "{shown}");
    // It sleeps in the kernel: by way of the C library, which has no unwind information, hence the words on its stack.
    ensure!(out.contains("guestd died by signal 11") && out.matches("guestd+0x").count() >= 8, "{shown}");
    ensure!(service(&vm, "guestd")?.restarts == 1);
    vm.passed()
}
