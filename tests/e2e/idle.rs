//! What an idle VM pays for its agent.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use guestd::api::Info;

use crate::harness::{Net, Ssh, Vm, VmSpec};

/// Seconds that are counted.
const IDLE: u64 = 60;

/// Seconds before: the agent's spare threads end ten seconds after their last work.
const CALM: u64 = 15;

/// Counts by SSH straight to the VM, which the agent has no part in.
const COUNT: &str = "set -eu
pid=$(systemctl show --property=MainPID --value guestd.service)
count() { for task in /proc/$pid/task/*; do echo $(cat $task/comm) $(sed -n 's/.*ctxt_switches:\\t//p' $task/status); done; }
sum() { awk '{ sum += $(NF - 1) + $NF } END { print sum }'; }
systemctl is-system-running --wait >/dev/null || :
sleep CALM; before=$(count); sleep IDLE; after=$(count)
echo $(($(echo \"$after\" | sum) - $(echo \"$before\" | sum)))
echo \"$before\"; echo to; echo \"$after\"";

/// Context switches of all threads of the agent, voluntary and not, in [`IDLE`] seconds.
fn switches(ssh: &Ssh<'_>) -> Result<u64> {
    let script = COUNT.replace("CALM", &CALM.to_string()).replace("IDLE", &IDLE.to_string());
    let ran = ssh.invocation(Some(&script)).run(Duration::from_secs(2 * (CALM + IDLE)))?.ok()?;
    println!("{ran}");
    let out = ran.out();
    let sum = out.lines().next().and_then(|line| line.parse().ok());
    sum.with_context(|| format!("no number in {out:?}"))
}

fn said_of_listeners(vm: &Vm<'_>) -> Result<String> {
    let checks = vm.health()?.checks;
    let check = checks.into_iter().find(|check| check.name == "listeners").context("no check listeners")?;
    Ok(check.message)
}

#[test]
fn an_idle_agent_is_not_woken_once_with_events_and_once_a_second_at_most_without() -> Result<()> {
    let net = Net::new()?;
    let vm = Vm::boot(&net, VmSpec::default())?;
    vm.wait_ready()?;
    let said = said_of_listeners(&vm)?;
    ensure!(said.ends_with("events: bpf"), "the kernel has BPF, and health says: {said}");
    let info: Info = vm.ctl(["--json", "info"])?.ok()?.json()?;
    ensure!(info.features.iter().any(|feature| feature == "listener_events"), "{info:?}");
    vm.wait_listener("sshd listens", |listener| listener.port == 22)?;
    let ssh = vm.ssh();
    let woken = switches(&ssh)?;
    ensure!(woken == 0, "the agent was switched to {woken} times in {IDLE} idle seconds");

    ssh.run(
        "set -eu
        mkdir -p /run/systemd/system/guestd.service.d
        printf '[Service]\\nEnvironment=GUESTD_LISTENERS_EVENTS=poll\\n' >/run/systemd/system/guestd.service.d/poll.conf
        systemctl daemon-reload
        systemctl restart guestd.service",
    )?
    .ok()?;
    vm.wait_ready()?;
    let said = said_of_listeners(&vm)?;
    ensure!(said.ends_with("poll: `listeners.events` is \"poll\""), "{said}");
    let woken = switches(&ssh)?;
    ensure!(woken <= IDLE, "the agent that polls was switched to {woken} times in {IDLE} idle seconds");
    vm.passed()
}
