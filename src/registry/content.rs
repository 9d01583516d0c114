//! What is said of this VM: its name, its address, and the services that the proxy reaches.

use std::collections::BTreeMap;

use serde::Serialize;

use super::Settings;
use crate::{
    api::{BridgePort, BridgePortState, Exposure, Listener},
    config::{RegistryRole, RoutablePorts},
    limits,
};

/// Who has put an entry into the registry.
const REGISTERED_BY: &str = "guestd";

/// What may change of a VM's entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Content {
    /// Public name.
    pub(super) address: String,
    /// By port.
    pub(super) services: Vec<Service>,
    /// Services beyond `limits::REGISTRY_SERVICES`.
    pub(super) left_out: usize,
}

/// One service, as the registry has it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct Service {
    /// Of its unit or its process.
    name: String,
    /// Where the proxy reaches it.
    port: u16,
}

/// Body of `POST /vms`.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Entry<'a> {
    id: &'a str,
    name: &'a str,
    role: &'a str,
    address: &'a str,
    services: &'a [Service],
    status: &'a str,
    registered_by: &'a str,
}

/// Body of `PATCH /vms/{id}`. Name and role are left as whoever made the entry set them, unless they are configured here.
#[derive(Serialize)]
struct Change<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    role: Option<&'a str>,
    address: &'a str,
    services: &'a [Service],
    status: &'a str,
}

impl Content {
    /// As a new entry.
    pub(super) fn entry(&self, id: &str, settings: &Settings) -> serde_json::Result<Vec<u8>> {
        serde_json::to_vec(&Entry {
            id,
            name: settings.name.as_deref().unwrap_or(id),
            role: settings.role.unwrap_or(RegistryRole::Worker).name(),
            address: &self.address,
            services: &self.services,
            status: "running",
            registered_by: REGISTERED_BY,
        })
    }

    /// As a change of an entry that is there.
    pub(super) fn change(&self, settings: &Settings) -> serde_json::Result<Vec<u8>> {
        serde_json::to_vec(&Change {
            name: settings.name.as_deref(),
            role: settings.role.map(RegistryRole::name),
            address: &self.address,
            services: &self.services,
            status: "running",
        })
    }
}

/// The services that the proxy reaches, one for each port of its side, and how many are left out.
///
/// A port that several sockets share has the name that comes first in the alphabet, so that it stays the same.
pub(super) fn services(
    listeners: &[Listener],
    bridge: &[BridgePort],
    routable: &RoutablePorts,
) -> (Vec<Service>, usize) {
    let mut ports: BTreeMap<u16, Option<String>> = BTreeMap::new();
    for listener in listeners {
        match listener.exposure {
            Exposure::Direct => add(&mut ports, listener.port, listener),
            Exposure::Bridged => bridge
                .iter()
                .filter(|entry| leads_to(entry, listener) && routable.contains(entry.listen))
                .for_each(|entry| add(&mut ports, entry.listen, listener)),
            Exposure::Unreachable => {}
        }
    }
    let left_out = ports.len().saturating_sub(limits::REGISTRY_SERVICES);
    let named = ports.into_iter().take(limits::REGISTRY_SERVICES);
    let services = named.map(|(port, name)| Service { name: name.unwrap_or_else(|| format!("port-{port}")), port });
    (services.collect(), left_out)
}

fn add(ports: &mut BTreeMap<u16, Option<String>>, port: u16, listener: &Listener) {
    let known = ports.entry(port).or_default();
    *known = known.take().into_iter().chain(name(listener)).min();
}

fn leads_to(entry: &BridgePort, listener: &Listener) -> bool {
    entry.state == BridgePortState::Active && entry.leads_to(listener.address, listener.port)
}

