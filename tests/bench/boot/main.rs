//! `just bench boot`: how soon a VM can be used, by its init. The same image under `guestd init`, systemd, and busybox init with the agent.
//!
//! From the kernel's "Run … as init process" to the first health answer over vsock that says `ready`, both by the guest's own clock. The inits
//! take turns, so that whatever else the machine does happens to all; medians of the rounds count. Emulation makes a start the dearest thing there
//! is, so that the same inits are also run on the machine's own processor.

#[expect(dead_code, unused_imports, reason = "a bench boots VMs and needs little else of the harness")]
#[path = "../../e2e/harness/mod.rs"]
mod harness;

#[path = "../kit/http.rs"]
#[expect(dead_code, reason = "shared by the benches")]
mod http;
mod native;
#[path = "../kit/numbers.rs"]
#[expect(dead_code, reason = "shared by the benches")]
mod numbers;

use std::{path::Path, time::Duration};

use anyhow::{Context, Result, bail, ensure};
use guestd::api::{Health, Info, Status};
use harness::{BUSYBOX_INIT, GUESTD_INIT, Net, SYSTEMD, Vm, VmSpec, artifacts::Artifacts, until_every};
use numbers::median;
use serde::Serialize;
use serde_json::json;

/// Boots of each; an argument changes it, or leaves the VMs out: `native`.
const ROUNDS: usize = 5;

/// Between two questions whether a VM is ready. What is measured may be too long by this and a question's own time.
const ASK_EVERY: Duration = Duration::from_millis(5);

/// Shorter steps of an init are not shown.
const SHOWN_STEP_MS: f64 = 10.0;

const DEADLINE: Duration = Duration::from_secs(90);

/// Runs on the machine's own processor for each boot of a VM; they take no time.
const NATIVE_RUNS: usize = 5;

/// How often the agent of a `guestd init` is killed, also on the machine's own processor, and the longest that it may be away.
const KILLS: usize = 100;
const MOST_AWAY_MS: f64 = 100.0;

/// guestd init is at least this many times faster than systemd, and this many times as fast as busybox init.
const BESIDE_SYSTEMD: f64 = 10.0;
const BESIDE_BUSYBOX: f64 = 1.0;

const INITS: [(&str, &str); 3] =
    [("guestd init", GUESTD_INIT), ("systemd", SYSTEMD), ("busybox init, agent", BUSYBOX_INIT)];

/// One boot, in milliseconds after the kernel ran init.
#[derive(Debug, Clone, Copy)]
struct Boot {
    /// The agent's process began.
    agent: f64,
    /// It accepted connections.
    accepts: f64,
    /// A host was told that the VM is ready.
    ready: f64,
}

fn main() -> Result<()> {
    if std::env::args().nth(1).as_deref() == Some("native") {
        let native = Native::measure(ROUNDS * NATIVE_RUNS)?;
        return native.judge();
    }
    let rounds = std::env::args().nth(1).map_or(Ok(ROUNDS), |text| text.parse()).context("ROUNDS is a number")?;
    let native = Native::measure(rounds * NATIVE_RUNS)?;
    let mut boots: [Vec<Boot>; INITS.len()] = Default::default();
    let mut emulated = false;
    for round in 1..=rounds {
        for ((name, init), boots) in INITS.iter().zip(&mut boots) {
            let (boot, is_emulated) = boot(init).with_context(|| format!("booting with {name}"))?;
            println!(
                "round {round}, {name}: agent {:.0} ms, accepts {:.0} ms, ready {:.0} ms",
                boot.agent, boot.accepts, boot.ready
            );
            emulated = is_emulated;
            boots.push(boot);
        }
    }
    let middle = |of: fn(&Boot) -> f64| boots.each_ref().map(|boots| median(boots.iter().map(of).collect()));
    let (agent, accepts, ready) = (middle(|boot| boot.agent), middle(|boot| boot.accepts), middle(|boot| boot.ready));
    println!("\nmedians of {rounds}, ms after the kernel ran init; {}", if emulated { "emulated CPU" } else { "KVM" });
    println!("{:<22}{:>14}{:>14}{:>14}{:>10}", "", "agent runs", "accepts", "ready", "ratio");
    for (index, (name, _)) in INITS.iter().enumerate() {
        let ratio = ready[index] / ready[0];
        println!("{name:<22}{:>14.0}{:>14.0}{:>14.0}{ratio:>10.2}", agent[index], accepts[index], ready[index]);
    }
    let rows: Vec<_> = INITS
        .iter()
        .enumerate()
        .map(|(index, (name, _))| json!({"init": name, "agent_ms": agent[index], "accepts_ms": accepts[index], "ready_ms": ready[index]}))
        .collect();
    let out = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/bench");
    std::fs::create_dir_all(&out)?;
    let report = json!({"version": env!("CARGO_PKG_VERSION"), "rounds": rounds, "emulated": emulated, "inits": rows, "native": native});
    std::fs::write(out.join("boot.json"), serde_json::to_vec_pretty(&report)?)?;

    native.judge()?;
    judge("in VMs", ready)
}

