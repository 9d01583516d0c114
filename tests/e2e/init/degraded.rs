//! What is broken or missing keeps no VM from booting, and is named.

use std::time::Duration;

use anyhow::{Result, ensure};
use guestd::api::{Check, CheckState, Health, ServiceState, Status};

use super::{init_check, is_process_1, service};
use crate::harness::{Disk, Net, Vm, VmSpec, until};

const BROKEN: [(&str, &str); 6] = [
    ("/etc/guestd/config.toml", "vm_id = \n[bridge"),
    ("/etc/guestd/services/nonsense.toml", "command = \"no list\"\n"),
    ("/etc/guestd/services/absent.toml", "command = [\"/usr/bin/no-such-program\"]\nrestart = \"never\"\n"),
    ("/etc/guestd/services/nobodys.toml", "command = [\"true\"]\nuser = \"no-such-user\"\nrestart = \"never\"\n"),
    ("/etc/guestd/services/circle.toml", "command = [\"sleep\", \"600\"]\nafter = [\"circle\", \"no-such-service\"]\n"),
    ("/etc/sysctl.d/99-test.conf", "nonsense\nkernel.no_such_setting = 1\nkernel.core_uses_pid = 1\n"),
];

fn answers(spec: VmSpec, net: &Net) -> Result<(Vm<'_>, Health)> {
    let mut vm = Vm::boot(net, spec)?;
    vm.wait_answer()?;
    let health = until("services have had their chance", Duration::from_secs(60), || {
        let waits =
            |service: &guestd::api::Service| matches!(service.state, ServiceState::Waiting | ServiceState::Starting);
        let settled = !super::services(&vm)?.iter().any(waits);
        Ok(settled.then_some(vm.health()?))
    })?;
    is_process_1(&vm)?;
    Ok((vm, health))
}

fn degraded(health: &Health) -> Vec<&str> {
    let named = |check: &'_ &Check| check.state == CheckState::Degraded;
    health.checks.iter().filter(named).map(|check| check.name.as_str()).collect()
}

#[test]
fn a_broken_configuration_and_services_that_cannot_run_are_named_and_all_else_works() -> Result<()> {
    let net = Net::new()?;
    let spec = VmSpec { disk: Disk::Own(BROKEN.to_vec()), ..VmSpec::with_guestd_init() };
    let (vm, health) = answers(spec, &net)?;
    ensure!(health.status == Status::Degraded && degraded(&health) == ["init", "config"], "{health:#?}");
    let (_, message) = init_check(&health)?;
    for named in [
        "/etc/guestd/services/nonsense.toml: `command` takes a list",
        "service absent: /usr/bin/no-such-program could not be run",
        "service nobodys: there is no user \"no-such-user\"",
        "service circle: it comes after `no-such-service`, which is no service",
        "\"nonsense\" is no setting",
        "kernel/no_such_setting could not be set",
    ] {
        ensure!(message.contains(named), "{named} is not named: {message}");
    }
    ensure!(service(&vm, "sshd")?.state == ServiceState::Running);
    ensure!(service(&vm, "circle")?.state == ServiceState::Running);
    ensure!(vm.sh("cat /proc/sys/kernel/core_uses_pid")? == "1");
    vm.passed()
}

#[test]
fn on_a_read_only_root_the_vm_boots_and_says_so() -> Result<()> {
    let net = Net::new()?;
    let (vm, health) = answers(VmSpec { disk: Disk::ReadOnly, ..VmSpec::with_guestd_init() }, &net)?;
    let (state, message) = init_check(&health)?;
    ensure!(state == CheckState::Degraded && message.contains("the root file system is read-only"), "{message}");
    vm.ctl(["exec", "--", "touch", "/written"])?.exits(1)?;
    vm.sh("touch /run/written /tmp/written")?;
    vm.passed()
}

#[test]
fn without_controllers_and_without_ipv6_the_vm_boots_and_says_so() -> Result<()> {
    let net = Net::new()?;
    let mut spec = VmSpec::with_guestd_init();
    spec.kernel_args = ["ipv6.disable=1", "cgroup_disable=memory,pids,cpu"].map(str::to_owned).to_vec();
    let (vm, health) = answers(spec, &net)?;
    ensure!(degraded(&health).contains(&"ipv6"), "{health:#?}");
    let (_, message) = init_check(&health)?;
    ensure!(message.contains("its limit Memory") && message.contains("services cannot be limited"), "{message}");
    ensure!(service(&vm, "sshd")?.state == ServiceState::Running);
    vm.passed()
}

#[test]
fn an_init_that_cannot_take_over_is_named_and_guestd_stays() -> Result<()> {
    let net = Net::new()?;
    let mut spec = VmSpec::with_guestd_init();
    spec.kernel_args.push("guestd.handoff=/sbin/no-such-init".to_owned());
    let (vm, health) = answers(spec, &net)?;
    let (state, message) = init_check(&health)?;
    ensure!(state == CheckState::Degraded && message.contains("/sbin/no-such-init is no init"), "{message}");
    vm.passed()
}
