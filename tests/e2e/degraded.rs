//! VMs that lack something: the agent lives, serves what it can, and names what is missing.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use guestd::api::{Check, CheckState, Health, Status};

use crate::harness::{Net, Vm, VmSpec, until};

/// An emulated guest on a busy machine.
const BOOT_DEADLINE: Duration = Duration::from_secs(90);

#[test]
fn without_vsock_the_agent_serves_the_guest_and_says_what_is_missing() -> Result<()> {
    let net = Net::new()?;
    let mut vm = Vm::boot(&net, VmSpec::without_vsock())?;
    let ssh = vm.ssh();
    // No vsock, so we come as a user would. sshd is up after the agent.
    until("SSH works over IPv6", BOOT_DEADLINE, || {
        vm.alive()?;
        Ok((ssh.run("true")?.code == 0).then_some(()))
    })?;
    let health: Health = ssh.run("guestctl --json health")?.exits(1)?.json()?;
    only_degraded(&health, "vsock")?;
    ssh.run("guestctl exec -- sh -c 'exit 7'")?.exits(7)?;
    vm.passed()
}

#[test]
fn without_ipv6_the_agent_runs_commands_and_says_what_is_missing() -> Result<()> {
    let net = Net::new()?;
    let mut vm = Vm::boot(&net, VmSpec::without_ipv6())?;
    let health = vm.wait_answer()?;
    degraded(&health, "ipv6")?;
    vm.ctl(["health"])?.exits(1)?;
    commands_run(&vm)?;
    vm.passed()
}

#[test]
fn without_cgroup2_the_agent_runs_commands_and_says_what_is_missing() -> Result<()> {
    let net = Net::new()?;
    let mut vm = Vm::boot(&net, VmSpec::without_cgroup2())?;
    let health = vm.wait_answer()?;
    only_degraded(&health, "cgroup2")?;
    vm.ctl(["health"])?.exits(1)?;
    commands_run(&vm)?;
    // A whole tree ends at the time-out, even where no cgroup holds it together.
    vm.ctl(["exec", "--timeout", "1", "--", "sh", "-c", "sleep 600 & wait"])?.exits(124)?;
    let left = vm.sh("pgrep -x sleep -a || true")?;
    ensure!(left.is_empty(), "left running after the time-out: {left}");
    vm.passed()
}

fn commands_run(vm: &Vm<'_>) -> Result<()> {
    let uname = vm.exec(["uname", "-a"])?;
    ensure!(uname.out().starts_with("Linux "), "this is not uname's answer:\n{uname}");
    vm.ctl(["exec", "--", "sh", "-c", "exit 7"])?.exits(7)?;
    Ok(())
}

/// The VM as a whole is degraded, and the check of this name says why in a sentence.
fn degraded<'h>(health: &'h Health, name: &str) -> Result<&'h Check> {
    ensure!(health.status == Status::Degraded, "not degraded: {health:#?}");
    let check = health.checks.iter().find(|check| check.name == name);
    let check = check.with_context(|| format!("no check {name}: {health:#?}"))?;
    ensure!(check.state == CheckState::Degraded, "{name} is not degraded: {health:#?}");
    ensure!(check.message.len() > 10, "{name} says nothing: {health:#?}");
    Ok(check)
}

/// The same, and nothing else is amiss.
fn only_degraded(health: &Health, name: &str) -> Result<()> {
    degraded(health, name)?;
    let others = health.checks.iter().filter(|check| check.name != name);
    let others: Vec<_> = others.filter(|check| check.state == CheckState::Degraded).collect();
    ensure!(others.is_empty(), "besides {name} degraded: {others:#?}");
    Ok(())
}
