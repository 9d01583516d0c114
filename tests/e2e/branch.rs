//! Commits and branches on a real kernel: a VM goes on as several, and each of them is one of its own.

use std::collections::BTreeMap;
use std::net::Ipv6Addr;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, ensure};
use guestd::api::{GenerationReport, GenerationState, Status};
use serde_json::json;

use crate::golden_path::legacy_page;
use crate::harness::{Commit, Net, PATIENCE, Vm, VmSpec, page, until};

/// A process that asks the kernel for random bytes ten times a second, and says on the console what it got: to see them no command has to be
/// run, which would ask for some itself. `syscall(318)` is getrandom(2).
const SAMPLER: &str = r#"
open(my $console, ">", "/dev/ttyS0"); $console->autoflush(1);
for (my $n = 0;; $n++) { my $got = "\0" x 16; syscall(318, $got, 16, 0);
    syswrite($console, "\nrandom $n " . unpack("H*", $got) . "\n"); select(undef, undef, undef, 0.1); }"#;

/// Has the kernel's generator begin anew: for some seconds from then on it will not do so by itself. `0x5207` is RNDRESEEDCRNG.
const RESEED: &str = r#"perl -e 'open(my $r, ">", "/dev/urandom"); ioctl($r, 0x5207, 0) or die $!'"#;

/// The clock of a VM and that of the host may differ by so much, beside the time of asking.
const CLOCK: Duration = Duration::from_millis(50);

/// From an announcement until a copy is a VM of its own: this, on a machine that emulates a boot in [`QUICK_BOOT_SECS`] or less. On a slower one
/// all takes longer, so that its own boots are the measure.
const AT_ONCE_SECS: f64 = 0.5;

/// From the kernel's start to `ready`.
const QUICK_BOOT_SECS: f64 = 5.0;

/// By the emulated real-time clock alone: it knows seconds, and QEMU begins the first of them when it starts itself.
const RTC_CLOCK: Duration = Duration::from_millis(1500);

/// Bytes that a long command prints while it is committed.
const LONG_OUTPUT: usize = 100 * 1024 * 1024;

/// Random bytes by the number of the sample, as a console shows them.
fn samples(vm: &Vm<'_>) -> Result<BTreeMap<u64, String>> {
    let console = vm.console_text()?;
    let sample = |line: &str| {
        let (n, bytes) = line.trim().strip_prefix("random ")?.split_once(' ')?;
        (bytes.len() == 32).then_some((n.parse().ok()?, bytes.to_owned()))
    };
    // The last line may be under way.
    let whole = console.rsplit_once('\n').map_or("", |(whole, _)| whole);
    Ok(whole.lines().filter_map(sample).collect())
}

fn last(samples: &BTreeMap<u64, String>) -> Result<u64> {
    samples.keys().next_back().copied().context("no samples on the console")
}

/// Waits for a sample after this one.
fn sample_after(vm: &Vm<'_>, n: u64) -> Result<(u64, String)> {
    until("there is another sample", PATIENCE, || Ok(samples(vm)?.into_iter().find(|(number, _)| *number > n)))
}

fn announce(vm: &Vm<'_>, kind: &str, parent: &Vm<'_>, id: &str) -> Result<GenerationReport> {
    let (address, gateway) = (format!("{}/64", vm.address()), vm.link.gateway.to_string());
    let args = ["--json", "generation", "--kind", kind, "--id", id, "--vm-id", &vm.id, "--parent", &parent.id];
    let net = ["--ip6", &address, "--gateway", &gateway];
    let report: GenerationReport = vm.ctl(args.into_iter().chain(net))?.json()?;
    println!("{}: gate to ready {} ms, {:#?}", vm.id, report.gate_ms, report.steps);
    ensure!(report.complete && !report.replayed, "the announcement was not carried out: {report:#?}");
    Ok(report)
}

