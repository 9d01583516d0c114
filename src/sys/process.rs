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

use std::ffi::{CString, c_char};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};

use super::pidfd::Pidfd;

/// Open files that a command may have, softly: what login sessions and systemd units get. More breaks programs that use
/// select(2); who needs more raises it up to the hard limit, which is left as it is.
const SOFT_OPEN_FILES: libc::rlim_t = 1024;

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
}

/// What was being done when a start failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// Making the process.
    Fork,
    /// A session of its own.
    Session,
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
        let Self { programs, argv, env, directories, credentials, cgroup_procs, stdin, stdout, stderr } = self;
        // The name is only what std would run, were the closure ever to return success.
        let name = programs.first().ok_or_else(|| fork(io::ErrorKind::InvalidInput.into()))?;
        let mut command = Command::new(std::ffi::OsStr::from_bytes(name.to_bytes()));
        command.stdin(stdin.map_or_else(Stdio::null, Stdio::from)).stdout(stdout).stderr(stderr);
        let child = Child {
            argv: Pointers::to(argv),
            env: Pointers::to(env),
            programs,
            directories,
            credentials,
            cgroup_procs,
        };
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

/// Strings with the null-terminated array of pointers to them that execve wants, made before the fork.
struct Pointers {
    pointers: Vec<*const c_char>,
    _strings: Vec<CString>,
}

// SAFETY: the pointers lead into strings that the same value owns and never changes; a CString's bytes do not move with it.
unsafe impl Send for Pointers {}
// SAFETY: as above; shared use only reads.
unsafe impl Sync for Pointers {}

impl Pointers {
    fn to(strings: Vec<CString>) -> Self {
        let pointers = strings.iter().map(|s| s.as_ptr()).chain([std::ptr::null()]).collect();
        Self { pointers, _strings: strings }
    }

    fn as_ptr(&self) -> *const *const c_char {
        self.pointers.as_ptr()
    }
}

/// All that the forked child needs, ready before the fork.
struct Child {
    programs: Vec<CString>,
    argv: Pointers,
    env: Pointers,
    directories: Vec<CString>,
    credentials: Option<Credentials>,
    cgroup_procs: Option<OwnedFd>,
}

impl Child {
    /// Runs in the forked child; returns only on failure.
    fn become_program(&self) -> io::Error {
        match self.try_become() {
            Ok(never) => match never {},
            Err((stage, source)) => encode(stage, &source),
        }
    }

    fn try_become(&self) -> Result<std::convert::Infallible, (Stage, io::Error)> {
        let at = |stage| move |source| (stage, source);
        // SAFETY: no arguments.
        check(unsafe { libc::setsid() }.into()).map_err(at(Stage::Session))?;
        default_signals();
        default_priority();
        // SAFETY: an integer argument only.
        unsafe { libc::umask(0o022) };
        default_open_files().map_err(at(Stage::Limits))?;
        if let Some(procs) = &self.cgroup_procs {
            // SAFETY: one readable byte; 0 stands for the writer itself.
            check(unsafe { libc::write(procs.as_raw_fd(), c"0".as_ptr().cast(), 1) } as libc::c_long)
                .map_err(at(Stage::Cgroup))?;
        }
        if let Some(credentials) = &self.credentials {
            become_user(credentials)?;
        }
        self.enter_directory().map_err(at(Stage::Directory))?;
        close_on_exec_from(3);
        Err((Stage::Execute, self.execute()))
    }

    fn enter_directory(&self) -> io::Result<()> {
        let mut failure = None;
        for directory in &self.directories {
            // SAFETY: a valid C string.
            match check(unsafe { libc::chdir(directory.as_ptr()) }.into()) {
                Ok(()) => return Ok(()),
                Err(error) => failure = failure.or(Some(error)),
            }
        }
        failure.map_or(Ok(()), Err)
    }

