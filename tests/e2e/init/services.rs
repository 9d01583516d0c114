//! Services told to stop and start; those that crash, and what nobody waits for.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use guestd::api::{Service, ServiceState};

use super::{init_check, is_process_1, service};
use crate::harness::{Net, PATIENCE, Vm, VmSpec, until};

/// Of one processor, that a service which crashes in a loop may take, process 1's work for it among it.
const MOST_CPU: f64 = 0.01;

/// Crashes before that is counted: the pause after the eighth is 12.8 s. It goes on doubling, up to half a minute.
const QUICK_CRASHES: u32 = 7;

/// Seconds over which it is counted: one crash by then, at most two.
const COUNTED: u64 = 30;

#[test]
fn services_are_started_stopped_and_reaped_and_one_that_crashes_costs_nothing() -> Result<()> {
    let net = Net::new()?;
    let vm = Vm::boot(&net, VmSpec::with_guestd_init())?;
    vm.wait_ready()?;
    until(
        "the web service runs",
        PATIENCE,
        || Ok((service(&vm, "web")?.state == ServiceState::Running).then_some(())),
    )?;
    until("what comes after it has been run", PATIENCE, || {
        Ok((service(&vm, "after-web")?.state == ServiceState::Done).then_some(()))
    })?;
    stop_start_and_restart(&vm)?;
    what_others_come_after_is_restarted_by_itself(&vm)?;
    a_killed_service_comes_back_with_nothing_left_of_it(&vm)?;
    one_that_ignores_its_signal_is_killed_after_its_grace(&vm)?;
    a_program_that_is_not_there_is_named(&vm)?;
    zombies_are_reaped(&vm)?;
    a_crash_loop_is_cheap(&vm)?;
    is_process_1(&vm)?;
    vm.passed()
}

fn told(vm: &Vm<'_>, action: &str, name: &str, code: i32) -> Result<Service> {
    let services: Service = vm.ctl(["--json", "service", action, name])?.exits(code)?.json()?;
    Ok(services)
}

fn stop_start_and_restart(vm: &Vm<'_>) -> Result<()> {
    let before = service(vm, "web")?.pid;
    ensure!(told(vm, "stop", "web", 0)?.state == ServiceState::Stopped);
    vm.sh("! pgrep -f 'http[d] -f -v'")?;
    let started = told(vm, "start", "web", 0)?;
    ensure!(started.state == ServiceState::Running && started.pid != before, "{started:#?}");
    // When that is said, its port is there.
    vm.sh("busybox wget -qO- http://[::1]:8080/ >/dev/null || [ $? = 1 ]; ss -Hltn sport = 8080 | grep -q .")?;
    let restarted = told(vm, "restart", "web", 0)?;
    ensure!(restarted.state == ServiceState::Running && restarted.pid != started.pid, "{restarted:#?}");
    ensure!(restarted.restarts == 0, "it was asked for: {restarted:#?}");
    let refused = vm.ctl(["service", "stop", "guestd"])?.exits(125)?;
    ensure!(refused.err().contains("this is the agent"), "{refused}");
    vm.ctl(["service", "start", "nothing"])?.exits(125)?;
    Ok(())
}

fn what_others_come_after_is_restarted_by_itself(vm: &Vm<'_>) -> Result<()> {
    let (sshd, web) = (service(vm, "sshd")?.pid, service(vm, "web")?.pid);
    let restarted = told(vm, "restart", "sshd", 0)?;
    ensure!(restarted.state == ServiceState::Running && restarted.pid != sshd, "{restarted:#?}");
    ensure!(service(vm, "web")?.pid == web, "the web service is another one");
    Ok(())
}

