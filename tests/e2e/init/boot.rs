//! What a VM has when `guestd init` has booted it.

use std::time::Duration;

use anyhow::{Result, ensure};
use guestd::api::{CheckState, Info, Service, ServiceState};

use super::{init_check, is_process_1, services};
use crate::harness::{BUSYBOX_INIT, Net, SYSTEMD, Vm, VmSpec, until};

/// Mount point and options that must be there, as /proc/mounts has them.
const MOUNTED: [(&str, &str, &[&str]); 10] = [
    ("/proc", "proc", &["nosuid", "nodev", "noexec"]),
    ("/sys", "sysfs", &["nosuid", "nodev", "noexec"]),
    ("/dev", "devtmpfs", &["rw"]),
    ("/dev/pts", "devpts", &["nosuid", "noexec", "gid=5", "mode=620"]),
    ("/dev/shm", "tmpfs", &["nosuid", "nodev"]),
    ("/dev/mqueue", "mqueue", &["nosuid", "nodev", "noexec"]),
    ("/run", "tmpfs", &["nosuid", "nodev", "mode=755"]),
    ("/run/lock", "tmpfs", &["nosuid", "nodev", "noexec"]),
    ("/sys/fs/cgroup", "cgroup2", &["nsdelegate", "memory_recursiveprot", "nosuid", "nodev", "noexec"]),
    ("/tmp", "tmpfs", &["nosuid", "nodev"]),
];

#[test]
fn a_vm_boots_with_no_other_init_and_is_wholly_ready() -> Result<()> {
    let net = Net::new()?;
    let vm = Vm::boot(&net, VmSpec::with_guestd_init())?;
    vm.wait_ready()?;
    is_process_1(&vm)?;
    everything_is_mounted(&vm)?;
    the_early_steps_were_done(&vm)?;
    services_come_up_in_order(&vm)?;
    what_services_say_can_be_read(&vm)?;
    the_timeline_is_told(&vm)?;
    let (state, message) = init_check(&vm.health()?)?;
    ensure!(state == CheckState::Ok, "{message}");
    vm.passed()
}

fn everything_is_mounted(vm: &Vm<'_>) -> Result<()> {
    let mounts = vm.sh("cat /proc/mounts")?;
    for (point, kind, options) in MOUNTED {
        let line = mounts.lines().find(|line| line.split(' ').nth(1) == Some(point));
        let fields: Vec<_> = line.unwrap_or_default().split(' ').collect();
        let has = |option: &&str| fields.get(3).is_some_and(|all| all.split(',').any(|one| one == *option));
        ensure!(fields.get(2) == Some(&kind) && options.iter().all(has), "{point}: {line:?}");
    }
    ensure!(vm.sh("readlink /dev/fd /dev/stdin /dev/stdout /dev/stderr")?.lines().count() == 4);
    ensure!(
        vm.sh("findmnt -no PROPAGATION / || awk '$5 == \"/\" { print $7 }' /proc/self/mountinfo")?
            .starts_with("shared")
    );
    Ok(())
}

fn the_early_steps_were_done(vm: &Vm<'_>) -> Result<()> {
    // The image's name at first, and then the VM's id, by the agent.
    let name = vm.sh("hostname")?;
    ensure!(name == vm.id, "the host name is {name}");
    vm.sh("grep -q up /sys/class/net/lo/operstate || ip -o link show lo | grep -q UP; touch /written; rm /written")?;
    let addresses = vm.sh("ip -6 -o addr show scope global")?;
    ensure!(
        addresses.matches(&vm.address().to_string()).count() == 1,
        "the VM's address is not there once: {addresses}"
    );
    // The machine's clock, to the seconds that a look takes.
    let (guest, host) = (vm.sh("date +%s")?.parse::<u64>()?, std::time::SystemTime::UNIX_EPOCH.elapsed()?.as_secs());
    ensure!(guest.abs_diff(host) <= 10, "the guest's clock says {guest}, the machine's {host}");
    Ok(())
}

