//! What holds for all of them.

use std::{fs, os::unix::fs::PermissionsExt, path::Path};

use guestd::install::{Init, InstallArgs, Outcome, install, uninstall};

use crate::{
    build::{Build, mode},
    images::{self, BUILDROOT_INITTAB, IMAGES, content, uninstall_args},
};

#[test]
fn each_init_system_is_recognised_and_made_to_start_guestd() {
    for image in IMAGES {
        let build = (image.make)();
        let report = build.install();
        assert_eq!(report.outcome(image.starts_it), Some(Outcome::Created), "{}: {report}", image.name);
        assert!(!report.notes.iter().any(|note| note.contains("nothing starts guestd")), "{}: {report}", image.name);
        let forced = install(&InstallArgs { init: Some(image.init), ..build.args() }).unwrap();
        assert_eq!(forced.count(Outcome::Unchanged), forced.lines.len(), "{}: {forced}", image.name);
    }
}

#[test]
fn what_starts_guestd_leads_to_a_script_that_can_be_run_or_to_guestd() {
    for image in IMAGES {
        let build = (image.make)();
        build.install();
        let mut path = image.starts_it.to_owned();
        while let Ok(target) = fs::read_link(build.path(&path)) {
            let parent = Path::new(&path).parent().unwrap();
            path = parent.join(target).display().to_string();
        }
        if build.path(&path).is_dir() {
            path += "/run";
        }
        if image.init != Init::Systemd {
            assert_eq!(fs::metadata(build.path(&path)).unwrap().permissions().mode() & 0o111, 0o111, "{path}");
        }
        let text = build.read(&path);
        let starts = ["/usr/local/share/guestd/start-agent", "/usr/local/bin/guestd agent", "the program, version 1"];
        assert!(starts.iter().any(|command| text.contains(command)), "{}: {path}: {text}", image.name);
    }
}

#[test]
fn a_second_run_changes_nothing_whatever_the_init_system() {
    for image in IMAGES {
        let build = (image.make)();
        build.install();
        let before = build.fingerprint(&build.root());
        let report = build.install();
        assert!(report.to_string().ends_with("nothing to do: all is in place\n"), "{}: {report}", image.name);
        assert_eq!(build.fingerprint(&build.root()), before, "{}", image.name);
    }
}

#[test]
fn uninstalling_leaves_every_image_as_it_was() {
    for image in IMAGES {
        let build = (image.make)();
        let before = content(&build);
        build.install();
        let report = uninstall(&uninstall_args(&build)).unwrap();
        assert_eq!(report.count(Outcome::Kept), 0, "{}: {report}", image.name);
        assert_eq!(content(&build), before, "{}: {report}", image.name);
    }
}

#[test]
fn every_image_has_the_directories_of_hooks_for_root_alone_to_write_to() {
    for image in IMAGES {
        let build = (image.make)();
        build.install();
        for name in ["pre-snapshot", "pre-thaw", "post-restore"] {
            assert_eq!(mode(&build.path(&format!("/etc/guestd/hooks.d/{name}.d"))), 0o755, "{}", image.name);
        }
    }
    let build = images::container();
    build.install();
    fs::set_permissions(build.path("/etc/guestd/hooks.d"), fs::Permissions::from_mode(0o777)).unwrap();
    assert_eq!(build.install().outcome("/etc/guestd/hooks.d"), Some(Outcome::Updated));
    assert_eq!(mode(&build.path("/etc/guestd/hooks.d")), 0o755);
}

#[test]
fn inittab_gets_one_line_and_keeps_all_of_its_own() {
    let build = images::buildroot();
    let report = build.install();
    assert_eq!(report.outcome("/etc/inittab"), Some(Outcome::Updated), "{report}");
    let inittab = build.read("/etc/inittab");
    assert!(inittab.ends_with(BUILDROOT_INITTAB), "{inittab}");
    let added = inittab.strip_suffix(BUILDROOT_INITTAB).unwrap();
    let lines: Vec<_> = added.lines().filter(|line| !line.starts_with('#')).collect();
    assert_eq!(lines, ["::respawn:/usr/local/share/guestd/start-agent"]);
}

#[test]
fn somebodys_own_line_for_guestd_in_inittab_is_enough() {
    let build = images::buildroot();
    fs::write(build.path("/etc/inittab"), "::respawn:/usr/local/bin/guestd agent\n").unwrap();
    assert_eq!(build.install().outcome("/etc/inittab"), None);
    assert_eq!(build.read("/etc/inittab"), "::respawn:/usr/local/bin/guestd agent\n");
}

