//! What a process needs that looks after all others: their ends, and signals as messages.

#![expect(unsafe_code, reason = "waitid(2) and kill(2) by hand: nix refuses numbers that it has no name for")]

use std::{
    io,
    os::fd::{AsFd, BorrowedFd},
};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::{
    signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction},
    signalfd::{SfdFlags, SignalFd},
};

use super::{pidfd::Exit, process::keep_exit_statuses};

/// Signals that come to be read instead of interrupting: all that can be, but those that a fault of our own raises.
#[derive(Debug)]
pub struct Signals(SignalFd);

impl Signals {
    /// Blocks them all. Children are to unblock them, as [`Launch`](super::process::Launch) does.
    ///
    /// # Errors
    /// Out of descriptors.
    pub fn take() -> io::Result<Self> {
        // Where whoever started us has SIGCHLD ignored it would not come, blocked or not.
        keep_exit_statuses()?;
        // All 64 by hand: libc's own call leaves those out that it keeps to itself, which no process with one thread needs.
        // SAFETY: a mask is plain data, for which zeroes and ones are values; 64 signals are 8 bytes.
        let mut all = unsafe {
            let mut mask: libc::sigset_t = std::mem::zeroed();
            (&raw mut mask).cast::<u64>().write(u64::MAX);
            SigSet::from_sigset_t_unchecked(mask)
        };
        for fault in [
            Signal::SIGSEGV,
            Signal::SIGBUS,
            Signal::SIGILL,
            Signal::SIGFPE,
            Signal::SIGABRT,
            Signal::SIGTRAP,
            Signal::SIGSYS,
        ] {
            all.remove(fault);
        }
        all.thread_block()?;
        Ok(Self(SignalFd::with_flags(&all, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)?))
    }

    /// The next one, whenever it comes.
    ///
    /// # Errors
    /// Those of poll(2).
    pub fn wait(&self) -> io::Result<i32> {
        loop {
            if let Some(signal) = self.next()? {
                return Ok(signal);
            }
            let mut readable = [PollFd::new(self.0.as_fd(), PollFlags::POLLIN)];
            match poll(&mut readable, PollTimeout::NONE) {
                Err(error) if error != nix::errno::Errno::EINTR => return Err(error.into()),
                _ => {}
            }
        }
    }

    /// The next one that waits.
    ///
    /// # Errors
    /// Those of read(2).
    pub fn next(&self) -> io::Result<Option<i32>> {
        Ok(self.0.read_signal()?.and_then(|info| i32::try_from(info.ssi_signo).ok()))
    }
}

impl AsFd for Signals {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Takes the status of a child that has ended, whichever it is. None while none has, and where there are no children.
///
/// # Errors
/// None that is known.
pub fn reap() -> io::Result<Option<(i32, Exit)>> {
    // SAFETY: siginfo_t is plain data, for which zeroes are a value.
    let mut info: libc::siginfo_t = unsafe { std::mem::zeroed() };
    // SAFETY: info is ours and lives through the call.
    let done = unsafe { libc::waitid(libc::P_ALL, 0, &raw mut info, libc::WEXITED | libc::WNOHANG) };
    if done != 0 {
        return match io::Error::last_os_error() {
            error if error.raw_os_error() == Some(libc::ECHILD) => Ok(None),
            error => Err(error),
        };
    }
    // SAFETY: after a successful waitid these are set; the pid is 0 where no child has ended.
    let (pid, status) = unsafe { (info.si_pid(), info.si_status()) };
    Ok((pid != 0)
        .then_some((pid, if info.si_code == libc::CLD_EXITED { Exit::Code(status) } else { Exit::Signal(status) })))
}

/// Are there children, ended or not?
pub fn has_children() -> bool {
    // SAFETY: siginfo_t is plain data, for which zeroes are a value.
    let mut info: libc::siginfo_t = unsafe { std::mem::zeroed() };
    // SAFETY: info is ours and lives through the call.
    unsafe { libc::waitid(libc::P_ALL, 0, &raw mut info, libc::WEXITED | libc::WNOHANG | libc::WNOWAIT) == 0 }
}

/// Sends a signal to a child that is not reaped yet, to a process group by its negated number, or to all by -1. Nobody there is no error.
///
/// # Errors
/// `EINVAL` for what is no signal, `EPERM`.
pub fn kill(pid: i32, signal: i32) -> io::Result<()> {
    // SAFETY: integers only.
    match unsafe { libc::kill(pid, signal) } {
        0 => Ok(()),
        _ => match io::Error::last_os_error() {
            error if error.raw_os_error() == Some(libc::ESRCH) => Ok(()),
            error => Err(error),
        },
    }
}

/// Blocks and ignores nothing any more, as before [`Signals::take`] and before the language's runtime: for who becomes another program.
///
/// # Errors
/// None that is known.
pub fn let_signals_be() -> io::Result<()> {
    let default = SigAction::new(SigHandler::SigDfl, SaFlags::empty(), SigSet::empty());
    // SAFETY: no handler is installed.
    unsafe { sigaction(Signal::SIGPIPE, &default) }?;
    Ok(SigSet::empty().thread_set_mask()?)
}

/// Ignores what a process in the background gets that touches its terminal, so that giving the terminal away does not stop us.
///
/// # Errors
/// None that is known.
pub fn ignore_terminal_stops() -> io::Result<()> {
    let ignore = SigAction::new(SigHandler::SigIgn, SaFlags::empty(), SigSet::empty());
    for signal in [Signal::SIGTTIN, Signal::SIGTTOU] {
        // SAFETY: no handler is installed.
        unsafe { sigaction(signal, &ignore) }?;
    }
    Ok(())
}
