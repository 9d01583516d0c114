//! Execs over a real vsock: nothing is lost on the way, nothing is waited for in vain, nothing is left behind.

use std::io::Read;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::harness::{Net, Vm, VmSpec};

/// What `head -c 100M` lets through.
const PIPED_BYTES: u64 = 100 * 1024 * 1024;

/// For all of it over vsock, in a guest that is emulated on a busy machine.
const PIPED_DEADLINE: Duration = Duration::from_secs(300);

/// Processes of the fork bomb, each in a session of its own.
const BOMB: usize = 200;

/// Its time-out: longer than an emulated guest takes to start them all.
const BOMB_SECS: u64 = 20;

/// From a time-out to the end of what it ended: the grace between SIGTERM and SIGKILL, and the time of an emulated guest.
const ENDING: Duration = Duration::from_secs(20);

#[test]
fn output_comes_complete_daemons_are_not_waited_for_and_trees_end_with_their_exec() -> Result<()> {
    let net = Net::new()?;
    let vm = Vm::boot(&net, VmSpec::default())?;
    vm.wait_ready()?;
    a_hundred_mebibytes_come_whole(&vm)?;
    a_process_left_behind_does_not_delay_the_answer(&vm)?;
    a_fork_bomb_is_gone_after_its_time_out(&vm)?;
    vm.passed()
}

fn a_hundred_mebibytes_come_whole(vm: &Vm<'_>) -> Result<()> {
    let script = "yes | head -c 100M; echo end >&2; exit 3";
    let mut running = vm.ctl_start_for(["exec", "--", "sh", "-c", script], PIPED_DEADLINE)?;
    let mut stdout = running.child.stdout.take().context("its standard output is not a pipe")?;
    let mut block = vec![0; 128 * 1024];
    let mut came: u64 = 0;
    loop {
        let count = stdout.read(&mut block)?;
        if count == 0 {
            break;
        }
        for byte in &block[..count] {
            let expected = if came % 2 == 0 { b'y' } else { b'\n' };
            ensure!(*byte == expected, "byte {came} is {byte}");
            came += 1;
        }
    }
    let ran = running.end()?;
    ensure!(came == PIPED_BYTES, "{came} of {PIPED_BYTES} bytes came:\n{ran}");
    ensure!(ran.stderr == b"end\n", "standard error is not complete:\n{ran}");
    ran.exits(3).map(drop)
}

fn a_process_left_behind_does_not_delay_the_answer(vm: &Vm<'_>) -> Result<()> {
    let ran = vm.ctl(["exec", "--", "sh", "-c", "sleep 30 & echo hi"])?.ok()?;
    ensure!(
        ran.stdout == b"hi\n" && ran.took < Duration::from_secs(5),
        "it waited for the process left behind:\n{ran}"
    );
    Ok(())
}

fn a_fork_bomb_is_gone_after_its_time_out(vm: &Vm<'_>) -> Result<()> {
    // SIGTERM is ignored, so only SIGKILL to the whole tree ends it, whatever session a process is in.
    let script = format!(
        "trap '' TERM; n=0; while [ $n -lt {BOMB} ]; do setsid sleep 600.5 & n=$((n+1)); done
        until [ \"$(grep -lsz '^600[.]5$' /proc/[0-9]*/cmdline | wc -l)\" -ge {BOMB} ]; do :; done
        echo all; while :; do sleep 600.5; done"
    );
    let secs = BOMB_SECS.to_string();
    let ran = vm.ctl(["exec", "--timeout", &secs, "--", "sh", "-c", &script])?.exits(124)?;
    ensure!(ran.out() == "all", "not all of them were started before the time-out:\n{ran}");
    ensure!(ran.took < Duration::from_secs(BOMB_SECS) + ENDING, "it took too long to end:\n{ran}");
    let left = vm.sh("grep -lsz '^600[.]5$' /proc/[0-9]*/cmdline | wc -l")?;
    ensure!(left == "0", "{left} of its processes are still there");
    Ok(())
}
