//! The bridge on a kernel of its own, and a connection through it that outlives the agent.

use anyhow::{Context, Result, ensure};
use guestd::api::Bridge;

use crate::harness::{Net, Vm, VmSpec};

#[test]
fn bridged_session_lives_on_while_the_agents_unit_restarts() -> Result<()> {
    let net = Net::new()?;
    let vm = Vm::boot(&net, VmSpec::default())?;
    vm.wait_ready()?;
    let before = bridge(&vm)?;
    ensure!(before.tier == "steer", "the kernel of the image can steer: {before:#?}");

    vm.wait_listener("sshd listens", |listener| listener.port == 22)?;
    vm.ctl(["bridge", "add", "2222", "127.0.0.1:22"])?.ok()?;
    // The session that orders the restart is the one that has to live on.
    let show = "systemctl show --property MainPID guestd.service";
    let session = vm.ssh().at_port(2222).run(&format!("{show} && systemctl restart guestd.service && {show}"))?.ok()?;
    let out = session.out();
    let (old, new) = out.split_once('\n').context("two lines")?;
    ensure!(
        old.starts_with("MainPID=") && new.starts_with("MainPID=") && old != new,
        "the agent did not restart: {out}"
    );

    vm.wait_ready()?;
    let after = bridge(&vm)?;
    ensure!(after.tier == "steer" && after.rules.len() == 1, "the rule is gone: {after:#?}");
    let port = after.ports.iter().find(|port| port.listen == 2222).context("the port is gone")?;
    ensure!(port.connections_total == 1 && port.bytes_out > 0, "the counters began anew: {port:#?}");
    vm.passed()
}

fn bridge(vm: &Vm<'_>) -> Result<Bridge> {
    vm.ctl(["--json", "bridge"])?.ok()?.json()
}
