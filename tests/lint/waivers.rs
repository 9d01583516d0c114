//! Findings that are meant to be so.

use std::fs;

use guestd::lint::{LintArgs, LintError, Report, lint};

use crate::fixture::{Fixture, seen};

const HOST_KEYS: &str = "[[waiver]]\nrule = \"ssh-host-key\"\npath = \"/etc/ssh/ssh_host_*\"\nreason = \"one host key for all, by design\"\n";

fn waived(fixture: &Fixture, waivers: &str) -> Result<Report, LintError> {
    let file = fixture.beside("waivers.toml");
    fs::write(&file, waivers).unwrap();
    lint(&LintArgs { source: Some(fixture.root()), waivers: Some(file), ..LintArgs::default() })
}

#[test]
fn a_waived_finding_is_told_with_its_reason_and_fails_nothing() {
    let fixture = Fixture::new();
    fixture.write("etc/ssh/ssh_host_ed25519_key", "key");
    assert!(fixture.lint().failed());
    let report = waived(&fixture, HOST_KEYS).unwrap();
    assert!(!report.failed(), "{report:?}");
    assert_eq!(report.findings[0].waived.as_deref(), Some("one host key for all, by design"));
    assert_eq!(report.findings.len(), 1);
}

#[test]
fn a_waiver_holds_for_its_rule_and_path_alone() {
    let fixture = Fixture::new();
    fixture.write("etc/ssh/ssh_host_ed25519_key", "key");
    fixture.write("etc/dropbear/dropbear_rsa_host_key", "key");
    fixture.write("root/.bash_history", "ls\n");
    let report = waived(&fixture, HOST_KEYS).unwrap();
    let open: Vec<_> =
        report.findings.iter().filter(|finding| finding.waived.is_none()).map(|it| it.path.as_str()).collect();
    assert_eq!(open, ["/root/.bash_history", "/etc/dropbear/dropbear_rsa_host_key"]);
}

#[test]
fn waivers_of_nothing_and_of_rules_that_there_are_not_are_findings() {
    let fixture = Fixture::new();
    let unknown = HOST_KEYS.replace("ssh-host-key", "ssh-hostkey");
    let report = waived(&fixture, &format!("{HOST_KEYS}{unknown}")).unwrap();
    let seen: Vec<_> = seen(&report).into_iter().map(|(rule, path, message, _)| (rule, path, message)).collect();
    let finding = |rule: &str, message: &str| (rule.to_owned(), "/etc/ssh/ssh_host_*".to_owned(), message.to_owned());
    assert_eq!(
        seen,
        [
            finding("waiver-unknown", "there is no rule `ssh-hostkey`"),
            finding("waiver-unused", "nothing there trips `ssh-host-key`"),
        ]
    );
    assert!(report.failed());
}

#[test]
fn a_file_that_is_none_of_waivers_is_an_error_and_nothing_is_looked_at() {
    let fixture = Fixture::new();
    let error = waived(&fixture, "[[waiver]]\nrule = \"ssh-host-key\"\n").unwrap_err();
    assert!(error.to_string().ends_with("waivers.toml: waiver 1: it wants `path`, a text"), "{error}");
}

#[test]
fn of_very_many_findings_a_hundred_are_listed_and_the_others_counted_and_those_that_are_waived_do_not_hide_them() {
    let fixture = Fixture::new();
    for number in 0..150 {
        for directory in ["a", "b"] {
            fixture.write(&format!("srv/{directory}/{number:03}"), "");
            fixture.mode(&format!("srv/{directory}/{number:03}"), 0o666);
        }
    }
    let waiver = "[[waiver]]\nrule = \"world-writable-file\"\npath = \"/srv/a/*\"\nreason = \"of this test\"\n";
    let report = waived(&fixture, waiver).unwrap();
    let open: Vec<_> = report.findings.iter().filter(|finding| finding.waived.is_none()).collect();
    assert_eq!((open.len(), report.findings.len()), (101, 201));
    assert_eq!(open[100].message, "50 more of the kind, which are not listed");
    let all = waived(&fixture, &waiver.replace("/srv/a/*", "/srv/**")).unwrap();
    assert_eq!(all.findings.iter().filter(|finding| finding.waived.is_none()).count(), 0);
}
