//! System calls, and all of the crate's `unsafe`. No policy: what is done here is what the caller said.

pub mod cgroup;
pub mod pidfd;
pub mod process;
