//! What shells and shellcheck say about the scripts.

use std::{collections::BTreeSet, fs, process::Command};

use guestd::install::{Init, InstallArgs, install};

use crate::{
    build::{Build, mode},
    images::{self, IMAGES},
};

#[test]
fn every_script_is_one_for_dash_for_busybox_and_for_shellcheck() {
    let mut seen = BTreeSet::new();
    for image in IMAGES {
        let build = (image.make)();
        for line in build.install().lines {
            let path = build.path(&line.path);
            let is_script = fs::symlink_metadata(&path).unwrap().is_file()
                && mode(&path) & 0o111 != 0
                && fs::read(&path).unwrap().starts_with(b"#!");
            if is_script && seen.insert(line.path.clone()) {
                for (program, args) in
                    [("dash", &["-n"][..]), ("busybox", &["sh", "-n"]), ("shellcheck", &["--external-sources"])]
                {
                    let output = Command::new(program).args(args).arg(&path).output();
                    let output = output.unwrap_or_else(|error| panic!("{program}: {error}; ./dev installs it"));
                    assert!(output.status.success(), "{program} {}: {output:?}", line.path);
                    assert_eq!(output.stdout, b"", "{program} {}", line.path);
                }
            }
        }
    }
    let scripts = ["/etc/init.d/S05guestd", "/etc/init.d/guestd", "/etc/sv/guestd/run"];
    let shared = ["/usr/local/share/guestd/start-agent"];
    assert_eq!(seen, scripts.iter().chain(&shared).map(|path| (*path).to_owned()).collect());
}

#[test]
fn the_command_of_sshd_under_guestds_init_is_one_for_a_shell() {
    let build = images::container();
    build.install();
    let service: toml::Table = build.read("/etc/guestd/services/sshd.toml").parse().unwrap();
    let command = service["command"].as_array().unwrap()[2].as_str().unwrap();
    for shell in [&["dash"][..], &["busybox", "sh"]] {
        let output = Command::new(shell[0]).args(&shell[1..]).args(["-n", "-c", command]).output().unwrap();
        assert!(output.status.success(), "{output:?}");
    }
}

#[test]
fn an_image_for_another_architecture_is_completed_without_running_anything_of_it() {
    for image in IMAGES {
        let build = (image.make)();
        // An aarch64 program, by its header alone: run, it would fail.
        let mut elf = vec![0; 64];
        elf[..6].copy_from_slice(b"\x7fELF\x02\x01");
        elf[0x12..0x14].copy_from_slice(&183_u16.to_le_bytes());
        let bin = build.root().join("bin");
        if fs::symlink_metadata(&bin).is_err() {
            std::os::unix::fs::symlink("usr/bin", &bin).unwrap();
        }
        let shell = build.path(if bin.is_symlink() { "/usr/bin/sh" } else { "/bin/sh" });
        fs::create_dir_all(shell.parent().unwrap()).unwrap();
        fs::write(&shell, &elf).unwrap();
        fs::write(build.program(), &elf).unwrap();
        let report = install(&InstallArgs { init: Some(image.init), ..build.args() }).unwrap();
        assert!(!report.notes.iter().any(|note| note.contains("are for")), "{}: {report}", image.name);

        let own = install(&InstallArgs { binary: Some("/bin/true".into()), ..build.args() }).unwrap();
        let note = format!("is for {}, the programs of the image are for aarch64", std::env::consts::ARCH);
        assert!(own.notes[0].contains(&note), "{own}");
    }
    let build = Build::empty();
    assert!(install(&InstallArgs { init: Some(Init::None), ..build.args() }).is_ok());
}