/// Announces a branch, and fails unless the copy was another VM at once. What comes before the keys is known by what its steps took; of the host
/// key, which sshd shows from then on, the kernel says when it was written. To ask sshd whether it would start again is what takes
/// longest of that step, and comes after.
fn becomes_its_own(vm: &Vm<'_>, parent: &Vm<'_>, at_once: f64) -> Result<()> {
    let announced = now()?;
    let report = announce(vm, "branch", parent, &format!("g-{}", vm.id))?;
    let keys = report.steps.iter().position(|step| step.step == "ssh").context("no step ssh")?;
    let before = &report.steps[..keys];
    ensure!(["entropy", "clock", "identity", "env"].iter().all(|name| before.iter().any(|step| step.step == *name)));
    let other_after = before.iter().map(|step| step.took_ms).sum::<f64>() / 1000.0;
    let written: f64 = vm.sh("stat -c %.9Y /etc/ssh/ssh_host_ed25519_key")?.parse().context("the host key's time")?;
    let key_after = written - announced;
    println!(
        "{}: another VM {other_after:.3} s after the announcement, with a host key of its own {key_after:.3} s after it",
        vm.id
    );
    let clock = CLOCK.as_secs_f64();
    ensure!(
        other_after < at_once && key_after > -clock && key_after < at_once + clock,
        "not at once, which is {at_once} s here: {report:#?}"
    );
    Ok(())
}

fn generation(vm: &Vm<'_>) -> Result<GenerationState> {
    vm.ctl(["--json", "generation"])?.ok()?.json()
}

fn prepare(vm: &Vm<'_>) -> Result<()> {
    let ran = vm.ctl(["snapshot", "prepare"])?.ok()?;
    println!("{ran}");
    Ok(())
}

fn page_comes(vm: &Vm<'_>, address: Ipv6Addr) -> Result<()> {
    let curl = vm.net.run(["curl", "-sS", "--max-time", "30", &page(address, 3000)])?.ok()?;
    ensure!(curl.stdout == legacy_page()?, "this is not the legacy server's page:\n{curl}");
    Ok(())
}

fn now() -> Result<f64> {
    Ok(SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs_f64())
}

/// Fails unless the guest's clock is right, as far as that can be seen from outside: it says a time between the question and the answer.
fn clock_is_right(vm: &Vm<'_>) -> Result<()> {
    clock_is_within(vm, CLOCK)
}

fn clock_is_within(vm: &Vm<'_>, most: Duration) -> Result<()> {
    let before = now()?;
    let said: f64 = vm.exec(["date", "+%s.%N"])?.out().parse().context("the guest's time")?;
    let (after, most) = (now()?, most.as_secs_f64());
    println!("{}: asked at {before:.3}, said {said:.3}, answered at {after:.3}", vm.id);
    ensure!(
        said > before - most && said < after + most,
        "the clock of {} is off: {said} is not within {before} and {after}",
        vm.id
    );
    Ok(())
}

fn commit(parent: &mut Vm<'_>, name: &str) -> Result<Commit> {
    let commit = parent.commit(name)?;
    println!("{name}: {} stood still for {:?}", parent.id, commit.took);
    Ok(commit)
}

