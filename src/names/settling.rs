//! When names are settled: at the agent's start as configured, and with each announcement as the host has it.

use std::{
    net::IpAddr,
    sync::{Mutex, PoisonError},
};

use super::{Durability, HostName, KernelHostName, Settled, Wanted, settle};
use crate::{
    config::{Config, HostNamePolicy},
    sys::root_dir::RootDir,
};

/// Settles the names of a VM, once at a time.
#[derive(Debug)]
pub struct Names {
    hostname: HostNamePolicy,
    dns: Vec<IpAddr>,
    /// A start that comes late must not undo what was announced.
    is_announced: Mutex<bool>,
}

/// What is known of the VM.
#[derive(Debug, Clone, Copy, Default)]
pub struct Told<'a> {
    /// Its id.
    pub vm_id: Option<&'a str>,
    /// The host name that its host has given it.
    pub given: Option<&'a str>,
    /// Ids and names that it had before.
    pub former: &'a [&'a str],
    /// Name servers that its host has given it; none: those of the configuration.
    pub dns: &'a [IpAddr],
}

impl Names {
    /// With what the configuration says of them.
    pub fn new(config: &Config) -> Self {
        Self { hostname: config.hostname, dns: config.dns.clone(), is_announced: Mutex::default() }
    }

    /// At the agent's start. `None` when an announcement was first.
    pub fn start(&self, root: &RootDir, told: &Told<'_>) -> Option<Settled> {
        let is_announced = self.is_announced.lock().unwrap_or_else(PoisonError::into_inner);
        (!*is_announced).then(|| settle(root, &self.wanted(told), &mut KernelHostName, Durability::Synced))
    }

    /// With an announcement, which waits for no disk.
    pub fn announced(&self, root: &RootDir, told: &Told<'_>, kernel: &mut dyn HostName) -> Settled {
        let mut is_announced = self.is_announced.lock().unwrap_or_else(PoisonError::into_inner);
        *is_announced = true;
        settle(root, &self.wanted(told), kernel, Durability::Unsynced)
    }

    fn wanted<'a>(&'a self, told: &Told<'a>) -> Wanted<'a> {
        let Told { vm_id, given, former, dns } = *told;
        let dns = if dns.is_empty() { self.dns.as_slice() } else { dns };
        Wanted { vm_id, given, former, hostname: self.hostname, dns }
    }
}
