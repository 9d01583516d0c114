//! `just vm`: leaves a VM running, and prints how to reach it, until Ctrl-C.

#[expect(dead_code, unused_imports, reason = "the tests use what this does not")]
mod harness;

#[expect(dead_code, reason = "only the stage is wanted here")]
mod golden_path;

use anyhow::{Context, Result};
use golden_path::Stage;
use harness::Net;
use nix::sys::signal::{SigSet, Signal};

fn main() -> Result<()> {
    // Blocked before anything is started, so that Ctrl-C at any moment ends in an orderly end.
    let ends = SigSet::from_iter([Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP]);
    ends.thread_block().context("blocking SIGINT and SIGTERM")?;

    let net = Net::new()?;
    let stage = Stage::set(&net)?;
    let vm = &stage.vm;
    println!("Booting {}, 10 to 25 s where the CPU has to be emulated.", vm.name());
    let health = vm.wait_ready()?;
    let (endpoint, guestctl) = (vm.endpoint(), vm.artifacts().guestctl.display().to_string());
    let inside = net.way_in().join(" ");
    println!("Ready {:.1} s after the start of its kernel.\n", health.ready_after_boot_secs.unwrap_or_default());
    println!("export GUESTD_VM={endpoint}");
    println!("{guestctl} health");
    println!("{guestctl} ports");
    println!("{guestctl} exec -- uname -a");
    println!("\nFrom its network, which has no way out:");
    println!("{inside} curl '{}'", harness::page(vm.address(), 3000));
    println!("{inside} {}", vm.ssh().invocation(None));
    println!("\nConsole: {}\nCtrl-C ends it and removes all of it.", vm.console().display());
    ends.wait().context("waiting for SIGINT or SIGTERM")?;
    stage.vm.passed()
}
