//! The verdict: can the proxy reach a listener, if not why, and what to do.

use std::net::SocketAddr;

use crate::{
    api::{BridgePort, BridgePortState, Cause, Exposure, Family, Listener, Process, Scope},
    config::RoutablePorts,
    facts::{AcceptQueue, ProcessFact, SocketFact},
    listeners::{
        Bind, ListenerTable,
        runtimes::{self, Runtime},
    },
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

/// Judges every socket of the table, in its order.
pub fn assess(table: &ListenerTable, policy: &Policy, bridge: &[BridgePort]) -> Vec<Listener> {
    table.sockets.iter().map(|socket| listener(table, policy, bridge, socket)).collect()
}

fn listener(table: &ListenerTable, policy: &Policy, bridge: &[BridgePort], socket: &SocketFact) -> Listener {
    let bind = Bind::of(socket);
    let verdict = restrict_to_routed(policy, verdict(table, policy, bridge, socket, bind));
    let reachable = verdict.exposure != Exposure::Unreachable;
    let public_name = policy.public_name.as_ref().filter(|_| reachable);
    Listener {
        port: socket.port,
        address: bind.address,
        family: bind.family,
        v6only: socket.v6only && bind.family == Family::Ipv6,
        scope: bind.scope,
        exposure: verdict.exposure,
        cause: verdict.cause,
        hint: with_queue(verdict.hint, socket.accept_queue),
        url: public_name.map(|name| format!("https://{name}:{}", verdict.public_port)),
        probe: None,
        process: table.processes.get(&socket.inode).map(process),
        netns: table.netns,
        inode: socket.inode,
        uid: Some(socket.uid),
        cgroup_id: socket.cgroup_id,
        backlog: socket.accept_queue.map(|queue| queue.backlog),
        accept_queue: socket.accept_queue.map(|queue| queue.waiting),
    }
}

fn verdict(table: &ListenerTable, policy: &Policy, bridge: &[BridgePort], socket: &SocketFact, bind: Bind) -> Verdict {
    let port = socket.port;
    let unreachable = |cause, hint: String| Verdict {
        exposure: Exposure::Unreachable,
        cause: Some(cause),
        hint: Some(hint),
        public_port: port,
    };
    let family_cause = match (bind.family, bind.scope) {
        (_, Scope::Loopback) => Cause::LoopbackOnly,
        (_, Scope::LinkLocal) => Cause::LinkLocalOnly,
        (Family::Ipv4, Scope::Wildcard) => Cause::Ipv4OnlyWildcard,
        (Family::Ipv4, Scope::Address) => Cause::Ipv4OnlyAddress,
        (Family::Ipv6, Scope::Wildcard | Scope::Address) => {
            return Verdict { exposure: Exposure::Direct, cause: None, hint: None, public_port: port };
        }
    };
    let runtime = runtime(table, socket);
    let bridged = bridge.iter().find(|entry| leads_to(entry, socket, bind));
    if let Some(entry) = bridged.filter(|entry| entry.state == BridgePortState::Active) {
        return Verdict {
            exposure: Exposure::Bridged,
            cause: Some(family_cause),
            hint: Some(bridged_hint(runtime, entry, bind, port)),
            public_port: entry.listen,
        };
    }
    match family_cause {
        Cause::LoopbackOnly => unreachable(family_cause, loopback_hint(runtime, bind, port)),
        Cause::LinkLocalOnly => unreachable(
            family_cause,
            format!("{} is not routed beyond its link; {}", bind.address, how_to_bind_ipv6(runtime, port)),
        ),
        _ => ipv4_only(table, policy, socket, family_cause, bridged),
    }
}

/// The verdict on an IPv4 listener that is no loopback one and is not bridged at present.
fn ipv4_only(
    table: &ListenerTable,
    policy: &Policy,
    socket: &SocketFact,
    family_cause: Cause,
    bridged: Option<&BridgePort>,
) -> Verdict {
    let port = socket.port;
    let how_to_bind_ipv6 = || how_to_bind_ipv6(runtime(table, socket), port);
    let owner = |socket: &SocketFact| table.processes.get(&socket.inode);
    let (exposure, cause, hint) = match (table.ipv6_listener(port), bridged) {
        (Some(ipv6), _) if owner(ipv6).map(|owner| owner.pid) == owner(socket).map(|owner| owner.pid) => {
            (Exposure::Direct, None, format!("served over IPv6 by the same process on [{}]:{port}", ipv6.address))
        }
        (Some(ipv6), _) => {
            let other = owner(ipv6).map_or("another process", |owner| owner.name.as_str());
            let hint =
                format!("over IPv6 this port belongs to {other}, which is what the proxy reaches; use another port");
            (Exposure::Unreachable, Some(family_cause), hint)
        }
        (None, Some(entry)) if entry.state == BridgePortState::Settling => {
            let hint =
                "guestd is about to bridge it, when it is sure that the service does not bind IPv6 itself".to_owned();
            (Exposure::Unreachable, Some(family_cause), hint)
        }
        (None, Some(entry)) => {
            let why = entry.message.as_deref().unwrap_or("it was not said why");
            let hint = format!("the bridge could not be set up: {why}; {}", how_to_bind_ipv6());
            (Exposure::Unreachable, Some(Cause::BridgeFailed), hint)
        }
        (None, None) if !policy.bridge_auto => {
            let hint = format!("{}, or run `guestctl bridge auto on`", how_to_bind_ipv6());
            (Exposure::Unreachable, Some(Cause::BridgeOff), hint)
        }
        (None, None) => (
            Exposure::Unreachable,
            Some(family_cause),
            format!("it has just begun to listen; if it stays, {}", how_to_bind_ipv6()),
        ),
    };
    Verdict { exposure, cause, hint: Some(hint), public_port: port }
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

/// Adds to the hint that new connections are dropped because the service does not take those that it has.
fn with_queue(hint: Option<String>, queue: Option<AcceptQueue>) -> Option<String> {
    let Some(queue) = queue.filter(|queue| queue.is_full()) else { return hint };
    let full = format!(
        "its accept queue is full ({} of {}): the service does not accept fast enough; look why it is held up, or let it \
         listen with a larger backlog",
        queue.waiting,
        queue.capacity(),
    );
    Some(hint.map_or(full.clone(), |hint| format!("{full}. Besides, {hint}")))
}

fn leads_to(entry: &BridgePort, socket: &SocketFact, bind: Bind) -> bool {
    entry.to.port() == socket.port
        && bind.family == Family::Ipv4
        && (bind.scope == Scope::Wildcard || entry.to.ip() == bind.address)
}

/// What the owner of the socket is, where that can be told.
fn runtime(table: &ListenerTable, socket: &SocketFact) -> Option<&'static Runtime> {
    let owner = table.processes.get(&socket.inode)?;
    runtimes::recognise(&owner.name, &owner.command)
}

fn bridged_hint(runtime: Option<&Runtime>, entry: &BridgePort, bind: Bind, port: u16) -> String {
    match runtime {
        // Bound to loopback and public by a rule: the way to do without the bridge is to be private again.
        Some(runtime) if bind.scope == Scope::Loopback && runtime.fix_of_loopback(port).is_none() => format!(
            "a rule makes {} public to the whole internet; to end that, run `guestctl bridge remove {}`",
            runtime.name, entry.listen
        ),
        _ => format!("guestd bridges IPv6 to it; to do without, {}", how_to_bind(runtime, bind.scope, port)),
    }
}

fn loopback_hint(runtime: Option<&Runtime>, bind: Bind, port: u16) -> String {
    let why = format!(
        "{} is reached from inside this VM only and is never bridged unasked: what is reachable here is reachable by the \
         whole internet",
        bind.address,
    );
    let rule = match bind.family {
        Family::Ipv4 => Some(format!("run `guestctl bridge add {port} {}:{port}`", bind.address)),
        Family::Ipv6 => None,
    };
    if let Some(runtime) = runtime.filter(|runtime| runtime.fix_of_loopback(port).is_none()) {
        let at = SocketAddr::new(bind.address, port);
        let rule = rule.map(|rule| format!("; only if all may reach it, {rule}")).unwrap_or_default();
        return format!(
            "{why}. Keep {} private, and reach it from the host by `guestctl tunnel {port}:{at}`{rule}",
            runtime.name
        );
    }
    let rule = rule.map(|rule| format!(", or {rule}")).unwrap_or_default();
    format!("{why}. If it is meant to be public, {}{rule}", how_to_bind(runtime, Scope::Loopback, port))
}

fn how_to_bind_ipv6(runtime: Option<&Runtime>, port: u16) -> String {
    how_to_bind(runtime, Scope::Wildcard, port)
}

fn how_to_bind(runtime: Option<&Runtime>, scope: Scope, port: u16) -> String {
    let exact = runtime.and_then(|runtime| {
        let (what, fix) = match scope {
            Scope::Loopback => ("every address", runtime.fix_of_loopback(port)?),
            _ => ("IPv6 too", runtime.fix(port)),
        };
        Some(format!("let {} listen on {what}: {fix}", runtime.name))
    });
    exact.unwrap_or_else(|| format!("let the service listen on `::` (IPv6 and IPv4) instead, for example [::]:{port}"))
}

pub(super) fn process(fact: &ProcessFact) -> Process {
    // The deepest unit of the path is the one that runs the process, as `systemctl status PID` shows it.
    let unit = fact.cgroup.rsplit('/').find(|part| part.ends_with(".service") || part.ends_with(".scope"));
    Process {
        pid: fact.pid,
        name: fact.name.clone(),
        command: fact.command.clone(),
        uid: fact.uid,
        unit: unit.map(str::to_owned),
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::*;
    use crate::listeners::table::tests::{socket, table};

    fn policy() -> Policy {
        Policy { public_name: Some("abc.vm.vers.sh".to_owned()), routable_ports: RoutablePorts::All, bridge_auto: true }
    }

    fn bridged(listen: u16, to: &str, state: BridgePortState) -> BridgePort {
        BridgePort {
            listen,
            to: to.parse().unwrap(),
            auto: true,
            state,
            message: (state == BridgePortState::Failed).then(|| "address in use".to_owned()),
            addresses: Vec::new(),
            connections: 0,
            connections_total: 0,
            bytes_in: 0,
            bytes_out: 0,
            errors_total: 0,
        }
    }

    fn judge(
        address: &str,
        port: u16,
        policy: &Policy,
        bridge: &[BridgePort],
    ) -> (Exposure, Option<Cause>, Option<String>) {
        let listener = assess(&table(vec![socket(address, port)]), policy, bridge).remove(0);
        (listener.exposure, listener.cause, listener.url)
    }

    fn owned(pid: i32, cgroup: &str) -> ProcessFact {
        ProcessFact { pid, name: "sshd".into(), command: "sshd".into(), uid: 0, cgroup: cgroup.into() }
    }

    use BridgePortState::{Active, Failed, Settling};
    use Exposure::{Bridged, Direct, Unreachable};

    #[test]
    fn ipv6_wildcard_and_routed_addresses_are_direct() {
        let url = |port| Some(format!("https://abc.vm.vers.sh:{port}"));
        assert_eq!(judge("::", 22, &policy(), &[]), (Direct, None, url(22)));
        assert_eq!(judge("fd00::2", 80, &policy(), &[]), (Direct, None, url(80)));
    }

    #[test]
    fn ipv4_wildcard_is_bridged_or_says_why_not() {
        let cause = Some(Cause::Ipv4OnlyWildcard);
        let url = Some("https://abc.vm.vers.sh:3000".to_owned());
        let with = |state| judge("0.0.0.0", 3000, &policy(), &[bridged(3000, "127.0.0.1:3000", state)]);
        assert_eq!(with(Active), (Bridged, cause, url));
        assert_eq!(with(Settling), (Unreachable, cause, None));
        assert_eq!(with(Failed), (Unreachable, Some(Cause::BridgeFailed), None));
        let off = Policy { bridge_auto: false, ..policy() };
        assert_eq!(judge("0.0.0.0", 3000, &off, &[]), (Unreachable, Some(Cause::BridgeOff), None));
        assert_eq!(judge("10.0.0.2", 3000, &policy(), &[]), (Unreachable, Some(Cause::Ipv4OnlyAddress), None));
    }

    #[test]
    fn loopback_listener_is_unreachable_unless_a_rule_leads_to_it() {
        let cause = Some(Cause::LoopbackOnly);
        assert_eq!(judge("127.0.0.1", 5432, &policy(), &[]), (Unreachable, cause, None));
        assert_eq!(judge("::1", 5432, &policy(), &[]), (Unreachable, cause, None));
        let rule = [bridged(8080, "127.0.0.1:5432", Active)];
        let url = Some("https://abc.vm.vers.sh:8080".to_owned());
        assert_eq!(judge("127.0.0.1", 5432, &policy(), &rule), (Bridged, cause, url));
        assert_eq!(judge("127.0.0.2", 5432, &policy(), &rule), (Unreachable, cause, None));
    }

    #[test]
    fn link_local_listener_is_unreachable() {
        assert_eq!(judge("fe80::2", 80, &policy(), &[]), (Unreachable, Some(Cause::LinkLocalOnly), None));
        assert_eq!(judge("169.254.0.9", 80, &policy(), &[]), (Unreachable, Some(Cause::LinkLocalOnly), None));
    }

    #[test]
    fn port_that_is_not_routed_is_unreachable_however_it_is_bound() {
        let some = Policy { routable_ports: RoutablePorts::Only(vec![3000, 8080]), ..policy() };
        assert_eq!(judge("::", 3000, &some, &[]).0, Direct);
        assert_eq!(judge("::", 4000, &some, &[]), (Unreachable, Some(Cause::PortNotRoutable), None));
        let remapped = [bridged(8080, "127.0.0.1:5000", Active)];
        assert_eq!(judge("0.0.0.0", 5000, &some, &remapped).0, Bridged);
    }

    #[test]
    fn ipv4_half_of_a_service_with_two_sockets_is_direct() {
        let mut table = table(vec![socket("0.0.0.0", 22), SocketFact { inode: 7, ..socket("::", 22) }]);
        for inode in [220, 7] {
            table.processes.insert(inode, owned(5, "/system.slice/ssh.service"));
        }
        let listeners = assess(&table, &policy(), &[]);
        assert_eq!((listeners[0].exposure, listeners[0].cause), (Direct, None));
        assert_eq!(listeners[0].process.as_ref().unwrap().unit.as_deref(), Some("ssh.service"));
    }

    #[test]
    fn ipv4_listener_whose_port_is_anothers_over_ipv6_is_named_unreachable() {
        let mut table = table(vec![socket("0.0.0.0", 80), SocketFact { inode: 7, ..socket("::", 80) }]);
        table.processes.insert(800, owned(4, ""));
        table.processes.insert(7, owned(5, ""));
        let listeners = assess(&table, &policy(), &[]);
        assert_eq!((listeners[0].exposure, listeners[0].cause), (Unreachable, Some(Cause::Ipv4OnlyWildcard)));
        assert!(listeners[0].hint.as_ref().unwrap().contains("belongs to sshd"));
    }

    fn hint(address: &str, port: u16, command: &str, bridge: &[BridgePort]) -> String {
        let mut table = table(vec![socket(address, port)]);
        let inode = table.sockets[0].inode;
        table.processes.insert(inode, ProcessFact { command: command.into(), ..owned(5, "") });
        assess(&table, &policy(), bridge).remove(0).hint.unwrap()
    }

    #[test]
    fn hints_are_exact_for_the_runtime_that_is_recognised() {
        let rule = [bridged(8080, "127.0.0.1:5432", Active)];
        insta::assert_snapshot!([
            hint("0.0.0.0", 8000, "gunicorn: master [app]", &[]),
            hint("0.0.0.0", 8000, "gunicorn: master [app]", &[bridged(8000, "127.0.0.1:8000", Active)]),
            hint("127.0.0.1", 8000, "python3 -m http.server --bind 127.0.0.1", &[]),
            hint("::1", 5173, "node /app/node_modules/.bin/vite", &[]),
            hint("127.0.0.1", 5432, "/usr/lib/postgresql/15/bin/postgres", &[]),
            hint("::1", 5432, "/usr/lib/postgresql/15/bin/postgres", &[]),
            hint("127.0.0.1", 5432, "/usr/lib/postgresql/15/bin/postgres", &rule),
            hint("0.0.0.0", 5432, "/usr/lib/postgresql/15/bin/postgres", &[]),
            hint("127.0.0.1", 9000, "/srv/unknown", &[]),
        ]
        .join("\n"), @r#"
        it has just begun to listen; if it stays, let gunicorn listen on IPv6 too: run it with `-b '[::]:8000'`
        guestd bridges IPv6 to it; to do without, let gunicorn listen on IPv6 too: run it with `-b '[::]:8000'`
        127.0.0.1 is reached from inside this VM only and is never bridged unasked: what is reachable here is reachable by the whole internet. If it is meant to be public, let http.server listen on every address: run `python3 -m http.server --bind :: 8000`, or run `guestctl bridge add 8000 127.0.0.1:8000`
        ::1 is reached from inside this VM only and is never bridged unasked: what is reachable here is reachable by the whole internet. If it is meant to be public, let Vite listen on every address: run `vite --host ::`, or set `server.host: '::'` in its configuration
        127.0.0.1 is reached from inside this VM only and is never bridged unasked: what is reachable here is reachable by the whole internet. Keep PostgreSQL private, and reach it from the host by `guestctl tunnel 5432:127.0.0.1:5432`; only if all may reach it, run `guestctl bridge add 5432 127.0.0.1:5432`
        ::1 is reached from inside this VM only and is never bridged unasked: what is reachable here is reachable by the whole internet. Keep PostgreSQL private, and reach it from the host by `guestctl tunnel 5432:[::1]:5432`
        a rule makes PostgreSQL public to the whole internet; to end that, run `guestctl bridge remove 8080`
        it has just begun to listen; if it stays, let PostgreSQL listen on IPv6 too: set `listen_addresses = '*'`; if it is not meant to be public, `'localhost'`
        127.0.0.1 is reached from inside this VM only and is never bridged unasked: what is reachable here is reachable by the whole internet. If it is meant to be public, let the service listen on `::` (IPv6 and IPv4) instead, for example [::]:9000, or run `guestctl bridge add 9000 127.0.0.1:9000`
        "#);
    }

    #[test]
    fn full_accept_queue_is_a_hint_from_the_connection_on_that_the_kernel_counts_as_one_too_many() {
        let hint = |address, waiting, backlog| {
            let accept_queue = Some(AcceptQueue { waiting, backlog });
            assess(&table(vec![SocketFact { accept_queue, ..socket(address, 80) }]), &policy(), &[]).remove(0).hint
        };
        assert_eq!(hint("::", 0, 0), None);
        assert_eq!(hint("::", 1, 1), None);
        assert_eq!(hint("::", u32::MAX, u32::MAX), None);
        let full = |of| {
            format!(
                "its accept queue is full ({of}): the service does not accept fast enough; look why it is held up, or let \
                 it listen with a larger backlog"
            )
        };
        assert_eq!(hint("::", 2, 1), Some(full("2 of 2")));
        assert_eq!(hint("::", 1, 0), Some(full("1 of 1")));
        // What was to be said of the listener before is still said.
        let both = format!("{}. Besides, {}", full("129 of 129"), hint("fe80::2", 128, 128).unwrap());
        assert_eq!(hint("fe80::2", 129, 128), Some(both));
    }

    #[test]
    fn a_vm_without_id_has_no_urls() {
        assert_eq!(judge("::", 80, &Policy { public_name: None, ..policy() }, &[]), (Direct, None, None));
    }

    #[test]
    fn a_mapped_address_is_reported_as_ipv4() {
        let listener = assess(&table(vec![socket("::ffff:127.0.0.1", 80)]), &policy(), &[]).remove(0);
        assert_eq!(
            (listener.address, listener.family, listener.v6only),
            (IpAddr::from([127, 0, 0, 1]), Family::Ipv4, false)
        );
    }

    proptest::proptest! {
        #[test]
        fn every_listener_that_is_not_direct_has_a_cause_and_every_cause_a_hint(
            address in proptest::prelude::any::<IpAddr>(), port in 1u16.., auto: bool, routed: bool,
        ) {
            let routable_ports = if routed { RoutablePorts::All } else { RoutablePorts::Only(vec![80]) };
            let policy = Policy { bridge_auto: auto, routable_ports, ..policy() };
            let fact = SocketFact { address, ..socket("::", port) };
            let listener = assess(&table(vec![fact]), &policy, &[]).remove(0);
            assert_eq!(listener.exposure == Direct, listener.cause.is_none());
            assert!(listener.cause.is_none() || listener.hint.is_some());
            assert_eq!(listener.url.is_some(), listener.exposure != Unreachable);
        }
    }
}