#[test]
fn one_parent_and_two_children_of_one_commit_are_three_vms_of_their_own() -> Result<()> {
    let net = Net::new()?;
    let mut parent = Vm::boot(&net, VmSpec::branchable())?;
    let ready = parent.wait_ready()?;
    let booted = ready.ready_after_boot_secs.context("a ready agent says when it was")?;
    let at_once = AT_ONCE_SECS * (booted / QUICK_BOOT_SECS).max(1.0);
    parent.wait_listener("the legacy server is bridged", |listener| {
        listener.port == 3000 && listener.exposure == guestd::api::Exposure::Bridged
    })?;
    page_comes(&parent, parent.address())?;
    parent.ctl(["exec", "-d", "--id", "sampler", "--", "perl", "-MIO::Handle", "-e", SAMPLER])?.ok()?;
    let long = format!("for i in $(seq {}); do yes | head -c 1M; sleep 0.05; done", LONG_OUTPUT >> 20);
    let spilled =
        json!({"command": ["sh", "-c", long], "exec_id": "long", "detach": true, "spill": true, "on_branch": "freeze"})
            .to_string();
    let curl = ["curl", "-sS", "--unix-socket", "/run/guestd.sock", "-d", &spilled, "http://guestd/v1/exec"];
    parent.exec(curl)?;
    until("the long output is under way", PATIENCE, || Ok((long_cursor(&parent)? > 1 << 20).then_some(())))?;

    parent.sh(RESEED)?;
    prepare(&parent)?;
    let commit = commit(&mut parent, "commit")?;
    let forked = last(&samples(&parent)?)?;
    let (mut left, mut right) = (Vm::branch(&commit, &parent)?, Vm::branch(&commit, &parent)?);
    // Nobody has told them anything yet: they are one and the same.
    for vm in [&mut left, &mut right] {
        vm.order("cont", json!({}))?;
    }
    let before = [sample_after(&left, forked)?, sample_after(&right, forked)?];
    ensure!(
        before[0] == before[1],
        "two copies of one VM gave different random bytes, so this test shows nothing: {before:?}"
    );
    println!("the same in both: {before:?}");

    parent.go_on()?;
    parent.ctl(["snapshot", "thaw"])?.ok()?;
    for vm in [&mut left, &mut right] {
        vm.plug_in()?;
        becomes_its_own(vm, &parent, at_once)?;
    }
    let begun = Instant::now();
    let after = [last(&samples(&left)?)?, last(&samples(&right)?)?, last(&samples(&parent)?)?];
    let number = after.into_iter().max().unwrap_or_default() + 1;
    let of = |vm: &Vm<'_>| until("the sample is there", PATIENCE, || Ok(samples(vm)?.remove(&number)));
    let bytes = [of(&left)?, of(&right)?, of(&parent)?];
    println!("sample {number}, {:?} after the last announcement: {bytes:?}", begun.elapsed());
    ensure!(
        bytes[0] != bytes[1] && bytes[0] != bytes[2] && bytes[1] != bytes[2],
        "the random bytes are the same: {bytes:?}"
    );

    for vm in [&left, &right, &parent] {
        let said = vm.sh("echo $VERS_VM_ID")?;
        ensure!(said == vm.id, "VERS_VM_ID is {said} in {}", vm.id);
        clock_is_right(vm)?;
        page_comes(vm, vm.address())?;
    }
    let host_key = |vm: &Vm<'_>| vm.sh("cat /etc/ssh/ssh_host_ed25519_key.pub");
    let keys = [host_key(&left)?, host_key(&right)?, host_key(&parent)?];
    ensure!(keys[0] != keys[1] && keys[0] != keys[2] && keys[1] != keys[2], "host keys are the same: {keys:?}");
    let names = [left.sh("hostname")?, right.sh("hostname")?, parent.sh("hostname")?];
    ensure!(
        names[0] == left.id && names[1] == right.id && names[2] != names[0] && names[2] != names[1],
        "host names: {names:?}"
    );
    for vm in [&left, &right] {
        vm.wait_ready()?;
        let state = generation(vm)?;
        ensure!(state.parent_vm_id.as_ref() == Some(&parent.id), "{state:#?}");
        up_to_the_fork(vm)?;
    }
    the_parent_prints_all_of_it(&parent)?;
    left.passed()?;
    right.passed()?;
    parent.passed()
}

fn long_cursor(vm: &Vm<'_>) -> Result<usize> {
    let execs: Vec<serde_json::Value> = vm.ctl(["--json", "ps", "-a"])?.ok()?.json()?;
    let long = execs.iter().find(|exec| exec["exec_id"] == "long").context("the long exec is gone")?;
    Ok(long["cursor"].as_u64().context("no cursor")? as usize)
}

/// The output of an exec that came along can be read from its beginning, whole.
fn up_to_the_fork(vm: &Vm<'_>) -> Result<()> {
    let execs: Vec<serde_json::Value> = vm.ctl(["--json", "ps", "-a"])?.ok()?.json()?;
    let long = execs.iter().find(|exec| exec["exec_id"] == "long").context("the long exec is gone")?;
    let fork = long["fork_cursor"].as_u64().context("the long exec is not marked as one that came along")? as usize;
    // It stands still, as it was asked to, and is ended for the stream to have its last frame.
    ensure!(long["frozen"] == true, "{long}");
    vm.ctl(["signal", "--to", "tree", "long", "KILL"])?.ok()?;
    let ran = vm.ctl_for(["attach", "long", "--from", "0"], PATIENCE * 3)?;
    ensure!(
        fork > 1 << 20 && ran.stdout.len() == fork,
        "{} bytes came, and {fork} were there at the fork",
        ran.stdout.len()
    );
    ensure!(ran.stdout.chunks(2).all(|pair| b"y\n".starts_with(pair)), "another byte came than was written");
    Ok(())
}

fn the_parent_prints_all_of_it(parent: &Vm<'_>) -> Result<()> {
    let ran = parent.ctl_for(["attach", "long", "--from", "0"], PATIENCE * 3)?.ok()?;
    ensure!(ran.stdout.len() == LONG_OUTPUT, "{} of {LONG_OUTPUT} bytes came", ran.stdout.len());
    ensure!(ran.stdout.chunks(2).all(|pair| pair == b"y\n"), "another byte came than was written");
    Ok(())
}

