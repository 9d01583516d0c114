//! Traces of the build, and of machines that the image has been before.

use super::{Findings, Rule, Tree, lines, not_empty};
use crate::{
    keys::authorized_lines,
    lint::{
        finding::Severity,
        tree::{Kind, Place},
    },
};

static SHELL_HISTORY: Rule = Rule {
    id: "shell-history",
    severity: Severity::Error,
    wants: "no histories of shells and other prompts",
    reason: "what was typed in the build has passwords and tokens in it, and every VM would have it",
    fix: "remove it",
};

static KNOWN_HOSTS: Rule = Rule {
    id: "known-hosts",
    severity: Severity::Warning,
    wants: "no known_hosts of users",
    reason: "it names the machines that the builder has worked with, and their keys go stale in all VMs",
    fix: "remove it; hosts that every VM is to know belong into /etc/ssh/ssh_known_hosts",
};

static AUTHORIZED_KEYS: Rule = Rule {
    id: "authorized-keys",
    severity: Severity::Warning,
    wants: "no authorized_keys of users",
    reason: "whoever has a key of it can log in to every VM of the image; builders leave theirs behind",
    fix: "remove it; keys for all VMs are given to `guestd install --keys`, those of one VM by the host",
};

static POLICY_RC_D: Rule = Rule {
    id: "policy-rc.d",
    severity: Severity::Error,
    wants: "nothing that keeps packages from starting their services",
    reason: "it is for a build in a chroot; in a VM, services of packages that are installed would not start",
    fix: "remove it, or put back what was moved aside for it",
};

static CONTAINER_MARK: Rule = Rule {
    id: "container-mark",
    severity: Severity::Error,
    wants: "none of the files by which a container is known",
    reason: "systemd takes the VM for a container and leaves out udev, loading of modules and more",
    fix: "remove it: exporting a container does not",
};

static CLOUD_INIT: Rule = Rule {
    id: "cloud-init",
    severity: Severity::Warning,
    wants: "no state of a first boot by cloud-init",
    reason: "cloud-init would take each VM for the one that the image was made on, with its name, keys and network",
    fix: "`cloud-init clean --logs --seed`, and remove the network configuration that it has written",
};

static DHCP_LEASE: Rule = Rule {
    id: "dhcp-lease",
    severity: Severity::Warning,
    wants: "no DHCP leases",
    reason: "all VMs would ask for the address that the build had",
    fix: "remove it",
};

static NETWORK_NAMES: Rule = Rule {
    id: "network-names",
    severity: Severity::Warning,
    wants: "no names of network interfaces by their MAC address",
    reason: "the interface of a VM has another address and would get another name, with no network",
    fix: "remove the file",
};

static JOURNAL: Rule = Rule {
    id: "journal",
    severity: Severity::Warning,
    wants: "no journal of earlier boots",
    reason: "it tells of the machine that the image was made on, and is carried about by every VM",
    fix: "remove what is in /var/log/journal",
};

static CORE_DUMP: Rule = Rule {
    id: "core-dump",
    severity: Severity::Error,
    wants: "no core dumps",
    reason: "a core dump is a program's memory, with the keys and tokens that were in it",
    fix: "remove it",
};

static PROXY: Rule = Rule {
    id: "build-proxy",
    severity: Severity::Warning,
    wants: "no proxy of the build in apt's settings and the environment",
    reason: "it is not there for the VMs, so that downloads fail or hang",
    fix: "remove the setting; give it to the build alone (`apt-get -o Acquire::http::Proxy=…`)",
};

pub(super) static RULES: &[&Rule] = &[
    &SHELL_HISTORY,
    &KNOWN_HOSTS,
    &AUTHORIZED_KEYS,
    &POLICY_RC_D,
    &CONTAINER_MARK,
    &CLOUD_INIT,
    &DHCP_LEASE,
    &NETWORK_NAMES,
    &JOURNAL,
    &CORE_DUMP,
    &PROXY,
];

