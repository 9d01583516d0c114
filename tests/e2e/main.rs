//! guestd in a real VM: a real kernel, systemd, sshd and vsock, driven by the real client.
//!
//! A boot costs 10 to 20 s where the CPU has to be emulated, so a test looks at all that one boot can show. What they need is
//! made by `just image` and installed by `./dev`; what is missing fails the test with a sentence that says so.

mod between;
mod branch;
mod bridge;
mod degraded;
mod exec;
mod golden_path;
mod harness;
mod idle;
mod init;
mod keys;
mod lifecycle;
mod names;
mod nothing_left;
mod peers;
mod resources;
mod services;
mod tunnel;

use anyhow::{Context, Result, ensure};
use golden_path::{CLAIMS, Stage};
use harness::Net;
use harness::artifacts::Artifacts;

/// Idle resident memory of the agent, in KiB.
const AGENT_RESIDENT_KIB: u64 = 6 * 1024;

#[test]
fn what_is_written_of_the_kernels_is_true_of_the_one_that_is_booted() -> Result<()> {
    Artifacts::find()?.kernel.check_table()?.ok()?;
    Ok(())
}

#[test]
fn a_golden_image_boots_and_is_reached_and_the_agent_stays_small() -> Result<()> {
    let net = Net::new()?;
    let stage = Stage::set(&net)?;
    for claim in CLAIMS {
        (claim.see)(&stage).with_context(|| format!("not true: {}", claim.is))?;
    }
    let vm = &stage.vm;
    // No unit of the image wants what this kernel lacks.
    let state = vm.sh("systemctl is-system-running --wait || systemctl --failed --no-legend --plain")?;
    ensure!(state == "running", "not every unit is well: {state}");
    // The binary needs nothing of the machine that it runs on, not even an environment.
    vm.artifacts().run_guestd(["version"])?.ok()?;
    let built = vm.artifacts().guestd_sha256()?;
    let held = vm.sh("sha256sum </usr/local/bin/guestd")?;
    ensure!(held.starts_with(&built), "the image holds another guestd ({held}) than was built ({built}): `just image`");

    let resident = lifecycle::agent_resident_kib(vm)?;
    ensure!(resident <= AGENT_RESIDENT_KIB, "the agent holds {resident} KiB after some use");
    stage.vm.passed()
}
