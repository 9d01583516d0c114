//! A child that runs in this process's memory until it is another program, and in its cgroup from its first instant.
//!
//! `clone3(CLONE_VM | CLONE_VFORK)` is what posix_spawn(3) is made of: no page table is copied, and the parent's thread stands
//! still until the child has called execve or ended, so the child can use its stack and tell it things by plain memory.
//! CLONE_INTO_CGROUP spares the write to `cgroup.procs`, which takes a lock over all processes of the machine and waits for an
//! RCU grace period: it took 14 ms in one case of ten (measured on Linux 6.18). CLONE_PIDFD hands out the handle with the child.
//!
//! Linux 5.7 has all of it. Where clone3 or its cgroup is unknown (an older kernel, a seccomp filter), clone does the same with
//! the join left to the child.

#![expect(unsafe_code, reason = "a child on our own stack needs the system call and the jump out of it in one piece")]

use std::arch::asm;
use std::ffi::c_void;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use super::Birth;

/// What the child does. It runs with all signals blocked, on the stack and in the memory of a thread that stands still.
pub(super) type Body = unsafe extern "C" fn(*mut c_void) -> !;

/// A child, which is another program by now or has ended.
#[derive(Debug)]
pub(super) struct Born {
    pub(super) pid: i32,
    /// Close-on-exec.
    pub(super) pidfd: OwnedFd,
}

/// From linux/sched.h; libc's has too narrow a type.
const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;

/// From linux/sched.h, Linux 5.5: all handlers that are not ignored are default in the child.
const CLONE_CLEAR_SIGHAND: u64 = 0x1_0000_0000;

const FLAGS: libc::c_int = libc::CLONE_VM | libc::CLONE_VFORK | libc::CLONE_PIDFD;

/// Makes a child in this cgroup, or in ours, by clone3(2), with default handlers for all signals that are not ignored. Returns when the child runs another program or has ended.
///
/// # Errors
/// `ENOSYS`, `E2BIG` and `EINVAL` where the kernel does not know it; `EAGAIN` and `ENOMEM` where there is no room for a process;
/// `EACCES`, `EBUSY`, `ENODEV` and `EOPNOTSUPP` where the cgroup takes none.
///
/// # Safety
/// `body` never returns or unwinds, calls only what is async-signal-safe, and leaves alone what other threads own; `argument` is
/// what it takes.
pub(super) unsafe fn vfork(
    cgroup: Option<BorrowedFd<'_>>,
    body: Body,
    argument: *mut c_void,
    birth: &Birth,
) -> io::Result<Born> {
    // SAFETY: plain integers, for which zeroes are a value.
    let mut request: libc::clone_args = unsafe { std::mem::zeroed() };
    request.flags = FLAGS as u64 | CLONE_CLEAR_SIGHAND;
    request.pidfd = birth.pidfd.as_ptr() as u64;
    request.exit_signal = libc::SIGCHLD as u64;
    if let Some(cgroup) = cgroup {
        request.flags |= CLONE_INTO_CGROUP;
        request.cgroup = cgroup.as_raw_fd() as u64;
    }
    let call = [(&raw const request) as usize, size_of::<libc::clone_args>(), 0, 0, 0];
    // SAFETY: the request is of the size that is given, without a stack, which is ours for CLONE_VFORK's sake; the rest is the
    // caller's promise.
    unsafe { begin(libc::SYS_clone3, call, body, argument, birth) }
}

/// The same by clone(2), in our own cgroup and with our handlers.
///
/// # Errors
/// `EAGAIN` and `ENOMEM` where there is no room for a process; `EINVAL` before Linux 5.2.
///
/// # Safety
/// As for [`vfork`].
pub(super) unsafe fn old_vfork(body: Body, argument: *mut c_void, birth: &Birth) -> io::Result<Born> {
    // With CLONE_PIDFD the third argument, which is the parent's thread id else, is where the handle goes. The two after it, in
    // an order of each architecture's own, are unused.
    let call = [(FLAGS | libc::SIGCHLD) as usize, 0, birth.pidfd.as_ptr() as usize, 0, 0];
    // SAFETY: no stack is ours again; the rest is the caller's promise.
    unsafe { begin(libc::SYS_clone, call, body, argument, birth) }
}

