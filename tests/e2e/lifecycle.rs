//! The agent as a service: what it holds, how it ends, how it comes back.

use anyhow::{Context, Result, ensure};

use crate::harness::{Net, Vm, VmSpec};

/// Resident memory of the agent, in KiB.
pub(crate) fn agent_resident_kib(vm: &Vm<'_>) -> Result<u64> {
    let pid = main_pid(vm)?;
    let status = vm.sh(&format!("cat /proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|rest| rest.split_whitespace().next()?.parse().ok());
    kib.with_context(|| format!("no VmRSS in /proc/{pid}/status:\n{status}"))
}

fn main_pid(vm: &Vm<'_>) -> Result<u32> {
    let pid = vm.sh("systemctl show --property=MainPID --value guestd.service")?;
    pid.parse().with_context(|| format!("systemd says that the agent's process is {pid:?}"))
}

#[test]
fn a_restart_of_the_agent_completes_the_response_that_runs_and_the_agent_is_back() -> Result<()> {
    let net = Net::new()?;
    let vm = Vm::boot(&net, VmSpec::default())?;
    vm.wait_ready()?;
    vm.wait_listener("sshd listens", |listener| listener.port == 22)?;
    let ssh = vm.ssh();
    let before = main_pid(&vm)?;

    // The command runs until we let it end, by SSH: an agent that ends takes no new execs.
    vm.sh("mkfifo /run/drain.fifo")?;
    let script = "echo begun; read word </run/drain.fifo; echo $word";
    let mut running = vm.ctl_start(["exec", "--", "sh", "-c", script])?;
    ensure!(running.line()? == "begun\n", "the command did not begin");

    ssh.run(
        "set -eu
        systemctl restart --no-block guestd.service
        until [ \"$(systemctl show --property=ActiveState --value guestd.service)\" = deactivating ]; do :; done
        echo ended >/run/drain.fifo",
    )?
    .ok()
    .context("the agent was told to end, and was not seen to wait for the command")?;
    let ran = running.end()?.ok()?;
    ensure!(ran.stdout == b"begun\nended\n", "the response was cut:\n{ran}");

    vm.wait_ready()?;
    let after = main_pid(&vm)?;
    ensure!(after != before, "the agent is still process {before}: it was not restarted");
    vm.passed()
}
