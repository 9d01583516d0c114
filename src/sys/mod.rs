//! System calls and nothing else: no policy, no state of its own. All `unsafe` code of guestd is below this module.

#[cfg(feature = "agent")]
pub mod allocator;
#[cfg(feature = "agent")]
pub mod bpf;
#[cfg(feature = "agent")]
pub mod cgroup;
pub mod files;
#[cfg(feature = "agent")]
mod netlink;
#[cfg(feature = "agent")]
pub mod netns;
#[cfg(feature = "agent")]
pub mod pidfd;
#[cfg(feature = "agent")]
pub mod proc_pid;
#[cfg(feature = "agent")]
pub mod process;
#[cfg(feature = "agent")]
pub mod pty;
#[cfg(feature = "agent")]
pub mod root_dir;
#[cfg(feature = "agent")]
pub mod rtnl;
#[cfg(feature = "agent")]
pub mod sock_diag;
#[cfg(feature = "agent")]
pub mod socket_owners;
#[cfg(feature = "agent")]
pub mod subscription;
#[cfg(feature = "agent")]
pub mod tcp;
