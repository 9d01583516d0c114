//! Verdicts and hints.

use std::{net::IpAddr, sync::Arc, time::Duration};

use super::*;
use crate::api::BridgeMode;
use crate::facts::{AcceptQueue, AddressFact, NamespaceFact, ProcessFact};
use crate::listeners::tests::{address, owner, socket, table};

fn policy() -> Policy {
    Policy { public_name: Some("abc.vm.vers.sh".to_owned()), routable_ports: RoutablePorts::All, bridge_auto: true }
}

fn bridged(listen: u16, to: &str, state: BridgePortState) -> BridgePort {
    BridgePort {
        listen,
        to: to.parse().unwrap(),
        auto: true,
        rule: None,
        mode: BridgeMode::Tcp,
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
        table.processes.insert(inode, owner(5, "sshd", "sshd", "/system.slice/ssh.service"));
    }
    let listeners = assess(&table, &policy(), &[]);
    assert_eq!((listeners[0].exposure, listeners[0].cause), (Direct, None));
    assert_eq!(listeners[0].process.as_ref().unwrap().unit.as_deref(), Some("ssh.service"));
}

#[test]
fn ipv4_listener_whose_port_is_anothers_over_ipv6_is_named_unreachable() {
    let mut table = table(vec![socket("0.0.0.0", 80), SocketFact { inode: 7, ..socket("::", 80) }]);
    table.processes.insert(800, owner(4, "sshd", "sshd", ""));
    table.processes.insert(7, owner(5, "sshd", "sshd", ""));
    let listeners = assess(&table, &policy(), &[]);
    assert_eq!((listeners[0].exposure, listeners[0].cause), (Unreachable, Some(Cause::Ipv4OnlyWildcard)));
    assert!(listeners[0].hint.as_ref().unwrap().contains("belongs to sshd"));
}

