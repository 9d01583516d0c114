//! `just bench base`: what guestd costs. Size of the binary, start to first answer, idle memory in a real VM.
//!
//! Start is measured on this machine over a Unix socket, beside the bare start of the same binary (`guestd version`), round by
//! round. Memory is measured in the VM.

#[expect(dead_code, unused_imports, reason = "a bench boots one VM and needs little else of the harness")]
#[path = "../e2e/harness/mod.rs"]
mod harness;

use std::{
    io::{Read, Write},
    os::unix::net::UnixStream,
    path::Path,
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use harness::{Net, Vm, VmSpec};
use serde_json::json;

/// Rounds of the start; the median counts.
const ROUNDS: usize = 51;

/// Limits that the project sets itself: bytes, milliseconds, KiB.
const MOST_BYTES: u64 = 6_300_000;
const MOST_START_MS: f64 = 50.0;
const MOST_IDLE_KIB: u64 = 6 * 1024;

fn main() -> Result<()> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let guestd = root.join("target/static/guestd");
    let bytes = guestd.metadata().with_context(|| format!("{}: make it by `just build`", guestd.display()))?.len();

    let mut starts = Vec::new();
    let mut bare = Vec::new();
    for _ in 0..ROUNDS {
        starts.push(start_to_answer(&guestd)?);
        bare.push(bare_start(&guestd)?);
    }
    let (start, bare) = (median(&mut starts), median(&mut bare));
    let slowest = starts.last().copied().unwrap_or_default();

    let net = Net::new()?;
    let vm = Vm::boot(&net, VmSpec::default())?;
    let ready = vm.wait_ready()?.ready_after_boot_secs.unwrap_or_default();
    let pid = vm.sh("systemctl show --property=MainPID --value guestd.service")?;
    let idle_kib = resident_kib(&vm, &pid)?;
    for _ in 0..20 {
        vm.exec(["true"])?;
        vm.ports()?;
    }
    let used_kib = resident_kib(&vm, &pid)?;
    let emulated = vm.emulated;
    vm.passed()?;

    println!("size of the static binary        {:>9.2} MB    at most 5.5", bytes as f64 / 1e6);
    println!("start to answer, median of {ROUNDS}    {start:>9.2} ms    at most 50 (slowest {slowest:.2})");
    println!("  bare start of the same binary  {bare:>9.2} ms    ratio {:.1}", start / bare);
    println!("resident in the VM, idle         {:>9.2} MiB   at most 6", idle_kib as f64 / 1024.0);
    println!("resident in the VM, after use    {:>9.2} MiB", used_kib as f64 / 1024.0);
    println!("kernel start to ready            {ready:>9.2} s     {}", if emulated { "emulated CPU" } else { "KVM" });
    let report = json!({
        "version": env!("CARGO_PKG_VERSION"), "rounds": ROUNDS, "binary_bytes": bytes,
        "start_to_answer_ms": {"median": start, "slowest": slowest}, "bare_start_ms": bare, "start_ratio": start / bare,
        "resident_idle_kib": idle_kib, "resident_used_kib": used_kib, "boot_to_ready_secs": ready, "emulated": emulated,
    });
    let out = root.join("target/bench");
    std::fs::create_dir_all(&out)?;
    std::fs::write(out.join("base.json"), serde_json::to_vec_pretty(&report)?)?;

    ensure!(bytes <= MOST_BYTES, "the binary is too large");
    ensure!(start <= MOST_START_MS, "the agent starts too slowly");
    ensure!(idle_kib <= MOST_IDLE_KIB, "the idle agent holds too much memory");
    Ok(())
}

/// Milliseconds from the spawn of the agent to the last byte of its first health answer.
fn start_to_answer(guestd: &Path) -> Result<f64> {
    let dir = tempfile::tempdir()?;
    let (socket, config) = (dir.path().join("guestd.sock"), dir.path().join("config.toml"));
    std::fs::write(&config, "bridge.auto = false\nlog.level = \"error\"\n")?;
    let began = Instant::now();
    let mut agent = Command::new(guestd)
        .args(["agent", "--no-vsock", "--config"])
        .arg(&config)
        .arg("--socket")
        .arg(&socket)
        .spawn()
        .context("starting the agent")?;
    let answered = loop {
        match ask(&socket) {
            Ok(answer) if answer.starts_with(b"HTTP/1.1 200") => break Ok(began.elapsed()),
            _ if began.elapsed() > Duration::from_secs(10) => break Err(anyhow::anyhow!("no answer within 10 s")),
            _ => thread::park_timeout(Duration::from_micros(200)),
        }
    };
    agent.kill()?;
    agent.wait()?;
    Ok(answered?.as_secs_f64() * 1000.0)
}

fn ask(socket: &Path) -> std::io::Result<Vec<u8>> {
    let mut stream = UnixStream::connect(socket)?;
    stream.write_all(b"GET /v1/health HTTP/1.1\r\nHost: guestd\r\nConnection: close\r\n\r\n")?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    Ok(answer)
}

fn bare_start(guestd: &Path) -> Result<f64> {
    let began = Instant::now();
    ensure!(Command::new(guestd).arg("version").stdout(Stdio::null()).status()?.success());
    Ok(began.elapsed().as_secs_f64() * 1000.0)
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn resident_kib(vm: &Vm<'_>, pid: &str) -> Result<u64> {
    let line = vm.sh(&format!("grep VmRSS /proc/{pid}/status"))?;
    line.split_whitespace().nth(1).and_then(|kib| kib.parse().ok()).with_context(|| format!("no VmRSS in {line:?}"))
}