/// What people call the service: its unit, or its process where that is of no unit of its own. A process can give itself any name, so
/// that only what a name usually consists of is taken.
fn name(listener: &Listener) -> Option<String> {
    let process = listener.process.as_ref()?;
    let unit = process.unit.as_deref().and_then(|unit| unit.strip_suffix(".service"));
    // What users and the host's execs start belongs to these, whatever it is.
    let unit = unit.filter(|unit| *unit != "guestd" && !unit.starts_with("user@"));
    let plain = |character: char| character.is_ascii_alphanumeric() || matches!(character, '-' | '_' | '.' | '@' | ':');
    let name: String = unit
        .unwrap_or(&process.name)
        .chars()
        .map(|character| if plain(character) { character } else { '-' })
        .take(limits::REGISTRY_NAME_BYTES)
        .collect();
    Some(name).filter(|name| !name.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        api::Process,
        facts::SocketFact,
        listeners::{
            self, Policy,
            tests::{socket, table},
        },
    };

    fn listeners(sockets: &[SocketFact], bridge: &[BridgePort]) -> Vec<Listener> {
        let policy = Policy { public_name: None, routable_ports: RoutablePorts::All, bridge_auto: true };
        listeners::assess(&table(sockets.to_vec()), &policy, bridge)
    }

    fn bridged(listen: u16, to: &str) -> BridgePort {
        serde_json::from_value(serde_json::json!({
            "listen": listen, "to": to, "auto": true, "state": "active", "message": null, "addresses": [], "connections": 0, "connections_total": 0, "errors_total": 0,
            "bytes_in": 0, "bytes_out": 0
        }))
        .unwrap()
    }

    fn owned(mut listener: Listener, name: &str, unit: Option<&str>) -> Listener {
        let (name, unit) = (name.to_owned(), unit.map(str::to_owned));
        let (command, container, started_at, holders) = (String::new(), None, None, None);
        listener.process = Some(Process { pid: 7, name, command, uid: 0, unit, container, started_at, holders });
        listener
    }

    fn told(listeners: &[Listener], bridge: &[BridgePort]) -> Vec<(String, u16)> {
        let (services, left_out) = services(listeners, bridge, &RoutablePorts::All);
        assert_eq!(left_out, 0);
        services.into_iter().map(|service| (service.name, service.port)).collect()
    }

    #[test]
    fn only_what_the_proxy_reaches_is_told_each_port_once_and_in_order() {
        let bridge = [bridged(8080, "240.0.0.1:8080")];
        let sockets = [
            socket("::", 9000),
            socket("127.0.0.1", 5432),
            socket("0.0.0.0", 8080),
            socket("0.0.0.0", 22),
            socket("::", 22),
        ];
        let told = told(&listeners(&sockets, &bridge), &bridge);
        assert_eq!(told, [("port-22".to_owned(), 22), ("port-8080".to_owned(), 8080), ("port-9000".to_owned(), 9000)]);
    }

    #[test]
    fn a_service_that_is_bridged_by_a_rule_has_the_port_of_the_rule() {
        let bridge = [bridged(8080, "127.0.0.1:3000"), bridged(8081, "127.0.0.1:3000")];
        let sockets = [socket("127.0.0.1", 3000)];
        let told_ports: Vec<u16> =
            told(&listeners(&sockets, &bridge), &bridge).into_iter().map(|(_, port)| port).collect();
        assert_eq!(told_ports, [8080, 8081]);
        let routable = RoutablePorts::Only(vec![8080]);
        assert_eq!(services(&listeners(&sockets, &bridge), &bridge, &routable).0.len(), 1);
    }

    #[test]
    fn names_are_of_the_unit_or_the_process_and_harmless() {
        let named = |name: &str, unit| {
            told(&[owned(listeners(&[socket("::", 80)], &[]).remove(0), name, unit)], &[]).remove(0).0
        };
        assert_eq!(named("nginx", Some("web.service")), "web");
        assert_eq!(named("node", Some("session-1.scope")), "node");
        assert_eq!(named("node", Some("user@1000.service")), "node");
        assert_eq!(named("node", Some("guestd.service")), "node");
        assert_eq!(named("a\u{1b}[8m\"\n\u{fffd}", None), "a--8m---");
        assert_eq!(named("", None), "port-80");
        assert_eq!(named(&"é".repeat(500), None).len(), limits::REGISTRY_NAME_BYTES);
    }

    #[test]
    fn the_name_of_a_shared_port_does_not_depend_on_the_order_of_its_sockets() {
        let of = |name| owned(listeners(&[socket("::", 80)], &[]).remove(0), name, None);
        assert_eq!(told(&[of("b"), of("a")], &[]), told(&[of("a"), of("b")], &[]));
    }

    #[test]
    fn more_services_than_an_entry_holds_are_counted() {
        let sockets: Vec<_> = (1..=300).map(|port| socket("::", port)).collect();
        let (services, left_out) = services(&listeners(&sockets, &[]), &[], &RoutablePorts::All);
        assert_eq!((services.len(), services[255].port, left_out), (256, 256, 44));
    }
}
