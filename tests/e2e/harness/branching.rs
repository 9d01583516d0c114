//! VMs that are committed and branched, as the platform does it: memory and disk as they are at one moment, and from them as many children
//! as are wanted, beside the parent that goes on.
//!
//! ```text
//!   parent: runs ── unplug vsock ── stop ── commit: memory, disk ── go on, plug vsock ──>
//!                                              │
//!                                              ├── child: incoming memory, disk on top ── go on, plug vsock with another CID ──>
//!                                              └── child: …
//! ```
//!
//! A vhost-user device cannot be migrated, hence the unplugging. For the agent's listeners that is what a restore is: connections are reset,
//! listeners stay, and the CID may be another one.

use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use super::command::{DEADLINE, Invocation};
use super::qemu::VmSpec;
use super::qmp::Qmp;
use super::running::Resident;
use super::until;
use super::vm::Vm;
use super::vsock::VsockDevice;

/// A VM's memory and disk at one moment; gone when it is dropped, so that its branches have to be dropped before.
#[derive(Debug)]
pub(crate) struct Commit {
    dir: PathBuf,
    /// How long the VM stood still for it.
    pub(crate) took: Duration,
}

impl Drop for Commit {
    fn drop(&mut self) {
        // It is some hundred megabytes; at the latest it goes with the network's directory.
        let _ = fs::remove_dir_all(&self.dir);
    }
}

impl<'net> Vm<'net> {
    /// A disk of this VM's own: on top of the image, or of the commit that it is made from.
    pub(super) fn layered_disk(&self) -> Result<PathBuf> {
        let (format, base) = match &self.commit {
            Some(commit) => ("qcow2", commit.join("disk")),
            None => ("raw", self.artifacts().image.clone()),
        };
        let (disk, base) = (self.dir.join("disk"), base.display().to_string());
        let words = ["qemu-img", "create", "-q", "-f", "qcow2", "-F", format, "-b", &base];
        let words = words.into_iter().map(Into::into).chain([disk.clone().into_os_string()]);
        Invocation::new(words.collect::<Vec<std::ffi::OsString>>()).run(DEADLINE)?.ok()?;
        Ok(disk)
    }

    /// Gives QEMU an order.
    pub(crate) fn order(&mut self, order: &str, arguments: Value) -> Result<Value> {
        self.qmp().and_then(|qmp| qmp.order(order, arguments))
    }

    fn qmp(&mut self) -> Result<&mut Qmp> {
        self.qmp.as_mut().context("this VM cannot be branched")
    }

    /// Takes its memory and disk. It stands still afterwards, without vsock: see [`Vm::go_on`].
    pub(crate) fn commit(&mut self, name: &str) -> Result<Commit> {
        self.unplug()?;
        let dir = self.net.dir().join(name);
        fs::create_dir(&dir).with_context(|| format!("making {}", dir.display()))?;
        let begun = Instant::now();
        self.order("stop", json!({}))?;
        self.order("migrate", json!({"uri": format!("exec:cat >{}", dir.join("memory").display())}))?;
        until("the memory is written", DEADLINE, || {
            let state = self.order("query-migrate", json!({}))?;
            match state["status"].as_str() {
                Some("completed") => Ok(Some(())),
                Some("failed" | "cancelled") => bail!("committing: {state}"),
                _ => Ok(None),
            }
        })?;
        fs::copy(self.dir.join("disk"), dir.join("disk")).context("copying the disk")?;
        Ok(Commit { dir, took: begun.elapsed() })
    }

    /// Has it go on where it stopped, reachable by vsock.
    pub(crate) fn go_on(&mut self) -> Result<()> {
        self.order("cont", json!({}))?;
        self.plug_in()
    }

    /// A VM that goes on from a commit, as a copy of the one that was committed until somebody tells it otherwise. It stands still.
    pub(crate) fn branch(commit: &Commit, parent: &Vm<'net>) -> Result<Self> {
        let mut child = Self::new(parent.net)?;
        child.commit = Some(commit.dir.clone());
        let spec = VmSpec::branchable();
        child.power_on(&spec).with_context(|| format!("branching {}", child.id))?;
        until("the memory is read", DEADLINE, || {
            child.alive()?;
            let state = child.order("query-status", json!({}))?;
            Ok((state["status"] != "inmigrate").then_some(()))
        })?;
        Ok(child)
    }

    fn unplug(&mut self) -> Result<()> {
        self.order("device_del", json!({"id": "vsock"}))?;
        until("the vsock device is unplugged", DEADLINE, || {
            let devices = self.order("qom-list", json!({"path": "/machine/peripheral"}))?;
            let is_there =
                devices.as_array().is_some_and(|devices| devices.iter().any(|device| device["name"] == "vsock"));
            Ok((!is_there).then_some(()))
        })?;
        // QEMU lets go of it some time after the device is gone.
        until("the vsock device's socket is let go of", DEADLINE, || {
            match self.order("chardev-remove", json!({"id": "vsock0"})) {
                Ok(_) => Ok(Some(())),
                Err(error) if error.to_string().contains("is busy") => Ok(None),
                Err(error) => Err(error),
            }
        })?;
        self.vsock = None;
        Ok(())
    }

    /// Gives it a vsock device.
    pub(crate) fn plug_in(&mut self) -> Result<()> {
        self.plugs += 1;
        // The device's process has its sockets in a place of its own each time.
        let dir = self.dir.join(format!("plug{}", self.plugs));
        fs::create_dir(&dir)?;
        self.uds = dir.join("vsock.uds");
        let log = self.log(&format!("vsock{}.log", self.plugs))?;
        let device = VsockDevice::start(self.net, &dir, self.cid(), &self.uds, &log)?;
        let address = json!({"type": "unix", "data": {"path": device.vhost.display().to_string()}});
        let backend = json!({"type": "socket", "data": {"addr": address, "server": false}});
        self.order("chardev-add", json!({"id": "vsock0", "backend": backend}))?;
        self.order(
            "device_add",
            json!({"driver": "vhost-user-vsock-pci", "id": "vsock", "chardev": "vsock0", "bus": "vsock-port"}),
        )?;
        let qemu = self.qemu.as_mut().context("it does not run")?;
        self.vsock.insert(device).wait_driver(DEADLINE, || Resident::alive(qemu))
    }
}