const HISTORIES: &[&[u8]] = &[
    b".ash_history",
    b".bash_history",
    b".ksh_history",
    b".lesshst",
    b".mysql_history",
    b".node_repl_history",
    b".psql_history",
    b".python_history",
    b".rediscli_history",
    b".sh_history",
    b".sqlite_history",
    b".viminfo",
    b".zsh_history",
    b"fish_history",
];

const START_BLOCKERS: &[&str] = &[
    "/usr/sbin/policy-rc.d",
    "/sbin/start-stop-daemon.REAL",
    "/usr/sbin/start-stop-daemon.REAL",
    "/sbin/initctl.REAL",
    "/usr/sbin/initctl.REAL",
];

const CONTAINER_MARKS: &[&str] = &["/.dockerenv", "/.dockerinit", "/run/.containerenv", "/run/systemd/container"];

const CLOUD_INIT_TRACES: &[&str] = &[
    "/var/lib/cloud/instance",
    "/var/lib/cloud/instances",
    "/var/lib/cloud/sem",
    "/etc/netplan/50-cloud-init.yaml",
    "/etc/network/interfaces.d/50-cloud-init",
    "/etc/NetworkManager/system-connections/cloud-init-eth0.nmconnection",
    "/etc/ssh/sshd_config.d/50-cloud-init.conf",
    "/etc/sudoers.d/90-cloud-init-users",
    "/run/cloud-init",
];

const LEASE_DIRECTORIES: &[&str] = &[
    "/var/lib/dhcp",
    "/var/lib/dhclient",
    "/var/lib/dhcpcd",
    "/var/lib/NetworkManager",
    "/run/systemd/netif/leases",
    "/var/lib/udhcpc",
];

const NAME_RULES: &[&str] =
    &["/etc/udev/rules.d/70-persistent-net.rules", "/etc/udev/rules.d/75-persistent-net-generator.rules"];

const DUMP_DIRECTORIES: &[&str] = &["/var/lib/systemd/coredump", "/var/crash", "/var/lib/apport/coredump"];

pub(super) fn check(tree: &Tree, found: &mut Findings) {
    homes(tree, found);
    for place in START_BLOCKERS.iter().filter_map(|path| tree.look(path)) {
        found.at(&POLICY_RC_D, place, format_args!("left over from a build in a chroot"));
    }
    for place in CONTAINER_MARKS.iter().filter_map(|path| tree.look(path)) {
        found.at(&CONTAINER_MARK, place, format_args!("a container's mark"));
    }
    for place in CLOUD_INIT_TRACES.iter().filter_map(|path| tree.look(path)) {
        if !place.is_directory() || place.children().next().is_some() {
            found.at(&CLOUD_INIT, place, format_args!("written by a first boot"));
        }
    }
    for directory in LEASE_DIRECTORIES.iter().filter_map(|path| tree.follow(path)) {
        for place in directory.children().filter(|place| is_lease(*place)) {
            found.at(&DHCP_LEASE, place, format_args!("a lease of an earlier machine"));
        }
    }
    for place in not_empty(tree, NAME_RULES) {
        found.at(&NETWORK_NAMES, place, format_args!("made for the machine that the image was made on"));
    }
    links_by_mac(tree, found);
    for directory in ["/var/log/journal", "/run/log/journal"].iter().filter_map(|path| tree.follow(path)) {
        let (files, bytes) = directory.extent();
        if files > 0 {
            found.sized(&JOURNAL, directory, format_args!("{files} files of earlier boots"), bytes);
        }
    }
    dumps(tree, found);
    proxies(tree, found);
}

