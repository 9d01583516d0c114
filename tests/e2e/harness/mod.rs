//! Real VMs for tests: an image under QEMU, with a real vsock, in a network of its own.
//!
//! ```text
//!   Net: network and process namespace, held by one child of this process
//!   ┌──────────────────────────────────────────────────────────────┐
//!   │ clients fd00:c::1, fd00:c::2 ─ lo ─ edge fd00:e::1 (HAProxy) │
//!   │        │ routed                                              │
//!   │ tap1 fd00:0:0:1::1/64 ── QEMU: VM 1, fd00:0:0:1::2           │      Firecracker's hybrid
//!   │ tap2 fd00:0:0:2::1/64 ── QEMU: VM 2, fd00:0:0:2::2           │      vsock, a Unix socket
//!   │                            └ vsock ─ vhost-device-vsock ─────┼────▶ vmN.uds ◀── guestctl
//!   └──────────────────────────────────────────────────────────────┘
//! ```
//!
//! [`Net`] owns the namespaces, the directory of sockets and logs, and everything that runs in it; [`Vm`] owns one guest;
//! [`Edge`] is the platform's TLS proxy in small. Nothing here binds or connects AF_VSOCK on the machine itself, uses a port of
//! the machine, or writes to an image. Nothing outlives the test, however it ends: see [`Net`].

pub(crate) mod artifacts;
mod branching;
mod command;
mod edge;
mod evidence;
mod kernel;
mod net;
mod qemu;
mod qmp;
mod running;
mod ssh;
mod vm;
mod vsock;
mod wait;

pub(crate) use branching::Commit;
pub(crate) use command::Ran;
pub(crate) use edge::{Edge, Route};
pub(crate) use net::{CLIENTS, Net};
pub(crate) use qemu::{BUSYBOX_INIT, Disk, GUESTD_INIT, SYSTEMD, VmSpec};
pub(crate) use ssh::Ssh;
pub(crate) use vm::{Vm, page};
pub(crate) use wait::{PATIENCE, until, until_every};
