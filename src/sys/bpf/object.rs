//! bpf(2), which makes maps, programs and links, each a descriptor, and why it does not.
//!
//! Before Linux 5.11 maps and programs count as locked memory, of which the usual limit allows too little: where the kernel
//! refuses one with EPERM, the limit is lifted for a second try and then put back.

#![expect(unsafe_code, reason = "bpf(2) has no wrapper among our crates")]

use std::{
    io,
    os::fd::{FromRawFd, OwnedFd, RawFd},
};

use nix::sys::resource::{RLIM_INFINITY, Resource, getrlimit, setrlimit};

/// What programs and maps are called in `bpftool prog`: BPF_OBJ_NAME_LEN with its end.
pub(super) const NAME_BYTES: usize = 16;

/// What the kernel did not make.
#[derive(Debug, thiserror::Error)]
pub enum BpfError {
    /// No map.
    #[error("making the BPF map {name} failed: {source}{}", hint(.source))]
    Map {
        /// Its name.
        name: &'static str,
        /// Why.
        source: io::Error,
    },
    /// The verifier, or the kernel before it, refused the program.
    #[error("loading the BPF program {name} failed: {source}{}{}", hint(.source), verdict(.log))]
    Load {
        /// Its name.
        name: &'static str,
        /// Why.
        source: io::Error,
        /// The end of what the verifier says; often empty.
        log: String,
    },
    /// It could not be attached.
    #[error("attaching the BPF program {name} failed: {source}{}", hint(.source))]
    Attach {
        /// Its name.
        name: &'static str,
        /// Why.
        source: io::Error,
    },
    /// It could not be put together.
    #[error("a BPF program of guestd's is wrong: {0}")]
    Assembly(#[from] super::AssemblyError),
}

fn hint(error: &io::Error) -> &'static str {
    match error.raw_os_error() {
        Some(libc::ENOSYS) => "; the kernel was built without CONFIG_BPF_SYSCALL",
        Some(libc::EPERM) => "; it takes CAP_BPF and CAP_NET_ADMIN (before Linux 5.8 CAP_SYS_ADMIN)",
        Some(libc::EINVAL) => "; it takes Linux 5.8 with CONFIG_CGROUP_BPF and CONFIG_INET",
        _ => "",
    }
}

fn verdict(log: &str) -> String {
    if log.is_empty() { String::new() } else { format!("; the verifier says: {log}") }
}

/// bpf(2). What it returns is 0, or a new descriptor for a command that makes something.
///
/// # Safety
/// `A` is the beginning of `union bpf_attr` for this command, and every address in it is valid for the length that goes with it
/// and for what the kernel does there.
pub(super) unsafe fn bpf<A>(command: libc::c_int, attributes: &mut A) -> io::Result<RawFd> {
    // SAFETY: the kernel reads `size_of::<A>()` bytes from there, and what it points to by the caller's promise; some commands
    // write their answer there.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, std::ptr::from_mut(attributes), size_of::<A>()) };
    RawFd::try_from(result).ok().filter(|result| *result >= 0).ok_or_else(io::Error::last_os_error)
}

/// Makes an object. Its descriptor is close-on-exec.
///
/// # Safety
/// As of [`bpf`], with a command that returns a new descriptor.
pub(super) unsafe fn make<A>(command: libc::c_int, attributes: &mut A) -> io::Result<OwnedFd> {
    // SAFETY: the caller's promise; a new descriptor, which nobody else knows.
    unsafe { bpf(command, attributes).map(|descriptor| OwnedFd::from_raw_fd(descriptor)) }
}

/// Tries again with as much locked memory as is wanted, if there was not enough.
pub(super) fn with_locked_memory<T>(mut make: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    match make() {
        Err(error) if error.raw_os_error() == Some(libc::EPERM) => {
            let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_MEMLOCK) else { return Err(error) };
            if soft == RLIM_INFINITY || setrlimit(Resource::RLIMIT_MEMLOCK, RLIM_INFINITY, RLIM_INFINITY).is_err() {
                return Err(error);
            }
            let made = make();
            // What execs inherit is what the agent was given.
            let _ = setrlimit(Resource::RLIMIT_MEMLOCK, soft, hard);
            made
        }
        other => other,
    }
}

/// A name as the kernel takes it, cut if it is too long.
pub(super) fn name(text: &str) -> [u8; NAME_BYTES] {
    let mut name = [0; NAME_BYTES];
    let length = text.len().min(NAME_BYTES - 1);
    name[..length].copy_from_slice(&text.as_bytes()[..length]);
    name
}