/// Histories and such, in what may be a home.
fn homes(tree: &Tree, found: &mut Findings) {
    tree.root().walk(&mut |place| {
        if place.is_directory() {
            // Where packages put their files nobody has a home.
            return !(place.parent() == tree.root()
                && matches!(place.name(), b"usr" | b"proc" | b"sys" | b"dev" | b"run" | b"boot"));
        }
        if !place.is_file() || place.facts().size == 0 {
            return false;
        }
        if HISTORIES.contains(&place.name()) {
            found.at(&SHELL_HISTORY, place, format_args!("what was typed is in it"));
        } else if place.parent().name() == b".ssh" {
            match place.name() {
                b"known_hosts" | b"known_hosts.old" => found.at(&KNOWN_HOSTS, place, format_args!("it names hosts")),
                b"authorized_keys" | b"authorized_keys2" => {
                    let keys = place.text().map_or(0, |text| authorized_lines(&text).count());
                    if keys > 0 {
                        found.at(&AUTHORIZED_KEYS, place, format_args!("it lets {keys} keys in"));
                    }
                }
                _ => {}
            }
        }
        false
    });
}

fn is_lease(place: Place<'_>) -> bool {
    let name = String::from_utf8_lossy(place.name());
    let in_netif = place.parent().name() == b"leases";
    place.is_file() && place.facts().size > 0 && (in_netif || name.contains(".lease"))
}

/// `.link` files and netplan's settings that name an interface by its address.
fn links_by_mac(tree: &Tree, found: &mut Findings) {
    for (directory, end, key) in
        [("/etc/systemd/network", ".link", "macaddress="), ("/etc/netplan", ".yaml", "macaddress:")]
    {
        let Some(directory) = tree.follow(directory) else { continue };
        for place in directory.children().filter(|place| place.name().ends_with(end.as_bytes())) {
            let text = place.text().unwrap_or_default().to_ascii_lowercase();
            if lines(&text).any(|line| line.starts_with(key)) {
                found.at(&NETWORK_NAMES, place, format_args!("it knows an interface by its MAC address"));
            }
        }
    }
}

fn dumps(tree: &Tree, found: &mut Findings) {
    for place in DUMP_DIRECTORIES.iter().filter_map(|path| tree.follow(path)).flat_map(Place::children) {
        if place.is_file() && place.facts().size > 0 {
            found.sized(&CORE_DUMP, place, format_args!("the memory of a program"), place.facts().size);
        }
    }
    for directory in ["/", "/root"].iter().filter_map(|path| tree.follow(path)) {
        for place in directory.children().filter(|place| place.facts().kind == Kind::File) {
            let name = place.name();
            let numbered = name.strip_prefix(b"core.").is_some_and(|rest| rest.iter().all(u8::is_ascii_digit));
            let is_dump = (name == b"core" || numbered) && place.read(4).is_some_and(|head| head == b"\x7fELF");
            if is_dump {
                found.sized(&CORE_DUMP, place, format_args!("the memory of a program"), place.facts().size);
            }
        }
    }
}

fn proxies(tree: &Tree, found: &mut Findings) {
    let settings = tree.follow("/etc/apt/apt.conf.d").into_iter().flat_map(Place::children);
    for place in settings.chain(tree.follow("/etc/apt/apt.conf")).filter(|place| place.is_file()) {
        let text = place.text().unwrap_or_default().to_ascii_lowercase();
        let is_set = |line: &str| line.contains("proxy") && line.contains("://") && !line.starts_with("//");
        if lines(&text).any(is_set) {
            found.at(&PROXY, place, format_args!("it sets a proxy"));
        }
    }
    let environment = tree.text(super::ENVIRONMENT).unwrap_or_default();
    let proxy = super::assignments(&environment).find(|(key, value)| {
        !value.is_empty()
            && matches!(key.to_ascii_lowercase().as_str(), "http_proxy" | "https_proxy" | "all_proxy" | "ftp_proxy")
    });
    if let Some((key, _)) = proxy {
        found.add(&PROXY, super::ENVIRONMENT, format_args!("it sets `{key}`"));
    }
}