fn hint(address: &str, port: u16, command: &str, bridge: &[BridgePort]) -> String {
    let mut table = table(vec![socket(address, port)]);
    let inode = table.sockets[0].inode;
    table.processes.insert(inode, owner(5, "sshd", command, ""));
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
    .join("\n"), @r"
    it has just begun to listen; if it stays, let gunicorn listen on IPv6 too: run it with `-b '[::]:8000'`
    guestd bridges IPv6 to it; to do without, let gunicorn listen on IPv6 too: run it with `-b '[::]:8000'`
    127.0.0.1 is reached from inside this VM only and is never bridged unasked: what is reachable here is reachable by the whole internet. If it is meant to be public, let http.server listen on every address: run `python3 -m http.server --bind :: 8000`, or run `guestctl bridge add 8000 127.0.0.1:8000`
    ::1 is reached from inside this VM only and is never bridged unasked: what is reachable here is reachable by the whole internet. If it is meant to be public, let Vite listen on every address: run `vite --host ::`, or set `server.host: '::'` in its configuration, or run `guestctl bridge add 5173 [::1]:5173`
    127.0.0.1 is reached from inside this VM only and is never bridged unasked: what is reachable here is reachable by the whole internet. Keep PostgreSQL private, and reach it from the host by `guestctl tunnel 5432:127.0.0.1:5432`; only if all may reach it, run `guestctl bridge add 5432 127.0.0.1:5432`
    ::1 is reached from inside this VM only and is never bridged unasked: what is reachable here is reachable by the whole internet. Keep PostgreSQL private, and reach it from the host by `guestctl tunnel 5432:[::1]:5432`; only if all may reach it, run `guestctl bridge add 5432 [::1]:5432`
    a rule makes PostgreSQL public to the whole internet; to end that, run `guestctl bridge remove 8080`
    it has just begun to listen; if it stays, let PostgreSQL listen on IPv6 too: set `listen_addresses = '*'`; if it is not meant to be public, `'localhost'`
    127.0.0.1 is reached from inside this VM only and is never bridged unasked: what is reachable here is reachable by the whole internet. If it is meant to be public, let the service listen on `::` (IPv6 and IPv4) instead, for example [::]:9000, or run `guestctl bridge add 9000 127.0.0.1:9000`
    ");
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
fn without_an_ipv6_address_nothing_that_is_meant_to_be_reached_is_reached() {
    let mut table = table(vec![
        socket("::", 80),
        socket("fd00::2", 81),
        socket("0.0.0.0", 82),
        socket("::1", 83),
        socket("127.0.0.1", 84),
        socket("fe80::2", 85),
    ]);
    // Down, loopback, and not routed.
    table.addresses = vec![
        AddressFact { up: false, ..address("eth0", "fd00::2") },
        address("lo", "::1"),
        address("eth0", "fe80::2"),
        address("eth0", "10.0.0.2"),
    ];
    let rules = [bridged(82, "127.0.0.1:82", Active), bridged(84, "127.0.0.1:84", Active)];
    let listeners = assess(&table, &policy(), &rules);
    use Cause::{LinkLocalOnly, LoopbackOnly, NoIpv6Address as No};
    let causes: Vec<_> = listeners.iter().map(|listener| (listener.exposure, listener.cause.unwrap())).collect();
    assert_eq!(causes, [No, No, No, LoopbackOnly, No, LinkLocalOnly].map(|cause| (Unreachable, cause)));
    assert!(listeners.iter().all(|listener| listener.url.is_none()));
    assert!(listeners[0].hint.as_ref().unwrap().contains("guestd.ip6="));
}

#[test]
fn a_bind_to_an_address_that_is_gone_is_unreachable_and_says_where_the_address_is() {
    let mut table = table(vec![socket("fd00::9", 80), socket("10.0.0.9", 81), socket("fd00::8", 82)]);
    table.absent = ["fd00::9", "10.0.0.9", "fd00::8"].map(|address| address.parse().unwrap()).into();
    table.addresses.push(AddressFact { up: false, ..address("eth1", "fd00::8") });
    let listeners = assess(&table, &policy(), &[bridged(81, "10.0.0.9:81", Active)]);
    let all = (Unreachable, Some(Cause::AddressNotAvailable), None);
    for listener in &listeners {
        assert_eq!((listener.exposure, listener.cause, listener.url.clone()), all, "{listener:?}");
    }
    insta::assert_snapshot!(listeners.iter().map(|listener| listener.hint.clone().unwrap()).collect::<Vec<_>>().join("\n"), @r"
    no interface has fd00::9 (any more): add it to one, or let the service listen on `::` (IPv6 and IPv4) instead, for example [::]:80
    no interface has 10.0.0.9 (any more): add it to one, or let the service listen on `::` (IPv6 and IPv4) instead, for example [::]:81
    fd00::8 is an address of eth1, which is down: set it up by `ip link set eth1 up`, or let the service listen on `::` (IPv6 and IPv4) instead, for example [::]:82
    ");
}

#[test]
fn an_address_on_the_loopback_interface_is_reached_where_it_is_routed_to() {
    let mut table = table(vec![socket("fd00::7", 80)]);
    table.addresses.push(address("lo", "fd00::7"));
    let listener = assess(&table, &policy(), &[]).remove(0);
    assert_eq!((listener.exposure, listener.cause), (Direct, None));
    assert!(listener.hint.unwrap().contains("is on the loopback interface"));
}

#[test]
fn listeners_of_other_namespaces_are_never_taken_for_the_vms_own() {
    let mut table = table(vec![socket("0.0.0.0", 80), socket("0.0.0.0", 3000)]);
    // A container's service over IPv6 does not serve the VM's port; nor is it what a bridge leads to.
    let inside = vec![SocketFact { inode: 7, ..socket("::", 80) }, SocketFact { inode: 8, ..socket("0.0.0.0", 4000) }];
    table.others = vec![NamespaceFact { netns: 99, sockets: inside, addresses: Vec::new() }];
    let listeners = assess(&table, &policy(), &[bridged(4000, "0.0.0.0:4000", Active)]);
    let seen: Vec<_> =
        listeners.iter().map(|listener| (listener.port, listener.netns, listener.cause.unwrap())).collect();
    use Cause::{Ipv4OnlyWildcard, OtherNetns};
    assert_eq!(
        seen,
        [(80, 1, Ipv4OnlyWildcard), (80, 99, OtherNetns), (3000, 1, Ipv4OnlyWildcard), (4000, 99, OtherNetns)]
    );
    assert!(listeners.iter().all(|listener| listener.exposure == Unreachable && listener.hint.is_some()));
}

#[test]
fn a_process_tells_its_container_its_start_and_with_how_many_it_shares() {
    let mut table = table(vec![socket("::", 80)]);
    let mut of_80 = owner(5, "nginx", "nginx", &format!("/docker/{}", "3f".repeat(32)));
    let started = ProcessFact { started_after_boot: Duration::from_millis(12_340), ..(*of_80.process).clone() };
    (of_80.process, of_80.holders) = (Arc::new(started), 3);
    table.processes.insert(800, of_80);
    table.booted_at = Duration::new(1_700_000_000, 4_000_001);
    let process = assess(&table, &policy(), &[]).remove(0).process.unwrap();
    assert_eq!((process.started_at, process.holders), (Some(1_700_000_012.34), Some(3)));
    assert_eq!(process.container.unwrap().id.len(), 64);
    table.processes.insert(800, owner(5, "nginx", "nginx", "/"));
    let process = assess(&table, &policy(), &[]).remove(0).process.unwrap();
    assert_eq!((process.container, process.holders), (None, None));
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
