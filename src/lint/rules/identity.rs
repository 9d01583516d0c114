//! What must be a VM's own, and is the same in all VMs of an image if the image has it.

use super::{Findings, Rule, Tree, assignments, not_empty, systemd};
use crate::{
    config::{self, Config},
    lint::{
        finding::Severity,
        tree::{Kind, Place},
    },
};

static MACHINE_ID: Rule = Rule {
    id: "machine-id",
    severity: Severity::Error,
    wants: "/etc/machine-id present and empty",
    reason: "an id in the image is that of every VM; without the file, or with `uninitialized` in it, systemd takes every boot for the first and resets which units are enabled",
    fix: "`: > /etc/machine-id` as the last step of the build",
};

static DBUS_MACHINE_ID: Rule = Rule {
    id: "dbus-machine-id",
    severity: Severity::Error,
    wants: "/var/lib/dbus/machine-id absent, or a link to /etc/machine-id",
    reason: "a file of its own is the same id in every VM, and another than systemd's",
    fix: "`rm /var/lib/dbus/machine-id`; D-Bus makes it from /etc/machine-id",
};

static RANDOM_SEED: Rule = Rule {
    id: "random-seed",
    severity: Severity::Error,
    wants: "no saved random seed",
    reason: "all VMs would credit the same seed to their random numbers, and with it make the same keys",
    fix: "remove it; a VM saves its own at shutdown",
};

static SSH_HOST_KEY: Rule = Rule {
    id: "ssh-host-key",
    severity: Severity::Error,
    wants: "no SSH host keys",
    reason: "whoever has one VM of the image, or the image, can pass for all others",
    fix: "remove them, and have the VM make its own; waive this if the VMs are to share one by design",
};

static HOST_IDENTITY: Rule = Rule {
    id: "host-identity",
    severity: Severity::Warning,
    wants: "none of the ids and secrets that a machine makes for itself once",
    reason: "all VMs would be taken for one machine, or share a secret",
    fix: "remove it; it is made anew when it is needed",
};

static GUESTD_IDENTITY: Rule = Rule {
    id: "guestd-identity",
    severity: Severity::Error,
    wants: "no id or address of one VM in guestd's settings",
    reason: "all VMs of the image would claim to be that one, and its name and address",
    fix: "leave `vm_id`, `ip6`, `VERS_VM_ID` out; they come by the kernel command line or from the host",
};

static GUESTD_TOKEN: Rule = Rule {
    id: "guestd-token",
    severity: Severity::Error,
    wants: "no token of guestd's API in the image",
    reason: "whoever reads the image commands all of its VMs",
    fix: "leave `auth_token` and `VERS_AUTH_TOKEN` out; the platform sets them in each VM",
};

static GUESTD_CONFIG: Rule = Rule {
    id: "guestd-config",
    severity: Severity::Error,
    wants: "a configuration that guestd understands",
    reason: "guestd passes over what it does not understand, so that a VM runs with other settings than were meant",
    fix: "see `guestd check-config FILE`",
};

pub(super) static RULES: &[&Rule] = &[
    &MACHINE_ID,
    &DBUS_MACHINE_ID,
    &RANDOM_SEED,
    &SSH_HOST_KEY,
    &HOST_IDENTITY,
    &GUESTD_IDENTITY,
    &GUESTD_TOKEN,
    &GUESTD_CONFIG,
];

const SEEDS: &[&str] = &[
    "/var/lib/systemd/random-seed",
    "/var/lib/urandom/random-seed",
    "/var/lib/random-seed",
    "/var/lib/misc/random-seed",
    "/var/lib/seedrng/seed.credit",
    "/var/lib/seedrng/seed.no-credit",
    "/boot/loader/random-seed",
    "/boot/efi/loader/random-seed",
    "/efi/loader/random-seed",
];

const IDENTITIES: &[&str] = &[
    "/etc/hostid",
    "/etc/iscsi/initiatorname.iscsi",
    "/etc/nvme/hostid",
    "/etc/nvme/hostnqn",
    "/etc/bind/rndc.key",
    "/var/lib/NetworkManager/secret_key",
    "/var/lib/dhcpcd/duid",
    "/var/lib/systemd/credential.secret",
    "/var/lib/systemd/tpm2-srk-public-key.pem",
    "/var/lib/zerotier-one/identity.secret",
    "/var/lib/tailscale/tailscaled.state",
];

