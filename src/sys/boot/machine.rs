//! Calls that are about the machine as a whole, or about process 1 as such.

#![expect(unsafe_code, reason = "reboot(2), finit_module(2) and prctl(2) have no safe wrapper among our crates")]

use std::{
    fs,
    fs::File,
    io,
    os::fd::AsRawFd,
    path::Path,
    thread,
    time::{Duration, Instant},
};

use nix::sys::{
    resource::{Resource, getrlimit, setrlimit},
    statvfs::{FsFlags, statvfs},
};

/// For all file systems to become read-only. It takes some milliseconds.
const EMERGENCY_TIME: Duration = Duration::from_secs(1);

/// Between two looks whether they are.
const EMERGENCY_LOOK: Duration = Duration::from_millis(2);

/// How the machine ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reboot {
    /// It is reset, and boots again; the end of a Firecracker VM.
    Restart,
    /// It is switched off.
    PowerOff,
}

/// Ends the machine at once, with no file system written back. Within a process namespace it ends that.
///
/// # Errors
/// `EPERM`. Otherwise it does not return, or only for an instant.
pub fn reboot(how: Reboot) -> io::Result<()> {
    let how = match how {
        Reboot::Restart => libc::RB_AUTOBOOT,
        Reboot::PowerOff => libc::RB_POWER_OFF,
    };
    // SAFETY: an integer only.
    check(unsafe { libc::reboot(how) })
}

/// Has Ctrl-Alt-Del, and Firecracker's SendCtrlAltDel, come as SIGINT to process 1 instead of a reset at once.
///
/// # Errors
/// `EPERM`, and `EINVAL` within a process namespace.
pub fn ctrl_alt_del_is_a_signal() -> io::Result<()> {
    // SAFETY: an integer only.
    check(unsafe { libc::reboot(libc::RB_DISABLE_CAD) })
}

/// Has the kernel make all file systems read-only, whoever has files open: SysRq's `u`, which the kernel does by and by.
///
/// # Errors
/// Without SysRq in the kernel, and `TimedOut` where the root is still writable after a second.
pub fn emergency_read_only() -> io::Result<()> {
    fs::write("/proc/sysrq-trigger", "u")?;
    let give_up = Instant::now() + EMERGENCY_TIME;
    while !statvfs("/")?.flags().contains(FsFlags::ST_RDONLY) {
        if Instant::now() >= give_up {
            return Err(io::ErrorKind::TimedOut.into());
        }
        thread::sleep(EMERGENCY_LOOK);
    }
    Ok(())
}

/// From linux/module.h.
const MODULE_INIT_COMPRESSED_FILE: libc::c_int = 4;

/// Loads a kernel module from its file; one that is there already is no error. Compressed ones need Linux 5.17 and its
/// CONFIG_MODULE_DECOMPRESS.
///
/// # Errors
/// `ENOEXEC` for another kernel's, `ENOENT` where it wants another module first, `ENODEV` where its device is not there.
pub fn load_module(path: &Path) -> io::Result<()> {
    let file = File::open(path)?;
    let is_plain = path.extension().is_some_and(|extension| extension == "ko");
    let flags = if is_plain { 0 } else { MODULE_INIT_COMPRESSED_FILE };
    // SAFETY: an open file, a C string, an integer.
    let done = unsafe { libc::syscall(libc::SYS_finit_module, file.as_raw_fd(), c"".as_ptr(), flags) };
    match check(done as libc::c_int) {
        Err(error) if error.raw_os_error() == Some(libc::EEXIST) => Ok(()),
        other => other,
    }
}

/// Gives the machine its name.
///
/// # Errors
/// `EINVAL` for one of more than 64 bytes.
pub fn set_host_name(name: &str) -> io::Result<()> {
    Ok(nix::unistd::sethostname(name)?)
}

/// Sets how many files each process that is started from now on may have open: this many at first, and up to `hard` if it asks.
///
/// # Errors
/// `EPERM` above fs.nr_open.
pub fn set_open_files(soft: u64, hard: u64) -> io::Result<()> {
    let (_, before) = getrlimit(Resource::RLIMIT_NOFILE)?;
    let hard = hard.max(before);
    Ok(setrlimit(Resource::RLIMIT_NOFILE, soft.min(hard), hard)?)
}

/// Has orphans of this process's descendants become its children, though it is not process 1.
///
/// # Errors
/// Before Linux 3.4.
pub fn adopt_orphans() -> io::Result<()> {
    // SAFETY: integers only.
    check(unsafe { libc::prctl(libc::PR_SET_CHILD_SUBREAPER, 1) })
}

/// Asks for a signal when the parent of this process ends.
///
/// # Errors
/// There is no such signal.
pub fn signal_at_parents_death(signal: i32) -> io::Result<()> {
    // SAFETY: integers only.
    check(unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, signal) })
}

fn check(result: libc::c_int) -> io::Result<()> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