/// Makes a child with memory of its own in this cgroup, or in ours. 0 in the child, which has default handlers; its pid in the parent.
///
/// # Errors
/// As for [`vfork`].
pub(super) fn fork(cgroup: Option<BorrowedFd<'_>>) -> io::Result<i32> {
    // SAFETY: plain integers, for which zeroes are a value.
    let mut request: libc::clone_args = unsafe { std::mem::zeroed() };
    request.exit_signal = libc::SIGCHLD as u64;
    if let Some(cgroup) = cgroup {
        request.flags = CLONE_INTO_CGROUP;
        request.cgroup = cgroup.as_raw_fd() as u64;
    }
    // SAFETY: the request is of the size that is given. Without CLONE_VM all of our memory, this stack too, is the child's in a copy.
    let pid = unsafe { libc::syscall(libc::SYS_clone3, &raw const request, size_of::<libc::clone_args>()) };
    match i32::try_from(pid) {
        Ok(pid) if pid >= 0 => Ok(pid),
        _ if cgroup.is_none() => plain_fork(),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Before Linux 5.3.
fn plain_fork() -> io::Result<i32> {
    // SAFETY: no arguments.
    match unsafe { libc::fork() } {
        -1 => Err(io::Error::last_os_error()),
        pid => Ok(pid),
    }
}

/// # Safety
/// The call is one that makes a child on our stack, with CLONE_VFORK; and as for [`vfork`].
unsafe fn begin(
    number: libc::c_long,
    call: [usize; 5],
    body: Body,
    argument: *mut c_void,
    birth: &Birth,
) -> io::Result<Born> {
    // A handler of ours must not run in the child, which has our memory; what is pending is for us.
    let blocked = block_signals();
    birth.expect();
    // SAFETY: the caller's promise.
    let result = unsafe { call_and_part(number, call, body, argument) };
    restore_signals(blocked);
    birth.over();
    if result < 0 {
        return Err(io::Error::from_raw_os_error(i32::try_from(-result).unwrap_or(libc::EINVAL)));
    }
    let fd = birth.pidfd();
    // SAFETY: the kernel just made this descriptor for us, and nothing else owns it.
    Ok(Born { pid: i32::try_from(result).map_err(io::Error::other)?, pidfd: unsafe { OwnedFd::from_raw_fd(fd) } })
}

/// The call; in the child, on to the body. What the child puts on the stack is below all that is ours.
///
/// # Safety
/// As for [`begin`].
#[cfg(target_arch = "x86_64")]
unsafe fn call_and_part(number: libc::c_long, call: [usize; 5], body: Body, argument: *mut c_void) -> isize {
    let result: isize;
    // SAFETY: the kernel keeps all registers but rax, rcx and r11. The child changes registers of its own only, and its stack
    // starts below ours, red zone and all (no `nostack`), aligned as the ABI has it at a call.
    unsafe {
        asm!(
            "syscall",
            "test rax, rax",
            "jnz 2f",
            "and rsp, -16",
            "mov rdi, {argument}",
            "call {body}",
            "ud2",
            "2:",
            argument = in(reg) argument,
            body = in(reg) body,
            inlateout("rax") number as isize => result,
            in("rdi") call[0],
            in("rsi") call[1],
            in("rdx") call[2],
            in("r10") call[3],
            in("r8") call[4],
            out("rcx") _,
            out("r11") _,
        );
    }
    result
}

/// The call; in the child, on to the body. What the child puts on the stack is below all that is ours.
///
/// # Safety
/// As for [`begin`].
#[cfg(target_arch = "aarch64")]
unsafe fn call_and_part(number: libc::c_long, call: [usize; 5], body: Body, argument: *mut c_void) -> isize {
    let result: isize;
    // SAFETY: the kernel keeps all registers but x0. The child changes registers of its own only, and its stack starts below
    // ours; the stack pointer is always aligned.
    unsafe {
        asm!(
            "svc #0",
            "cbnz x0, 2f",
            "mov x0, {argument}",
            "blr {body}",
            "brk #1",
            "2:",
            argument = in(reg) argument,
            body = in(reg) body,
            in("x8") number,
            inlateout("x0") call[0] as isize => result,
            in("x1") call[1],
            in("x2") call[2],
            in("x3") call[3],
            in("x4") call[4],
        );
    }
    result
}

/// All of them, also those that libc keeps to itself: its wrappers would leave these out. Returns what was blocked before.
fn block_signals() -> u64 {
    let (all, mut before) = (u64::MAX, 0_u64);
    // SAFETY: masks of 8 bytes, as the last argument says.
    unsafe { libc::syscall(libc::SYS_rt_sigprocmask, libc::SIG_SETMASK, &raw const all, &raw mut before, 8_usize) };
    before
}

fn restore_signals(blocked: u64) {
    let nowhere = std::ptr::null_mut::<u64>();
    // SAFETY: a mask of 8 bytes, as the last argument says.
    unsafe { libc::syscall(libc::SYS_rt_sigprocmask, libc::SIG_SETMASK, &raw const blocked, nowhere, 8_usize) };
}
