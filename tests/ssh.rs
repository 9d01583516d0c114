//! What is put into an image, with the real sshd and ssh: the golden key logs in by way of the second authorized keys
//! file, other keys and passwords do not, and both programs accept guestd's configuration.

#![expect(clippy::unwrap_used, clippy::expect_used, reason = "helpers of tests fail as tests do: at once and by name")]

#[path = "sshd_rig/mod.rs"]
mod sshd_rig;

use std::{fs, os::unix::fs::PermissionsExt, path::Path, process::Command};

use guestd::keys;
use sshd_rig::{Image, Sshd, run, stdout};

#[test]
fn the_golden_key_logs_in_through_the_second_authorized_keys_file_over_ipv6_and_ipv4() {
    let image = Image::installed();
    for address in ["::1", "127.0.0.1"] {
        let mut sshd = Sshd::start(&image, address);
        let output = image.ssh(&sshd).arg("id -un; echo \"$SSH_CONNECTION\"").output().unwrap();
        let (said, log) = (stdout(&output), sshd.end());
        assert!(output.status.success(), "{output:?}\n{log}");
        assert!(said.starts_with(&format!("root\n{address} ")), "{said}");
        assert!(said.trim_end().ends_with(&format!(" {}", sshd.port)), "{said}");
    }
    assert_eq!(fs::read_to_string(image.path("known_hosts")).unwrap().lines().count(), 2, "host keys were taken down");
}

#[test]
fn another_key_is_refused_and_a_password_is_not_even_asked_for() {
    let image = Image::installed();
    let sshd = Sshd::start(&image, "127.0.0.1");
    fs::remove_file(image.etc("guestd/ssh/golden_ed25519")).unwrap();
    run(Command::new("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(image.path("other")));
    let output = image.ssh(&sshd).arg("-i").arg(image.path("other")).arg("true").output().unwrap();
    assert_eq!(output.status.code(), Some(255));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("Permission denied (publickey)."), "{said}");
}

#[test]
fn a_managed_file_that_others_can_write_is_reported_because_sshd_passes_it_over() {
    let image = Image::installed();
    fs::set_permissions(image.etc("guestd/ssh/authorized_keys/root"), fs::Permissions::from_mode(0o666)).unwrap();
    let mut sshd = Sshd::start(&image, "127.0.0.1");
    let output = image.ssh(&sshd).arg("true").output().unwrap();
    assert_eq!(output.status.code(), Some(255));
    let log = sshd.end();
    let refused = "Authentication refused: bad ownership or modes for file /etc/guestd/ssh/authorized_keys/root";
    assert!(log.contains(refused), "{log}");
    assert!(keys::status(&image.root()).summary().contains("so sshd passes it over"));
}

#[test]
fn sshd_accepts_guestds_part_and_lets_it_win_over_what_follows() {
    let image = Image::installed();
    run(image.enter().args(["/usr/sbin/sshd", "-t"]));
    let effective = stdout(&run(image.enter().args(["/usr/sbin/sshd", "-T"])));
    for expected in [
        "listenaddress [::]:22",
        "listenaddress 0.0.0.0:22",
        "permitrootlogin without-password",
        "passwordauthentication no",
        "kbdinteractiveauthentication no",
        "hostkey /etc/ssh/ssh_host_ed25519_key",
        "authorizedkeysfile .ssh/authorized_keys /etc/guestd/ssh/authorized_keys/%u",
    ] {
        assert!(effective.lines().any(|line| line == expected), "{expected} is not in:\n{effective}");
    }
}

#[test]
fn ssh_to_a_vm_goes_through_the_platforms_proxy_with_the_golden_key_and_elsewhere_as_ever() {
    let part = Path::new(env!("CARGO_MANIFEST_DIR")).join("rootfs-overlay/etc/ssh/ssh_config.d/10-guestd.conf");
    let effective = |host: &str| stdout(&run(Command::new("ssh").arg("-G").arg(host).arg("-F").arg(&part)));
    let to_vm = effective("0b5c1f2e.vm.vers.sh");
    for expected in [
        "user root",
        "identityfile /etc/guestd/ssh/golden_ed25519",
        "identityfile /etc/guestd/ssh/vm_ed25519",
        "proxycommand /usr/local/bin/guestctl proxy %h 443",
        "stricthostkeychecking accept-new",
        "serveraliveinterval 30",
    ] {
        assert!(to_vm.lines().any(|line| line == expected), "{expected} is not in:\n{to_vm}");
    }
    let elsewhere = effective("vers.sh");
    assert!(!elsewhere.contains("proxycommand") && !elsewhere.contains("/etc/guestd"), "{elsewhere}");
}
