//! Traces of the build, and of earlier machines.

use super::{Case, case, nothing};
use crate::fixture::elf;

pub(super) const CASES: &[Case] = &[
    case(
        "shell-history",
        "/root/.bash_history",
        |it| it.write("root/.bash_history", "ls\n"),
        |it| it.write("root/.bash_history", ""),
    ),
    case(
        "shell-history",
        "/home/user/.local/share/fish/fish_history",
        |it| it.write("home/user/.local/share/fish/fish_history", "- cmd: ls\n"),
        |it| it.link("home/user/.zsh_history", "/dev/null"),
    ),
    case(
        "known-hosts",
        "/root/.ssh/known_hosts",
        |it| {
            it.write("root/.ssh/known_hosts", "github.com ssh-ed25519 AAAA\n");
            it.mode("root/.ssh", 0o700);
        },
        |it| it.write("etc/ssh/ssh_known_hosts", "@cert-authority *.vm.vers.sh ssh-ed25519 AAAA\n"),
    ),
    case(
        "authorized-keys",
        "/root/.ssh/authorized_keys",
        |it| {
            it.write("root/.ssh/authorized_keys", "ssh-ed25519 AAAA builder\n");
            it.mode("root/.ssh", 0o700);
        },
        |it| {
            it.write("root/.ssh/authorized_keys", "# nobody\n");
            it.mode("root/.ssh", 0o700);
        },
    ),
    case(
        "policy-rc.d",
        "/usr/sbin/policy-rc.d",
        |it| it.program("usr/sbin/policy-rc.d", 62, None),
        |it| it.program("usr/sbin/start-stop-daemon", 62, None),
    ),
    case(
        "policy-rc.d",
        "/usr/sbin/start-stop-daemon.REAL",
        |it| it.program("usr/sbin/start-stop-daemon.REAL", 62, None),
        nothing,
    ),
    case("container-mark", "/.dockerenv", |it| it.write(".dockerenv", ""), |it| it.write("srv/.dockerenv", "")),
    case(
        "cloud-init",
        "/var/lib/cloud/instances",
        |it| it.directory("var/lib/cloud/instances/i-1"),
        |it| {
            it.directory("var/lib/cloud/instances");
        },
    ),
    case(
        "cloud-init",
        "/etc/netplan/50-cloud-init.yaml",
        |it| it.write("etc/netplan/50-cloud-init.yaml", "network: {}\n"),
        |it| {
            it.write("etc/netplan/10-mine.yaml", "network: {}\n");
        },
    ),
    case(
        "dhcp-lease",
        "/var/lib/dhcp/dhclient.eth0.leases",
        |it| it.write("var/lib/dhcp/dhclient.eth0.leases", "lease {}\n"),
        |it| it.write("var/lib/dhcp/dhclient.leases", ""),
    ),
    case(
        "network-names",
        "/etc/udev/rules.d/70-persistent-net.rules",
        |it| it.write("etc/udev/rules.d/70-persistent-net.rules", "SUBSYSTEM==\"net\"\n"),
        |it| it.write("etc/udev/rules.d/70-persistent-net.rules", ""),
    ),
    case(
        "network-names",
        "/etc/systemd/network/10-eth.link",
        |it| it.write("etc/systemd/network/10-eth.link", "[Match]\nMACAddress=02:00:00:00:00:01\n[Link]\nName=eth0\n"),
        |it| it.write("etc/systemd/network/10-eth.link", "[Match]\nDriver=virtio_net\n[Link]\nName=eth0\n"),
    ),
    case(
        "journal",
        "/var/log/journal",
        |it| it.write("var/log/journal/0123456789abcdef0123456789abcdef/system.journal", "LPKSHHRH"),
        |it| it.directory("var/log/journal"),
    ),
    case(
        "core-dump",
        "/var/lib/systemd/coredump/core.sh.zst",
        |it| it.write("var/lib/systemd/coredump/core.sh.zst", "core"),
        |it| it.directory("var/lib/systemd/coredump"),
    ),
    case(
        "core-dump",
        "/root/core.123",
        |it| it.write("root/core.123", elf(62, None)),
        |it| it.write("root/core", "of an apple"),
    ),
    case(
        "build-proxy",
        "/etc/apt/apt.conf.d/01proxy",
        |it| it.write("etc/apt/apt.conf.d/01proxy", "Acquire::http::Proxy \"http://10.0.0.1:3142\";\n"),
        |it| it.write("etc/apt/apt.conf.d/01proxy", "// Acquire::http::Proxy \"http://10.0.0.1:3142\";\n"),
    ),
    case(
        "build-proxy",
        "/etc/environment",
        |it| it.append("etc/environment", "https_proxy=http://10.0.0.1:3128\n"),
        |it| {
            it.append("etc/environment", "https_proxy=\n");
        },
    ),
];

#[test]
fn histories_leases_and_other_traces_are_found() {
    super::hold(CASES);
}
