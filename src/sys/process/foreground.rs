//! Children that are this process still: same streams, environment and directory. One takes its place for whoever looks, with the terminal.

#![expect(unsafe_code, reason = "fork(2)")]

use std::io;

use nix::unistd::{ForkResult, Pid, fork as fork_process, getpgrp, setpgid, tcsetpgrp};

use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};

/// Runs `body` in a child, with standard streams alone, as this process otherwise is, and lets it be: it is reaped as any other. To be called
/// by a process with one thread.
///
/// # Errors
/// No process can be made.
pub fn aside(body: impl FnOnce()) -> io::Result<i32> {
    // SAFETY: there is one thread, so that the child may do what it likes.
    match unsafe { fork_process() }? {
        ForkResult::Parent { child } => Ok(child.as_raw()),
        ForkResult::Child => {
            // What this process closes meanwhile is to be closed. Before Linux 5.9 it stays open as long as the child.
            // SAFETY: integers only; nothing here uses a descriptor that was open before.
            unsafe { libc::syscall(libc::SYS_close_range, 3, libc::c_uint::MAX, 0) };
            body();
            // SAFETY: ends this process only, with none of the parent's exit handlers run.
            unsafe { libc::_exit(0) }
        }
    }
}

/// Runs `body` in a child that leads a process group of its own, in the foreground of standard input's terminal if it is one, with no
/// signal blocked. What `body` returns, if it does, is the child's exit status. To be called by a process with one thread.
///
/// # Errors
/// No process can be made.
pub fn fork(body: impl FnOnce() -> u8) -> io::Result<i32> {
    // SAFETY: there is one thread, so that the child may do what it likes.
    match unsafe { fork_process() }? {
        ForkResult::Parent { child } => {
            // Both do it, so that it is done whoever comes first; the child may have run its program already.
            let _ = setpgid(child, child);
            Ok(child.as_raw())
        }
        ForkResult::Child => {
            let _ = setpgid(Pid::from_raw(0), Pid::from_raw(0));
            // From the background this would stop us (tcsetpgrp(3)), unless it is blocked, as it is here. Without a terminal it fails.
            let _ = tcsetpgrp(io::stdin(), getpgrp());
            let default = SigAction::new(SigHandler::SigDfl, SaFlags::empty(), SigSet::empty());
            for signal in [Signal::SIGTTIN, Signal::SIGTTOU] {
                // SAFETY: no handler is installed.
                let _ = unsafe { sigaction(signal, &default) };
            }
            let _ = SigSet::empty().thread_set_mask();
            let status = body();
            // SAFETY: ends this process only, with none of the parent's exit handlers run.
            unsafe { libc::_exit(status.into()) }
        }
    }
}