    /// execvp(3) without its shell: on to the next path where there is nothing or no permission, and permission is what is
    /// reported in the end.
    fn execute(&self) -> io::Error {
        let mut result = libc::ENOENT;
        for program in &self.programs {
            // SAFETY: C strings and null-terminated arrays of C strings, alive until the program is replaced.
            unsafe { libc::execve(program.as_ptr(), self.argv.as_ptr(), self.env.as_ptr()) };
            let error = io::Error::last_os_error();
            match error.raw_os_error() {
                Some(libc::ENOENT | libc::ENOTDIR) => {}
                Some(libc::EACCES) => result = libc::EACCES,
                _ => return error,
            }
        }
        io::Error::from_raw_os_error(result)
    }
}

/// All handlers default, nothing blocked. The raw calls, because libc keeps some real-time signals to itself and would leave
/// those ignored if this process inherited them so. SIGKILL and SIGSTOP are refused, and need nothing.
fn default_signals() {
    // struct sigaction of the 64-bit kernels: SIG_DFL, no flags, no restorer, empty mask. All zero, as the mask below.
    let default = [0_u64; 4];
    let empty = 0_u64;
    for signal in 1..=64 {
        // SAFETY: default is as large as the kernel's struct, and a null old action is allowed.
        unsafe { libc::syscall(libc::SYS_rt_sigaction, signal, default.as_ptr(), std::ptr::null::<u64>(), 8_usize) };
    }
    // SAFETY: an 8 byte mask, as the last argument says.
    unsafe {
        libc::syscall(libc::SYS_rt_sigprocmask, libc::SIG_SETMASK, &raw const empty, std::ptr::null::<u64>(), 8_usize)
    };
}

/// Ordinary niceness and OOM score. Best effort: where they cannot be had (no /proc, no privilege), running is still better.
fn default_priority() {
    // SAFETY: integers, C strings and a readable byte.
    unsafe {
        libc::syscall(libc::SYS_setpriority, libc::PRIO_PROCESS as libc::c_long, 0, 0);
        let score = libc::open(c"/proc/self/oom_score_adj".as_ptr(), libc::O_WRONLY | libc::O_CLOEXEC);
        if score >= 0 {
            libc::write(score, c"0".as_ptr().cast(), 1);
            libc::close(score);
        }
    }
}

fn default_open_files() -> io::Result<()> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the struct is ours for both calls.
    unsafe {
        check(libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit).into())?;
        limit.rlim_cur = SOFT_OPEN_FILES.min(limit.rlim_max);
        check(libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit).into())
    }
}

/// Groups first, while there is still the right to. The raw calls: libc's would tell this process's other threads, which a
/// forked child has none of. On the 64-bit architectures these are the calls with 32-bit ids.
fn become_user(credentials: &Credentials) -> Result<(), (Stage, io::Error)> {
    let Credentials { uid, gid, groups } = credentials;
    // SAFETY: groups is readable for its length; else integers.
    unsafe {
        check(libc::syscall(libc::SYS_setgroups, groups.len(), groups.as_ptr())).map_err(|e| (Stage::Groups, e))?;
        check(libc::syscall(libc::SYS_setresgid, *gid, *gid, *gid)).map_err(|e| (Stage::Gid, e))?;
        check(libc::syscall(libc::SYS_setresuid, *uid, *uid, *uid)).map_err(|e| (Stage::Uid, e))
    }
}

/// Our own descriptors are all close-on-exec from birth; this is for those that whoever started us left open. Marked, not
/// closed, because std still needs its pipe to report a failure.
fn close_on_exec_from(first: libc::c_uint) {
    // SAFETY: integers only.
    let done = unsafe { libc::syscall(libc::SYS_close_range, first, libc::c_uint::MAX, libc::CLOSE_RANGE_CLOEXEC) };
    if done != 0 {
        // Before Linux 5.11. Inherited ones have low numbers.
        for fd in 3..1024 {
            // SAFETY: integers only; a number that is not open is refused.
            unsafe { libc::fcntl(fd, libc::F_SETFD, libc::FD_CLOEXEC) };
        }
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
    const STAGES: [Stage; 10] = [
        Stage::Fork,
        Stage::Session,
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
}
