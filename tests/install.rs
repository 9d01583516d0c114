//! `guestd install` on root file systems that are made for the test: idempotence, edits, links, and what real tools say
//! about the files that are put in.

#![expect(clippy::unwrap_used, reason = "helpers of tests fail as tests do: at once and by name")]

use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::{PermissionsExt, symlink},
    path::Path,
    process::Command,
};

use guestd::{
    config::{self, Config},
    install::{Init, InstallArgs, InstallError, Outcome, install},
    keys,
};

#[path = "support/build.rs"]
mod build;
use build::{Build, mode};

#[test]
fn an_image_gets_the_program_its_units_its_ssh_configuration_and_its_keys() {
    let build = Build::with_systemd();
    let report = build.install();
    assert_eq!(report.count(Outcome::Created), report.lines.len(), "{report}");

    assert_eq!(build.read("/usr/local/bin/guestd"), "the program, version 1");
    assert_eq!(mode(&build.path("/usr/local/bin/guestd")), 0o755);
    assert_eq!(fs::read_link(build.path("/usr/local/bin/guestctl")).unwrap(), Path::new("guestd"));
    let enabled = "/etc/systemd/system/sysinit.target.wants/guestd.service";
    assert!(build.read(enabled).contains("[Unit]"), "{enabled} leads to a unit");
    assert_eq!(mode(&build.path(keys::GOLDEN_IDENTITY)), 0o600);
    assert_eq!(mode(&build.path("/etc/guestd/ssh/authorized_keys/root")), 0o644);
    let status = keys::status(&build.root());
    assert_eq!(status.problems, Vec::<String>::new());
    assert_eq!(status.authorized, BTreeMap::from([("root".to_owned(), 1)]));
    assert_eq!(status.golden, Some(keys::keygen(&build.keys()).unwrap().pair.fingerprint()));
}

#[test]
fn a_second_run_writes_nothing_and_says_so() {
    let build = Build::with_systemd();
    build.install();
    let before = build.fingerprint(&build.root());
    let report = build.install();
    assert_eq!(report.count(Outcome::Unchanged), report.lines.len(), "{report}");
    assert!(report.to_string().contains("nothing to do"), "{report}");
    assert_eq!(build.fingerprint(&build.root()), before);
}

#[test]
fn an_image_on_which_the_overlay_was_laid_already_has_its_files_unchanged() {
    let build = Build::with_systemd();
    let overlay = Path::new(env!("CARGO_MANIFEST_DIR")).join("rootfs-overlay/.");
    assert!(Command::new("cp").arg("-a").arg(overlay).arg(build.root()).status().unwrap().success());
    // What a checkout under another umask or by another user leaves.
    fs::set_permissions(build.path("/etc/guestd/config.toml"), fs::Permissions::from_mode(0o664)).unwrap();
    let content = build.read("/etc/systemd/system/guestd.service");
    let report = build.install();
    assert_eq!(report.outcome("/etc/systemd/system/guestd.service"), Some(Outcome::Unchanged), "{report}");
    assert_eq!(report.outcome("/etc/guestd/config.toml"), Some(Outcome::Updated), "its mode: {report}");
    assert_eq!(mode(&build.path("/etc/guestd/config.toml")), 0o644);
    assert_eq!(build.read("/etc/systemd/system/guestd.service"), content);
}

#[test]
fn an_edited_file_is_kept_and_the_new_version_laid_beside_it() {
    let build = Build::with_systemd();
    build.install();
    let path = "/etc/ssh/sshd_config.d/10-guestd.conf";
    let original = build.read(path);
    fs::write(build.path(path), "Port 2222\n").unwrap();
    let report = build.install();
    assert_eq!(report.outcome(path), Some(Outcome::Kept), "{report}");
    assert!(report.to_string().contains("10-guestd.conf.guestd-new"), "{report}");
    assert_eq!(build.read(path), "Port 2222\n");
    assert_eq!(build.read("/etc/ssh/sshd_config.d/10-guestd.conf.guestd-new"), original);

    let before = build.fingerprint(&build.root());
    assert_eq!(build.install().outcome(path), Some(Outcome::Kept));
    assert_eq!(build.fingerprint(&build.root()), before, "a third run writes nothing");
}

#[test]
fn a_link_in_the_place_of_a_file_is_an_edit_and_not_followed() {
    let build = Build::with_systemd();
    fs::create_dir_all(build.path("/etc/systemd/system")).unwrap();
    symlink("/dev/null", build.path("/etc/systemd/system/guestd.service")).unwrap();
    let report = build.install();
    assert_eq!(report.outcome("/etc/systemd/system/guestd.service"), Some(Outcome::Kept), "a masked unit: {report}");
    assert_eq!(
        fs::read_link(build.path("/etc/systemd/system/guestd.service")).unwrap(),
        Path::new("/dev/null"),
        "{report}"
    );
}

