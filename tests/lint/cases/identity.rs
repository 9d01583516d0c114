//! What must be a VM's own.

use super::{Case, case, nothing};

pub(super) const CASES: &[Case] = &[
    case(
        "machine-id",
        "/etc/machine-id",
        |it| it.write("etc/machine-id", "0123456789abcdef0123456789abcdef\n"),
        nothing,
    ),
    case(
        "machine-id",
        "/etc/machine-id",
        |it| it.write("etc/machine-id", "uninitialized\n"),
        |it| {
            it.write("etc/empty", "");
            it.link("etc/machine-id", "empty");
        },
    ),
    case(
        "machine-id",
        "/etc/machine-id",
        |it| it.remove("etc/machine-id"),
        |it| {
            // Without systemd nobody asks for it.
            it.remove("etc/machine-id");
            it.remove("usr/lib/systemd/systemd");
            it.link("sbin/init", "/usr/local/bin/guestd");
        },
    ),
    case("machine-id", "/etc/machine-id", |it| it.link("etc/machine-id", "/run/machine-id"), nothing),
    case("machine-id", "/etc/machine-id", |it| it.write("etc/machine-id", "\n"), nothing),
    case(
        "dbus-machine-id",
        "/var/lib/dbus/machine-id",
        |it| it.write("var/lib/dbus/machine-id", "0123456789abcdef0123456789abcdef\n"),
        |it| it.link("var/lib/dbus/machine-id", "/etc/machine-id"),
    ),
    case(
        "random-seed",
        "/var/lib/systemd/random-seed",
        |it| it.write("var/lib/systemd/random-seed", [7; 32]),
        |it| it.directory("var/lib/systemd"),
    ),
    case(
        "random-seed",
        "/var/lib/urandom/random-seed",
        |it| it.write("var/lib/urandom/random-seed", [7; 512]),
        nothing,
    ),
    case(
        "ssh-host-key",
        "/etc/ssh/ssh_host_rsa_key",
        |it| it.write("etc/ssh/ssh_host_rsa_key", "key"),
        |it| it.write("etc/ssh/ssh_known_hosts", "@cert-authority *.vm.vers.sh ssh-ed25519 AAAA\n"),
    ),
    case(
        "ssh-host-key",
        "/etc/ssh/ssh_host_ed25519_key.pub",
        |it| it.write("etc/ssh/ssh_host_ed25519_key.pub", "key"),
        nothing,
    ),
    case(
        "ssh-host-key",
        "/etc/dropbear/dropbear_ed25519_host_key",
        |it| it.write("etc/dropbear/dropbear_ed25519_host_key", "key"),
        nothing,
    ),
    case(
        "host-identity",
        "/var/lib/systemd/credential.secret",
        |it| it.write("var/lib/systemd/credential.secret", "secret"),
        |it| it.write("etc/hostid", ""),
    ),
    case(
        "guestd-identity",
        "/etc/guestd/config.toml",
        |it| it.prepend("etc/guestd/config.toml", "vm_id = \"0b5c1f2e\"\n"),
        |it| it.prepend("etc/guestd/config.toml", "socket = \"/run/g.sock\"\n"),
    ),
    case(
        "guestd-identity",
        "/etc/environment",
        |it| it.append("etc/environment", "VERS_VM_ID=0b5c1f2e\n"),
        |it| {
            it.append("etc/environment", "VERS_VM_ID=\n");
        },
    ),
    case(
        "guestd-token",
        "/etc/guestd/config.toml",
        |it| it.prepend("etc/guestd/config.toml", "auth_token = \"a-long-random-word\"\n"),
        |it| it.prepend("etc/guestd/config.toml", "#auth_token = \"a-long-random-word\"\n"),
    ),
    case(
        "guestd-token",
        "/etc/environment",
        |it| it.append("etc/environment", "export VERS_AUTH_TOKEN='word'\n"),
        |it| {
            it.append("etc/environment", "VERS_AUTH_TOKEN=\n");
        },
    ),
    case(
        "guestd-config",
        "/etc/guestd/config.toml",
        |it| it.prepend("etc/guestd/config.toml", "sokcet = \"/run/g.sock\"\n"),
        |it| it.remove("etc/guestd/config.toml"),
    ),
];

#[test]
fn ids_keys_and_seeds_that_would_be_the_same_in_all_vms_are_found() {
    super::hold(CASES);
}
