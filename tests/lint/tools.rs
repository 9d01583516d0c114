//! What this machine's own sshd and systemd say, when they are asked.

use guestd::lint::{LintArgs, Report, lint};

use crate::fixture::{Fixture, seen};

fn asked(source: std::path::PathBuf) -> Report {
    lint(&LintArgs { source: Some(source), host_tools: true, ..LintArgs::default() }).unwrap()
}

fn not_run(report: &Report) -> Vec<&'static str> {
    report.not_run.iter().map(|not_run| not_run.check).collect()
}

#[test]
fn sshd_of_this_machine_accepts_what_guestd_installs_and_names_the_line_that_it_does_not_understand() {
    let fixture = Fixture::new();
    let report = asked(fixture.root());
    assert!(!not_run(&report).contains(&"sshd -t"), "{report:?}");
    assert_eq!(seen(&report), []);

    // In an included file, so that it is the image's Include that counts, and of a value that the static check does not know.
    fixture.write("etc/ssh/sshd_config.d/20-mine.conf", "# mine\nMaxAuthTries many\n");
    for source in [fixture.root(), fixture.image(&[])] {
        let seen = seen(&asked(source));
        assert!(
            matches!(seen.as_slice(), [(rule, path, message, _)] if rule == "sshd-says"
                && path == "/etc/ssh/sshd_config.d/20-mine.conf" && message.starts_with("line 2: ")),
            "{seen:?}"
        );
    }
}

#[test]
fn systemd_of_this_machine_accepts_what_guestd_installs_and_names_what_it_does_not_understand() {
    let fixture = Fixture::new();
    for unit in ["sysinit.target", "shutdown.target", "network.target", "multi-user.target", "basic.target"] {
        fixture.write(&format!("usr/lib/systemd/system/{unit}"), "[Unit]\nDefaultDependencies=no\n");
    }
    let report = asked(fixture.root());
    assert_eq!((not_run(&report), seen(&report)), (vec![], vec![]));
    fixture.write("etc/systemd/system/app.service", "[Service]\nExecStart=/bin/sh\nRestrat=always\n");
    let seen = seen(&asked(fixture.root()));
    assert!(seen.iter().any(|(rule, _, message, _)| rule == "systemd-says" && message.contains("Restrat")), "{seen:?}");
    assert!(!seen.iter().any(|(_, _, message, _)| message.contains(fixture.root().to_str().unwrap())), "{seen:?}");

    let report = asked(fixture.image(&[]));
    assert_eq!(not_run(&report), ["systemd-analyze verify"]);
    assert_eq!(report.not_run[0].why, "it reads directories, and this is an image");
}
