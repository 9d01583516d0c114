//! A small root file system with which nothing is wrong, to be spoilt by a test.

use std::{
    ffi::OsStr,
    fs,
    os::unix::fs::{PermissionsExt, chown, symlink},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use guestd::{
    install::{InstallArgs, install},
    keys,
    lint::{LintArgs, Report, lint},
};

/// Size of an image, which nearly nothing of is used.
const IMAGE_BYTES: u64 = 16 * 1024 * 1024;

/// A directory with a root file system in `root`, and room beside it.
pub(crate) struct Fixture {
    directory: tempfile::TempDir,
}

/// A finding as it is compared: rule, path, message, whether it is waived.
pub(crate) type Seen = (String, String, String, bool);

impl Fixture {
    /// A Debian in small, with guestd installed.
    pub(crate) fn new() -> Self {
        let fixture = Self { directory: tempfile::tempdir().unwrap() };
        fs::create_dir(fixture.root()).unwrap();
        fixture.mode("/", 0o755);
        for directory in [
            "usr/bin",
            "usr/sbin",
            "usr/lib/systemd/system",
            "usr/local/bin",
            "etc/systemd/system",
            "var/cache",
            "var/lib",
        ] {
            fixture.directory(directory);
        }
        for directory in ["bin", "sbin", "lib"] {
            fixture.link(directory, &format!("usr/{directory}"));
        }
        for (directory, mode) in [
            ("proc", 0o555),
            ("sys", 0o555),
            ("dev", 0o755),
            ("run", 0o755),
            ("tmp", 0o1777),
            ("var/tmp", 0o1777),
            ("root", 0o700),
            ("var/log", 0o755),
        ] {
            fixture.directory(directory);
            fixture.mode(directory, mode);
        }
        for program in ["usr/bin/sh", "usr/bin/rm", "usr/bin/ssh", "usr/sbin/sshd", "usr/lib/systemd/systemd"] {
            fixture.program(program, 62, Some("/lib64/ld-linux-x86-64.so.2"));
        }
        fixture.write("etc/machine-id", "");
        fixture.write("etc/hostname", "guest\n");
        fixture.write("etc/hosts", "127.0.0.1 localhost\n::1 localhost\n");
        fixture.write("etc/resolv.conf", "# The platform's.\n");
        fixture.write("etc/passwd", "root:x:0:0:root:/root:/bin/sh\nuser:x:1000:1000::/home/user:/bin/sh\n");
        fixture.write("etc/shadow", "root:*:19000:0:99999:7:::\nuser:!:19000:0:99999:7:::\n");
        fixture.mode("etc/shadow", 0o640);
        fixture.write("etc/environment", "PATH=/usr/bin:/bin\n");
        fixture.write("etc/ssh/sshd_config", "Include /etc/ssh/sshd_config.d/*.conf\nUsePAM yes\n");
        fixture.write("etc/ssh/ssh_config", "Include /etc/ssh/ssh_config.d/*.conf\n");
        fixture.directory("home/user");
        fixture.owner("home/user", 1000);
        fixture.install();
        fixture
    }

    /// The same again, to be spoilt in another way.
    pub(crate) fn copy(&self) -> Self {
        let directory = tempfile::tempdir().unwrap();
        ran(Command::new("cp").arg("-a").arg(self.root()).arg(directory.path()));
        Self { directory }
    }

    fn install(&self) {
        let (keys, program) = (self.beside("keys"), self.beside("guestd"));
        keys::keygen(&keys).unwrap();
        fs::write(&program, elf(62, None)).unwrap();
        install(&InstallArgs {
            root: self.root(),
            init: None,
            keys: Some(keys),
            binary: Some(program),
            dry_run: false,
        })
        .unwrap();
    }

    pub(crate) fn root(&self) -> PathBuf {
        self.directory.path().join("root")
    }

    /// A path that is not in the root file system.
    pub(crate) fn beside(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    pub(crate) fn path(&self, path: &str) -> PathBuf {
        self.root().join(path.trim_start_matches('/'))
    }

    pub(crate) fn directory(&self, path: &str) {
        fs::create_dir_all(self.path(path)).unwrap();
    }

    /// A file, with the directories that it is in.
    pub(crate) fn write(&self, path: &str, content: impl AsRef<[u8]>) {
        let path = self.path(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }

    /// Text at the end of a file, or a file of it.
    pub(crate) fn append(&self, path: &str, text: &str) {
        let before = fs::read_to_string(self.path(path)).unwrap_or_default();
        self.write(path, before + text);
    }

    /// Text at the start of a file.
    pub(crate) fn prepend(&self, path: &str, text: &str) {
        let before = fs::read_to_string(self.path(path)).unwrap();
        self.write(path, text.to_owned() + &before);
    }

    /// Other text in a file.
    pub(crate) fn replace(&self, path: &str, from: &str, to: &str) {
        let before = fs::read_to_string(self.path(path)).unwrap();
        assert!(before.contains(from), "{path} has no {from}");
        self.write(path, before.replace(from, to));
    }

    pub(crate) fn program(&self, path: &str, machine: u16, loader: Option<&str>) {
        self.write(path, elf(machine, loader));
        self.mode(path, 0o755);
    }

    pub(crate) fn mode(&self, path: &str, mode: u32) {
        fs::set_permissions(self.path(path), fs::Permissions::from_mode(mode)).unwrap();
    }

    pub(crate) fn owner(&self, path: &str, uid: u32) {
        chown(self.path(path), Some(uid), Some(uid)).unwrap();
    }

    /// A link, in the place of what is there.
    pub(crate) fn link(&self, path: &str, target: &str) {
        let path = self.path(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        let _ = fs::remove_file(&path);
        symlink(target, path).unwrap();
    }

    pub(crate) fn remove(&self, path: &str) {
        let path = self.path(path);
        if path.is_dir() && !path.is_symlink() { fs::remove_dir_all(path) } else { fs::remove_file(path) }.unwrap();
    }

    /// The root file system as an ext4 image; `options` go to mkfs.ext4.
    pub(crate) fn image(&self, options: &[&str]) -> PathBuf {
        let image = self.beside("image.ext4");
        let _ = fs::remove_file(&image);
        fs::File::create(&image).unwrap().set_len(IMAGE_BYTES).unwrap();
        ran(Command::new("mkfs.ext4").args(["-q", "-F"]).args(options).arg("-d").arg(self.root()).arg(&image));
        image
    }

    /// What is found in the directory.
    pub(crate) fn lint(&self) -> Report {
        lint_of(&self.root())
    }
}

/// What is found there.
pub(crate) fn lint_of(source: &Path) -> Report {
    lint(&LintArgs { source: Some(source.to_owned()), ..LintArgs::default() }).unwrap()
}

/// The findings of a report, to be compared.
pub(crate) fn seen(report: &Report) -> Vec<Seen> {
    let findings = report.findings.iter();
    findings
        .map(|finding| {
            (finding.rule.id.into(), finding.path.clone(), finding.message.clone(), finding.waived.is_some())
        })
        .collect()
}

/// An ELF program in small: its header, and what asks for a loader, if it is to.
pub(crate) fn elf(machine: u16, loader: Option<&str>) -> Vec<u8> {
    const PT_LOAD: u32 = 1;
    const PT_INTERP: u32 = 3;
    let mut program = vec![0; 0x40 + 0x38];
    program[..6].copy_from_slice(b"\x7fELF\x02\x01");
    program[0x12..0x14].copy_from_slice(&machine.to_le_bytes());
    program[0x20..0x28].copy_from_slice(&0x40_u64.to_le_bytes());
    program[0x36..0x38].copy_from_slice(&0x38_u16.to_le_bytes());
    program[0x38..0x3a].copy_from_slice(&1_u16.to_le_bytes());
    program[0x40..0x44].copy_from_slice(&loader.map_or(PT_LOAD, |_| PT_INTERP).to_le_bytes());
    program.extend_from_slice(loader.unwrap_or_default().as_bytes());
    program
}

/// A private key in PEM that is nobody's.
pub(crate) fn pem(label: &str) -> String {
    let body = "MC4CAQAwBQYDK2VwBCIEIGRlYWRiZWVmZGVhZGJlZWZkZWFkYmVlZmRlYWRi\n".repeat(2);
    format!("-----BEGIN {label}-----\n{body}-----END {label}-----\n")
}

/// Runs a program that must succeed, and gives its standard output.
pub(crate) fn ran(command: &mut Command) -> String {
    let output = command
        .stdin(Stdio::null())
        .output()
        .unwrap_or_else(|error| panic!("{command:?}: {error}; `./dev test` installs what is missing"));
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// Runs `guestd lint` with these arguments.
pub(crate) fn command(args: impl IntoIterator<Item = impl AsRef<OsStr>>) -> std::process::Output {
    Command::new(env!("CARGO_BIN_EXE_guestd")).arg("lint").args(args).stdin(Stdio::null()).output().unwrap()
}
