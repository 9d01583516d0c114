//! A newer guestd over an older one, another init system over a former one.

use std::fs;

use clap::ValueEnum;
use guestd::install::{Init, InstallArgs, Outcome, install, uninstall};
use sha2::Digest as _;

use crate::{
    build::Build,
    images::{self, IMAGES, content, uninstall_args},
};

/// SHA-256 as the record has it.
fn hash(text: &str) -> String {
    sha2::Sha256::digest(text.as_bytes()).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Makes `path` look as if an older guestd had installed it with this text: recorded, and not edited since.
fn as_if_older(build: &Build, path: &str, text: &str) {
    let manifest = "/usr/local/share/guestd/manifest";
    let record = build.read(manifest).replace(&hash(&build.read(path)), &hash(text));
    fs::write(build.path(path), text).unwrap();
    fs::write(build.path(manifest), record).unwrap();
}

#[test]
fn every_file_that_nobody_edited_is_brought_up_to_date_and_every_edited_one_is_kept() {
    for image in IMAGES {
        let build = (image.make)();
        let fresh = build.install();
        let files: Vec<_> =
            fresh.lines.iter().map(|line| line.path.clone()).filter(|path| is_text(&build, path)).collect();
        for (index, path) in files.iter().enumerate() {
            if index % 2 == 0 {
                as_if_older(&build, path, &format!("older {index}"));
            } else {
                fs::write(build.path(path), "edited").unwrap();
            }
        }
        let report = build.install();
        for (index, path) in files.iter().enumerate() {
            let (outcome, is_edited) = (report.outcome(path), index % 2 == 1);
            let expected = if is_edited { Outcome::Kept } else { Outcome::Updated };
            assert_eq!(outcome, Some(expected), "{}: {path}: {report}", image.name);
            assert_eq!(build.read(path) == "edited", is_edited, "{}: {path}", image.name);
            assert_eq!(build.path(&format!("{path}.guestd-new")).exists(), is_edited, "{}: {path}", image.name);
        }
        let before = build.fingerprint(&build.root());
        build.install();
        assert_eq!(build.fingerprint(&build.root()), before, "{}: the next run changes nothing", image.name);
    }
}

/// A file of guestd's own but its program and its record, which are nothing to edit.
fn is_text(build: &Build, path: &str) -> bool {
    let metadata = fs::symlink_metadata(build.path(path)).unwrap();
    let is_other = ["/usr/local/bin/guestd", "/usr/local/share/guestd/manifest", "/etc/inittab"].contains(&path)
        || path.starts_with("/etc/ssh/ssh") && path.ends_with("_config");
    metadata.is_file() && !is_other
}

#[test]
fn an_edit_that_took_over_the_new_version_is_one_no_more_and_the_version_beside_it_goes() {
    let build = Build::with_systemd();
    build.install();
    let path = "/etc/guestd/config.toml";
    fs::write(build.path(path), "edited").unwrap();
    build.install();
    let beside = format!("{path}.guestd-new");
    fs::copy(build.path(&beside), build.path(path)).unwrap();
    let report = build.install();
    assert_eq!(report.outcome(path), Some(Outcome::Unchanged), "{report}");
    assert_eq!(report.outcome(&beside), Some(Outcome::Removed), "{report}");
}

#[test]
fn lines_in_files_of_others_follow_the_version_unless_somebody_edited_them() {
    let build = images::buildroot();
    build.install();
    let line = "::respawn:/usr/local/share/guestd/start-agent\n";
    let older = "::respawn:/usr/local/bin/guestd agent\n";
    let manifest = "/usr/local/share/guestd/manifest";
    for (path, from, to) in [("/etc/inittab", line, older), (manifest, &hash(line), &hash(older))] {
        fs::write(build.path(path), build.read(path).replace(from, to)).unwrap();
    }
    let report = build.install();
    assert_eq!(report.outcome("/etc/inittab"), Some(Outcome::Updated), "{report}");
    assert_eq!(build.read("/etc/inittab").matches("respawn:/usr/local").count(), 1);
    assert!(build.read("/etc/inittab").contains(line));
}

#[test]
fn another_init_system_takes_the_place_of_the_former_one_without_a_trace() {
    for former in Init::value_variants() {
        for later in Init::value_variants() {
            let (direct, changed) = (images::buildroot(), images::buildroot());
            let before = content(&direct);
            // The same keys for both, or they would differ in those.
            let keys = direct.args().keys;
            install(&InstallArgs { init: Some(*later), ..direct.args() }).unwrap();
            install(&InstallArgs { init: Some(*former), keys: keys.clone(), ..changed.args() }).unwrap();
            let report = install(&InstallArgs { init: Some(*later), keys, ..changed.args() }).unwrap();
            assert_eq!(content(&changed), content(&direct), "{former:?}, then {later:?}: {report}");
            uninstall(&uninstall_args(&changed)).unwrap();
            assert_eq!(content(&changed), before, "{former:?}, then {later:?}");
        }
    }
}

#[test]
fn what_was_edited_of_a_former_init_system_is_kept() {
    let build = images::buildroot();
    build.install();
    let script = "/etc/init.d/S05guestd";
    fs::write(build.path(script), "edited").unwrap();
    let report = install(&InstallArgs { init: Some(Init::None), ..build.args() }).unwrap();
    assert_eq!(report.outcome(script), Some(Outcome::Kept), "{report}");
    assert_eq!(build.read(script), "edited");
    assert_eq!(build.read("/etc/inittab"), images::BUILDROOT_INITTAB);
}
