//! The minimal root file system: what is in it runs, and there is nothing else.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::workshop::{out, run, script};

/// The tree of `image/minimal-rootfs.sh`, unpacked.
struct Minimal {
    dir: tempfile::TempDir,
}

impl Minimal {
    fn unpack(arguments: &[&str]) -> Self {
        let tar = out(script("image/minimal-rootfs.sh").args(arguments));
        let minimal = Self { dir: tempfile::tempdir().unwrap() };
        run(Command::new("tar").arg("-C").arg(minimal.root()).args(["-xpf", tar.trim()]));
        minimal
    }

    fn root(&self) -> &Path {
        self.dir.path()
    }

    /// Runs a line of its shell in it.
    fn sh(&self, line: &str) -> String {
        // The device that sshd wants before all else; it goes with the directory.
        let null = self.root().join("dev/null");
        if !null.exists() {
            run(Command::new("mknod").args(["-m", "666"]).arg(null).args(["c", "1", "3"]));
        }
        let mut chroot = Command::new("chroot");
        chroot
            .arg(self.root())
            .args(["/bin/sh", "-euc", line])
            .env_clear()
            .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
        let output = run(&mut chroot);
        String::from_utf8([output.stdout, output.stderr].concat()).unwrap()
    }

    /// Regular files that begin as programs and libraries do.
    fn elf_files(&self) -> Vec<PathBuf> {
        let found = out(Command::new("find").arg(self.root()).args(["-type", "f"]));
        found.lines().map(PathBuf::from).filter(|path| fs::read(path).unwrap().starts_with(b"\x7fELF")).collect()
    }
}

#[test]
fn ssh_of_the_minimal_root_file_system_has_all_the_libraries_that_it_wants() {
    let minimal = Minimal::unpack(&[]);
    assert!(minimal.sh("ssh -V").starts_with("OpenSSH_"));
    minimal.sh("ssh-keygen -q -t ed25519 -N '' -f /etc/ssh/ssh_host_ed25519_key; mkdir -p /run/sshd; sshd -t");
    let effective = minimal.sh("sshd -T");
    for setting in ["passwordauthentication no", "kbdinteractiveauthentication no", "usepam no"] {
        assert!(effective.lines().any(|line| line == setting), "not {setting:?}:\n{effective}");
    }
    // With "!" for a password sshd would let nobody in as root, with whatever key.
    assert!(minimal.sh("grep ^root: /etc/shadow").starts_with("root:*:"));
    assert_eq!(minimal.sh("stat -c %a:%u:%g /etc/shadow").trim(), "600:0:0");
    assert_eq!(minimal.sh("ssh -G example.invalid 2>/dev/null | grep -c ^hostname"), "1\n");
    assert!(minimal.sh("scp 2>&1 || true").contains("usage: scp"));
}

#[test]
fn the_bare_root_file_system_has_one_program_and_no_init() {
    let minimal = Minimal::unpack(&["--bare"]);
    assert_eq!(minimal.elf_files(), [minimal.root().join("usr/bin/busybox")]);
    assert_eq!(minimal.sh("echo some words | sed s/some/other/ | tr a-z A-Z"), "OTHER WORDS\n");
    assert_eq!(minimal.sh("stat -c %a /tmp /root"), "1777\n700\n");
    for init in ["sbin/init", "linuxrc", "etc/inittab", "etc/ssh"] {
        assert!(fs::symlink_metadata(minimal.root().join(init)).is_err(), "{init} is there");
    }
    // A certificate that every public TLS server may depend on is among the authorities.
    let authorities = fs::read_to_string(minimal.root().join("etc/ssl/certs/ca-certificates.crt")).unwrap();
    assert!(authorities.matches("BEGIN CERTIFICATE").count() > 100);
}