#[test]
fn an_inittab_that_is_a_link_is_not_written_through_and_the_builder_is_told() {
    let build = images::buildroot();
    fs::rename(build.path("/etc/inittab"), build.path("/etc/inittab.real")).unwrap();
    std::os::unix::fs::symlink("inittab.real", build.path("/etc/inittab")).unwrap();
    let report = build.install();
    assert!(report.to_string().contains("/etc/inittab is no file"), "{report}");
    assert_eq!(build.read("/etc/inittab.real"), BUILDROOT_INITTAB);
}

#[test]
fn an_sshd_is_a_service_of_guestds_init_only_where_there_is_one() {
    let service = "/etc/guestd/services/sshd.toml";
    let build = images::container();
    assert_eq!(build.install().outcome(service), Some(Outcome::Created));
    let text: toml::Table = build.read(service).parse().unwrap();
    assert_eq!(text["ready"].as_str(), Some("port:22"));
    let command: Vec<_> = text["command"].as_array().unwrap().iter().map(|word| word.as_str().unwrap()).collect();
    assert_eq!(command[..2], ["/bin/sh", "-c"]);

    let without = Build::empty();
    let report = install(&InstallArgs { init: Some(Init::Pid1), ..without.args() }).unwrap();
    assert_eq!(report.outcome(service), None, "{report}");
    for directory in ["/dev", "/proc", "/run", "/sys", "/tmp"] {
        assert!(without.path(directory).is_dir(), "{directory} to mount on");
    }
}

#[test]
fn guestd_as_init_gives_what_was_there_another_name_and_back() {
    let pid1 = |build: &Build| install(&InstallArgs { init: Some(Init::Pid1), ..build.args() }).unwrap();
    for image in IMAGES.into_iter().filter(|image| image.init != Init::Pid1) {
        let build = (image.make)();
        let before = content(&build);
        let report = pid1(&build);
        assert_eq!(report.outcome("/sbin/init"), Some(Outcome::Updated), "{}: {report}", image.name);
        let again = build.install();
        assert_eq!(again.count(Outcome::Unchanged), again.lines.len(), "{}: {again}", image.name);
        uninstall(&uninstall_args(&build)).unwrap();
        assert_eq!(content(&build), before, "{}", image.name);
    }
}

#[test]
fn an_init_that_came_back_is_not_written_over_while_the_former_one_is_kept() {
    let build = images::buildroot();
    let pid1 = || install(&InstallArgs { init: Some(Init::Pid1), ..build.args() }).unwrap();
    pid1();
    fs::remove_file(build.path("/sbin/init")).unwrap();
    fs::write(build.path("/sbin/init"), "by a package").unwrap();
    let report = pid1();
    assert_eq!(report.outcome("/sbin/init"), Some(Outcome::Kept), "{report}");
    assert!(report.to_string().contains("/sbin/init.guestd-saved"), "{report}");
    assert_eq!(build.read("/sbin/init"), "by a package");

    let report = uninstall(&uninstall_args(&build)).unwrap();
    assert_eq!(report.outcome("/sbin/init"), Some(Outcome::Kept), "{report}");
    assert_eq!(build.read("/sbin/init"), "by a package");
    assert!(fs::symlink_metadata(build.path("/sbin/init.guestd-saved")).is_ok(), "{report}");
}

#[test]
fn a_change_of_the_init_that_was_interrupted_is_completed_and_can_be_undone() {
    let pid1 = |build: &Build| install(&InstallArgs { init: Some(Init::Pid1), ..build.args() }).unwrap();
    for is_undone in [false, true] {
        let (build, reference) = (images::buildroot(), images::buildroot());
        let before = content(&build);
        pid1(&build);
        // As it is after the second name was given and before the link was made.
        fs::remove_file(build.path("/sbin/init")).unwrap();
        fs::hard_link(build.path("/sbin/init.guestd-saved"), build.path("/sbin/init")).unwrap();
        if is_undone {
            uninstall(&uninstall_args(&build)).unwrap();
            assert_eq!(content(&build), before);
        } else {
            let report = pid1(&build);
            assert_eq!(report.outcome("/sbin/init"), Some(Outcome::Updated), "{report}");
            install(&InstallArgs { keys: build.args().keys, init: Some(Init::Pid1), ..reference.args() }).unwrap();
            assert_eq!(content(&build), content(&reference));
        }
    }
}
