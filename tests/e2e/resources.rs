//! Limits on execs and what they took, by the cgroup controllers that systemd delegates to the agent.

use anyhow::{Context, Result, ensure};
use guestd::api::{CheckState, ExecLimits, ExecRequest, ExecResult};
use guestd::client::{Client, Endpoint};

use crate::harness::{Net, Vm, VmSpec};

fn exec(vm: &Vm<'_>, script: &str, limits: ExecLimits) -> Result<ExecResult> {
    let command = ["sh", "-c", script].map(str::to_owned).into();
    let request = ExecRequest { command, limits: Some(limits), timeout_secs: Some(60), ..ExecRequest::default() };
    let endpoint: Endpoint = vm.endpoint().parse()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    Ok(runtime.block_on(Client::new(endpoint).exec(&request))?)
}

#[test]
fn limits_are_kept_by_the_kernel_and_the_agent_is_not_in_its_execs_way() -> Result<()> {
    let net = Net::new()?;
    let vm = Vm::boot(&net, VmSpec::default())?;
    let health = vm.wait_ready()?;
    let check = health.checks.iter().find(|check| check.name == "cgroup2").context("no check cgroup2")?;
    ensure!(check.state == CheckState::Ok && check.message.contains("controllers memory, pids, cpu"), "{check:?}");

    let none = ExecLimits::default();
    let bounded = ExecLimits { memory_bytes: Some(32 << 20), pids: Some(20), cpu_weight: Some(50) };
    let files = "cd /sys/fs/cgroup$(cut -d: -f3 /proc/self/cgroup) && cat memory.max pids.max cpu.weight";
    let result = exec(&vm, files, bounded)?;
    ensure!(result.stdout == "33554432\n20\n50\n", "{result:?}");
    let peak = result.usage.memory_peak_bytes;
    ensure!(result.usage.cpu_time_us.is_some_and(|time| time > 0), "{result:?}");
    // memory.peak came with Linux 5.19.
    ensure!(peak.is_some_and(|peak| peak > 0 && peak <= 32 << 20), "{result:?}");
    ensure!(!result.oom_killed, "{result:?}");

    // tail keeps a line until it ends, and this one does not.
    let result = exec(&vm, "head -c 128M /dev/zero | tail", bounded)?;
    ensure!(result.oom_killed, "{result:?}");
    let result = exec(&vm, "for i in $(seq 100); do sleep 5 & done; wait", bounded)?;
    ensure!(result.exit_code != 0 && !result.oom_killed, "{result:?}");
    let result = exec(&vm, "for i in $(seq 100); do sleep 0 & done; wait", none)?;
    ensure!(result.exit_code == 0, "{result:?}");

    // A restart finds the cgroups in order again.
    vm.sh("systemctl restart --no-block guestd.service")?;
    vm.wait_ready()?;
    ensure!(exec(&vm, "true", bounded)?.exit_code == 0, "limits are gone after a restart");
    vm.passed()
}
