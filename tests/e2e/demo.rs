//! `./dev demo`: boots the golden image and shows what it is for, as it happens. Exits 0 only if all of it is true.

#[expect(dead_code, unused_imports, reason = "the tests use what the demo does not")]
mod harness;

mod golden_path;

use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Result, bail};
use golden_path::{CLAIMS, Stage};
use harness::Net;

fn main() -> ExitCode {
    let begun = Instant::now();
    match demo(begun) {
        Ok(()) => {
            println!("\nAll of it is true, in {:.0} s.", begun.elapsed().as_secs_f64());
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("\nThe demo failed: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn demo(begun: Instant) -> Result<()> {
    println!("guestd demo: booting a golden image in QEMU");
    let net = Net::new()?;
    let stage = Stage::set(&net)?;
    let processor = if stage.vm.emulated { "emulated, as this CPU has no virtualisation" } else { "by KVM" };
    let at = begun.elapsed().as_secs_f64();
    println!("      its processor is {processor}; its kernel found the vsock device {at:.1} s after the demo's start");
    println!("      its name is {}", stage.vm.name());
    for (n, claim) in CLAIMS.iter().enumerate() {
        println!("\n[{}/{}] {}", n + 1, CLAIMS.len(), claim.is);
        let started = Instant::now();
        let shown = (claim.see)(&stage);
        let (took, at) = (started.elapsed().as_secs_f64(), begun.elapsed().as_secs_f64());
        match shown {
            Ok(shown) => {
                for line in shown.0.lines() {
                    println!("      {line}");
                }
                println!("      true, seen in {took:.1} s, {at:.1} s after the demo's start");
            }
            Err(error) => bail!("\"{}\" is not true: {error:#}", claim.is),
        }
    }
    stage.vm.passed()
}
