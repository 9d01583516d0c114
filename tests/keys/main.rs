//! SSH keys as a real sshd and a real ssh see them: what guestd authorizes is accepted and nothing else, whatever happens on the way.
//!
//! sshd runs with an image's files in namespaces of its own (`sshd_rig`). Needs root, and Debian's packages openssh-server,
//! openssh-client, util-linux and iproute2.

#![expect(clippy::unwrap_used, clippy::expect_used, reason = "helpers of tests fail as tests do: at once and by name")]

mod agent;
mod asker;
mod attacks;
mod authority;
mod expiry;
mod full_disk;
mod options;
mod own_keys;
mod pool;
mod sequences;
#[path = "../sshd_rig/mod.rs"]
mod sshd_rig;
#[expect(dead_code, reason = "other tests use more of it")]
#[path = "../support/mod.rs"]
mod support;
