//! Trees that are made to lead a lint astray, to keep it busy, or to speak to a terminal.

use std::{
    ffi::OsStr,
    fs,
    os::unix::{ffi::OsStrExt, fs::chown},
    process::Command,
};

use guestd::lint::Severity;
use nix::{
    sys::stat::{Mode, SFlag, makedev, mknod},
    unistd::mkfifo,
};

use crate::fixture::{Fixture, command, lint_of, pem, ran, seen};

#[test]
fn links_out_of_the_root_and_links_in_a_circle_lead_nowhere() {
    let fixture = Fixture::new();
    let outside = fixture.beside("outside");
    fs::create_dir(&outside).unwrap();
    fs::write(outside.join("machine-id"), "0123456789abcdef0123456789abcdef\n").unwrap();
    fs::write(outside.join("authorized_keys"), "ssh-ed25519 AAAA\n").unwrap();
    fs::write(outside.join("id_ed25519"), pem("PRIVATE KEY")).unwrap();
    let up = format!("{}{}", "../".repeat(20), outside.display());
    fixture.link("etc/machine-id", outside.join("machine-id").to_str().unwrap());
    fixture.link("root/.ssh", &up);
    fixture.link("srv", outside.to_str().unwrap());
    fixture.link("etc/environment", "/etc/environment");
    fixture.link("etc/a", "b");
    fixture.link("etc/b", "a/a/a");
    fixture.link("etc/resolv.conf", "/etc/a");
    let found = seen(&fixture.lint());
    let expected = [
        ("machine-id", "/etc/machine-id", "it is a link to nothing"),
        ("resolv-conf-dangling", "/etc/resolv.conf", "it is a link to /etc/a, which nothing in the image makes"),
    ];
    let compared: Vec<_> =
        found.iter().map(|(rule, path, message, _)| (rule.as_str(), path.as_str(), message.as_str())).collect();
    assert_eq!(compared, expected);
    assert_eq!(seen(&lint_of(&fixture.image(&[]))), found);
}

#[test]
fn a_link_within_the_root_means_what_it_means_in_the_vm() {
    let fixture = Fixture::new();
    // On the machine /etc/passwd is another file; here both lead to one in the image.
    fixture.write("data/passwd", "root::0:0::/root:/bin/sh\n");
    fixture.link("etc/passwd", "/../../data/passwd");
    let found = seen(&fixture.lint());
    assert!(matches!(found.as_slice(), [(rule, ..)] if rule == "empty-password"), "{found:?}");
}

#[test]
fn pipes_devices_and_directories_in_the_place_of_files_are_not_read() {
    let fixture = Fixture::new();
    for path in
        ["etc/passwd", "etc/shadow", "etc/hosts", "etc/resolv.conf", "etc/environment", "etc/guestd/config.toml"]
    {
        fixture.remove(path);
        mkfifo(&fixture.path(path), Mode::from_bits_truncate(0o644)).unwrap();
    }
    mkfifo(&fixture.path("root/.bash_history"), Mode::S_IRWXU).unwrap();
    // Of a device without a driver, an open would fail, and of /dev/zero a read would not end.
    for (path, minor) in [("root/.netrc", 5), ("root/.env", 0)] {
        mknod(&fixture.path(path), SFlag::S_IFCHR, Mode::S_IRWXU, makedev(1, minor)).unwrap();
    }
    fixture.directory("root/.npmrc");
    fixture.remove("etc/machine-id");
    fixture.directory("etc/machine-id");
    let found = seen(&fixture.lint());
    assert!(
        found.iter().any(|(rule, _, message, _)| rule == "machine-id" && message == "it is no regular file"),
        "{found:?}"
    );
    assert!(found.iter().all(|(rule, ..)| matches!(rule.as_str(), "machine-id" | "hosts")), "{found:?}");
    assert_eq!(seen(&lint_of(&fixture.image(&[]))), found);
}

#[test]
fn files_that_are_huge_and_sparse_are_read_no_further_than_the_bound() {
    let fixture = Fixture::new();
    for path in ["root/big", "etc/environment", "etc/passwd", "root/.bash_history", "var/log/lastlog"] {
        fixture.append(path, "");
        fs::File::options().write(true).open(fixture.path(path)).unwrap().set_len(1 << 40).unwrap();
    }
    // Within the bound, behind a hole.
    fixture.write("srv/bundle", [vec![b'\n'; 200_000], pem("PRIVATE KEY").into_bytes()].concat());
    let found = seen(&fixture.lint());
    let rules: Vec<_> = found.iter().map(|(rule, ..)| rule.as_str()).collect();
    assert_eq!(rules, ["private-key", "shell-history", "unreadable", "unreadable", "logs"], "{found:?}");
    assert_eq!(seen(&lint_of(&fixture.image(&[]))), found);
}

