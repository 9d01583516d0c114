//! `guestd uninstall`: what was installed and not edited goes; all else stays.

use std::fs;

use guestd::install::{Outcome, UninstallArgs, uninstall};

use crate::{
    build::Build,
    images::{self, content, uninstall_args},
};

#[test]
fn what_was_edited_stays_and_is_named() {
    let build = Build::with_systemd();
    build.install();
    let edited = "/etc/guestd/config.toml";
    let unit = "/etc/systemd/system/guestd.service";
    fs::write(build.path(edited), "vm_id = \"mine\"\n").unwrap();
    fs::remove_file(build.path(unit)).unwrap();
    std::os::unix::fs::symlink("/dev/null", build.path(unit)).unwrap();
    let report = uninstall(&uninstall_args(&build)).unwrap();
    for path in [edited, unit, "/etc/guestd", "/etc/systemd/system"] {
        assert_eq!(report.outcome(path), Some(Outcome::Kept), "{path}: {report}");
    }
    assert!(report.to_string().contains("config.toml  (edited since it was installed)"), "{report}");
    assert_eq!(build.read(edited), "vm_id = \"mine\"\n");
    for gone in ["/usr/local/bin/guestd", "/usr/local/share/guestd", "/etc/guestd/hooks.d", "/etc/guestd/ssh"] {
        assert!(fs::symlink_metadata(build.path(gone)).is_err(), "{gone}: {report}");
    }
}

#[test]
fn files_of_users_in_guestds_directories_stay() {
    let build = Build::with_systemd();
    build.install();
    let own = [
        "/etc/guestd/hooks.d/pre-thaw.d/10-mine",
        "/etc/guestd/ssh/authorized_keys/ada",
        "/usr/local/share/guestd/notes",
    ];
    for path in own {
        fs::write(build.path(path), "mine").unwrap();
    }
    let report = uninstall(&uninstall_args(&build)).unwrap();
    for path in own {
        assert_eq!(build.read(path), "mine", "{report}");
    }
    assert_eq!(report.outcome("/etc/guestd/hooks.d/pre-thaw.d"), Some(Outcome::Kept), "{report}");
    assert_eq!(report.outcome("/etc/guestd/hooks.d/pre-snapshot.d"), Some(Outcome::Removed), "{report}");
}

#[test]
fn lines_that_somebody_edited_stay_where_they_are_and_so_does_the_rest_of_the_file() {
    let build = images::buildroot();
    build.install();
    let edited = build.read("/etc/inittab").replace("start-agent", "start-agent console") + "\n# mine\n";
    fs::write(build.path("/etc/inittab"), &edited).unwrap();
    let again = build.install();
    assert_eq!(again.outcome("/etc/inittab"), Some(Outcome::Kept), "{again}");
    let report = uninstall(&uninstall_args(&build)).unwrap();
    assert_eq!(report.outcome("/etc/inittab"), Some(Outcome::Kept), "{report}");
    assert_eq!(build.read("/etc/inittab"), edited);
}

#[test]
fn lines_added_around_guestds_own_stay_when_those_are_taken_out() {
    let build = images::buildroot();
    build.install();
    let with_more = format!("# first\n{}\n::once:/bin/mine", build.read("/etc/inittab"));
    fs::write(build.path("/etc/inittab"), with_more).unwrap();
    uninstall(&uninstall_args(&build)).unwrap();
    let expected = format!("# first\n{}\n::once:/bin/mine", images::BUILDROOT_INITTAB);
    assert_eq!(build.read("/etc/inittab"), expected);
}

#[test]
fn what_was_there_before_guestd_in_the_same_form_is_not_taken_for_somebody_elses() {
    let build = Build::with_systemd();
    fs::create_dir_all(build.path("/etc/guestd")).unwrap();
    build.install();
    let report = uninstall(&uninstall_args(&build)).unwrap();
    assert!(build.path("/etc/guestd").is_dir(), "a directory that guestd did not make stays: {report}");
}

#[test]
fn a_second_time_there_is_nothing_to_do_and_an_interrupted_one_is_completed() {
    let build = images::buildroot();
    let before = content(&build);
    build.install();
    // What an interrupted run had removed.
    fs::remove_file(build.path("/etc/init.d/S05guestd")).unwrap();
    fs::remove_dir_all(build.path("/etc/guestd")).unwrap();
    uninstall(&uninstall_args(&build)).unwrap();
    assert_eq!(content(&build), before);
    let report = uninstall(&uninstall_args(&build)).unwrap();
    assert!(report.lines.is_empty() && report.notes[0].contains("there is no record"), "{report}");
}

#[test]
fn a_dry_run_tells_the_same_and_changes_nothing() {
    let build = images::buildroot();
    build.install();
    fs::write(build.path("/etc/guestd/config.toml"), "vm_id = \"mine\"\n").unwrap();
    let before = build.fingerprint(&build.root());
    let dry = uninstall(&UninstallArgs { dry_run: true, ..uninstall_args(&build) }).unwrap();
    assert_eq!(build.fingerprint(&build.root()), before);
    assert!(dry.to_string().contains("dry run, nothing was changed: "), "{dry}");
    let real = uninstall(&uninstall_args(&build)).unwrap();
    assert_eq!(dry.lines, real.lines);
}