/// Are these, by init, as far apart as they should be?
fn judge(what: &str, [guestd, systemd, busybox]: [f64; INITS.len()]) -> Result<()> {
    let (systemd, busybox) = (systemd / guestd, busybox / guestd);
    ensure!(systemd >= BESIDE_SYSTEMD, "{what}: only {systemd:.1} times as fast as systemd");
    ensure!(busybox >= BESIDE_BUSYBOX, "{what}: slower than busybox init: {busybox:.2}");
    Ok(())
}

/// What there is without a kernel to boot.
#[derive(Debug, Serialize)]
struct Native {
    /// From the run of each init until its agent is past its start: medians, in milliseconds.
    boots_ms: [f64; INITS.len()],
    /// From each death of a killed agent to its next life's process, sorted.
    process_ms: Vec<f64>,
    /// From each kill until the next life was past its start.
    answers_ms: Vec<f64>,
}

impl Native {
    fn measure(rounds: usize) -> Result<Self> {
        let tree = native::Tree::unpack(&Artifacts::find()?.inits)?;
        let mut runs: [Vec<f64>; INITS.len()] = Default::default();
        for _ in 0..rounds {
            for ((name, init), runs) in INITS.iter().zip(&mut runs) {
                runs.push(tree.boot(init).with_context(|| format!("running {name}"))?.ms);
            }
        }
        let boots_ms = runs.map(median);
        println!(
            "\nthis machine's own processor, in namespaces, medians of {rounds}, ms until the agent is past its start"
        );
        for ((name, _), ms) in INITS.iter().zip(boots_ms) {
            println!("{name:<22}{ms:>14.1}{:>10.2}", ms / boots_ms[0]);
        }

        let booted = tree.boot(GUESTD_INIT)?;
        let aways: Vec<_> = (0..KILLS).map(|_| booted.kill_agent()).collect::<Result<_>>().context("killing agents")?;
        let sorted = |of: fn(&native::Away) -> f64| {
            let mut times: Vec<_> = aways.iter().map(of).collect();
            times.sort_by(f64::total_cmp);
            times
        };
        let native =
            Self { boots_ms, process_ms: sorted(|away| away.process), answers_ms: sorted(|away| away.answers) };
        println!("its agent killed {KILLS} times while it runs an exec, ms until{:>12}{:>10}", "median", "most");
        for (what, times) in
            [("its next process runs", &native.process_ms), ("that is past its start", &native.answers_ms)]
        {
            println!("{what:<22}{:>50.1}{:>10.1}", median(times.clone()), times[KILLS - 1]);
        }
        Ok(native)
    }

    fn judge(&self) -> Result<()> {
        judge("native", self.boots_ms)?;
        let most = self.answers_ms.iter().copied().fold(0.0, f64::max);
        ensure!(most < MOST_AWAY_MS, "native: a killed agent was away for {most:.1} ms");
        Ok(())
    }
}

fn boot(init: &'static str) -> Result<(Boot, bool)> {
    let net = Net::new()?;
    let mut vm = Vm::boot(&net, VmSpec { init: Some(init), ..VmSpec::default() })?;
    let health: Health = until_every("the VM is ready", DEADLINE, ASK_EVERY, || {
        vm.alive()?;
        Ok(vm.health().ok().filter(|health| health.status == Status::Ready))
    })?;
    let ran = ran_init(&vm.console_text()?, init)?;
    let info: Info = vm.ctl(["--json", "info"])?.ok()?.json()?;
    let after = |secs: f64| (secs - ran) * 1000.0;
    let boot = Boot {
        agent: after(info.boot.agent_started_secs),
        accepts: after(health.ready_after_boot_secs.context("a ready agent says when it was")?),
        ready: after(health.uptime_secs),
    };
    // Steps of guestd init that take their time; other inits tell of none.
    for step in info.boot.steps.iter().filter(|step| step.took_ms >= SHOWN_STEP_MS) {
        println!("  {:>6.0} ms  {} took {:.0} ms", after(step.at_secs), step.name, step.took_ms);
    }
    let emulated = vm.emulated;
    vm.passed()?;
    Ok((boot, emulated))
}

/// When init was run, in seconds after the kernel's start, by the line about it on the console.
fn ran_init(console: &str, init: &str) -> Result<f64> {
    let line = format!("Run {init} as init process");
    let Some(found) = console.lines().find(|text| text.contains(&line)) else {
        bail!("no {line:?} on the console:\n{console}")
    };
    let stamp = found.split_once(']').and_then(|(stamp, _)| stamp.rsplit_once('[')).map(|(_, stamp)| stamp.trim());
    stamp.and_then(|stamp| stamp.parse().ok()).with_context(|| format!("no time in {found:?}"))
}
