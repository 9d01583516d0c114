//! A process by a handle that cannot come to mean another one.
//!
//! A pid is a number that the kernel hands out again as soon as a process is reaped; a pidfd stays with its process. Signals
//! and exit statuses go through it, and it becomes readable when the process has ended, so it can be waited for with epoll.

#![expect(
    unsafe_code,
    reason = "pidfd_open, pidfd_send_signal and waitid have no safe wrapper that takes every signal number"
)]

use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// It exited with this status, 0 to 255.
    Code(i32),
    /// This signal ended it, 1 to 64.
    Signal(i32),
}

/// A handle on one process, close-on-exec.
#[derive(Debug)]
pub struct Pidfd {
    fd: OwnedFd,
    pid: i32,
}

impl Pidfd {
    /// Opens a handle on the process that has this pid now (pidfd_open(2), Linux 5.3).
    ///
    /// It is certain to be the one meant only for a child that this process has not reaped yet; for any other, look after
    /// opening whether the pid is still what it was taken for.
    ///
    /// # Errors
    /// `ESRCH` where there is no such process, `EMFILE` and `ENFILE` out of descriptors, `ENOSYS` on an older kernel.
    pub fn open(pid: i32) -> io::Result<Self> {
        // SAFETY: takes two integers and touches no memory of ours.
        let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
        let fd = RawFd::try_from(fd).map_err(io::Error::other)?;
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the kernel just made this descriptor for us, and nothing else owns it.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        Ok(Self { fd, pid })
    }

    /// The handle that came with a child of ours when it was made (CLONE_PIDFD).
    pub(super) fn of_child(fd: OwnedFd, pid: i32) -> Self {
        Self { fd, pid }
    }

    /// The pid, for showing, and for as long as the process is not reaped.
    pub fn pid(&self) -> i32 {
        self.pid
    }

    /// Sends a signal; `false` where the process has ended already.
    ///
    /// # Errors
    /// `EPERM` where it belongs to somebody that this process may not signal, `EINVAL` for a number that is no signal.
    pub fn signal(&self, signal: i32) -> io::Result<bool> {
        if send(self.fd.as_raw_fd(), signal) == 0 {
            return Ok(true);
        }
        match io::Error::last_os_error() {
            error if error.raw_os_error() == Some(libc::ESRCH) => Ok(false),
            error => Err(error),
        }
    }

    /// Takes the exit status of a child and lets the kernel forget it. Blocks until it has ended: to be called when the handle
    /// is readable, or after SIGKILL.
    ///
    /// # Errors
    /// `ECHILD` where it is not our child or its status has been taken already.
    pub fn wait(&self) -> io::Result<Exit> {
        let info = self.waitid(libc::WEXITED)?;
        // SAFETY: after a successful waitid the status of a child is set.
        let status = unsafe { info.si_status() };
        Ok(match info.si_code {
            libc::CLD_EXITED => Exit::Code(status),
            _ => Exit::Signal(status),
        })
    }

    /// Waits for its end at the longest for so long; false where it has not ended then.
    ///
    /// # Errors
    /// Those of poll(2).
    pub fn ended_within(&self, time: Duration) -> io::Result<bool> {
        let deadline = Instant::now() + time;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
            match poll(&mut [PollFd::new(self.fd.as_fd(), PollFlags::POLLIN)], timeout) {
                Ok(0) if left.is_zero() => return Ok(false),
                Ok(0) | Err(Errno::EINTR) => {}
                Ok(_) => return Ok(true),
                Err(errno) => return Err(errno.into()),
            }
        }
    }

    /// Of a process that has ended: it is our child, and whoever traces it (ptrace(2)) has the status first. Any process of the
    /// same user can do that, for as long as it likes, and [`Pidfd::wait`] would wait for it.
    fn is_withheld(&self) -> bool {
        let waiting = self.waitid(libc::WEXITED | libc::WNOHANG | libc::WNOWAIT);
        // SAFETY: after a successful waitid the pid is set: 0 where there is no status to be had yet.
        waiting.is_ok_and(|info| unsafe { info.si_pid() } == 0)
    }

    /// waitid by hand: nix turns a death by a real-time signal into EINVAL, after it has taken the status.
    fn waitid(&self, options: libc::c_int) -> io::Result<libc::siginfo_t> {
        // SAFETY: siginfo_t is plain data, for which zeroes are a value.
        let mut info: libc::siginfo_t = unsafe { std::mem::zeroed() };
        let fd = libc::id_t::try_from(self.fd.as_raw_fd()).map_err(io::Error::other)?;
        // SAFETY: info lives until the call returns and is written by the kernel only.
        let done = unsafe { libc::waitid(libc::P_PIDFD, fd, &raw mut info, options) };
        if done == 0 { Ok(info) } else { Err(io::Error::last_os_error()) }
    }
}

