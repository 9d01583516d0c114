//! System calls and nothing else: no policy, no state of its own. All `unsafe` code of guestd is below this module.

pub mod cgroup;
mod netlink;
pub mod pidfd;
pub mod process;
pub mod pty;
pub mod root_dir;
pub mod rtnl;
pub mod sock_diag;
pub mod socket_owners;
pub mod tcp;