#[test]
fn a_new_version_replaces_the_old_program_and_new_keys_the_old_keys() {
    let build = Build::with_systemd();
    build.install();
    fs::write(build.program(), "the program, version 2").unwrap();
    fs::remove_dir_all(build.keys()).unwrap();
    let report = build.install();
    for path in ["/usr/local/bin/guestd", keys::GOLDEN_IDENTITY, "/etc/guestd/ssh/authorized_keys/root"] {
        assert_eq!(report.outcome(path), Some(Outcome::Updated), "{report}");
    }
    assert_eq!(build.read("/usr/local/bin/guestd"), "the program, version 2");
    assert_eq!(keys::status(&build.root()).golden, Some(keys::keygen(&build.keys()).unwrap().pair.fingerprint()));
}

#[test]
fn without_keys_those_of_the_image_stay() {
    let build = Build::with_systemd();
    build.install();
    let before = build.read(keys::GOLDEN_IDENTITY);
    let report = install(&InstallArgs { keys: None, ..build.args() }).unwrap();
    assert_eq!(report.outcome(keys::GOLDEN_IDENTITY), None);
    assert_eq!(build.read(keys::GOLDEN_IDENTITY), before);
}

#[test]
fn the_record_is_one_that_sha256sum_checks() {
    let build = Build::with_systemd();
    build.install();
    // The record has the paths of the image; the check is made with those of the build.
    let manifest =
        build.read("/usr/local/share/guestd/manifest").replace("  /", &format!("  {}/", build.root().display()));
    let list = build.directory.path().join("list");
    fs::write(&list, manifest).unwrap();
    let output = Command::new("sha256sum").args(["--check", "--strict"]).arg(&list).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    assert_eq!(String::from_utf8(output.stdout).unwrap().lines().count(), 10, "the program, seven files, two keys");
}

#[test]
fn an_image_with_an_init_of_its_own_gets_no_units_and_the_builder_is_told() {
    let build = Build::empty();
    fs::create_dir(build.path("/sbin")).unwrap();
    fs::write(build.path("/sbin/init"), "nothing that guestd knows").unwrap();
    let report = build.install();
    assert_eq!(report.outcome("/etc/systemd/system/guestd.service"), None);
    assert!(!build.path("/etc/systemd").exists());
    assert!(report.notes.iter().any(|note| note.contains("nothing starts guestd")), "{report}");
    let forced = install(&InstallArgs { init: Some(Init::Systemd), ..build.args() }).unwrap();
    assert_eq!(forced.outcome("/etc/systemd/system/guestd.service"), Some(Outcome::Created), "{forced}");
}

#[test]
fn systemd_is_found_through_absolute_links_of_the_image_only() {
    let build = Build::empty();
    // On the machine /lib/systemd/systemd may well exist; in this image /lib leads to an empty directory of its own.
    fs::create_dir_all(build.path("/usr/lib")).unwrap();
    symlink("/usr/lib", build.path("/lib")).unwrap();
    assert_eq!(build.install().outcome("/etc/systemd/system/guestd.service"), None);
}

#[test]
fn hostile_links_never_lead_out_of_the_image() {
    let build = Build::empty();
    let outside = build.directory.path().join("outside");
    let [programs, record] = ["programs", "record"].map(|name| outside.join(name));
    for directory in [&programs, &record] {
        fs::create_dir_all(directory).unwrap();
    }
    fs::create_dir_all(build.path("/usr/local")).unwrap();
    let up = "../".repeat(16);
    symlink("/", build.path("/etc")).unwrap();
    symlink(format!("{up}{}", programs.strip_prefix("/").unwrap().display()), build.path("/usr/local/bin")).unwrap();
    symlink(&record, build.path("/usr/local/share")).unwrap();
    let untouched = build.fingerprint(&outside);

    // What the links lead to does not exist inside the image: an error that says so.
    let message = install(&build.args()).unwrap_err().to_string();
    assert!(message.contains("usr/local/bin: it is a symbolic link to ../"), "{message}");
    assert_eq!(build.fingerprint(&outside), untouched);

    // Where it does exist inside, that is where files go, and /etc is the image's own root.
    let inside = |path: &Path| build.path(path.to_str().unwrap());
    for directory in [&programs, &record] {
        fs::create_dir_all(inside(directory)).unwrap();
    }
    install(&build.args()).unwrap();
    assert_eq!(build.fingerprint(&outside), untouched);
    assert!(inside(&programs).join("guestd").exists());
    assert!(inside(&record).join("guestd/manifest").exists());
    assert!(build.path("/ssh/sshd_config.d/10-guestd.conf").exists());
}

