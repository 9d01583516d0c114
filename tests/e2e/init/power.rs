//! The end of a VM: soon, in order, and with a clean disk.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use guestd::api::ServiceState;

use super::service;
use crate::harness::{BUSYBOX_INIT, Disk, Net, Ran, SYSTEMD, Vm, VmSpec, until};

/// Far above what any end may take.
const DEADLINE: Duration = Duration::from_secs(60);

/// With a service that ignores SIGTERM and has the usual grace of a second.
const MOST: Duration = Duration::from_secs(2);

/// Files that appear, change and go, and one that is held open after it was removed; and nobody waits for the disk.
const WRITE: &str = "mkdir -p /var/load; exec 3>/var/load/held; rm /var/load/held
for writer in 1 2 3; do
  (i=0; while :; do dd if=/dev/urandom of=/var/load/$writer.$((i % 50)) bs=64k count=4 2>/dev/null; rm -f /var/load/$writer.$(((i + 25) % 50)); i=$((i+1)); done) &
done
wait";

/// A service that writes as well, and one that is deaf.
const WRITER: (&str, &str) = (
    "/etc/guestd/services/writer.toml",
    "command = [\"sh\", \"-c\", \"while :; do echo line >>/var/writer.log; done\"]\n",
);
const DEAF: (&str, &str) = (
    "/etc/guestd/services/stubborn.toml",
    "command = [\"sh\", \"-c\", \"trap '' TERM INT HUP; echo deaf; while :; do sleep 600; done\"]\n",
);

#[test]
fn power_off_under_load_takes_less_than_two_seconds_and_leaves_a_clean_disk() -> Result<()> {
    let net = Net::new()?;
    let mut vm = Vm::boot(&net, VmSpec { disk: Disk::Own(vec![WRITER, DEAF]), ..VmSpec::with_guestd_init() })?;
    vm.wait_ready()?;
    until("the deaf service has said so", DEADLINE, || {
        Ok(vm.ctl(["logs", "--service", "stubborn"])?.ok()?.out().contains("deaf").then_some(()))
    })?;
    ensure!(service(&vm, "writer")?.state == ServiceState::Running);
    vm.ctl(["exec", "-d", "--", "sh", "-c", WRITE])?.ok()?;
    until("the load has begun", DEADLINE, || Ok((vm.sh("ls /var/load | wc -l")?.parse::<u32>()? > 10).then_some(())))?;
    let said = vm.ctl(["power", "off"])?.ok()?;
    ensure!(said.out() == "the VM ends, by guestd init", "{said}");
    let took = vm.wait_end(DEADLINE)?;
    disk_is_clean(&vm)?;
    // By the guest's clock: an emulated machine takes a second of its own to be switched off.
    let console = vm.console_text()?;
    let told = console.lines().find_map(|line| line.split_once("the VM ends: ")).context("its end is not told")?.1;
    println!("{told}; and {:.2} s until the machine was off", took.as_secs_f64());
    let millis: Vec<u64> = told.split(' ').filter_map(|word| word.parse().ok()).collect();
    ensure!(millis.len() == 3 && Duration::from_millis(millis.iter().sum()) < MOST, "{told}");
    vm.passed_ended();
    Ok(())
}

fn disk_is_clean(vm: &Vm<'_>) -> Result<()> {
    let disk = vm.own_disk().display().to_string();
    let check = vm.net.run(["e2fsck", "-fn", &disk])?.ok()?;
    println!("{check}");
    let state = vm.net.run(["dumpe2fs", "-h", &disk])?.ok()?.out();
    let clean = state.lines().any(|line| line.starts_with("Filesystem state:") && line.ends_with("clean"));
    ensure!(clean && !state.contains("needs_recovery"), "the journal is not empty:\n{state}");
    Ok(())
}

/// Boots with this init, has the guest ended by what `end` does, and waits until it has.
fn ends_by(init: &'static str, end: impl FnOnce(&Vm<'_>) -> Result<Ran>) -> Result<()> {
    let net = Net::new()?;
    let mut vm = Vm::boot(&net, VmSpec { disk: Disk::Own(vec![]), init: Some(init), ..VmSpec::default() })?;
    vm.wait_answer()?;
    // Its connection may be gone before its answer is.
    end(&vm)?;
    vm.wait_end(DEADLINE)?;
    // busybox init unmounts nothing unless its inittab says so.
    if init != BUSYBOX_INIT {
        disk_is_clean(&vm)?;
    }
    vm.passed_ended();
    Ok(())
}

#[test]
fn ctrl_alt_del_a_failing_power_and_a_request_to_reboot_end_it_as_well() -> Result<()> {
    // What Firecracker's SendCtrlAltDel comes as; what a UPS's daemon sends.
    for signal in ["INT", "PWR", "TERM"] {
        ends_by(crate::harness::GUESTD_INIT, |vm| vm.ctl(["exec", "--", "kill", &format!("-{signal}"), "1"]))?;
    }
    ends_by(crate::harness::GUESTD_INIT, |vm| vm.ctl(["power", "reboot"])?.ok())?;
    Ok(())
}

#[test]
fn a_fault_of_process_1_is_told_on_the_console_and_ends_the_vm() -> Result<()> {
    let net = Net::new()?;
    let mut vm = Vm::boot(&net, VmSpec::with_guestd_init())?;
    vm.wait_ready()?;
    vm.ctl(["exec", "--", "kill", "-SEGV", "1"])?;
    let took = vm.wait_end(DEADLINE)?;
    let console = vm.console_text()?;
    ensure!(console.contains("guestd died by signal 11") && console.contains("guestd+0x"), "{console}");
    ensure!(!console.contains("Kernel panic"), "{console}");
    ensure!(took < Duration::from_secs(10), "it took {} s", took.as_secs_f64());
    vm.passed_ended();
    Ok(())
}

#[test]
fn a_disk_that_somebody_has_frozen_does_not_keep_the_vm_from_ending() -> Result<()> {
    let net = Net::new()?;
    let mut vm = Vm::boot(&net, VmSpec { disk: Disk::Own(vec![]), ..VmSpec::with_guestd_init() })?;
    vm.wait_ready()?;
    vm.ctl(["exec", "--", "fsfreeze", "-f", "/"])?.ok()?;
    vm.ctl(["power", "off"])?;
    vm.wait_end(2 * DEADLINE)?;
    let console = vm.console_text()?;
    ensure!(console.contains("the disk cannot be made clean") && console.contains("the VM ends: "), "{console}");
    vm.passed_ended();
    Ok(())
}

#[test]
fn a_vm_with_another_init_is_ended_by_that() -> Result<()> {
    for init in [SYSTEMD, BUSYBOX_INIT] {
        ends_by(init, |vm| vm.ctl(["power", "off"])?.ok())?;
    }
    Ok(())
}
