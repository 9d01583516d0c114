//! What the child does before it is another program: only async-signal-safe calls, on what its parent has made ready.
//!
//! It has its parent's memory (see `vfork`), where it leaves a note if it fails, but descriptors, signal handlers, limits and
//! credentials of its own.

#![expect(
    unsafe_code,
    reason = "raw system calls; libc's wrappers take locks or tell the parent's other threads, which are none of the child's"
)]

use std::convert::Infallible;
use std::ffi::{CString, c_char, c_void};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};

use super::{Allowance, Credentials, Inherited, Launch, Stage, check};

/// Open files that a command may have, softly: what login sessions and systemd units get. More breaks programs that use
/// select(2); who needs more raises it up to the hard limit, which is left as it is.
const SOFT_OPEN_FILES: libc::rlim_t = 1024;

/// All that the child needs, ready before it is there.
pub(super) struct Child<'a> {
    launch: &'a Launch,
    argv: Vec<*const c_char>,
    env: Vec<*const c_char>,
    /// A `cgroup.procs` to join, where it was not born into its cgroup.
    cgroup_procs: Option<&'a OwnedFd>,
    /// Those that are not default; bit n - 1 stands for signal n.
    reset_signals: u64,
    reset_oom_score: bool,
    allowance: Allowance,
    credentials: Option<&'a Credentials>,
    /// What went wrong; none: it is another program.
    failure: Option<(Stage, io::Error)>,
}

/// What execve(2) wants: the strings' addresses, and a null. They hold for as long as the strings are not changed.
fn pointers(strings: &[CString]) -> Vec<*const c_char> {
    strings.iter().map(|string| string.as_ptr()).chain([std::ptr::null()]).collect()
}

impl<'a> Child<'a> {
    /// One whose handlers are default from its birth.
    pub(super) fn new(launch: &'a Launch, inherited: &'a Inherited) -> Self {
        Self {
            launch,
            argv: pointers(&launch.argv),
            env: pointers(&launch.env),
            cgroup_procs: None,
            reset_signals: inherited.ignored,
            reset_oom_score: inherited.has_oom_score(),
            allowance: Allowance::default(),
            credentials: launch.credentials.as_ref().filter(|wanted| inherited.credentials.as_ref() != Some(*wanted)),
            failure: None,
        }
    }

    /// One that has our handlers at its birth and is not in its cgroup.
    pub(super) fn old(launch: &'a Launch, inherited: &'a Inherited, cgroup_procs: Option<&'a OwnedFd>) -> Self {
        // A handler must not run in the child, which has our memory.
        Self { cgroup_procs, reset_signals: u64::MAX, ..Self::new(launch, inherited) }
    }

    /// One that has memory of its own.
    pub(super) fn forked(
        launch: &'a Launch,
        inherited: &'a Inherited,
        cgroup_procs: Option<&'a OwnedFd>,
        allowance: Allowance,
    ) -> Self {
        Self { cgroup_procs, allowance, reset_signals: u64::MAX, ..Self::new(launch, inherited) }
    }

    /// Becomes another program, or says why not.
    pub(super) fn fail_to_become(&self) -> (Stage, io::Error) {
        let Err(failure) = self.try_become();
        failure
    }

    /// What it has left behind.
    pub(super) fn into_failure(self) -> Option<(Stage, io::Error)> {
        self.failure
    }

    /// The child, from its first instruction to its last of ours.
    ///
    /// # Safety
    /// To be run in a child that `vfork` made, with a `Child` that its parent does not touch meanwhile.
    pub(super) unsafe extern "C" fn run(child: *mut c_void) -> ! {
        // SAFETY: the caller's promise.
        let child = unsafe { &mut *child.cast::<Self>() };
        if child.launch.birth.begin() {
            let Err(failure) = child.try_become();
            child.failure = Some(failure);
        }
        // SAFETY: ends this process only, with none of the parent's exit handlers run.
        unsafe { libc::_exit(127) }
    }

    fn try_become(&self) -> Result<Infallible, (Stage, io::Error)> {
        let at = |stage| move |source| (stage, source);
        self.take_streams().map_err(at(Stage::Streams))?;
        // SAFETY: no arguments.
        check(unsafe { libc::setsid() }.into()).map_err(at(Stage::Session))?;
        if self.launch.controlling_terminal {
            // SAFETY: integers only; 0 asks for nobody's terminal to be stolen.
            check(unsafe { libc::ioctl(libc::STDIN_FILENO, libc::TIOCSCTTY, 0) }.into())
                .map_err(at(Stage::Terminal))?;
        }
        default_signals(self.reset_signals);
        default_priority(self.reset_oom_score, self.allowance.oom_score);
        // SAFETY: an integer argument only.
        unsafe { libc::umask(0o022) };
        limit_open_files(self.allowance.open_files).map_err(at(Stage::Limits))?;
        if let Some(procs) = self.cgroup_procs {
            // SAFETY: one readable byte; 0 stands for the writer itself.
            check(unsafe { libc::write(procs.as_raw_fd(), c"0".as_ptr().cast(), 1) } as libc::c_long)
                .map_err(at(Stage::Cgroup))?;
        }
        if let Some(credentials) = self.credentials {
            become_user(credentials)?;
        }
        self.enter_directory().map_err(at(Stage::Directory))?;
        close_on_exec_from(3);
        Err((Stage::Execute, self.execute()))
    }

