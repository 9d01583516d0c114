//! The end of the VM, once services have ended; and what is done should process 1 itself come to its end.

use std::{
    fs::{self, File},
    io::Write as _,
    panic,
    path::{Path, PathBuf},
    sync::atomic::{AtomicBool, Ordering::SeqCst},
    thread,
    time::{Duration, Instant},
};

use super::{
    files, late,
    power::last_call,
    timeline::{now, tell},
};
use crate::{
    api::PowerAction,
    config::PowerRule,
    limits,
    sys::{
        boot::{self, Reboot},
        crash, mountinfo,
        process::foreground,
        supervise,
    },
};

/// Between two looks whether all have ended.
const LOOK: Duration = Duration::from_millis(2);

/// Powering off this machine is a reset. Known before it is needed, for a fault leaves no room for reading files.
static BY_RESET: AtomicBool = AtomicBool::new(cfg!(target_arch = "x86_64"));

/// Takes in how this machine is ended.
pub(super) fn know(rule: PowerRule) {
    let command_line = fs::read_to_string("/proc/cmdline").unwrap_or_default();
    BY_RESET.store(last_call(PowerAction::Off, rule, &command_line) == Reboot::Restart, SeqCst);
}

fn end_machine(action: PowerAction) {
    let by_reset = action == PowerAction::Reboot || BY_RESET.load(SeqCst);
    let _ = boot::reboot(if by_reset { Reboot::Restart } else { Reboot::PowerOff });
}

/// Ends what is left, the agent and its execs among it, makes the disk clean, and ends the machine. `begun` is for what is told of it.
pub(super) fn finish(action: PowerAction, begun: Duration) -> ! {
    let services = now();
    let (patience, killed) = limits::POWER_OTHERS_TIME;
    let _ = supervise::kill(-1, libc::SIGTERM);
    let _ = supervise::kill(-1, libc::SIGCONT);
    if !reap(None, patience) {
        let _ = supervise::kill(-1, libc::SIGKILL);
        reap(None, killed);
    }
    let others = now();
    match foreground::aside(clean_disk) {
        Ok(child) if !reap(Some(child), limits::POWER_DISK_TIME) => {
            tell("the disk cannot be made clean: it is frozen, or does not answer; the VM ends without");
        }
        Ok(_) => {}
        Err(_) => clean_disk(),
    }
    let millis = |from: Duration, to: Duration| to.saturating_sub(from).as_millis();
    tell(&format!(
        "the VM ends: services took {} ms, others {} ms, the disk {} ms",
        millis(begun, services),
        millis(services, others),
        millis(others, now())
    ));
    loop {
        end_machine(action);
        // Some machines take a moment.
        thread::sleep(Duration::from_secs(1));
    }
}

/// Waits for all processes to end, or for this one. Whether they have.
fn reap(one: Option<i32>, patience: Duration) -> bool {
    let until = Instant::now() + patience;
    loop {
        while let Ok(Some((pid, _))) = supervise::reap() {
            if Some(pid) == one {
                return true;
            }
        }
        if !supervise::has_children() {
            return true;
        }
        if Instant::now() >= until {
            return false;
        }
        thread::sleep(LOOK);
    }
}

fn clean_disk() {
    late::keep_seed();
    nix::unistd::sync();
    unmount_all();
    nix::unistd::sync();
}

/// Unmounts what can be, what is mounted last first, and makes the rest read-only: the root above all.
fn unmount_all() {
    let table = files::read(Path::new("/proc/self/mountinfo")).unwrap_or_default();
    for (point, kind) in mounts(&table).rev() {
        // In memory, and of use until the last instant.
        if point == Path::new("/") || ["proc", "sysfs", "devtmpfs"].contains(&kind) {
            continue;
        }
        if boot::unmount(&point).is_err() {
            let _ = boot::remount_read_only(&point);
        }
    }
    if let Err(error) = boot::remount_read_only(Path::new("/")) {
        // Something holds a file open for writing still: the kernel can do it over its head.
        if let Err(second) = boot::emergency_read_only() {
            tell(&format!("the root file system stays writable: {error}; SysRq: {second}"));
        }
    }
}

/// Mount points and kinds of a mountinfo (proc(5)), in its order.
fn mounts(table: &str) -> impl DoubleEndedIterator<Item = (PathBuf, &str)> {
    table.lines().filter_map(|line| {
        let (mount, file_system) = line.split_once(" - ")?;
        let point = mount.split(' ').nth(4)?;
        Some((mountinfo::unescape(point.as_bytes()), file_system.split(' ').next()?))
    })
}

/// From now on a panic or a fault of this process is told on the console, and ends the VM rather than leaves it hanging.
pub(super) fn survive_nothing() {
    static AGAIN: AtomicBool = AtomicBool::new(false);
    panic::set_hook(Box::new(|what| {
        if !AGAIN.swap(true, SeqCst) {
            last_words(&format!("guestd init: {what}\n"));
            crash::backtrace(0);
        }
        end_now();
    }));
    crash::on_fault(end_now);
}

/// To the console, whatever standard error is.
fn last_words(text: &str) {
    let mut console = File::options().write(true).open("/dev/console");
    let written = match &mut console {
        Ok(console) => console.write_all(text.as_bytes()),
        Err(_) => std::io::stderr().write_all(text.as_bytes()),
    };
    drop(written);
}

/// No process is asked and nothing is waited for but the disk.
fn end_now() {
    nix::unistd::sync();
    let _ = boot::emergency_read_only();
    end_machine(PowerAction::Off);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mounts_are_read_with_their_kinds() {
        let table =
            "22 1 254:0 / / rw - ext4 /dev/root rw\n23 22 0:21 / /a\\040b rw,nosuid shared:5 - tmpfs tmpfs rw\n";
        let found: Vec<_> = mounts(table).collect();
        assert_eq!(found, [("/".into(), "ext4"), ("/a b".into(), "tmpfs")]);
    }
}
