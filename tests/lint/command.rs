//! The command: exit codes, output for people and programs.

use std::fs;

use guestd::lint::rules;
use serde_json::Value;

use crate::fixture::{Fixture, command};

fn said(output: &std::process::Output) -> (Option<i32>, String, String) {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    (output.status.code(), text(&output.stdout), text(&output.stderr))
}

#[test]
fn exit_is_0_without_an_error_finding_and_1_with_one() {
    let fixture = Fixture::new();
    fixture.write("var/log/dpkg.log", "line\n");
    let (code, out, err) = said(&command([fixture.root()]));
    assert_eq!((code, err.as_str()), (Some(0), ""), "{out}");
    assert!(out.ends_with("0 errors, 0 warnings, 1 info, 0 waived\n"), "{out}");

    fixture.write("etc/ssh/ssh_host_rsa_key", "key");
    let (code, out, _) = said(&command([fixture.root()]));
    assert_eq!(code, Some(1), "{out}");
    assert!(out.contains("error     ssh-host-key  /etc/ssh/ssh_host_rsa_key  a host key\n"), "{out}");
    assert!(out.contains("\nssh-host-key\n  why: "), "{out}");
    assert!(out.contains("not run: sshd -t: only with --host-tools\n"), "{out}");
}

#[test]
fn exit_is_2_for_what_is_no_image_and_for_bad_usage() {
    let fixture = Fixture::new();
    let file = fixture.beside("file");
    for (content, what) in [
        (b"text".to_vec(), "is no ext4 file system"),
        ([vec![0; 512], b"EFI PART".to_vec()].concat(), "is a disk with partitions"),
        (b"QFI\xfb".to_vec(), "is a qcow2 disk"),
        (Vec::new(), "is no ext4 file system"),
    ] {
        fs::write(&file, content).unwrap();
        let (code, out, err) = said(&command([&file]));
        assert_eq!((code, out.as_str()), (Some(2), ""), "{err}");
        assert!(err.contains(what) && err.contains("give the directory of a root file system"), "{err}");
    }
    let (code, _, err) = said(&command([fixture.beside("nowhere")]));
    assert_eq!(code, Some(2), "{err}");
    assert!(err.contains("nowhere: No such file or directory"), "{err}");
    nix::unistd::mkfifo(&fixture.beside("pipe"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    let (code, _, err) = said(&command([fixture.beside("pipe")]));
    assert!(code == Some(2) && err.contains("is a device, pipe or socket"), "{err}");
    for arguments in [vec![], vec!["--nonsense"], vec!["/", "/"]] {
        assert_eq!(said(&command(arguments)).0, Some(2));
    }
}

#[test]
fn json_is_one_document_with_every_finding() {
    let fixture = Fixture::new();
    fixture.write("etc/ssh/ssh_host_rsa_key", "key");
    fixture.write("var/log/dpkg.log", "line\n");
    let (code, out, _) = said(&command([fixture.root().as_os_str(), "--json".as_ref()]));
    assert_eq!((code, out.lines().count()), (Some(1), 1));
    let report: Value = serde_json::from_str(&out).unwrap();
    assert_eq!((&report["kind"], &report["errors"], &report["infos"]), (&"directory".into(), &1.into(), &1.into()));
    let findings = report["findings"].as_array().unwrap();
    assert_eq!(findings[0]["rule"], "ssh-host-key");
    assert_eq!((&findings[1]["rule"], &findings[1]["bytes"]), (&"logs".into(), &5.into()));
    for finding in findings {
        let keys: Vec<&String> = finding.as_object().unwrap().keys().collect();
        assert_eq!(keys, ["bytes", "fix", "message", "path", "reason", "rule", "severity", "waived"]);
    }
    assert_eq!(report["not_run"].as_array().unwrap().len(), 2);
}

#[test]
fn the_rules_are_listed_for_people_and_for_programs() {
    let (code, out, _) = said(&command(["--rules"]));
    assert_eq!(code, Some(0));
    let (_, json, _) = said(&command(["--rules", "--json"]));
    let listed: Value = serde_json::from_str(&json).unwrap();
    assert_eq!(listed.as_array().unwrap().len(), rules().count());
    for (rule, json) in rules().zip(listed.as_array().unwrap()) {
        assert!(out.lines().any(|line| line.starts_with(rule.id)), "{} is not listed: {out}", rule.id);
        assert_eq!((&json["rule"], &json["severity"]), (&rule.id.into(), &rule.severity.name().into()));
    }
}

#[test]
fn nothing_is_written_to_what_is_looked_at() {
    let fixture = Fixture::new();
    let image = fixture.image(&[]);
    let before = fs::read(&image).unwrap();
    let time = |path: &std::path::Path| fs::metadata(path).unwrap().modified().unwrap();
    let times = (time(&image), time(&fixture.root()), time(&fixture.path("etc")));
    for source in [image.clone(), fixture.root()] {
        assert_eq!(said(&command([source])).0, Some(0));
    }
    assert!(fs::read(&image).unwrap() == before, "the image was changed");
    assert_eq!((time(&image), time(&fixture.root()), time(&fixture.path("etc"))), times);
}
