//! The verdict: can the proxy reach a listener, if not why, and what to do.

use std::collections::{BTreeMap, HashMap};

use super::{
    Bind, ListenerTable, container, hints,
    publications::Publications,
    publish,
    runtimes::{self, Runtime},
};
use crate::{
    api::{BridgePort, BridgePortState, Cause, Exposure, Family, Listener, Process, Scope},
    config::RoutablePorts,
    facts::{ProcessFact, SocketFact},
};

/// What the verdict depends on besides the sockets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policy {
    /// `{vm_id}.{domain}`, where the id is known.
    pub public_name: Option<String>,
    /// Ports that the platform routes.
    pub routable_ports: RoutablePorts,
    /// Are IPv4-only listeners bridged unasked?
    pub bridge_auto: bool,
}

/// Exposure, cause, hint, and the port of the public side.
struct Verdict {
    exposure: Exposure,
    cause: Option<Cause>,
    hint: Option<String>,
    public_port: u16,
}

impl Verdict {
    fn unreachable(cause: Cause, hint: String, port: u16) -> Self {
        Self { exposure: Exposure::Unreachable, cause: Some(cause), hint: Some(hint), public_port: port }
    }

    fn direct(hint: Option<String>, port: u16) -> Self {
        Self { exposure: Exposure::Direct, cause: None, hint, public_port: port }
    }
}

/// Judges every socket of the table. The answer is by port, the own namespace's sockets before others'.
pub fn assess(table: &ListenerTable, policy: &Policy, bridge: &[BridgePort]) -> Vec<Listener> {
    let has_ipv6 = table.reachable_ipv6().next().is_some();
    let owners = owners(table);
    let judge = Judge { table, policy, bridge, ipv6: table.ipv6_listeners(), has_ipv6, owners };
    let mut own: Vec<Listener> = table.sockets.iter().map(|socket| judge.own(socket)).collect();
    let publications = Publications::of(table, &own);
    let elsewhere = table.others.iter().flat_map(|there| there.sockets.iter().map(move |socket| (there.netns, socket)));
    let elsewhere: Vec<Listener> = elsewhere
        .map(|(netns, socket)| judge.elsewhere(netns, socket, publications.of_container(&own, socket)))
        .collect();
    for (listener, where_to) in publications.of_publishers() {
        let listener = &mut own[listener];
        listener.hint = Some(match listener.hint.take() {
            Some(hint) => format!("{where_to}. {hint}"),
            None => where_to,
        });
    }
    own.extend(elsewhere);
    // Stable: of one port, the own ones stay first.
    own.sort_by_key(|listener| listener.port);
    own
}

struct Judge<'a> {
    table: &'a ListenerTable,
    policy: &'a Policy,
    bridge: &'a [BridgePort],
    ipv6: BTreeMap<u16, &'a SocketFact>,
    has_ipv6: bool,
    owners: HashMap<i32, Owner>,
}

/// What is read out of a process once, however many sockets it holds.
struct Owner {
    process: Process,
    runtime: Option<&'static Runtime>,
}

fn owners(table: &ListenerTable) -> HashMap<i32, Owner> {
    let mut owners = HashMap::new();
    for owner in table.processes.values() {
        owners.entry(owner.process.pid).or_insert_with(|| Owner {
            process: process(table, &owner.process),
            runtime: runtimes::recognise(&owner.process.name, &owner.process.command),
        });
    }
    owners
}