    /// Puts the streams where every program looks for them. All come from above standard error.
    fn take_streams(&self) -> io::Result<()> {
        let Launch { stdin, stdout, stderr, .. } = self.launch;
        let stdin = match stdin {
            Some(stdin) => stdin.as_raw_fd(),
            None => open_null()?,
        };
        for (from, to) in [(stdin, 0), (stdout.as_raw_fd(), 1), (stderr.as_raw_fd(), 2)] {
            // SAFETY: integers only; the numbers are this process's own.
            check(unsafe { libc::dup2(from, to) }.into())?;
        }
        Ok(())
    }

    fn enter_directory(&self) -> io::Result<()> {
        let mut failure = None;
        for directory in &self.launch.directories {
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
        for program in &self.launch.programs {
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

/// Closed with the execve.
fn open_null() -> io::Result<RawFd> {
    // SAFETY: a valid C string.
    let null = unsafe { libc::open(c"/dev/null".as_ptr(), libc::O_RDONLY | libc::O_CLOEXEC) };
    check(null.into())?;
    Ok(null)
}

/// These signals default, which the execve makes of all that are not ignored, and nothing blocked. The raw calls, because libc
/// keeps some real-time signals to itself and would leave those ignored if this process inherited them so.
fn default_signals(ignored: u64) {
    // struct sigaction of the 64-bit kernels: SIG_DFL, no flags, no restorer, empty mask. All zero, as the mask below.
    let default = [0_u64; 4];
    let empty = 0_u64;
    for signal in (1..=64).filter(|signal| ignored & 1 << (signal - 1) != 0) {
        // SAFETY: default is as large as the kernel's struct, and a null old action is allowed.
        unsafe { libc::syscall(libc::SYS_rt_sigaction, signal, default.as_ptr(), std::ptr::null::<u64>(), 8_usize) };
    }
    // SAFETY: an 8 byte mask, as the last argument says.
    unsafe {
        libc::syscall(libc::SYS_rt_sigprocmask, libc::SIG_SETMASK, &raw const empty, std::ptr::null::<u64>(), 8_usize)
    };
}

/// Ordinary niceness and OOM score, or the one that is wanted. Best effort: where they cannot be had (no /proc, no privilege), running is
/// still better.
fn default_priority(reset: bool, wanted: Option<i32>) {
    // SAFETY: integers only.
    unsafe { libc::syscall(libc::SYS_setpriority, libc::PRIO_PROCESS as libc::c_long, 0, 0) };
    if !reset && wanted.is_none() {
        return;
    }
    let mut digits = [0; 8];
    let score = decimal(wanted.unwrap_or(0), &mut digits);
    // SAFETY: a C string, integers, and readable bytes.
    unsafe {
        let file = libc::open(c"/proc/self/oom_score_adj".as_ptr(), libc::O_WRONLY | libc::O_CLOEXEC);
        if file >= 0 {
            libc::write(file, score.as_ptr().cast(), score.len());
            libc::close(file);
        }
    }
}

/// A number of at most six digits as text, with nothing allocated.
fn decimal(number: i32, digits: &mut [u8; 8]) -> &[u8] {
    let mut left = number.unsigned_abs() % 1_000_000;
    let mut at = digits.len();
    while at == digits.len() || left > 0 {
        at -= 1;
        digits[at] = b'0' + (left % 10) as u8;
        left /= 10;
    }
    if number < 0 {
        at -= 1;
        digits[at] = b'-';
    }
    &digits[at..]
}

/// How many files it may have open: as many as are wanted, or the usual soft limit. Where the limit may not be raised so far, as in a container, it
/// has as many as its parent may have: nobody is kept from running for that.
fn limit_open_files(wanted: Option<u64>) -> io::Result<()> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the structs are ours for all calls.
    unsafe {
        check(libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit).into())?;
        let most = limit.rlim_max;
        match wanted {
            Some(wanted) => limit = libc::rlimit { rlim_cur: wanted, rlim_max: wanted },
            None => limit.rlim_cur = SOFT_OPEN_FILES.min(most),
        }
        let set = check(libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit).into());
        if set.as_ref().is_err_and(|error| error.raw_os_error() == Some(libc::EPERM)) {
            limit = libc::rlimit { rlim_cur: most, rlim_max: most };
            return check(libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit).into());
        }
        set
    }
}

/// Groups first, while there is still the right to. The raw calls: libc's would tell the parent's other threads. On the 64-bit
/// architectures these are the calls with 32-bit ids. A change of user makes our shared memory not dumpable (commit_creds in the
/// kernel), so that nobody of that user can look into it through the child.
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
/// closed, because what is to be run may be named by one of them.
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_score_is_written_as_it_is_read() {
        for number in [0, 7, -900, 1000, -1000] {
            assert_eq!(decimal(number, &mut [0; 8]), number.to_string().as_bytes());
        }
    }
}
