//! Who this VM is, as it is told in the VM.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use super::order::Order;
use crate::api::GenerationKind;

/// What `/run/guestd/identity.json` holds.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// The platform's id.
    pub vm_id: Option<String>,
    /// Public name.
    pub public_name: Option<String>,
    /// Host name, where the host gave one.
    pub hostname: Option<String>,
    /// The VM that this one was branched from.
    pub parent_vm_id: Option<String>,
    /// The commit that was restored.
    pub commit_id: Option<String>,
    /// The generation.
    pub generation_id: Option<String>,
    /// What brought it about.
    pub kind: Option<GenerationKind>,
    /// The VM's own address, where the host gave one.
    pub ip6: Option<std::net::Ipv6Addr>,
    /// Name servers, where the host gave some.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub dns: Vec<IpAddr>,
}

impl Identity {
    /// What it becomes by an announcement.
    pub fn after(&self, order: &Order, domain: &str) -> Self {
        let announced = &order.announced;
        let vm_id = announced.vm_id.clone().or_else(|| self.vm_id.clone());
        let is_branch = announced.kind == GenerationKind::Branch && announced.vm_id.is_some();
        // Made again, it is no other's child, and must not become its own parent.
        let former = self.vm_id.clone().filter(|id| Some(id) != vm_id.as_ref());
        let parent = announced.parent_vm_id.clone().or(former).or_else(|| self.parent_vm_id.clone());
        Self {
            public_name: vm_id.as_ref().map(|id| format!("{id}.{domain}")),
            vm_id,
            // What the parent was called is not what its copy is.
            hostname: order.hostname.clone().or_else(|| self.hostname.clone().filter(|_| !is_branch)),
            parent_vm_id: if is_branch { parent } else { self.parent_vm_id.clone() },
            commit_id: announced.commit_id.clone().or_else(|| self.commit_id.clone()),
            generation_id: Some(announced.id.clone()),
            kind: Some(announced.kind),
            dns: order.net.as_ref().map(|net| &net.dns).filter(|dns| !dns.is_empty()).unwrap_or(&self.dns).clone(),
            ip6: order.net.as_ref().and_then(|net| net.ip6).map(|(address, _)| address).or(self.ip6),
        }
    }
}
