//! Names and name servers.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::{Findings, Rule, Tree, lines, systemd};
use crate::lint::{
    finding::Severity,
    tree::{Kind, Place},
    units::Units,
};

static RESOLV_CONF_DANGLING: Rule = Rule {
    id: "resolv-conf-dangling",
    severity: Severity::Warning,
    wants: "/etc/resolv.conf not to be a link to what nothing makes",
    reason: "no name can be resolved until somebody puts a file there",
    fix: "put a file there, empty or with the platform's name servers, or enable the service that makes the link's target",
};

static RESOLV_CONF_LOOPBACK: Rule = Rule {
    id: "resolv-conf-loopback",
    severity: Severity::Error,
    wants: "no name server on loopback without a service that is one",
    reason: "nothing answers there, and no name can be resolved",
    fix: "enable the service (systemd-resolved, dnsmasq, unbound …), or name the platform's servers",
};

static RESOLV_CONF_PRIVATE: Rule = Rule {
    id: "resolv-conf-private",
    severity: Severity::Warning,
    wants: "no name servers with addresses of private networks",
    reason: "they are most likely those of the machine that the image was made on, and not to be reached from a VM",
    fix: "empty the file or name the platform's servers; waive this if these are the platform's",
};

static HOSTNAME: Rule = Rule {
    id: "hostname",
    severity: Severity::Warning,
    wants: "a host name that is nobody's",
    reason: "all VMs would have the name of the machine or container that the image was made on",
    fix: "write a neutral name, such as `guest`, into /etc/hostname",
};

static HOSTS: Rule = Rule {
    id: "hosts",
    severity: Severity::Warning,
    wants: "/etc/hosts with localhost for 127.0.0.1 and ::1, and no addresses of the build",
    reason: "programs look for localhost there first; addresses of the build lead nowhere, or to somebody else",
    fix: "write `127.0.0.1 localhost` and `::1 localhost`, and remove what the build has added",
};

pub(super) static RULES: &[&Rule] =
    &[&RESOLV_CONF_DANGLING, &RESOLV_CONF_LOOPBACK, &RESOLV_CONF_PRIVATE, &HOSTNAME, &HOSTS];

const RESOLV_CONF: &str = "/etc/resolv.conf";

/// Units that answer on loopback, and where they make their resolv.conf, if they do.
const RESOLVERS: &[(&str, &str)] = &[
    ("systemd-resolved.service", "/run/systemd/resolve/"),
    ("dnsmasq.service", ""),
    ("unbound.service", ""),
    ("named.service", ""),
    ("bind9.service", ""),
    ("dnscrypt-proxy.service", ""),
    ("stubby.service", ""),
    ("pdns-recursor.service", ""),
];

/// Services that make a resolv.conf in /run without answering themselves.
const MAKERS: &[(&str, &str)] = &[
    ("NetworkManager.service", "/run/NetworkManager/"),
    ("resolvconf.service", "/run/resolvconf/"),
    ("connman.service", "/run/connman/"),
    ("systemd-networkd.service", "/run/systemd/netif/"),
];

pub(super) fn check(tree: &Tree, builder: Option<&str>, found: &mut Findings) {
    resolv_conf(tree, found);
    let name = tree.text("/etc/hostname");
    if let Some(name) = name.as_deref().and_then(|text| lines(text).next()) {
        let of_a_container = name.len() == 12 && name.bytes().all(|byte| byte.is_ascii_hexdigit());
        if builder == Some(name) {
            found.add(&HOSTNAME, "/etc/hostname", format_args!("{name} is the name of this machine"));
        } else if of_a_container {
            found.add(&HOSTNAME, "/etc/hostname", format_args!("{name} is the name of a container"));
        }
    }
    hosts(tree, builder, found);
}

