//! Starting a process in a known state, whatever state this one is in.
//!
//! What a process inherits is more than its environment: blocked and ignored signals, limits, niceness, its score with the OOM
//! killer, open descriptors. A command that inherits the agent's would behave as nowhere else (`yes | head` that never ends
//! because SIGPIPE is ignored), so each is set here, between fork and execve, by calls that are async-signal-safe.
//!
//! `std::process::Command` does the fork and carries an error home. The execve is ours: libc's execvp would run a file of an
//! unknown format by `/bin/sh`, and there is no hidden shell here. Looking a name up in PATH is trying one path after the other
//! as the user in question, so that the kernel decides and nothing can change between a look and the deed.

#![expect(unsafe_code, reason = "between fork and execve only raw, async-signal-safe system calls may be made")]

use std::ffi::{CString, OsStr};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};

use self::child::Child;
use super::pidfd::Pidfd;

mod child;

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
    /// Who to become; none: stay who we are.
    pub credentials: Option<Credentials>,
    /// An open `cgroup.procs` to join, if any.
    pub cgroup_procs: Option<OwnedFd>,
    /// Standard input; none: `/dev/null`.
    pub stdin: Option<OwnedFd>,
    /// Standard output.
    pub stdout: OwnedFd,
    /// Standard error.
    pub stderr: OwnedFd,
    /// Standard input is a terminal, which becomes the controlling one of the new session.
    pub controlling_terminal: bool,
}

/// What was being done when a start failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// Making the process.
    Fork,
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
    /// Getting a handle on the started process, which was then killed.
    Handle,
}

impl Stage {
    /// The system call at work, for error texts.
    pub fn call(self) -> &'static str {
        match self {
            Self::Fork => "fork",
            Self::Session => "setsid",
            Self::Terminal => "TIOCSCTTY",
            Self::Limits => "setrlimit",
            Self::Cgroup => "joining the cgroup",
            Self::Groups => "setgroups",
            Self::Gid => "setresgid",
            Self::Uid => "setresuid",
            Self::Directory => "chdir",
            Self::Execute => "execve",
            Self::Handle => "pidfd_open",
        }
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
    /// Starts it, in a session of its own. Blocks until the new program runs or has failed to.
    ///
    /// # Errors
    /// The stage that failed and its errno; nothing is left running.
    pub fn spawn(self) -> Result<Pidfd, LaunchError> {
        let fork = |source| LaunchError { stage: Stage::Fork, source };
        let Self { programs, argv, env, directories, credentials, cgroup_procs, .. } = self;
        let Self { stdin, stdout, stderr, controlling_terminal, .. } = self;
        // The name is only what std would run, were the closure ever to return success.
        let name = programs.first().ok_or_else(|| fork(io::ErrorKind::InvalidInput.into()))?;
        let mut command = Command::new(OsStr::from_bytes(name.to_bytes()));
        command.stdin(stdin.map_or_else(Stdio::null, Stdio::from)).stdout(stdout).stderr(stderr);
        let child = Child::new(programs, argv, env, directories, credentials, cgroup_procs, controlling_terminal);
        // SAFETY: Child::become_program allocates nothing, takes no lock and makes only async-signal-safe calls.
        unsafe { command.pre_exec(move || Err(child.become_program())) };
        let mut started = command.spawn().map_err(decode)?;
        // It cannot have been reaped yet: nobody waits for it but us, so the pid is its own.
        let pid = i32::try_from(started.id()).map_err(|error| fork(io::Error::other(error)))?;
        Pidfd::open(pid).map_err(|source| {
            let _ = started.kill();
            let _ = started.wait();
            LaunchError { stage: Stage::Handle, source }
        })
    }
}

fn check(result: libc::c_long) -> io::Result<()> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// std carries one 32-bit error number out of the child. An errno is below 4096, so the stage fits above it.
fn encode(stage: Stage, error: &io::Error) -> io::Error {
    let errno = error.raw_os_error().unwrap_or(libc::EINVAL);
    io::Error::from_raw_os_error(((stage as i32) << 16) | errno)
}

