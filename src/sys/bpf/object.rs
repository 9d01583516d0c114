//! What bpf(2) makes: maps, programs and links, each a descriptor.
//!
//! Before Linux 5.11 maps and programs count as locked memory, of which the usual limit allows too little: where the kernel
//! refuses one with EPERM, the limit is lifted for a second try and then put back.

#![expect(unsafe_code, reason = "bpf(2) has no wrapper among our crates")]

use std::{
    ffi::CStr,
    io,
    os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd},
};

use nix::sys::resource::{RLIM_INFINITY, Resource, getrlimit, setrlimit};

use super::instruction::Instruction;
use crate::limits;

/// Commands of bpf(2).
const MAP_CREATE: libc::c_int = 0;
const PROG_LOAD: libc::c_int = 5;
const PROG_QUERY: libc::c_int = 16;
const LINK_CREATE: libc::c_int = 28;
/// BPF_MAP_TYPE_RINGBUF, Linux 5.8.
const RING_BUFFER: u32 = 27;
/// Of the verifier's log what is at its end: there it says why.
const LOG_LINES: usize = 6;
/// What programs and maps are called in `bpftool prog`: BPF_OBJ_NAME_LEN with its end.
const NAME_BYTES: usize = 16;
/// Helpers for the GPL alone are not used.
const LICENSE: &CStr = c"MIT OR Apache-2.0";