fn resolv_conf(tree: &Tree, found: &mut Findings) {
    let Some(place) = tree.look(RESOLV_CONF) else { return };
    let enabled = enabled_units(tree);
    let is_enabled = |unit: &str| enabled.iter().any(|name| name == unit);
    let Some(file) = place.followed() else {
        let target = String::from_utf8_lossy(&place.target().unwrap_or_default()).into_owned();
        let of = |path: &str| {
            target.trim_start_matches("../").trim_start_matches('/').starts_with(path.trim_start_matches('/'))
        };
        let makers = RESOLVERS.iter().chain(MAKERS);
        let made = makers.into_iter().any(|(unit, path)| !path.is_empty() && of(path) && is_enabled(unit));
        if !made {
            found.at(
                &RESOLV_CONF_DANGLING,
                place,
                format_args!("it is a link to {target}, which nothing in the image makes"),
            );
        }
        return;
    };
    let text = file.text().unwrap_or_default();
    for server in lines(&text).filter_map(|line| line.strip_prefix("nameserver")).map(str::trim) {
        // A scope may follow an address.
        let Ok(address) = server.split('%').next().unwrap_or_default().parse::<IpAddr>() else { continue };
        if address.is_loopback() {
            if !RESOLVERS.iter().any(|(unit, _)| is_enabled(unit)) {
                found.at(&RESOLV_CONF_LOOPBACK, place, format_args!("{server}, and no service for it is enabled"));
            }
        } else if is_private(address) {
            found.at(&RESOLV_CONF_PRIVATE, place, format_args!("the name server {server} is one of a private network"));
        }
    }
}

/// Names of units that something starts; of other inits, of scripts.
fn enabled_units(tree: &Tree) -> Vec<String> {
    if systemd(tree).is_some() {
        return Units::of(tree).wanted().into_iter().map(|wanted| wanted.name).collect();
    }
    let runlevels = ["/etc/runlevels/boot", "/etc/runlevels/default", "/etc/service", "/etc/rc2.d", "/etc/init.d"];
    let entries = runlevels.iter().filter_map(|path| tree.follow(path)).flat_map(Place::children);
    entries
        .map(|place| {
            let name = String::from_utf8_lossy(place.name());
            let name = name.trim_start_matches(|c: char| c == 'S' || c.is_ascii_digit());
            format!("{name}.service")
        })
        .collect()
}

fn is_private(address: IpAddr) -> bool {
    match address {
        // 100.64.0.0/10 is shared address space (RFC 6598).
        IpAddr::V4(four) => {
            four.is_private() || four.is_link_local() || (four.octets()[0] == 100 && four.octets()[1] & 0xc0 == 64)
        }
        IpAddr::V6(six) => six.is_unique_local() || six.is_unicast_link_local(),
    }
}

fn hosts(tree: &Tree, builder: Option<&str>, found: &mut Findings) {
    let path = "/etc/hosts";
    let Some(place) = tree.look(path).filter(|place| place.facts().kind != Kind::Directory) else {
        return found.add(&HOSTS, path, format_args!("it is missing"));
    };
    let text = place.followed().and_then(Place::text).unwrap_or_default();
    let (mut four, mut six) = (false, false);
    for line in lines(&text) {
        let mut words = line.split('#').next().unwrap_or_default().split_ascii_whitespace();
        let Some(address) = words.next().and_then(|word| word.parse::<IpAddr>().ok()) else { continue };
        let names: Vec<&str> = words.collect();
        four |= address == Ipv4Addr::LOCALHOST && names.contains(&"localhost");
        six |= address == Ipv6Addr::LOCALHOST && names.contains(&"localhost");
        if builder.is_some_and(|builder| names.contains(&builder)) {
            found.add(&HOSTS, path, format_args!("{} is the name of this machine", builder.unwrap_or_default()));
        } else if is_private(address) {
            found.add(&HOSTS, path, format_args!("{address} is an address of a private network"));
        }
    }
    for (there, address) in [(four, "127.0.0.1"), (six, "::1")] {
        if !there {
            found.add(&HOSTS, path, format_args!("localhost is not {address} there"));
        }
    }
}
