//! The minimal image: guestd, busybox and OpenSSH, and a VM that is as good as any other.

use anyhow::{Context, Result, ensure};
use guestd::api::{CheckState, Exposure, Info};

use super::{init_check, service};
use crate::harness::{Net, PATIENCE, Vm, VmSpec, page};

#[test]
fn the_minimal_image_boots_runs_commands_takes_ssh_and_bridges() -> Result<()> {
    let net = Net::new()?;
    let mut vm = Vm::boot(&net, VmSpec::minimal())?;
    vm.wait_ready()?;
    let (state, message) = init_check(&vm.health()?)?;
    ensure!(state == CheckState::Ok, "{message}");
    let info: Info = vm.ctl(["--json", "info"])?.ok()?.json()?;
    ensure!(info.boot.steps.iter().any(|step| step.name == "agent"), "guestd is not its init: {info:#?}");
    ensure!(vm.sh("ls /lib/systemd /etc/init.d 2>/dev/null | wc -l")? == "0", "there is another init");

    // The golden key opens it, and what came up as services is there: sshd after the agent, who made its host key.
    vm.wait_listener("sshd listens", |listener| listener.port == 22)?;
    let said = vm.ssh().run("hostname")?.ok()?;
    ensure!(said.out() == vm.id && vm.sh("echo $VERS_VM_ID")? == vm.id, "{said}");
    let sshd = service(&vm, "sshd")?.pid.context("sshd is no service of guestd's")?;
    ensure!(vm.sh(&format!("readlink /proc/{sshd}/exe"))? == "/usr/sbin/sshd");

    // A service of IPv4 alone is reached over IPv6.
    vm.ctl(["exec", "-d", "--", "busybox", "httpd", "-f", "-p", "0.0.0.0:3000", "-h", "/etc"])?.ok()?;
    vm.wait_listener("the service is bridged", |listener| {
        listener.port == 3000 && listener.exposure == Exposure::Bridged
    })?;
    let url = format!("{}os-release", page(vm.address(), 3000));
    let came = vm.net.run(["curl", "-sS", "--max-time", "30", &url])?.ok()?;
    ensure!(came.out() == vm.sh("cat /etc/os-release")?, "{came}");

    vm.ctl(["power", "off"])?.ok()?;
    vm.wait_end(PATIENCE)?;
    vm.passed_ended();
    Ok(())
}