/// What the kernel did not make.
#[derive(Debug, thiserror::Error)]
pub enum BpfError {
    /// No map.
    #[error("making a BPF ring buffer of {bytes} bytes failed: {source}{}", hint(.source))]
    Map {
        /// Its size.
        bytes: u32,
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
    #[error("attaching the BPF program to a cgroup failed: {source}{}", hint(.source))]
    Attach {
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

/// The first fields of `union bpf_attr` for each command; the kernel takes those that are left out as zeros.
#[repr(C)]
#[derive(Default)]
struct MapCreate {
    map_type: u32,
    key_size: u32,
    value_size: u32,
    max_entries: u32,
    map_flags: u32,
    inner_map_fd: u32,
    numa_node: u32,
    map_name: [u8; NAME_BYTES],
}

#[repr(C)]
#[derive(Default)]
struct ProgLoad {
    prog_type: u32,
    insn_cnt: u32,
    insns: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log_buf: u64,
    kern_version: u32,
    prog_flags: u32,
    prog_name: [u8; NAME_BYTES],
    prog_ifindex: u32,
    expected_attach_type: u32,
}

#[repr(C)]
struct LinkCreate {
    prog_fd: RawFd,
    target_fd: RawFd,
    attach_type: u32,
    flags: u32,
}

#[repr(C)]
struct ProgQuery {
    target_fd: RawFd,
    attach_type: u32,
    query_flags: u32,
    attach_flags: u32,
    prog_ids: u64,
    prog_cnt: u32,
    padding: u32,
}

/// Makes an object. Its descriptor is close-on-exec.
///
/// # Safety
/// `A` is the beginning of `union bpf_attr` for this command, which must be one that returns a new descriptor, and every
/// address in it is valid for the length that goes with it.
unsafe fn bpf<A>(command: libc::c_int, attributes: &A) -> io::Result<OwnedFd> {
    // SAFETY: the kernel reads `size_of::<A>()` bytes from there, and what it points to by the caller's promise.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, std::ptr::from_ref(attributes), size_of::<A>()) };
    match RawFd::try_from(result) {
        // SAFETY: a new descriptor, which nobody else knows.
        Ok(descriptor) if descriptor >= 0 => Ok(unsafe { OwnedFd::from_raw_fd(descriptor) }),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Tries again with as much locked memory as is wanted, if there was not enough.
fn with_locked_memory<T>(mut make: impl FnMut() -> io::Result<T>) -> io::Result<T> {
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

fn name(text: &str) -> [u8; NAME_BYTES] {
    let mut name = [0; NAME_BYTES];
    let length = text.len().min(NAME_BYTES - 1);
    name[..length].copy_from_slice(&text.as_bytes()[..length]);
    name
}

/// A map.
#[derive(Debug)]
pub struct Map(OwnedFd);

impl Map {
    /// A ring buffer for at least this many bytes of records.
    ///
    /// # Errors
    /// A kernel before 5.8, or no right to it.
    pub fn ring(title: &'static str, bytes: usize) -> Result<(Self, usize), BpfError> {
        // The kernel wants a power of two and whole pages.
        let size = bytes.max(super::ring::page_size()).next_power_of_two();
        let max_entries = size as u32;
        let attributes =
            MapCreate { map_type: RING_BUFFER, max_entries, map_name: name(title), ..MapCreate::default() };
        // SAFETY: the struct is that of BPF_MAP_CREATE, with no addresses in it.
        let map = with_locked_memory(|| unsafe { bpf(MAP_CREATE, &attributes) });
        let map = map.map_err(|source| BpfError::Map { bytes: max_entries, source })?;
        Ok((Self(map), size))
    }
}

impl AsFd for Map {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Program type, attach type (`linux/bpf.h`) and the name that it has in `bpftool prog`.
#[derive(Debug, Clone, Copy)]
pub struct ProgramKind {
    program: u32,
    attach: u32,
    name: &'static str,
}

impl ProgramKind {
    /// BPF_PROG_TYPE_SOCK_OPS at BPF_CGROUP_SOCK_OPS.
    pub const fn sock_ops(name: &'static str) -> Self {
        Self { program: 13, attach: 3, name }
    }
}

/// A program that the verifier has taken.
#[derive(Debug)]
pub struct Program {
    descriptor: OwnedFd,
    kind: ProgramKind,
}

impl Program {
    /// Has the kernel verify and load a program.
    ///
    /// # Errors
    /// With the end of the verifier's log, where it is what refuses.
    pub fn load(kind: ProgramKind, instructions: &[Instruction]) -> Result<Self, BpfError> {
        let attributes = ProgLoad {
            prog_type: kind.program,
            insn_cnt: instructions.len() as u32,
            insns: instructions.as_ptr().expose_provenance() as u64,
            license: LICENSE.as_ptr().expose_provenance() as u64,
            prog_name: name(kind.name),
            expected_attach_type: kind.attach,
            ..ProgLoad::default()
        };
        // SAFETY: the struct is that of BPF_PROG_LOAD; instructions and license outlive the call.
        match with_locked_memory(|| unsafe { bpf(PROG_LOAD, &attributes) }) {
            Ok(descriptor) => Ok(Self { descriptor, kind }),
            Err(source) => Err(BpfError::Load { name: kind.name, source, log: verifier_log(attributes) }),
        }
    }

    /// Attaches it to a cgroup and all below, beside what others have attached there. `cgroup` is its directory.
    ///
    /// # Errors
    /// A kernel before 5.7, or no right to it.
    pub fn attach_to_cgroup(&self, cgroup: BorrowedFd<'_>) -> Result<CgroupLink, BpfError> {
        let attributes = LinkCreate {
            prog_fd: self.descriptor.as_raw_fd(),
            target_fd: cgroup.as_raw_fd(),
            attach_type: self.kind.attach,
            flags: 0,
        };
        // SAFETY: the struct is that of BPF_LINK_CREATE, with no addresses in it.
        unsafe { bpf(LINK_CREATE, &attributes) }.map(CgroupLink).map_err(|source| BpfError::Attach { source })
    }
}

/// The end of what the verifier has to say of a program that it refused; a second try, because writing the log costs.
fn verifier_log(mut attributes: ProgLoad) -> String {
    let mut log = vec![0; limits::BPF_LOG_BYTES];
    attributes.log_level = 1;
    attributes.log_size = log.len() as u32;
    attributes.log_buf = log.as_mut_ptr().expose_provenance() as u64;
    // SAFETY: as for the first try; the kernel writes at most `log_size` bytes to the log.
    drop(unsafe { bpf(PROG_LOAD, &attributes) });
    let text = CStr::from_bytes_until_nul(&log).map(|log| log.to_string_lossy().into_owned()).unwrap_or_default();
    let lines: Vec<_> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    lines[lines.len().saturating_sub(LOG_LINES)..].join(" | ")
}

/// Ids of the programs of this kind that are attached to a cgroup, given by its directory.
///
/// # Errors
/// It is no cgroup, there are more than `limits::BPF_PROGRAMS`, or there is no right to it.
pub fn attached_to_cgroup(kind: ProgramKind, cgroup: BorrowedFd<'_>) -> io::Result<Vec<u32>> {
    let mut ids = vec![0_u32; limits::BPF_PROGRAMS];
    let mut query = ProgQuery {
        target_fd: cgroup.as_raw_fd(),
        attach_type: kind.attach,
        query_flags: 0,
        attach_flags: 0,
        prog_ids: ids.as_mut_ptr().expose_provenance() as u64,
        prog_cnt: ids.len() as u32,
        padding: 0,
    };
    let length = size_of::<ProgQuery>();
    // SAFETY: the struct is that of BPF_PROG_QUERY; the kernel writes to it, and as many ids as it says that there is room for.
    let result = unsafe { libc::syscall(libc::SYS_bpf, PROG_QUERY, std::ptr::from_mut(&mut query), length) };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    ids.truncate(query.prog_cnt as usize);
    Ok(ids)
}

/// A program's place at a cgroup. It is gone when this is dropped, and with the process.
#[derive(Debug)]
#[expect(dead_code, reason = "holding the descriptor is what keeps the program attached")]
pub struct CgroupLink(OwnedFd);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::bpf::{Assembler, Register, Width};

    #[test]
    fn refused_program_says_what_the_verifier_says() {
        let mut program = Assembler::default();
        program.load(Width::U64, Register::R0, Register::R2, 0);
        program.exit();
        let refused = Program::load(ProgramKind::sock_ops("wrong"), &program.finish().unwrap()).unwrap_err();
        let text = refused.to_string();
        assert!(text.contains("loading the BPF program wrong failed") && text.contains("R2 !read_ok"), "{text}");
    }
}