#[test]
fn a_restore_that_nobody_announces_is_seen_mended_and_degraded_until_it_is_announced() -> Result<()> {
    let net = Net::new()?;
    let mut parent = Vm::boot(&net, VmSpec::branchable())?;
    parent.wait_ready()?;
    let commit = commit(&mut parent, "commit")?;
    let mut child = Vm::branch(&commit, &parent)?;
    // The copy is older than what the clock of a device could hide.
    let aged = Instant::now();
    until("the commit is some seconds old", PATIENCE, || Ok((aged.elapsed() > Duration::from_secs(4)).then_some(())))?;
    child.go_on()?;
    let state = until("the restore is seen", PATIENCE, || {
        Ok(Some(generation(&child)?).filter(|state| !state.unacked.is_empty()))
    })?;
    println!("{:?}, {:?}", state.unacked, state.resumed);
    let health = child.health()?;
    let check = health.checks.iter().find(|check| check.name == "generation").context("no check generation")?;
    ensure!(health.status == Status::Degraded && check.message.starts_with("generation_unacked"), "{health:#?}");
    // A kernel without a real-time clock, and no KVM below it, has nobody to ask.
    let has_device = child.artifacts().kernel.has("RTC_CLASS")?;
    if has_device {
        clock_is_within(&child, RTC_CLOCK)?;
    }
    announce(&child, "branch", &parent, "g-1")?;
    clock_is_right(&child)?;
    ensure!(generation(&child)?.unacked.is_empty() && child.wait_ready()?.status == Status::Ready, "it stays degraded");

    // The parent was only paused: its clock is behind, and it is no other VM.
    parent.go_on()?;
    if has_device {
        let state = until("the pause is seen", PATIENCE, || {
            Ok(Some(generation(&parent)?).filter(|state| !state.resumed.is_empty()))
        })?;
        ensure!(state.unacked.is_empty() && state.resumed[0].behind_secs > 2.0, "{state:#?}");
        clock_is_within(&parent, RTC_CLOCK)?;
    } else {
        parent.ctl(["snapshot", "thaw"])?.ok()?;
        clock_is_right(&parent)?;
        ensure!(generation(&parent)?.unacked.is_empty(), "a pause is no restore");
    }
    ensure!(parent.wait_ready()?.status == Status::Ready, "a pause is no fault");
    child.passed()?;
    parent.passed()
}

#[test]
fn a_frozen_disk_thaws_by_the_host_the_watchdog_and_a_successor_and_grows_only_then() -> Result<()> {
    const GIB: u64 = 1 << 30;
    let net = Net::new()?;
    let mut vm = Vm::boot(&net, VmSpec::branchable())?;
    vm.wait_ready()?;
    let writes = |vm: &Vm<'_>| {
        vm.ctl(["exec", "--timeout", "60", "--", "sh", "-c", "echo x >/root/written && sync /root/written"])?.ok()
    };
    vm.ctl(["snapshot", "prepare", "--freeze"])?.ok()?;
    let frozen = vm.ctl(["disk", "grow"])?.exits(125)?;
    ensure!(frozen.err().contains("frozen cannot grow"), "{frozen}");
    vm.ctl(["snapshot", "thaw"])?.ok()?;
    writes(&vm)?;

    vm.ctl(["snapshot", "prepare", "--freeze", "--watchdog", "2"])?.ok()?;
    // The exec waits at the gate, which the watchdog opens.
    writes(&vm)?;

    let pid = vm.sh("systemctl show --property MainPID --value guestd.service")?;
    vm.ctl(["exec", "-d", "--", "sh", "-c", &format!("sleep 2; kill -9 {pid}")])?.ok()?;
    vm.ctl(["snapshot", "prepare", "--freeze", "--watchdog", "300"])?.ok()?;
    until("the agent's successor has thawed", PATIENCE, || {
        let state = vm.ctl(["--json", "generation"])?;
        Ok((state.code == 0 && state.json::<GenerationState>()?.phase == guestd::api::GenerationPhase::Running)
            .then_some(()))
    })?;
    writes(&vm)?;

    let size = |vm: &Vm<'_>| -> Result<u64> { Ok(vm.sh("df --output=size -B1 / | tail -n 1")?.trim().parse()?) };
    let (before, load) =
        (size(&vm)?, "while :; do head -c 4M /dev/zero >/root/load-$((n = n + 1)); sync; [ $n -lt 20 ] || n=0; done");
    vm.ctl(["exec", "-d", "--id", "load", "--", "sh", "-euc", &format!("n=0; {load}")])?.ok()?;
    vm.order("block_resize", json!({"device": "root", "size": 2 * GIB}))?;
    let after = until("the file system has grown by itself", PATIENCE, || {
        Ok(Some(size(&vm)?).filter(|size| *size > before + GIB * 9 / 10))
    })?;
    println!("grown from {before} to {after}");
    let again = vm.ctl(["disk", "grow"])?.ok()?;
    ensure!(again.out().contains("already"), "{again}");
    let shrunk = vm.ctl(["disk", "grow", "--size", &GIB.to_string()])?.exits(125)?;
    ensure!(shrunk.err().contains("cannot be made smaller"), "{shrunk}");
    let execs: Vec<serde_json::Value> = vm.ctl(["--json", "ps"])?.ok()?.json()?;
    ensure!(execs.iter().any(|exec| exec["exec_id"] == "load"), "the load has ended by an error");
    let errors = vm.sh("dmesg | grep -i 'EXT4-fs error' || true")?;
    ensure!(errors.is_empty(), "{errors}");
    vm.passed()
}

