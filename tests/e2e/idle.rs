//! What an idle VM pays for its agent.

use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};
use guestd::api::Info;

use crate::harness::{Net, Ssh, Vm, VmSpec};

/// Seconds that are counted.
const IDLE: u64 = 60;

/// Seconds before: the agent's spare threads end ten seconds after their last work.
const CALM: u64 = 15;

/// Counts by SSH straight to the VM, which the agent has no part in, and says over how many hundredths of a second.
const COUNT: &str = "set -eu
pid=$(systemctl show --property=MainPID --value guestd.service)
count() { for task in /proc/$pid/task/*; do echo $(cat $task/comm) $(sed -n 's/.*ctxt_switches:\\t//p' $task/status); done; }
sum() { awk '{ sum += $(NF - 1) + $NF } END { print sum }'; }
now() { cut -d ' ' -f 1 /proc/uptime | tr -d .; }
systemctl is-system-running --wait >/dev/null || :
sleep CALM; begun=$(now); before=$(count); sleep IDLE; after=$(count); ended=$(now)
echo $(($(echo \"$after\" | sum) - $(echo \"$before\" | sum))) $((ended - begun))
echo \"$before\"; echo to; echo \"$after\"";

/// Context switches of all threads of the agent, voluntary and not, and in how many seconds: [`IDLE`] and what counting takes.
fn switches(ssh: &Ssh<'_>) -> Result<(u64, f64)> {
    let script = COUNT.replace("CALM", &CALM.to_string()).replace("IDLE", &IDLE.to_string());
    let ran = ssh.invocation(Some(&script)).run(Duration::from_secs(2 * (CALM + IDLE)))?.ok()?;
    println!("{ran}");
    let out = ran.out();
    let counted = out.lines().next().and_then(|line| line.split_once(' '));
    let counted =
        counted.and_then(|(switches, time)| Some((switches.parse().ok()?, time.parse::<f64>().ok()? / 100.0)));
    counted.with_context(|| format!("no two numbers in {out:?}"))
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

    // One that has no events, counted at the same time: what is idle is in nobody's way.
    let args = vec!["guestd.listeners.events=poll".to_owned()];
    let polls = Vm::boot(&net, VmSpec { kernel_args: args, ..VmSpec::default() })?;
    polls.wait_ready()?;
    polls.wait_listener("sshd listens", |listener| listener.port == 22)?;
    let said = said_of_listeners(&polls)?;
    ensure!(said.ends_with("poll: `listeners.events` is \"poll\""), "{said}");

    let (woken, polled) = thread::scope(|scope| {
        let polled = scope.spawn(|| switches(&polls.ssh()));
        (switches(&vm.ssh()), polled.join())
    });
    let (woken, secs) = woken?;
    ensure!(woken == 0, "the agent was switched to {woken} times in {secs} idle seconds");
    let (woken, secs) = polled.map_err(|_| anyhow!("the count of the agent that polls panicked"))??;
    ensure!(woken as f64 <= secs, "the agent that polls was switched to {woken} times in {secs} idle seconds");
    polls.passed()?;
    vm.passed()
}