fn a_killed_service_comes_back_with_nothing_left_of_it(vm: &Vm<'_>) -> Result<()> {
    let before = service(vm, "web")?.pid.context("it does not run")?;
    // A child that has left session and group, as daemons do, but not the cgroup.
    let join = "echo $$ >/sys/fs/cgroup/web.service/cgroup.procs; exec sleep 4242";
    let joined = "[ $(wc -l </sys/fs/cgroup/web.service/cgroup.procs) -ge 2 ]";
    vm.sh(&format!("setsid -f sh -c '{join}'; until {joined}; do sleep 0.05; done; kill -KILL {before}"))?;
    until("it is back, and what it left is not", PATIENCE, || {
        let now = service(vm, "web")?;
        let back = now.state == ServiceState::Running && now.pid != Some(before) && now.restarts == 1;
        Ok((back && vm.ctl(["exec", "--", "pgrep", "-f", "sleep 4242"])?.code == 1).then_some(()))
    })
}

fn one_that_ignores_its_signal_is_killed_after_its_grace(vm: &Vm<'_>) -> Result<()> {
    told(vm, "start", "stubborn", 0)?;
    until("it has said that it is deaf", PATIENCE, || {
        Ok(vm.ctl(["logs", "--service", "stubborn"])?.ok()?.out().contains("deaf").then_some(()))
    })?;
    let stopped = told(vm, "stop", "stubborn", 0)?;
    ensure!(stopped.state == ServiceState::Stopped && stopped.last_exit.as_deref() == Some("SIGKILL"), "{stopped:#?}");
    Ok(())
}

fn a_program_that_is_not_there_is_named(vm: &Vm<'_>) -> Result<()> {
    let missing = told(vm, "start", "missing", 1)?;
    let problem = missing.problem.unwrap_or_default();
    ensure!(problem.contains("/usr/bin/no-such-program could not be run: No such file"), "{problem}");
    let (_, message) = init_check(&vm.health()?)?;
    ensure!(message.contains("service missing: "), "{message}");
    told(vm, "stop", "missing", 0)?;
    ensure!(vm.wait_ready().is_ok());
    Ok(())
}

fn zombies_are_reaped(vm: &Vm<'_>) -> Result<()> {
    // Orphans by the hundred at once, from a shell that waits for none of them.
    let burst = "count=0; while [ $count -lt 100 ]; do
          (i=0; while [ $i -lt 100 ]; do (: &); i=$((i+1)); done) & count=$((count+1)); done; wait
        while grep -qs '^State:.Z' /proc/[0-9]*/status; do :; done; echo none";
    let ran = vm.ctl_for(["exec", "--", "sh", "-c", burst], Duration::from_secs(300))?.ok()?;
    ensure!(ran.out() == "none", "{ran}");
    Ok(())
}

/// Ticks of processor time, of which there are a hundred in a second, of process 1 with all that it has waited for.
fn ticks(vm: &Vm<'_>) -> Result<u64> {
    let stat = vm.sh("cat /proc/1/stat")?;
    let fields: Vec<u64> =
        stat.rsplit(')').next().unwrap_or_default().split_whitespace().skip(11).take(4).flat_map(str::parse).collect();
    ensure!(fields.len() == 4, "{stat}");
    Ok(fields.iter().sum())
}

fn a_crash_loop_is_cheap(vm: &Vm<'_>) -> Result<()> {
    // It may have crashed by the answer, or not yet.
    vm.ctl(["service", "start", "crasher"])?;
    // Past the first quick tries: what counts is how it goes on.
    until("it has crashed some times", PATIENCE, || {
        Ok((service(vm, "crasher")?.restarts >= QUICK_CRASHES).then_some(()))
    })?;
    let before = ticks(vm)?;
    vm.ctl_for(["exec", "--", "sleep", &COUNTED.to_string()], Duration::from_secs(3 * COUNTED))?.ok()?;
    let spent = (ticks(vm)? - before) as f64 / 100.0 / COUNTED as f64;
    println!("a crash loop takes {:.2}% of a processor", spent * 100.0);
    ensure!(spent < MOST_CPU, "{spent:.4} of a processor");
    let crasher = service(vm, "crasher")?;
    ensure!(crasher.problem.as_deref().unwrap_or_default().contains("exit status 3"), "{crasher:#?}");
    told(vm, "stop", "crasher", 0).map(drop)
}