fn decode(error: io::Error) -> LaunchError {
    const STAGES: [Stage; 11] = [
        Stage::Fork,
        Stage::Session,
        Stage::Terminal,
        Stage::Limits,
        Stage::Cgroup,
        Stage::Groups,
        Stage::Gid,
        Stage::Uid,
        Stage::Directory,
        Stage::Execute,
        Stage::Handle,
    ];
    let Some(number) = error.raw_os_error() else {
        return LaunchError { stage: Stage::Fork, source: error };
    };
    let stage = usize::try_from(number >> 16).ok().and_then(|index| STAGES.get(index));
    LaunchError { stage: stage.copied().unwrap_or(Stage::Fork), source: io::Error::from_raw_os_error(number & 0xffff) }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::pidfd::Exit;

    #[test]
    fn a_stage_and_its_errno_survive_the_way_out_of_the_child() {
        for stage in [Stage::Session, Stage::Cgroup, Stage::Uid, Stage::Execute] {
            let sent = encode(stage, &io::Error::from_raw_os_error(libc::EACCES));
            let got = decode(sent);
            assert_eq!((got.stage, got.source.raw_os_error()), (stage, Some(libc::EACCES)));
        }
    }

    #[test]
    fn an_errno_of_the_fork_itself_is_left_as_it_is() {
        let got = decode(io::Error::from_raw_os_error(libc::EAGAIN));
        assert_eq!((got.stage, got.source.raw_os_error()), (Stage::Fork, Some(libc::EAGAIN)));
    }

    fn launch(argv: &[&str]) -> (Launch, io::PipeReader) {
        let argv: Vec<CString> = argv.iter().map(|word| CString::new(*word).unwrap()).collect();
        let (reader, writer) = io::pipe().unwrap();
        let launch = Launch {
            programs: argv[..1].to_vec(),
            argv,
            env: Vec::new(),
            directories: vec![c"/".into()],
            credentials: None,
            cgroup_procs: None,
            stdin: None,
            stdout: writer.try_clone().unwrap().into(),
            stderr: writer.into(),
            controlling_terminal: false,
        };
        (launch, reader)
    }

    #[test]
    fn ignored_and_blocked_signals_are_not_inherited_even_those_that_libc_hides() {
        // 33 is a real-time signal that glibc and musl keep to themselves; they would refuse to touch it.
        let ignore = [libc::SIG_IGN as u64, 0, 0, 0];
        let default = [0_u64; 4];
        let set = |action: &[u64; 4]| {
            // SAFETY: the kernel's struct sigaction has this size; ignoring and defaulting run no code of ours.
            let done =
                unsafe { libc::syscall(libc::SYS_rt_sigaction, 33, action.as_ptr(), std::ptr::null::<u64>(), 8_usize) };
            assert_eq!(done, 0);
        };
        let mut blocked = nix::sys::signal::SigSet::empty();
        blocked.add(nix::sys::signal::Signal::SIGUSR1);
        blocked.thread_block().unwrap();
        set(&ignore);
        let (launch, mut reader) = launch(&["/bin/cat", "/proc/self/status"]);
        let child = launch.spawn();
        set(&default);
        blocked.thread_unblock().unwrap();
        let mut status = String::new();
        io::Read::read_to_string(&mut reader, &mut status).unwrap();
        assert_eq!(child.unwrap().wait().unwrap(), Exit::Code(0));
        for line in ["SigBlk:\t0000000000000000", "SigIgn:\t0000000000000000"] {
            assert!(status.lines().any(|found| found == line), "{status}");
        }
    }

    #[test]
    fn descriptors_that_were_left_open_by_whoever_started_us_are_closed() {
        let (inherited, _writer) = io::pipe().unwrap();
        // SAFETY: clears close-on-exec of a descriptor that is ours.
        assert_eq!(unsafe { libc::fcntl(inherited.as_raw_fd(), libc::F_SETFD, 0) }, 0);
        let (launch, mut reader) = launch(&["/bin/ls", "/proc/self/fd"]);
        let child = launch.spawn().unwrap();
        let mut listed = String::new();
        io::Read::read_to_string(&mut reader, &mut listed).unwrap();
        assert_eq!(child.wait().unwrap(), Exit::Code(0));
        // 3 is ls's own, on that directory.
        assert_eq!(listed, "0\n1\n2\n3\n");
    }

    #[test]
    fn a_failed_start_says_where_and_why_and_leaves_no_process() {
        let (mut gone, _reader) = launch(&["/no/such/program"]);
        gone.directories = vec![c"/no/such/directory".into(), c"/".into()];
        let error = gone.spawn().unwrap_err();
        assert_eq!((error.stage, error.source.raw_os_error()), (Stage::Execute, Some(libc::ENOENT)));
        let (mut lost, mut reader) = launch(&["/bin/true"]);
        lost.directories.truncate(0);
        lost.directories.push(c"/no/such/directory".into());
        assert_eq!(lost.spawn().unwrap_err().stage, Stage::Directory);
        // Nobody has the write end any more.
        assert_eq!(io::Read::read(&mut reader, &mut [0]).unwrap(), 0);
    }
}
