//! Debian's own root file system, and the golden image that is made of it.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

use guestd::lint::Severity;

use crate::fixture::{lint_of, ran, seen};

fn target() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("target/image")
}

/// The tar that the golden image is made of.
fn stock() -> PathBuf {
    let cache = target().join("cache");
    let tars = fs::read_dir(&cache).into_iter().flatten().map(|entry| entry.unwrap().path());
    let is_debian = |path: &PathBuf| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        name.starts_with("debian-") && name.ends_with(".tar")
    };
    let mut debian: Vec<PathBuf> = tars.filter(is_debian).collect();
    debian.sort_by_key(|path| fs::metadata(path).unwrap().modified().unwrap());
    debian
        .pop()
        .unwrap_or_else(|| panic!("{} has no root file system of Debian: make it by `just image`", cache.display()))
}

#[test]
fn a_stock_debian_with_its_host_keys_and_a_machine_id_has_both_named() {
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path().join("root");
    fs::create_dir(&root).unwrap();
    ran(Command::new("tar").arg("-C").arg(&root).arg("-xpf").arg(stock()));
    // What the installation of openssh-server and a first boot leave.
    ran(Command::new("ssh-keygen").arg("-A").arg("-f").arg(&root));
    fs::write(root.join("etc/machine-id"), "0123456789abcdef0123456789abcdef\n").unwrap();

    let report = lint_of(&root);
    let found = seen(&report);
    let paths =
        |rule: &str| found.iter().filter(|(id, ..)| id == rule).map(|(_, path, ..)| path.as_str()).collect::<Vec<_>>();
    assert_eq!(paths("machine-id"), ["/etc/machine-id"]);
    for kind in ["ecdsa", "ed25519", "rsa"] {
        assert!(paths("ssh-host-key").contains(&format!("/etc/ssh/ssh_host_{kind}_key").as_str()), "{found:?}");
    }
    // And nothing is wrong with it that is not: guestd is not in it yet, and passwords are allowed.
    let others: Vec<_> = found
        .iter()
        .zip(&report.findings)
        .filter(|(_, finding)| finding.rule.severity == Severity::Error)
        .map(|((rule, ..), _)| rule.as_str())
        .filter(|rule| !matches!(*rule, "machine-id" | "ssh-host-key" | "guestd-program" | "sshd-password"))
        .collect();
    assert_eq!(others, Vec::<&str>::new(), "{found:?}");

    let image = directory.path().join("stock.ext4");
    fs::File::create(&image).unwrap().set_len(1 << 30).unwrap();
    ran(Command::new("mkfs.ext4").args(["-q", "-F", "-E", "lazy_itable_init=1"]).arg("-d").arg(&root).arg(&image));
    assert_eq!(seen(&lint_of(&image)), found);
}

#[test]
fn the_golden_image_has_no_error_and_no_warning() {
    let kernel = env::var("GUESTD_E2E_KERNEL").unwrap_or_else(|_| "debian".to_owned());
    for name in ["golden.ext4", "minimal.ext4", &format!("e2e-{kernel}.ext4")] {
        let image = target().join(name);
        assert!(image.is_file(), "{} is missing: make it by `just image`", image.display());
        let report = lint_of(&image);
        let grave: Vec<_> = report.findings.iter().filter(|finding| finding.rule.severity != Severity::Info).collect();
        assert!(grave.is_empty(), "{name}: {grave:?}");
    }
}