/// Ends a process by a handle that is open and somebody else's. One that has ended is no error.
pub(super) fn kill_by(pidfd: RawFd) {
    send(pidfd, libc::SIGKILL);
}

fn send(pidfd: RawFd, signal: i32) -> libc::c_long {
    let nothing = std::ptr::null::<libc::siginfo_t>();
    // SAFETY: integers; a null siginfo is allowed (as by kill(2)).
    unsafe { libc::syscall(libc::SYS_pidfd_send_signal, pidfd, signal, nothing, 0) }
}

impl AsRawFd for Pidfd {
    fn as_raw_fd(&self) -> RawFd {
        self.fd.as_raw_fd()
    }
}

/// A process whose end a task can wait for.
#[derive(Debug)]
pub struct WatchedPidfd(AsyncFd<Pidfd>);

impl WatchedPidfd {
    /// Registers the handle with the runtime that this is called in.
    ///
    /// # Errors
    /// Where epoll has no room; the handle comes back with why.
    pub fn new(pidfd: Pidfd) -> Result<Self, (Pidfd, io::Error)> {
        // SAFETY: Pidfd owns its descriptor, opened for reading, and never exchanges it; AsyncFd owns the Pidfd, and only
        // shared references to it are given out.
        let watched = unsafe { AsyncFd::register_with_interest(pidfd, Interest::READABLE) };
        watched.map(Self).map_err(tokio::io::unix::AsyncFdRegisterError::into_parts)
    }

    /// Returns when the process has ended, at once if it has already. Its status is still to be taken then, which does not block.
    pub async fn ended(&self) {
        // An error is that the runtime shuts down, with all tasks. Else the readiness is kept, for a process ends once.
        while let Ok(mut ready) = self.0.readable().await {
            if !self.get().is_withheld() {
                return;
            }
            // Told again when its tracer lets it go.
            ready.clear_ready();
        }
    }

    /// The handle itself.
    pub fn get(&self) -> &Pidfd {
        self.0.get_ref()
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::os::unix::process::ExitStatusExt;
    use std::process::Command;

    use futures_util::FutureExt;

    use super::*;

    /// A process that traces this one until it is killed.
    fn trace(pid: i32) -> Pidfd {
        let (mut told, tell) = io::pipe().unwrap();
        // SAFETY: the child makes system calls only, until it ends.
        let tracer = match unsafe { libc::fork() } {
            // SAFETY: integers, null pointers that the request does not use, and a readable byte.
            0 => unsafe {
                let nothing = std::ptr::null_mut::<libc::c_void>();
                // A test that fails leaves none.
                libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
                let done = libc::ptrace(libc::PTRACE_SEIZE, pid, nothing, nothing);
                libc::write(tell.as_raw_fd(), if done == 0 { c"y" } else { c"n" }.as_ptr().cast(), 1);
                libc::pause();
                libc::_exit(0)
            },
            tracer => tracer,
        };
        let mut answer = [0];
        told.read_exact(&mut answer).unwrap();
        assert_eq!(answer, *b"y", "PTRACE_SEIZE");
        Pidfd::open(tracer).unwrap()
    }

    #[test]
    fn an_end_is_waited_for_no_longer_than_so_long() {
        let mut child = Command::new("sleep").arg("600").spawn().unwrap();
        let handle = Pidfd::open(child.id().try_into().unwrap()).unwrap();
        assert!(!handle.ended_within(Duration::from_millis(1)).unwrap());
        child.kill().unwrap();
        assert!(handle.ended_within(Duration::from_secs(60)).unwrap());
        child.wait().unwrap();
    }

    #[tokio::test]
    async fn a_child_that_another_process_traces_has_ended_for_us_when_that_lets_it_go() {
        let mut child = Command::new("sleep").arg("600").spawn().unwrap();
        let watched = WatchedPidfd::new(Pidfd::open(child.id().try_into().unwrap()).unwrap()).unwrap();
        let tracer = trace(watched.get().pid());
        watched.get().signal(libc::SIGKILL).unwrap();
        watched.0.readable().await.unwrap().retain_ready();
        assert!(watched.ended().now_or_never().is_none(), "to take its status would block");
        tracer.signal(libc::SIGKILL).unwrap();
        watched.ended().await;
        // Its status is there already.
        assert_eq!(child.wait().unwrap().signal(), Some(libc::SIGKILL));
        tracer.wait().unwrap();
    }
}
