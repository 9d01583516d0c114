//! Execs over a real vsock: nothing is lost on the way, nothing is waited for in vain, nothing is left behind.

use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use guestd::limits;

use crate::harness::{Net, Vm, VmSpec};

/// What `head -c 100M` lets through.
const PIPED_BYTES: usize = 100 * 1024 * 1024;

/// For all of it over vsock, in a guest that is emulated on a busy machine.
const PIPED_DEADLINE: Duration = Duration::from_secs(300);

/// What `sleep 30 & echo hi` may take longer than `echo hi`: a quarter of a second of silence, and the work on it.
const DAEMON_COSTS: Duration = Duration::from_millis(500);

/// Both are done so many times, and the fastest counts: a busy machine makes an answer slower, and never faster.
const ROUNDS: usize = 5;

/// Copies of itself in a session of its own each, for as long as it lives; it tells of the first ones.
const BOMB: &str = "for n in 1 2 3; do setsid sh /run/bomb & echo copied; done; while :; do setsid sh /run/bomb & done";

/// Processes that the bomb may be at once, so that a fast machine's does not end by using up the guest's memory.
const BOMB_PROCESSES: &str = "1000";

/// Copies that were made when the VM is asked how it does.
const BOMB_COPIES: usize = 20;

/// The bomb's time-out.
const BOMB_TIME: Duration = Duration::from_secs(6);

/// For an emulated guest on a busy machine to kill some hundred processes, each of which it wants to run.
const BOMB_ENDING: Duration = Duration::from_secs(10);

#[test]
fn output_comes_complete_daemons_are_not_waited_for_and_trees_end_with_their_exec() -> Result<()> {
    let net = Net::new()?;
    let vm = Vm::boot(&net, VmSpec::default())?;
    vm.wait_ready()?;
    a_hundred_mebibytes_come_whole(&vm)?;
    a_process_left_behind_does_not_delay_the_answer(&vm)?;
    for (id, preparation) in [("polite", ""), ("stubborn", "trap '' TERM; ")] {
        a_fork_bomb_is_gone_after_its_time_out(&vm, id, preparation).with_context(|| format!("the {id} fork bomb"))?;
    }
    vm.passed()
}

fn a_hundred_mebibytes_come_whole(vm: &Vm<'_>) -> Result<()> {
    let script = "yes | head -c 100M; echo end >&2; exit 3";
    let ran = vm.ctl_for(["exec", "--", "sh", "-c", script], PIPED_DEADLINE)?;
    let came = ran.stdout.len();
    let wrong = ran.stdout.iter().enumerate().find(|(at, byte)| **byte != if at % 2 == 0 { b'y' } else { b'\n' });
    ensure!(wrong.is_none(), "another byte came than was written: {wrong:?}");
    ensure!(came == PIPED_BYTES, "{came} of {PIPED_BYTES} bytes came, and {}", ran.err());
    ensure!(ran.stderr == b"end\n", "standard error is not complete: {}", ran.err());
    ensure!(ran.code == 3, "its exit status is {}", ran.code);
    Ok(())
}

fn a_process_left_behind_does_not_delay_the_answer(vm: &Vm<'_>) -> Result<()> {
    let fastest = |script: &str| -> Result<Duration> {
        let mut best = Duration::MAX;
        for _ in 0..ROUNDS {
            let ran = vm.ctl(["exec", "--", "sh", "-c", script])?.ok()?;
            ensure!(ran.stdout == b"hi\n", "it said something else:\n{ran}");
            best = best.min(ran.took);
        }
        Ok(best)
    };
    let (alone, with_daemon) = (fastest("echo hi")?, fastest("sleep 30 & echo hi")?);
    ensure!(
        with_daemon < alone + DAEMON_COSTS,
        "`echo hi` took {alone:?}, and {with_daemon:?} with a process left behind"
    );
    Ok(())
}

/// It is no use to kill these one by one: for each that is gone there are others. By the host's clock, to which the guest's has to agree.
fn a_fork_bomb_is_gone_after_its_time_out(vm: &Vm<'_>, id: &str, preparation: &str) -> Result<()> {
    vm.sh(&format!("cat >/run/bomb <<'EOF'\n{preparation}{BOMB}\nEOF"))?;
    let secs = BOMB_TIME.as_secs().to_string();
    let options = ["exec", "--id", id, "--timeout", &secs, "--pids", BOMB_PROCESSES];
    let mut bomb = vm.ctl_start(options.into_iter().chain(["--", "sh", "/run/bomb"]))?;
    for _ in 0..BOMB_COPIES {
        if bomb.line()? != "copied\n" {
            bail!("it did not go off:\n{}", bomb.end()?);
        }
    }
    // The agent has its own share of the processor.
    vm.health().context("while it goes off")?;
    bomb.still_runs().context("the VM had no answer before its time-out")?;
    let ran = bomb.end()?.exits(124)?;
    let most = BOMB_TIME + limits::EXEC_KILL_GRACE + BOMB_ENDING;
    ensure!(ran.took < most, "it took {:?} to end, and {most:?} is the most", ran.took);
    let cgroup = format!("/sys/fs/cgroup/system.slice/guestd.service/exec-{id}");
    let left =
        vm.sh(&format!("pgrep -a -f '^sh /run/bomb' || [ $? = 1 ]; if [ -e {cgroup} ]; then echo {cgroup}; fi"))?;
    ensure!(left.is_empty(), "what is left of it: {left}");
    Ok(())
}