pub(super) fn check(tree: &Tree, found: &mut Findings) {
    if let Some(said) = machine_id(tree) {
        found.add(&MACHINE_ID, "/etc/machine-id", format_args!("{said}"));
    }
    if let Some(place) = tree.look("/var/lib/dbus/machine-id").filter(|place| place.is_file()) {
        found.at(&DBUS_MACHINE_ID, place, format_args!("it is a file of its own"));
    }
    for place in SEEDS.iter().filter_map(|path| tree.look(path)).filter(|place| place.is_file()) {
        found.at(&RANDOM_SEED, place, format_args!("a random seed of the machine that made the image"));
    }
    for directory in ["/etc/ssh", "/etc/dropbear"] {
        let Some(directory) = tree.follow(directory) else { continue };
        for place in directory.children().filter(|place| is_host_key(*place)) {
            let half = if place.name().ends_with(b".pub") { "the public half of a host key" } else { "a host key" };
            found.at(&SSH_HOST_KEY, place, format_args!("{half}"));
        }
    }
    for place in not_empty(tree, IDENTITIES) {
        found.at(&HOST_IDENTITY, place, format_args!("made by one machine for itself"));
    }
    guestd(tree, found);
}

/// What is wrong with the machine id. An image without systemd need not have one.
fn machine_id(tree: &Tree) -> Option<String> {
    let wanted = systemd(tree).is_some();
    let Some(place) = tree.look("/etc/machine-id") else {
        return wanted.then(|| "it is missing, and the image has systemd".to_owned());
    };
    let Some(place) = place.followed() else { return wanted.then(|| "it is a link to nothing".to_owned()) };
    if !place.is_file() {
        return Some("it is no regular file".to_owned());
    }
    let text = place.text()?;
    match text.trim() {
        _ if text.is_empty() => None,
        "" => Some("it is not empty: there is white space in it".to_owned()),
        "uninitialized" => Some("it says `uninitialized`".to_owned()),
        _ => Some("there is an id in it".to_owned()),
    }
}

/// OpenSSH's and Dropbear's names for host keys; a link of that name leads to one, or will.
fn is_host_key(place: Place<'_>) -> bool {
    let name = String::from_utf8_lossy(place.name());
    let name = name.strip_suffix(".pub").unwrap_or(&name);
    let is = (name.starts_with("ssh_host_") && name.ends_with("_key"))
        || (name.starts_with("dropbear_") && name.ends_with("_host_key"));
    is && matches!(place.facts().kind, Kind::File | Kind::Symlink)
}

fn guestd(tree: &Tree, found: &mut Findings) {
    let mut settings = Vec::new();
    if let Some(text) = tree.text(super::CONFIG_FILE) {
        let layer = config::text(super::CONFIG_FILE, &text);
        settings.extend(layer.values.iter().map(|(key, _)| (super::CONFIG_FILE, key.clone())));
        for problem in Config::from_layers(&[layer]).1 {
            found.add(&GUESTD_CONFIG, super::CONFIG_FILE, format_args!("{}", problem.message));
        }
    }
    if let Some(text) = tree.text(super::ENVIRONMENT) {
        let given = assignments(&text).filter(|(_, value)| !value.is_empty());
        settings.extend(given.map(|(key, _)| (super::ENVIRONMENT, key.to_owned())));
    }
    for (file, key) in settings {
        match key.as_str() {
            "auth_token" | "VERS_AUTH_TOKEN" | "GUESTD_AUTH_TOKEN" => {
                found.add(&GUESTD_TOKEN, file, format_args!("`{key}` is set"));
            }
            "vm_id" | "ip6" | "VERS_VM_ID" | "GUESTD_VM_ID" | "GUESTD_IP6" => {
                found.add(&GUESTD_IDENTITY, file, format_args!("`{key}` is set"));
            }
            _ => {}
        }
    }
}
