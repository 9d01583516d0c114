//! The VM's vsock device: vhost-device-vsock, which speaks Firecracker's hybrid protocol on a Unix socket.
//!
//! It has a fault to be steered around: a host that connects in the moment when the guest's driver sets its queues up makes its worker
//! thread end, and from then on every connection hangs. So nobody may connect before the queues are set up, which it does not tell;
//! the kernel does, in what it shows of the worker's epoll set.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};

use super::command::DEADLINE;
use super::net::Net;
use super::running::Resident;
use super::{until, until_every};

/// A running device.
#[derive(Debug)]
pub(crate) struct VsockDevice {
    process: Resident,
    /// Where it waits for QEMU.
    pub(crate) vhost: PathBuf,
}

impl VsockDevice {
    /// Starts a device for a guest's CID; hosts will connect to `uds`, and QEMU can now to `vhost`.
    pub(crate) fn start(net: &Net, dir: &Path, cid: u32, uds: &Path, log: &File) -> Result<Self> {
        let vhost = dir.join("vhost.sock");
        let vm = format!("guest-cid={cid},socket={},uds-path={}", vhost.display(), uds.display());
        let process = net.invocation(["vhost-device-vsock", "--vm", &vm]).keep(log)?;
        let mut device = Self { process, vhost };
        until("vhost-device-vsock waits for QEMU", DEADLINE, || {
            device.alive()?;
            Ok(device.vhost.exists().then_some(()))
        })?;
        Ok(device)
    }

    /// Waits until the guest's driver has set its queues up, so that one may connect. `alive` looks after the rest of the VM.
    pub(crate) fn wait_driver(&mut self, deadline: Duration, mut alive: impl FnMut() -> Result<()>) -> Result<()> {
        // Often, for who measures a boot; it is a look at a few files.
        until_every("the guest's vsock driver is up", deadline, Duration::from_millis(5), || {
            alive()?;
            self.alive()?;
            Ok(queues_are_up(&self.fdinfo()?).then_some(()))
        })
    }

    /// Fails when the device has ended by itself.
    pub(crate) fn alive(&mut self) -> Result<()> {
        self.process.alive()
    }

    /// What the kernel shows of the process's descriptors (proc_pid_fdinfo(5)), each as one text.
    fn fdinfo(&self) -> Result<Vec<String>> {
        let dir = format!("/proc/{}/fdinfo", self.process.inner_pid()?);
        let entries = fs::read_dir(&dir).with_context(|| format!("reading {dir}"))?;
        // A descriptor may be closed while we look.
        Ok(entries.filter_map(|entry| fs::read_to_string(entry.ok()?.path()).ok()).collect())
    }
}

/// The worker watches a queue under its number as soon as the driver has set it up; 0 receives and 1 sends.
fn queues_are_up(fdinfo: &[String]) -> bool {
    let watches = |epoll: &str, queue: &str| {
        let mut marks = epoll.lines().filter(|line| line.starts_with("tfd:"));
        marks
            .any(|line| line.split_once("data:").is_some_and(|(_, rest)| rest.split_whitespace().next() == Some(queue)))
    };
    fdinfo.iter().any(|epoll| watches(epoll, "0") && watches(epoll, "1"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_queues_are_up_when_one_epoll_set_holds_both() {
        let event =
            |fd: u32, data: u32| format!("tfd: {fd:>8} events:       19 data: {data:>16x}  pos:0 ino:40e sdev:10\n");
        let idle = format!("pos:\t0\nflags:\t02000002\n{}{}", event(5, 5), event(9, 3));
        assert!(!queues_are_up(&[idle.clone(), "eventfd-count: 0\n".into()]));
        assert!(!queues_are_up(&[format!("{idle}{}", event(18, 0)), event(3, 1)]));
        assert!(queues_are_up(&[event(3, 3), format!("{idle}{}{}", event(19, 1), event(18, 0))]));
    }
}