fn services_come_up_in_order(vm: &Vm<'_>) -> Result<()> {
    let found = until("all services have come up", Duration::from_secs(60), || {
        let found = services(vm)?;
        let settled = |service: &Service| !matches!(service.state, ServiceState::Waiting | ServiceState::Starting);
        Ok(found.iter().all(settled).then_some(found))
    })?;
    let state = |name: &str| found.iter().find(|service| service.name == name).map(|service| service.state);
    ensure!(found.first().is_some_and(|first| first.name == "guestd"), "the agent is not the first: {found:#?}");
    for (name, wanted) in [
        ("guestd", ServiceState::Running),
        ("sshd-run", ServiceState::Done),
        ("sshd", ServiceState::Running),
        ("web", ServiceState::Running),
        ("crasher", ServiceState::Stopped),
    ] {
        ensure!(state(name) == Some(wanted), "{name}: {found:#?}");
    }
    let since =
        |name: &str| found.iter().find(|service| service.name == name).map_or(0.0, |service| service.since_secs);
    for (first, then) in [("guestd", "sshd"), ("sshd-run", "sshd"), ("sshd", "web")] {
        ensure!(since(first) <= since(then), "{then} did not wait for {first}: {found:#?}");
    }
    let limits = vm.sh("grep '^Max open files' /proc/$(pgrep -o sshd)/limits")?;
    ensure!(limits.split_whitespace().skip(3).take(2).eq(["1024", "524288"]), "{limits}");
    // sshd as users come to it, and a service that is neither root nor without bounds.
    vm.ssh().run("true")?.ok()?;
    let status =
        vm.sh("cat /proc/$(pgrep -o -f 'http[d] -f -v')/status /proc/$(pgrep -o -f 'http[d] -f -v')/limits")?;
    ensure!(status.contains("Uid:\t33\t33\t33\t33") && status.contains("SigBlk:\t0000000000000000"), "{status}");
    ensure!(status.lines().any(|line| line.starts_with("Max open files") && line.contains("256")), "{status}");
    let bounds = vm.sh("cd /sys/fs/cgroup/web.service; cat pids.max memory.max; wc -l <cgroup.procs")?;
    ensure!(bounds == "16\n67108864\n1", "{bounds}");
    ensure!(vm.sh("tr '\\0' '\\n' </proc/$(pgrep -o -f 'http[d] -f -v')/environ")?.contains("COLOUR=green"));
    Ok(())
}

fn what_services_say_can_be_read(vm: &Vm<'_>) -> Result<()> {
    let log = vm.ctl(["logs", "--service", "sshd"])?.ok()?.out();
    ensure!(log.contains("sshd err | Server listening on"), "{log}");
    vm.ctl(["logs", "--service", "nothing"])?.exits(125)?;
    let ps = vm.ctl(["ps"])?.ok()?.out();
    ensure!(
        ps.contains("SERVICE") && ps.lines().any(|line| line.starts_with("web ") && line.contains("running")),
        "{ps}"
    );
    Ok(())
}

fn the_timeline_is_told(vm: &Vm<'_>) -> Result<()> {
    let info: Info = vm.ctl(["--json", "info"])?.ok()?.json()?;
    ensure!(info.init == "guestd init", "{}", info.init);
    let steps: Vec<&str> = info.boot.steps.iter().map(|step| step.name.as_str()).collect();
    for wanted in ["root", "mounts", "modules", "network", "clock", "agent", "sysctls", "disk", "services"] {
        ensure!(steps.contains(&wanted), "{wanted} is not among {steps:?}");
    }
    ensure!(info.boot.steps.is_sorted_by(|a, b| a.at_secs <= b.at_secs), "{:#?}", info.boot.steps);
    let shown = vm.ctl(["info"])?.ok()?;
    println!("{shown}");
    ensure!(shown.out().contains("BOOT STEP"), "{shown}");
    Ok(())
}

#[test]
fn a_program_that_is_many_takes_over_as_the_init_that_it_is() -> Result<()> {
    let net = Net::new()?;
    let mut spec = VmSpec::with_guestd_init();
    spec.kernel_args.push(format!("guestd.handoff={BUSYBOX_INIT}"));
    let vm = Vm::boot(&net, spec)?;
    vm.wait_ready()?;
    let process_1 = vm.ctl(["exec", "--", "sh", "-c", "readlink /proc/1/exe; tr '\\0' ' ' </proc/1/cmdline"])?.ok()?;
    ensure!(process_1.out().trim().ends_with("/bin/busybox\ninit"), "{process_1}");
    vm.passed()
}

#[test]
fn after_the_early_steps_another_init_takes_over_with_the_agent_as_its_service() -> Result<()> {
    let net = Net::new()?;
    let mut spec = VmSpec::with_guestd_init();
    spec.kernel_args.push(format!("guestd.handoff={SYSTEMD}"));
    let vm = Vm::boot(&net, spec)?;
    vm.wait_ready()?;
    ensure!(vm.sh("cat /proc/1/comm")? == "systemd");
    ensure!(vm.sh("systemctl is-active guestd.service")? == "active");
    ensure!(vm.sh("cat /proc/cmdline")?.contains("guestd.handoff="));
    // What was mounted before it is left as it is.
    ensure!(vm.sh("grep -c ' /run tmpfs ' /proc/mounts")? == "1");
    let (state, message) = init_check(&vm.health()?)?;
    ensure!(state == CheckState::Off, "{message}");
    vm.ctl(["service", "list"])?.exits(125)?;
    vm.passed()
}