#[test]
fn a_link_outside_in_the_place_of_a_file_keeps_its_target_untouched() {
    let build = Build::with_systemd();
    let victim = build.directory.path().join("victim");
    fs::write(&victim, "untouched").unwrap();
    for path in ["/usr/local/bin/guestd", "/etc/guestd/config.toml", keys::GOLDEN_IDENTITY] {
        fs::create_dir_all(build.path(path).parent().unwrap()).unwrap();
        symlink(&victim, build.path(path)).unwrap();
    }
    let report = build.install();
    assert_eq!(fs::read_to_string(&victim).unwrap(), "untouched");
    assert_eq!(report.outcome("/usr/local/bin/guestd"), Some(Outcome::Updated), "{report}");
    assert_eq!(report.outcome(keys::GOLDEN_IDENTITY), Some(Outcome::Kept), "{report}");
}

#[test]
fn what_cannot_be_installed_is_refused_by_name() {
    let build = Build::with_systemd();
    let missing = install(&InstallArgs { root: build.directory.path().join("nowhere"), ..build.args() });
    assert!(missing.unwrap_err().to_string().ends_with("nowhere: No such file or directory"));

    let no_program = install(&InstallArgs { binary: Some(build.root()), ..build.args() }).unwrap_err();
    assert!(no_program.to_string().contains("not a regular file; name it with --binary"), "{no_program}");

    let no_keys = install(&InstallArgs { keys: Some(build.root()), ..build.args() }).unwrap_err();
    assert!(no_keys.to_string().contains("make one with `guestd keygen --out"), "{no_keys}");

    fs::create_dir_all(build.path("/etc/guestd/config.toml")).unwrap();
    let in_the_way = install(&build.args()).unwrap_err();
    assert!(matches!(in_the_way, InstallError::InTheWay { .. }), "{in_the_way}");
}

#[test]
fn systemd_accepts_the_units_without_a_word() {
    let build = Build::with_systemd();
    let system = Path::new("/usr/lib/systemd/system");
    assert!(system.is_dir(), "{} is missing: install Debian's package systemd", system.display());
    assert!(Command::new("cp").arg("-a").arg(system).arg(build.path("/usr/lib/systemd/")).status().unwrap().success());
    build.install();
    let output = Command::new("systemd-analyze")
        .args(["verify", "--man=no", "--recursive-errors=yes"])
        .arg(format!("--root={}", build.root().display()))
        .args(["guestd.service", "sysinit.target"])
        .output()
        .expect("systemd-analyze is missing: install Debian's package systemd");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && !said.contains("guestd"), "{said}");

    let output = Command::new("systemd-tmpfiles")
        .arg(format!("--root={}", build.root().display()))
        .args(["--create", "guestd.conf"])
        .output()
        .expect("systemd-tmpfiles is missing: install Debian's package systemd");
    assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
    assert_eq!(mode(&build.path("/run/guestd")), 0o755);
}

#[test]
fn the_configuration_file_changes_nothing_until_a_line_is_uncommented_and_every_line_is_understood() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("config.toml");
    let shipped = include_str!("../rootfs-overlay/etc/guestd/config.toml");
    fs::write(&file, shipped).unwrap();
    assert_eq!(Config::from_layers(&[config::file(&file)]), (Config::default(), Vec::new()));

    let is_setting = |line: &str| line.starts_with('#') && !line.starts_with("# ");
    let uncommented: Vec<_> = shipped.lines().map(|line| if is_setting(line) { &line[1..] } else { line }).collect();
    fs::write(&file, uncommented.join("\n")).unwrap();
    let (config, problems) = Config::from_layers(&[config::file(&file)]);
    assert_eq!(problems, Vec::new());
    assert!(config.vm_id.is_some() && config.auth_token.is_some() && config.ip6.is_some(), "{config:?}");
    assert_eq!(config.bridge_rules.len(), 1);
    let examples = (config.dns.len(), config.handoff.is_some());
    assert_eq!(examples, (1, true), "{config:?}");
    let but_examples = Config {
        vm_id: None,
        auth_token: None,
        ip6: None,
        bridge_rules: Vec::new(),
        dns: Vec::new(),
        handoff: None,
        ..config
    };
    assert_eq!(but_examples, Config::default(), "what is not an example is the default");
}