#[test]
fn memory_and_a_cpu_that_are_plugged_in_are_used() -> Result<()> {
    const MIB: u64 = 1 << 20;
    let net = Net::new()?;
    let mut vm = Vm::boot(&net, VmSpec::branchable())?;
    vm.wait_ready()?;
    if !vm.artifacts().kernel.has("ACPI_HOTPLUG_MEMORY")? {
        // Such a kernel has no memory blocks at all, and hears of no CPU.
        ensure!(vm.sh("ls -d /sys/devices/system/memory 2>/dev/null || true")?.is_empty(), "it has memory blocks");
        return vm.passed();
    }
    let memory = |vm: &Vm<'_>| -> Result<u64> {
        Ok(vm.sh("awk '/^MemTotal/ { print $2 }' /proc/meminfo")?.parse::<u64>()? * 1024)
    };
    let (before, size) = (memory(&vm)?, 256 * MIB);
    ensure!(vm.sh("nproc")? == "1", "it has more CPUs than one to begin with");
    vm.order("object-add", json!({"qom-type": "memory-backend-memfd", "id": "more", "size": size, "share": true}))?;
    vm.order("device_add", json!({"driver": "pc-dimm", "id": "dimm", "memdev": "more"}))?;
    let after = until("the memory is used", PATIENCE, || Ok(Some(memory(&vm)?).filter(|now| *now > before)))?;
    println!("memory: {before}, {after}");
    until("all of it is used", PATIENCE, || Ok((memory(&vm)? >= before + size - 8 * MIB).then_some(())))?;
    let cpus = vm.order("query-hotpluggable-cpus", json!({}))?;
    let free = cpus.as_array().and_then(|cpus| cpus.iter().find(|cpu| cpu.get("qom-path").is_none()));
    let free = free.with_context(|| format!("no place for a CPU: {cpus}"))?;
    let mut cpu = free["props"].clone();
    cpu["driver"] = free["type"].clone();
    cpu["id"] = "cpu".into();
    vm.order("device_add", cpu)?;
    until("the CPU is used", PATIENCE, || Ok((vm.sh("nproc")? == "2").then_some(())))?;
    vm.passed()
}

