//! Programs, once they are put together: the kernel verifies them, and they are attached by links.

#![expect(unsafe_code, reason = "bpf(2) has no wrapper among our crates")]

use std::{
    ffi::CStr,
    io,
    os::fd::{AsRawFd, BorrowedFd, OwnedFd, RawFd},
};

use super::{
    instruction::Instruction,
    object::{BpfError, NAME_BYTES, bpf, make, name, with_locked_memory},
};
use crate::limits;

/// Commands of bpf(2).
const PROG_LOAD: libc::c_int = 5;
const PROG_QUERY: libc::c_int = 16;
const LINK_CREATE: libc::c_int = 28;
/// Of the verifier's log what is at its end: there it says why.
const LOG_LINES: usize = 6;
/// Helpers for the GPL alone are not used.
const LICENSE: &CStr = c"MIT OR Apache-2.0";

/// The first fields of `union bpf_attr` for each command; the kernel takes those that are left out as zeros.
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

    /// BPF_PROG_TYPE_CGROUP_SOCK at BPF_CGROUP_INET_SOCK_RELEASE, Linux 5.9.
    pub const fn sock_release(name: &'static str) -> Self {
        Self { program: 9, attach: 34, name }
    }

    /// BPF_PROG_TYPE_SK_LOOKUP at BPF_SK_LOOKUP, Linux 5.9.
    pub const fn sk_lookup(name: &'static str) -> Self {
        Self { program: 30, attach: 36, name }
    }

    /// BPF_PROG_TYPE_CGROUP_SOCK_ADDR at BPF_CGROUP_INET6_BIND.
    pub const fn bind6(name: &'static str) -> Self {
        Self { program: 18, attach: 9, name }
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
        let mut attributes = ProgLoad {
            prog_type: kind.program,
            insn_cnt: instructions.len() as u32,
            insns: instructions.as_ptr().expose_provenance() as u64,
            license: LICENSE.as_ptr().expose_provenance() as u64,
            prog_name: name(kind.name),
            expected_attach_type: kind.attach,
            ..ProgLoad::default()
        };
        // SAFETY: the struct is that of BPF_PROG_LOAD; instructions and license outlive the call.
        match with_locked_memory(|| unsafe { make(PROG_LOAD, &mut attributes) }) {
            Ok(descriptor) => Ok(Self { descriptor, kind }),
            Err(source) => Err(BpfError::Load { name: kind.name, source, log: verifier_log(attributes) }),
        }
    }

    /// Attaches it to a cgroup and all below, beside what others have attached there. `cgroup` is its directory.
    ///
    /// # Errors
    /// A kernel before 5.7, or no right to it.
    pub fn attach_to_cgroup(&self, cgroup: BorrowedFd<'_>) -> Result<Link, BpfError> {
        self.attach(cgroup)
    }

    /// Attaches it to a network namespace, beside what others have attached there. `netns` is its file.
    ///
    /// # Errors
    /// A kernel before 5.9, or no right to it.
    pub fn attach_to_netns(&self, netns: BorrowedFd<'_>) -> Result<Link, BpfError> {
        self.attach(netns)
    }

    fn attach(&self, target: BorrowedFd<'_>) -> Result<Link, BpfError> {
        let mut attributes = LinkCreate {
            prog_fd: self.descriptor.as_raw_fd(),
            target_fd: target.as_raw_fd(),
            attach_type: self.kind.attach,
            flags: 0,
        };
        // SAFETY: the struct is that of BPF_LINK_CREATE, with no addresses in it.
        let link = unsafe { make(LINK_CREATE, &mut attributes) };
        link.map(Link).map_err(|source| BpfError::Attach { name: self.kind.name, source })
    }
}

/// The end of what the verifier has to say of a program that it refused; a second try, because writing the log costs.
fn verifier_log(mut attributes: ProgLoad) -> String {
    let mut log = vec![0; limits::BPF_LOG_BYTES];
    attributes.log_level = 1;
    attributes.log_size = log.len() as u32;
    attributes.log_buf = log.as_mut_ptr().expose_provenance() as u64;
    // SAFETY: as for the first try; the kernel writes at most `log_size` bytes to the log.
    drop(with_locked_memory(|| unsafe { make(PROG_LOAD, &mut attributes) }));
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
    // SAFETY: the struct is that of BPF_PROG_QUERY; the kernel writes to it, and as many ids as it says that there is room for.
    unsafe { bpf(PROG_QUERY, &mut query) }?;
    ids.truncate(query.prog_cnt as usize);
    Ok(ids)
}

/// A program's place at a cgroup or a network namespace. It is gone when this is dropped, and with the process.
#[derive(Debug)]
pub struct Link(
    #[cfg_attr(not(test), expect(dead_code, reason = "holding the descriptor is what keeps the program attached"))]
    OwnedFd,
);

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::sys::bpf::{Assembler, Register, Width};

    /// BPF_PROG_TEST_RUN.
    const PROG_TEST_RUN: libc::c_int = 10;

    #[repr(C)]
    #[derive(Default)]
    struct TestRun {
        prog_fd: u32,
        retval: u32,
        data_size_in: u32,
        data_size_out: u32,
        data_in: u64,
        data_out: u64,
        repeat: u32,
        duration: u32,
        ctx_size_in: u32,
        ctx_size_out: u32,
        ctx_in: u64,
        ctx_out: u64,
    }

    impl Program {
        /// Runs it in this thread's network namespace, so often: its result, how long one run takes, and the context after it.
        pub(in crate::sys::bpf) fn test_run(&self, context: &[u8], times: u32) -> io::Result<(u32, Duration, Vec<u8>)> {
            let mut after = vec![0; context.len()];
            let mut run = TestRun {
                prog_fd: self.descriptor.as_raw_fd().cast_unsigned(),
                repeat: times,
                ctx_size_in: context.len() as u32,
                ctx_size_out: after.len() as u32,
                ctx_in: context.as_ptr().expose_provenance() as u64,
                ctx_out: after.as_mut_ptr().expose_provenance() as u64,
                ..TestRun::default()
            };
            // SAFETY: the struct is that of BPF_PROG_TEST_RUN; both contexts are as long as it says.
            unsafe { bpf(PROG_TEST_RUN, &mut run) }?;
            Ok((run.retval, Duration::from_nanos(run.duration.into()), after))
        }
    }

    impl Link {
        /// Id of the program.
        pub(in crate::sys::bpf) fn program(&self) -> Option<u32> {
            let info = std::fs::read_to_string(format!("/proc/self/fdinfo/{}", self.0.as_raw_fd())).ok()?;
            info.lines().find_map(|line| line.strip_prefix("prog_id:"))?.trim().parse().ok()
        }
    }

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
