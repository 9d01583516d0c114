//! `guestd install --dry-run`.

use std::fs;

use guestd::install::{InstallArgs, Outcome, install};

use crate::{
    build::Build,
    images::{self, IMAGES},
};

#[test]
fn a_dry_run_tells_what_an_installation_does_and_changes_nothing_at_all() {
    for image in IMAGES {
        let build = (image.make)();
        let args = build.args();
        let before = build.fingerprint(build.directory.path());
        let dry = install(&InstallArgs { dry_run: true, ..args.clone() }).unwrap();
        assert_eq!(build.fingerprint(build.directory.path()), before, "{}: {dry}", image.name);
        assert!(dry.is_dry && dry.count(Outcome::Created) > 10, "{}: {dry}", image.name);
        let real = install(&args).unwrap();
        assert_eq!((&dry.lines, &dry.notes), (&real.lines, &real.notes), "{}", image.name);
    }
}

#[test]
fn a_dry_run_of_an_upgrade_names_what_would_be_kept() {
    let build = images::buildroot();
    build.install();
    fs::write(build.path("/etc/init.d/S05guestd"), "edited").unwrap();
    fs::write(build.program(), "the program, version 2").unwrap();
    let before = build.fingerprint(&build.root());
    let dry = install(&InstallArgs { dry_run: true, ..build.args() }).unwrap();
    assert_eq!(build.fingerprint(&build.root()), before);
    let text = dry.to_string();
    for line in [
        "update     /usr/local/bin/guestd\n",
        "keep       /etc/init.d/S05guestd  (edited;",
        "create     /etc/init.d/S05guestd.guestd-new\n",
        "dry run, nothing was changed: 1 to create, 2 to update, 1 to keep, ",
    ] {
        assert!(text.contains(line), "{text}");
    }
    assert_eq!(build.install().lines, dry.lines);
}

#[test]
fn what_would_be_refused_is_refused_in_a_dry_run_too() {
    let build = Build::with_systemd();
    fs::create_dir_all(build.path("/etc/guestd/config.toml")).unwrap();
    let before = build.fingerprint(&build.root());
    let dry = install(&InstallArgs { dry_run: true, ..build.args() }).unwrap_err();
    let real = install(&build.args()).unwrap_err();
    assert_eq!(dry.to_string(), real.to_string());
    assert_eq!(build.fingerprint(&build.root()), before, "a refusal comes before the first change");
}
