//! Starting a process in a known state, whatever state this one is in.
//!
//! What a process inherits is more than its environment: blocked and ignored signals, limits, niceness, its score with the OOM
//! killer, open descriptors. A command that inherits the agent's would behave as nowhere else (`yes | head` that never ends
//! because SIGPIPE is ignored), so each is set here, in the child before its execve, by calls that are async-signal-safe.
//!
//! libc's execvp would run a file of an unknown format by `/bin/sh`; there is no hidden shell here. Looking a name up in PATH is trying one path after the other
//! as the user in question, so that the kernel decides and nothing can change between a look and the deed.

#![expect(unsafe_code, reason = "making a child, and calls that have no safe wrapper")]

use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::sync::Arc;

use self::child::Child;
use self::vfork::{old_vfork, vfork};
use super::cgroup::Cgroup;
use super::pidfd::Pidfd;

mod birth;
mod child;
pub mod foreground;
mod fork;
mod inherited;
#[cfg(test)]
mod tests;
mod vfork;

pub use birth::Birth;
pub use fork::{Allowance, Forked};
pub use inherited::Inherited;

/// Who a process runs as.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Credentials {
    /// Real, effective and saved user.
    pub uid: u32,
    /// Real, effective and saved group.
    pub gid: u32,
    /// All supplementary groups; others are dropped.
    pub groups: Vec<u32>,
}

/// A process to be started.
#[derive(Debug)]
pub struct Launch {
    /// Paths to try in this order, as execvp(3) does; relative ones start at the directory that was entered.
    pub programs: Vec<CString>,
    /// Arguments, the name first.
    pub argv: Vec<CString>,
    /// The whole environment, as `KEY=VALUE`.
    pub env: Vec<CString>,
    /// The first of these that can be entered becomes the working directory.
    pub directories: Vec<CString>,
    /// Who to be; none: who we are.
    pub credentials: Option<Credentials>,
    /// Standard input; none: `/dev/null`.
    pub stdin: Option<OwnedFd>,
    /// Standard output.
    pub stdout: OwnedFd,
    /// Standard error.
    pub stderr: OwnedFd,
    /// Standard input is a terminal, which becomes the controlling one of the new session.
    pub controlling_terminal: bool,
    /// By which its start can be ended while it takes its time.
    pub birth: Arc<Birth>,
}

/// What was being done when a start failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// Making the process.
    Fork,
    /// Putting its standard streams in place.
    Streams,
    /// A session of its own.
    Session,
    /// Taking the terminal as the controlling one.
    Terminal,
    /// Limit on open files.
    Limits,
    /// Joining the cgroup.
    Cgroup,
    /// Supplementary groups.
    Groups,
    /// Becoming the group.
    Gid,
    /// Becoming the user.
    Uid,
    /// Entering the working directory.
    Directory,
    /// Running the program.
    Execute,
    /// Any of these: it took too long, and was ended.
    Birth,
}

impl Stage {
    /// The system call at work, for error texts.
    pub fn call(self) -> &'static str {
        match self {
            Self::Fork => "making a process",
            Self::Streams => "dup2",
            Self::Session => "setsid",
            Self::Terminal => "TIOCSCTTY",
            Self::Limits => "setrlimit",
            Self::Cgroup => "joining the cgroup",
            Self::Groups => "setgroups",
            Self::Gid => "setresgid",
            Self::Uid => "setresuid",
            Self::Directory => "chdir",
            Self::Execute => "execve",
            Self::Birth => {
                "waiting for its program to run (somebody has stopped its process, or its directory or program is on a file \
                 system that does not answer)"
            }
        }
    }
}

/// All of them, in the order of their numbers.
const STAGES: [Stage; 12] = [
    Stage::Fork,
    Stage::Streams,
    Stage::Session,
    Stage::Terminal,
    Stage::Limits,
    Stage::Cgroup,
    Stage::Groups,
    Stage::Gid,
    Stage::Uid,
    Stage::Directory,
    Stage::Execute,
    Stage::Birth,
];

impl Stage {
    /// For a note of one byte.
    fn number(self) -> u8 {
        self as u8
    }

    fn of_number(number: u8) -> Self {
        STAGES.get(usize::from(number)).copied().unwrap_or(Self::Fork)
    }
}

/// A start that failed; nothing runs.
#[derive(Debug, thiserror::Error)]
#[error("{}: {source}", .stage.call())]
pub struct LaunchError {
    /// Where.
    pub stage: Stage,
    /// Why.
    pub source: io::Error,
}

impl Launch {
    /// Starts it, in a session of its own and in this cgroup, if any. Blocks until the new program runs or has failed to.
    ///
    /// # Errors
    /// The stage that failed and its errno; nothing is left running.
    pub fn spawn(&mut self, inherited: &Inherited, cgroup: Option<&Cgroup>) -> Result<Pidfd, LaunchError> {
        let failed = |stage| move |source| LaunchError { stage, source };
        self.raise_streams().map_err(failed(Stage::Streams))?;
        let directory = cgroup.map(Cgroup::directory).transpose().map_err(failed(Stage::Cgroup))?;
        let mut child = Child::new(self, inherited);
        // SAFETY: `run` is made for this, and takes what it is given here, which nobody else touches.
        let born = unsafe { vfork(directory, Child::run, (&raw mut child).cast(), &self.birth) };
        match born {
            Ok(born) => self.finish(child.into_failure(), born),
            Err(error) if is_unknown(&error) => self.spawn_in_old_ways(inherited, cgroup),
            Err(source) if is_of_cgroup(&source) => Err(LaunchError { stage: Stage::Cgroup, source }),
            Err(source) => Err(LaunchError { stage: Stage::Fork, source }),
        }
    }