#[test]
fn names_that_drive_a_terminal_or_are_no_text_are_shown_harmless() {
    let fixture = Fixture::new();
    fixture.directory("srv");
    for name in [&b"\x1b[2J\x1b]0;x\x07"[..], b"two\nlines", b"\xff\xfe", "\u{202e}txt.exe".as_bytes()] {
        let path = fixture.path("srv").join(OsStr::from_bytes(name));
        fs::write(&path, "").unwrap();
        ran(Command::new("chmod").arg("0666").arg(&path));
    }
    for source in [fixture.root(), fixture.image(&[])] {
        let text = String::from_utf8(command([&source]).stdout).unwrap();
        assert_eq!(text.lines().filter(|line| line.contains("world-writable-file  /srv/")).count(), 4, "{text}");
        assert!(!text.contains(['\u{1b}', '\u{7}', '\u{202e}', '\u{fffe}']), "{text:?}");
        let json = String::from_utf8(command([source.as_os_str(), "--json".as_ref()]).stdout).unwrap();
        assert!(
            json.lines().count() == 1
                && json.trim_end().chars().all(|character| !character.is_control() && character != '\u{202e}')
        );
        let json: serde_json::Value = serde_json::from_str(&json).unwrap();
        assert!(
            json["findings"].as_array().unwrap().iter().any(|finding| finding["path"] == "/srv/two\nlines"),
            "{json}"
        );
    }
}

#[test]
fn a_hundred_thousand_files_are_looked_at_and_a_flat_directory_takes_no_longer_for_each() {
    let fixture = Fixture::new();
    fixture.directory("srv/flat");
    for number in 0..20_000 {
        fs::write(fixture.path("srv/flat").join(format!("{number}")), "").unwrap();
    }
    for directory in 0..80 {
        let directory = fixture.path("srv").join(format!("{directory}"));
        fs::create_dir(&directory).unwrap();
        for number in 0..1000 {
            fs::write(directory.join(format!("{number}")), "").unwrap();
        }
    }
    fixture.write("srv/flat/key", pem("PRIVATE KEY"));
    let options = ["-N", "120000", "-b", "1024"];
    let image = fixture.beside("image.ext4");
    fs::File::create(&image).unwrap().set_len(128 << 20).unwrap();
    ran(Command::new("mkfs.ext4").args(["-q", "-F"]).args(options).arg("-d").arg(fixture.root()).arg(&image));
    for source in [fixture.root(), image] {
        let found = seen(&lint_of(&source));
        assert!(matches!(found.as_slice(), [(rule, ..)] if rule == "private-key"), "{found:?}");
    }
}

#[test]
fn directories_without_an_end_are_looked_at_down_to_the_bound_and_it_is_said() {
    let fixture = Fixture::new();
    fixture.directory(&format!("srv/{}", "a/".repeat(130)));
    let report = fixture.lint();
    let found = seen(&report);
    assert!(
        matches!(found.as_slice(), [(rule, path, ..)] if rule == "too-large" && path.starts_with("/srv/a/")),
        "{found:?}"
    );
    assert!(report.count(Severity::Error) == 1);
    assert_eq!(seen(&lint_of(&fixture.image(&[]))), found);
}

#[test]
fn what_may_not_be_read_is_named_and_not_taken_for_absent() {
    let fixture = Fixture::new();
    fixture.directory("srv/private");
    fixture.mode("srv/private", 0o700);
    // A copy, where others may come to it, and to the tree.
    let program = fixture.beside("program");
    fs::copy(env!("CARGO_BIN_EXE_guestd"), &program).unwrap();
    ran(Command::new("chmod").arg("a+rx").arg(fixture.beside("")));
    let output = Command::new("setpriv")
        .args(["--reuid=65534", "--regid=65534", "--clear-groups"])
        .arg(program)
        .arg("lint")
        .arg(fixture.root())
        .output()
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(1), "{text}");
    for path in ["/srv/private", "/root", "/etc/shadow"] {
        let named = |line: &str| {
            line.contains("unreadable") && line.contains(&format!(" {path} ")) && line.contains("Permission denied")
        };
        assert!(text.lines().any(named), "{path}: {text}");
    }
}

#[test]
fn what_is_mounted_in_a_directory_is_named_and_not_looked_at() {
    let fixture = Fixture::new();
    let script = r#"mount -t tmpfs tmpfs "$0/run" && echo x >"$0/run/file" && exec "$1" lint "$0""#;
    let output = Command::new("unshare")
        .args(["--mount", "--propagation", "private", "sh", "-c", script])
        .arg(fixture.root())
        .arg(env!("CARGO_BIN_EXE_guestd"))
        .output()
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.contains("mounted  /run  another file system is mounted here\n"), "{text}");
    assert!(!text.contains("hidden-files"), "{text}");
}

#[test]
fn a_tree_of_a_builder_without_privileges_is_judged_as_if_it_were_roots() {
    let fixture = Fixture::new();
    ran(Command::new("chown").args(["-R", "1000:1000"]).arg(fixture.root()));
    chown(fixture.path("usr/local/bin/guestd"), Some(1001), None).unwrap();
    let found = seen(&fixture.lint());
    let rules: Vec<_> = found.iter().map(|(rule, ..)| rule.as_str()).collect();
    assert_eq!(rules, ["guestd-program", "tree-owner"], "{found:?}");
    // In an image owners are those of the VM.
    let image = seen(&lint_of(&fixture.image(&[])));
    assert!(image.iter().any(|(rule, path, ..)| rule == "system-owner" && path == "/etc/passwd"), "{image:?}");
}
