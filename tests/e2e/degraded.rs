//! VMs that lack something: the agent lives, serves what it can, and names what is missing.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use guestd::api::{CheckState, Health, Status};

use crate::harness::{Net, PATIENCE, Vm, VmSpec, until};

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
    settles_degraded_by("vsock", || ssh.run("guestctl --json health")?.exits(1)?.json())?;
    ssh.run("guestctl exec -- sh -c 'exit 7'")?.exits(7)?;
    vm.passed()
}

#[test]
fn without_ipv6_the_agent_runs_commands_and_says_what_is_missing() -> Result<()> {
    let net = Net::new()?;
    let mut vm = Vm::boot(&net, VmSpec::without_ipv6())?;
    vm.wait_answer()?;
    settles_degraded_by("ipv6", || vm.health())?;
    vm.ctl(["health"])?.exits(1)?;
    commands_run(&vm)?;
    vm.passed()
}

#[test]
fn without_cgroup2_the_agent_runs_commands_and_says_what_is_missing() -> Result<()> {
    let net = Net::new()?;
    let mut vm = Vm::boot(&net, VmSpec::without_cgroup2())?;
    vm.wait_answer()?;
    settles_degraded_by("cgroup2", || vm.health())?;
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

/// Waits until the VM as a whole is degraded, for the check of this name alone, which says why in a sentence. Other checks may
/// need a moment after the first answer: an address that was just set is seen at the next look.
fn settles_degraded_by(name: &str, mut ask: impl FnMut() -> Result<Health>) -> Result<()> {
    let mut seen = None;
    until("degraded by this check alone", PATIENCE, || {
        let health = ask()?;
        // It answers from the beginning, before it has made its keys.
        let alone = health.status != Status::Starting && degraded_checks(&health).eq([name]);
        seen = Some(health);
        Ok(alone.then_some(()))
    })
    .with_context(|| format!("{name} should be degraded, and nothing else: {seen:#?}"))?;
    let health = seen.context("nobody was asked")?;
    ensure!(health.status == Status::Degraded, "a check is degraded and the whole is not: {health:#?}");
    let said = health.checks.iter().find(|check| check.name == name).map_or(0, |check| check.message.len());
    ensure!(said > 20, "{name} does not say why: {health:#?}");
    Ok(())
}

fn degraded_checks(health: &Health) -> impl Iterator<Item = &str> {
    health.checks.iter().filter(|check| check.state == CheckState::Degraded).map(|check| check.name.as_str())
}
