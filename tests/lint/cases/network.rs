//! Names and name servers.

use super::{Case, case, nothing};
use crate::fixture::Fixture;

fn this_machine() -> String {
    nix::unistd::gethostname().unwrap().into_string().unwrap()
}

/// systemd-resolved, wanted at boot.
fn resolved(it: &Fixture) {
    it.write("usr/lib/systemd/system/systemd-resolved.service", "[Service]\nExecStart=/bin/sh\n");
    it.link(
        "etc/systemd/system/sysinit.target.wants/systemd-resolved.service",
        "/lib/systemd/system/systemd-resolved.service",
    );
}

pub(super) const CASES: &[Case] = &[
    case(
        "resolv-conf-dangling",
        "/etc/resolv.conf",
        |it| it.link("etc/resolv.conf", "../run/systemd/resolve/stub-resolv.conf"),
        |it| {
            it.link("etc/resolv.conf", "../run/systemd/resolve/stub-resolv.conf");
            resolved(it);
        },
    ),
    case(
        "resolv-conf-dangling",
        "/etc/resolv.conf",
        |it| {
            it.link("etc/resolv.conf", "/mnt/resolv.conf");
            resolved(it);
        },
        |it| it.remove("etc/resolv.conf"),
    ),
    case(
        "resolv-conf-loopback",
        "/etc/resolv.conf",
        |it| it.write("etc/resolv.conf", "nameserver 127.0.0.53\n"),
        |it| {
            it.write("etc/resolv.conf", "nameserver 127.0.0.53\n");
            resolved(it);
        },
    ),
    case("resolv-conf-loopback", "/etc/resolv.conf", |it| it.write("etc/resolv.conf", "nameserver ::1\n"), nothing),
    case(
        "resolv-conf-private",
        "/etc/resolv.conf",
        |it| it.write("etc/resolv.conf", "nameserver 192.168.1.1\n"),
        |it| {
            it.write("etc/resolv.conf", "nameserver 2606:4700:4700::1111\nnameserver 1.1.1.1\n");
        },
    ),
    case(
        "resolv-conf-private",
        "/etc/resolv.conf",
        |it| it.write("etc/resolv.conf", "nameserver fe80::1%eth0\n"),
        nothing,
    ),
    case(
        "hostname",
        "/etc/hostname",
        |it| it.write("etc/hostname", this_machine()),
        |it| it.write("etc/hostname", "# none\n"),
    ),
    case(
        "hostname",
        "/etc/hostname",
        |it| it.write("etc/hostname", "3f4e5d6c7b8a\n"),
        |it| it.write("etc/hostname", "web-server-1\n"),
    ),
    case(
        "hosts",
        "/etc/hosts",
        |it| it.append("etc/hosts", "172.17.0.2 3f4e5d6c7b8a\n"),
        |it| {
            it.append("etc/hosts", "ff02::1 ip6-allnodes\n127.0.1.1 guest\n");
        },
    ),
    case("hosts", "/etc/hosts", |it| it.append("etc/hosts", &format!("127.0.1.1 {}\n", this_machine())), nothing),
    case("hosts", "/etc/hosts", |it| it.write("etc/hosts", "127.0.0.1 localhost\n"), nothing),
    case("hosts", "/etc/hosts", |it| it.remove("etc/hosts"), nothing),
];

#[test]
fn names_and_addresses_of_the_build_are_found() {
    super::hold(CASES);
}