impl Judge<'_> {
    fn own(&self, socket: &SocketFact) -> Listener {
        let bind = Bind::of(socket);
        let verdict = restrict_to_routed(self.policy, self.verdict(socket, bind));
        self.listener(self.table.netns, socket, bind, verdict)
    }

    /// `published` is what is to be said of it where something publishes it.
    fn elsewhere(&self, netns: u64, socket: &SocketFact, published: Option<String>) -> Listener {
        let bind = Bind::of(socket);
        let hint = published.unwrap_or_else(|| {
            let container = self.owner(socket).and_then(|owner| owner.process.container.as_ref());
            let how = publish::how_to_publish(container, socket.port);
            match bind.scope {
                Scope::Loopback => format!(
                    "{} is reached from inside its own network namespace only; let it listen on `::` or 0.0.0.0 there, and {how}",
                    bind.address
                ),
                _ => format!("nothing that guestd sees publishes it in this VM; if it is meant to be public, {how}"),
            }
        });
        self.listener(netns, socket, bind, Verdict::unreachable(Cause::OtherNetns, hint, socket.port))
    }

    fn listener(&self, netns: u64, socket: &SocketFact, bind: Bind, verdict: Verdict) -> Listener {
        let reachable = verdict.exposure != Exposure::Unreachable;
        let public_name = self.policy.public_name.as_ref().filter(|_| reachable);
        Listener {
            port: socket.port,
            address: bind.address,
            family: bind.family,
            v6only: socket.v6only && bind.family == Family::Ipv6,
            scope: bind.scope,
            exposure: verdict.exposure,
            cause: verdict.cause,
            hint: hints::with_queue(verdict.hint, socket.accept_queue),
            url: public_name.map(|name| format!("https://{name}:{}", verdict.public_port)),
            probe: None,
            process: self.owner(socket).map(|owner| Process {
                holders: self.table.processes.get(&socket.inode).map(|owner| owner.holders).filter(|count| *count > 1),
                ..owner.process.clone()
            }),
            netns,
            inode: socket.inode,
            uid: Some(socket.uid),
            cgroup_id: socket.cgroup_id,
            backlog: socket.accept_queue.map(|queue| queue.backlog),
            accept_queue: socket.accept_queue.map(|queue| queue.waiting),
        }
    }

    fn verdict(&self, socket: &SocketFact, bind: Bind) -> Verdict {
        let port = socket.port;
        let runtime = self.runtime(socket);
        let family_cause = match (bind.family, bind.scope) {
            (_, Scope::Address) if self.table.absent.contains(&bind.address) => {
                let hint = hints::absent_hint(self.table, runtime, bind, port);
                return Verdict::unreachable(Cause::AddressNotAvailable, hint, port);
            }
            (_, Scope::Loopback) => Cause::LoopbackOnly,
            (_, Scope::LinkLocal) => Cause::LinkLocalOnly,
            (Family::Ipv4, Scope::Wildcard) => Cause::Ipv4OnlyWildcard,
            (Family::Ipv4, Scope::Address) => Cause::Ipv4OnlyAddress,
            (Family::Ipv6, Scope::Wildcard | Scope::Address) => {
                return if self.has_ipv6 {
                    Verdict::direct(hints::loopback_interface_hint(self.table, bind), port)
                } else {
                    no_ipv6_address(port)
                };
            }
        };
        let bridged = self.bridge.iter().find(|entry| entry.leads_to(bind.address, socket.port));
        if let Some(entry) = bridged.filter(|entry| entry.state == BridgePortState::Active) {
            if !self.has_ipv6 {
                return no_ipv6_address(port);
            }
            return Verdict {
                exposure: Exposure::Bridged,
                cause: Some(family_cause),
                hint: Some(hints::bridged_hint(runtime, entry, bind, port)),
                public_port: entry.listen,
            };
        }
        match family_cause {
            Cause::LoopbackOnly => Verdict::unreachable(family_cause, hints::loopback_hint(runtime, bind, port), port),
            Cause::LinkLocalOnly => {
                let how = hints::how_to_bind_ipv6(runtime, port);
                Verdict::unreachable(
                    family_cause,
                    format!("{} is not routed beyond its link; {how}", bind.address),
                    port,
                )
            }
            _ if !self.has_ipv6 => no_ipv6_address(port),
            _ => self.ipv4_only(socket, family_cause, bridged),
        }
    }

    /// The verdict on an IPv4 listener that is no loopback one and is not bridged at present.
    fn ipv4_only(&self, socket: &SocketFact, family_cause: Cause, bridged: Option<&BridgePort>) -> Verdict {
        let port = socket.port;
        let how_to_bind_ipv6 = || hints::how_to_bind_ipv6(self.runtime(socket), port);
        let owner = |socket: &SocketFact| self.owner(socket).map(|owner| &owner.process);
        if socket.device != 0 {
            let hint = format!("it takes clients of one interface alone (SO_BINDTODEVICE); {}", how_to_bind_ipv6());
            return Verdict::unreachable(family_cause, hint, port);
        }
        let own = owner(socket).map(|owner| owner.pid);
        let is_same = |other: &SocketFact| owner(other).map(|owner| owner.pid) == own;
        // Of several processes on one port each may have a socket of its own.
        let of_same =
            |first| if is_same(first) { Some(first) } else { self.table.public_ipv6_on(port).find(|it| is_same(it)) };
        let ipv6 = self.ipv6.get(&port).copied().map(|first| of_same(first).unwrap_or(first));
        let (cause, hint) = match (ipv6, bridged) {
            (Some(ipv6), _) if is_same(ipv6) => {
                let hint = format!("served over IPv6 by the same process on [{}]:{port}", ipv6.address);
                return Verdict::direct(Some(hint), port);
            }
            (Some(ipv6), _) => {
                let other = owner(ipv6).map_or("another process", |owner| owner.name.as_str());
                let hint = format!(
                    "over IPv6 this port belongs to {other}, which is what the proxy reaches; use another port"
                );
                (family_cause, hint)
            }
            (None, Some(entry)) if entry.state == BridgePortState::Settling => {
                let hint = "guestd is about to bridge it, when it is sure that the service does not bind IPv6 itself";
                (family_cause, hint.to_owned())
            }
            (None, Some(entry)) => {
                let why = entry.message.as_deref().unwrap_or("it was not said why");
                (Cause::BridgeFailed, format!("the bridge could not be set up: {why}; {}", how_to_bind_ipv6()))
            }
            (None, None) if !self.policy.bridge_auto => {
                (Cause::BridgeOff, format!("{}, or run `guestctl bridge auto on`", how_to_bind_ipv6()))
            }
            (None, None) => (family_cause, format!("it has just begun to listen; if it stays, {}", how_to_bind_ipv6())),
        };
        Verdict::unreachable(cause, hint, port)
    }

    /// What the owner of the socket is, where that can be told.
    fn runtime(&self, socket: &SocketFact) -> Option<&'static Runtime> {
        self.owner(socket)?.runtime
    }

    fn owner(&self, socket: &SocketFact) -> Option<&Owner> {
        self.owners.get(&self.table.processes.get(&socket.inode)?.process.pid)
    }
}