#[test]
fn an_xfs_grows_while_it_is_in_use() -> Result<()> {
    const MIB: u64 = 1 << 20;
    let net = Net::new()?;
    let vm = Vm::boot(&net, VmSpec::default())?;
    vm.wait_ready()?;
    if !vm.artifacts().kernel.has("XFS_FS")? {
        // Nothing of it can be mounted there, so that nothing can ask for it.
        let mounted = vm.ctl(["exec", "--", "mount", "-t", "xfs", "/dev/null", "/mnt"])?;
        ensure!(mounted.code != 0 && mounted.err().contains("unknown filesystem type"), "{mounted}");
        return vm.passed();
    }
    // Made here: it is nearly all zeros, and its maker needs more than the image has.
    let made = net.dir().join("xfs");
    let path = made.display().to_string();
    net.run(["truncate", "-s", "400M", &path])?.ok()?;
    net.run(["mkfs.xfs", "-q", &path])?.ok()?;
    net.run(["gzip", "-f", &path])?.ok()?;
    vm.ctl(["cp", &format!("{path}.gz"), "vm:/root/xfs.gz"])?.ok()?;
    vm.sh("gunzip -c /root/xfs.gz | dd of=/root/xfs bs=64K conv=sparse status=none && mkdir /srv/data && mount -o loop /root/xfs /srv/data")?;
    let size =
        |vm: &Vm<'_>| -> Result<u64> { Ok(vm.sh("df --output=size -B1 /srv/data | tail -n 1")?.trim().parse()?) };
    let before = size(&vm)?;
    let again = vm.ctl(["disk", "grow", "/srv/data"])?.ok()?;
    ensure!(again.out().contains("already"), "{again}");
    vm.sh("truncate -s 600M /root/xfs && losetup -c $(findmnt -no SOURCE /srv/data)")?;
    vm.ctl([
        "exec",
        "-d",
        "--id",
        "load",
        "--",
        "sh",
        "-euc",
        "while :; do head -c 4M /dev/zero >/srv/data/load; sync; done",
    ])?
    .ok()?;
    let half = (500 * MIB).to_string();
    vm.ctl(["disk", "grow", "/srv/data", "--size", &half])?.ok()?;
    let middle = size(&vm)?;
    vm.ctl(["disk", "grow", "/srv/data"])?.ok()?;
    let after = size(&vm)?;
    println!("grown from {before} to {middle} and {after}");
    ensure!(
        middle > before + 90 * MIB && after > middle + 90 * MIB && after < 600 * MIB,
        "{before}, {middle}, {after}"
    );
    let shrunk = vm.ctl(["disk", "grow", "/srv/data", "--size", &half])?.exits(125)?;
    ensure!(shrunk.err().contains("cannot be made smaller"), "{shrunk}");
    let execs: Vec<serde_json::Value> = vm.ctl(["--json", "ps"])?.ok()?.json()?;
    ensure!(execs.iter().any(|exec| exec["exec_id"] == "load"), "the load has ended by an error");
    vm.passed()
}

/// Commits of one VM, and how many of them a branch is made of.
const ROUNDS: usize = 50;
const BRANCH_EVERY: usize = 10;

#[test]
fn fifty_commits_under_load_lose_no_output_and_leave_nothing_open() -> Result<()> {
    let net = Net::new()?;
    let mut parent = Vm::boot(&net, VmSpec::branchable())?;
    parent.wait_ready()?;
    // A line is its number, so that what is missing or twice shows.
    let script = "n=0; while [ ! -e /run/enough ]; do echo $n; n=$((n + 1)); sleep 0.02; done; echo end";
    let load = json!({"command": ["sh", "-c", script], "exec_id": "load", "detach": true, "spill": true}).to_string();
    parent.exec(["curl", "-sS", "--unix-socket", "/run/guestd.sock", "-d", &load, "http://guestd/v1/exec"])?;
    let held = "ls /proc/$(systemctl show --property MainPID --value guestd.service)/fd | wc -l";
    let before: u32 = parent.sh(held)?.parse()?;
    for round in 0..ROUNDS {
        parent.ctl(["snapshot", "prepare"])?.ok()?;
        let commit = parent.commit(&format!("round{round}"))?;
        parent.go_on()?;
        parent.ctl(["snapshot", "thaw"])?.ok()?;
        if round % BRANCH_EVERY == 0 {
            let mut child = Vm::branch(&commit, &parent)?;
            child.go_on()?;
            announce(&child, "branch", &parent, &format!("g-{round}"))?;
            ensure!(child.sh("echo $VERS_VM_ID")? == child.id, "round {round}: the child is not itself");
            child.passed()?;
        }
    }
    parent.sh("touch /run/enough")?;
    let ran = parent.ctl_for(["attach", "load", "--from", "0"], PATIENCE)?.ok()?;
    let out = ran.out();
    let lines: Vec<&str> = out.lines().collect();
    let (last, numbers) = lines.split_last().context("no output")?;
    ensure!(*last == "end" && numbers.len() > ROUNDS, "its output is cut: {} lines, then {last:?}", numbers.len());
    let wrong = numbers.iter().enumerate().find(|(n, line)| **line != n.to_string());
    ensure!(wrong.is_none(), "a line is missing or there twice: {wrong:?}");
    let after: u32 = parent.sh(held)?.parse()?;
    println!("descriptors of the agent: {before}, and {after} after {ROUNDS} rounds; {} lines", numbers.len());
    ensure!(after <= before + 2, "the agent held {before} descriptors, and {after} after {ROUNDS} rounds");
    parent.wait_ready()?;
    parent.passed()
}
