//! Starts of real programs.

#![expect(unsafe_code, reason = "signals that libc hides, descriptors that are inherited, an allocator that watches")]

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
            let child = if old { launch.spawn_in_old_ways(&inherited, None) } else { launch.spawn(&inherited, None) };
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