fn no_ipv6_address(port: u16) -> Verdict {
    Verdict::unreachable(Cause::NoIpv6Address, hints::NO_IPV6_ADDRESS.to_owned(), port)
}

/// A port that the platform does not route is unreachable, however well it is bound.
fn restrict_to_routed(policy: &Policy, verdict: Verdict) -> Verdict {
    if verdict.exposure == Exposure::Unreachable || policy.routable_ports.contains(verdict.public_port) {
        return verdict;
    }
    let hint = match &policy.routable_ports {
        RoutablePorts::Only(ports) if !ports.is_empty() => {
            let ports: Vec<_> = ports.iter().map(u16::to_string).collect();
            format!("the platform routes {} only; use one of these", ports.join(", "))
        }
        _ => "the platform routes no port to this VM (network.routable_ports)".to_owned(),
    };
    Verdict { exposure: Exposure::Unreachable, cause: Some(Cause::PortNotRoutable), hint: Some(hint), ..verdict }
}

pub(super) fn process(table: &ListenerTable, fact: &ProcessFact) -> Process {
    // The deepest unit of the path is the one that runs the process, as `systemctl status PID` shows it.
    let unit = fact.cgroup.rsplit('/').find(|part| part.ends_with(".service") || part.ends_with(".scope"));
    // To the hundredth, which is what the kernel counts in.
    let started_at = ((table.booted_at + fact.started_after_boot).as_secs_f64() * 100.0).round() / 100.0;
    Process {
        pid: fact.pid,
        name: fact.name.clone(),
        command: fact.command.clone(),
        uid: fact.uid,
        unit: unit.map(str::to_owned),
        container: container::of_cgroup(&fact.cgroup),
        started_at: Some(started_at),
        holders: None,
    }
}

#[cfg(test)]
mod tests;
