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
mod inherited;
mod vfork;

pub use birth::Birth;
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

#[cfg(test)]
mod tests {
    use std::alloc::{GlobalAlloc, Layout, System};
    use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

    use super::*;
    use crate::sys::pidfd::Exit;

    fn launch(argv: &[&str]) -> (Launch, io::PipeReader) {
        let argv: Vec<CString> = argv.iter().map(|word| CString::new(*word).unwrap()).collect();
        let (reader, writer) = io::pipe().unwrap();
        let launch = Launch {
            programs: argv[..1].to_vec(),
            argv,
            env: Vec::new(),
            directories: vec![c"/".into()],
            credentials: None,
            stdin: None,
            stdout: writer.try_clone().unwrap().into(),
            stderr: writer.into(),
            controlling_terminal: false,
            birth: Arc::default(),
        };
        (launch, reader)
    }

    /// And lets our copies of its streams go.
    fn run(mut launch: Launch) -> Result<Pidfd, LaunchError> {
        launch.spawn(&Inherited::look(), None)
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
        let child = run(launch);
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
        let child = run(launch).unwrap();
        let mut listed = String::new();
        io::Read::read_to_string(&mut reader, &mut listed).unwrap();
        assert_eq!(child.wait().unwrap(), Exit::Code(0));
        // 3 is ls's own, on that directory.
        assert_eq!(listed, "0\n1\n2\n3\n");
    }

    #[test]
    fn a_child_is_in_its_cgroup_and_its_parent_survives_it_in_the_new_way_and_the_old() {
        let parent = crate::sys::cgroup::CgroupParent::detect().unwrap();
        let cgroup = parent.create(&format!("guestd-launch-{}", std::process::id())).unwrap();
        let name = cgroup.path().file_name().unwrap().to_str().unwrap();
        let inherited = Inherited::look();
        for old in [false, true] {
            let (mut launch, mut reader) = launch(&["/bin/cat", "/proc/self/cgroup"]);
            let child = if old {
                launch.spawn_in_old_ways(&inherited, Some(&cgroup))
            } else {
                launch.spawn(&inherited, Some(&cgroup))
            };
            assert_eq!(child.unwrap().wait().unwrap(), Exit::Code(0));
            let mut membership = vec![0; 4096];
            let count = io::Read::read(&mut reader, &mut membership).unwrap();
            let membership = str::from_utf8(&membership[..count]).unwrap();
            assert!(membership.lines().any(|line| line.starts_with("0::") && line.ends_with(name)), "{membership}");
        }
        cgroup.remove().unwrap();
    }

    #[test]
    fn many_threads_start_children_at_once_and_each_gets_its_own() {
        std::thread::scope(|scope| {
            for thread in 0..8 {
                scope.spawn(move || {
                    for round in 0..25 {
                        let word = format!("{thread}-{round}");
                        let (launch, mut reader) = launch(&["/bin/echo", &word]);
                        assert_eq!(run(launch).unwrap().wait().unwrap(), Exit::Code(0));
                        let mut said = String::new();
                        io::Read::read_to_string(&mut reader, &mut said).unwrap();
                        assert_eq!(said.trim_end(), word);
                    }
                });
            }
        });
    }

    /// The system's allocator, which counts what children ask of it that have our memory.
    struct Watched;

    /// Our pid while children are watched, else 0.
    static WATCHED: AtomicU32 = AtomicU32::new(0);
    static ASKED_BY_CHILDREN: AtomicU32 = AtomicU32::new(0);

    fn note() {
        let us = WATCHED.load(Relaxed);
        if us != 0 && us != std::process::id() {
            ASKED_BY_CHILDREN.fetch_add(1, Relaxed);
        }
    }

    // SAFETY: all is left to the system's.
    unsafe impl GlobalAlloc for Watched {
        unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
            note();
            // SAFETY: the caller's promise.
            unsafe { System.alloc(layout) }
        }

        unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
            note();
            // SAFETY: the caller's promise.
            unsafe { System.dealloc(pointer, layout) }
        }
    }

    #[global_allocator]
    static ALLOCATOR: Watched = Watched;

    #[test]
    fn a_child_allocates_nothing_before_it_is_another_program() {
        let inherited = Inherited { oom_score: None, credentials: None, ..Inherited::look() };
        let us = Credentials { uid: effective_ids().0, gid: effective_ids().1, groups: Vec::new() };
        for old in [false, true] {
            for programs in [vec![c"/bin/true".into()], vec![c"/no/such/program".into(), c"/bin".into()]] {
                let (mut launch, _reader) = launch(&["/bin/true"]);
                launch.programs = programs;
                launch.directories.insert(0, c"/no/such/directory".into());
                launch.credentials = Some(us.clone());
                WATCHED.store(std::process::id(), Relaxed);
                let child =
                    if old { launch.spawn_in_old_ways(&inherited, None) } else { launch.spawn(&inherited, None) };
                WATCHED.store(0, Relaxed);
                if let Ok(child) = child {
                    child.wait().unwrap();
                }
            }
        }
        assert_eq!(ASKED_BY_CHILDREN.load(Relaxed), 0);
    }

    /// From asm-generic/fcntl.h.
    const F_SETOWN_EX: libc::c_int = 15;

    /// A start that stands still until somebody else goes on: a script whose file is held by a lease, which execve waits for.
    #[test]
    fn a_start_that_stands_still_is_ended_from_outside_and_leaves_no_process() {
        let directory = tempfile::tempdir().unwrap();
        let script = directory.path().join("script");
        std::fs::write(&script, "#!/bin/true\n").unwrap();
        std::fs::set_permissions(&script, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        let script = script.to_str().unwrap();
        let (held, mut reader) = launch(&[script]);
        let birth = Arc::clone(&held.birth);
        let holder = std::fs::File::options().write(true).open(script).unwrap();
        // The kernel tells of who waits by SIGIO, which would end us, and to any thread if it is not told which.
        // SAFETY: the struct f_owner_ex of fcntl(2), F_OWNER_TID and the thread; else integers.
        let owned = unsafe { libc::fcntl(holder.as_raw_fd(), F_SETOWN_EX, [0, libc::gettid()].as_ptr()) };
        assert_eq!(owned, 0);
        let mut waits = nix::sys::signal::SigSet::empty();
        waits.add(nix::sys::signal::Signal::SIGIO);
        waits.thread_block().unwrap();
        // SAFETY: integers only.
        assert_eq!(unsafe { libc::fcntl(holder.as_raw_fd(), libc::F_SETLEASE, libc::F_WRLCK) }, 0);
        let start = std::thread::spawn(move || run(held));
        waits.wait().unwrap();
        assert!(birth.end_after(std::time::Duration::from_secs(3600)).is_some());
        birth.end();
        assert_eq!(start.join().unwrap().unwrap_err().stage, Stage::Birth);
        drop(holder);
        assert_eq!(io::Read::read(&mut reader, &mut [0]).unwrap(), 0, "nobody has the write end any more");
        let (mut next, _reader) = launch(&["/bin/true"]);
        next.birth = birth;
        assert_eq!(run(next).unwrap_err().stage, Stage::Birth);
    }

    #[test]
    fn a_failed_start_says_where_and_why_and_leaves_no_process() {
        let (mut gone, _reader) = launch(&["/no/such/program"]);
        gone.directories = vec![c"/no/such/directory".into(), c"/".into()];
        let error = run(gone).unwrap_err();
        assert_eq!((error.stage, error.source.raw_os_error()), (Stage::Execute, Some(libc::ENOENT)));
        let (mut lost, mut reader) = launch(&["/bin/true"]);
        lost.directories.truncate(0);
        lost.directories.push(c"/no/such/directory".into());
        assert_eq!(run(lost).unwrap_err().stage, Stage::Directory);
        // Nobody has the write end any more.
        assert_eq!(io::Read::read(&mut reader, &mut [0]).unwrap(), 0);
    }
}