    /// As before Linux 5.7: the child joins the cgroup itself, so that its first instants are accounted elsewhere.
    fn spawn_in_old_ways(&self, inherited: &Inherited, cgroup: Option<&Cgroup>) -> Result<Pidfd, LaunchError> {
        let failed = |stage| move |source| LaunchError { stage, source };
        let procs = cgroup.map(Cgroup::open_procs).transpose().map_err(failed(Stage::Cgroup))?;
        let mut child = Child::old(self, inherited, procs.as_ref());
        // SAFETY: as in `spawn`.
        let born = unsafe { old_vfork(Child::run, (&raw mut child).cast(), &self.birth) };
        let failure = child.into_failure();
        self.finish(failure, born.map_err(failed(Stage::Fork))?)
    }

    /// Moves streams that have the numbers of standard ones out of their own way.
    fn raise_streams(&mut self) -> io::Result<()> {
        for stream in self.stdin.iter_mut().chain([&mut self.stdout, &mut self.stderr]) {
            if stream.as_raw_fd() <= libc::STDERR_FILENO {
                // SAFETY: integers only.
                let raised = unsafe { libc::fcntl(stream.as_raw_fd(), libc::F_DUPFD_CLOEXEC, libc::STDERR_FILENO + 1) };
                check(raised.into())?;
                // SAFETY: the kernel just made this descriptor for us, and nothing else owns it.
                *stream = unsafe { OwnedFd::from_raw_fd(raised) };
            }
        }
        Ok(())
    }

    /// The child, or what became of it.
    fn finish(&self, failure: Option<(Stage, io::Error)>, born: vfork::Born) -> Result<Pidfd, LaunchError> {
        let pidfd = Pidfd::of_child(born.pidfd, born.pid);
        let failure = match failure {
            _ if self.birth.is_ended() => {
                let _ = pidfd.signal(libc::SIGKILL);
                (Stage::Birth, io::ErrorKind::TimedOut.into())
            }
            None => return Ok(pidfd),
            Some(failure) => failure,
        };
        // It has ended, or is about to.
        let _ = pidfd.wait();
        Err(LaunchError { stage: failure.0, source: failure.1 })
    }
}

/// clone3 is not there or not allowed, or does not know what is asked of it.
fn is_unknown(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ENOSYS | libc::EINVAL | libc::E2BIG | libc::EPERM))
}

/// The cgroup takes no process (cgroups(7)).
fn is_of_cgroup(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EACCES | libc::EBUSY | libc::ENODEV | libc::ENOENT | libc::EOPNOTSUPP))
}

fn check(result: libc::c_long) -> io::Result<()> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Sends a signal to a process group. Its leader must be a child that is not reaped yet, or the number may be another's.
///
/// # Errors
/// `EPERM` where none of them may be signalled. A group without members is no error.
pub fn signal_group(leader: i32, signal: i32) -> io::Result<()> {
    // SAFETY: integers only.
    match check(unsafe { libc::kill(-leader, signal) }.into()) {
        Err(error) if error.raw_os_error() == Some(libc::ESRCH) => Ok(()),
        other => other,
    }
}

/// Makes the exit statuses of children available where whoever started us had SIGCHLD ignored, which makes the kernel throw
/// them away.
///
/// # Errors
/// None that is known for this signal.
pub fn keep_exit_statuses() -> io::Result<()> {
    // SAFETY: sigaction is plain data; both calls read or write only our own struct. The action is replaced only where it is
    // "ignore" or "do not keep", so no handler of anybody's is taken away.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        check(libc::sigaction(libc::SIGCHLD, std::ptr::null(), &raw mut action).into())?;
        if action.sa_sigaction == libc::SIG_IGN {
            action.sa_sigaction = libc::SIG_DFL;
        } else if action.sa_flags & libc::SA_NOCLDWAIT == 0 {
            return Ok(());
        }
        action.sa_flags &= !libc::SA_NOCLDWAIT;
        check(libc::sigaction(libc::SIGCHLD, &raw const action, std::ptr::null_mut()).into())
    }
}

/// Is a signal ignored by this process? As after nohup(1), or in the background of a shell without job control.
///
/// # Errors
/// There is no such signal.
pub fn ignores(signal: i32) -> io::Result<bool> {
    // SAFETY: sigaction is plain data; the call writes only our own struct.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    // SAFETY: as above, and with no new action nothing is changed.
    check(unsafe { libc::sigaction(signal, std::ptr::null(), &raw mut action) }.into())?;
    Ok(action.sa_sigaction == libc::SIG_IGN)
}

/// Bytes that wait in a pipe.
///
/// # Errors
/// Where the descriptor is no pipe.
pub fn pending(pipe: BorrowedFd<'_>) -> io::Result<usize> {
    let mut bytes: libc::c_int = 0;
    // SAFETY: FIONREAD writes one int.
    check(unsafe { libc::ioctl(pipe.as_raw_fd(), libc::FIONREAD, &raw mut bytes) }.into())?;
    usize::try_from(bytes).map_err(io::Error::other)
}

/// Effective user and group of this process.
pub fn effective_ids() -> (u32, u32) {
    (nix::unistd::geteuid().as_raw(), nix::unistd::getegid().as_raw())
}

/// A C string from bytes that may not hold a NUL.
///
/// # Errors
/// Where they do.
pub fn c_string(bytes: impl Into<Vec<u8>>) -> io::Result<CString> {
    CString::new(bytes).map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))
}
