//! VMs whose process 1 is `guestd init`.

mod agent;
mod boot;
mod degraded;
mod minimal;
mod power;
mod services;

use anyhow::{Context, Result, ensure};
use guestd::api::{CheckState, Health, Service};

use crate::harness::Vm;

/// The services as guestctl tells them.
fn services(vm: &Vm<'_>) -> Result<Vec<Service>> {
    vm.ctl(["--json", "service", "list"])?.ok()?.json()
}

/// One of them.
fn service(vm: &Vm<'_>, name: &str) -> Result<Service> {
    let all = services(vm)?;
    let found = all.iter().find(|service| service.name == name).cloned();
    found.with_context(|| format!("there is no service {name}: {all:#?}"))
}

/// What health says of process 1.
fn init_check(health: &Health) -> Result<(CheckState, String)> {
    let check = health.checks.iter().find(|check| check.name == "init");
    let check = check.with_context(|| format!("health has no check `init`: {health:#?}"))?;
    Ok((check.state, check.message.clone()))
}

/// Fails unless process 1 is the one that booted the VM: nothing has ended it and nothing has taken its place.
fn is_process_1(vm: &Vm<'_>) -> Result<()> {
    let program = vm.sh("readlink /proc/1/exe")?;
    ensure!(program == "/usr/local/bin/guestd", "process 1 is {program}");
    Ok(())
}
