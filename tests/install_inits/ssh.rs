//! OpenSSH whose configuration includes nothing is made to read guestd's part, and real programs of it agree.

use std::{fs, process::Command};

use guestd::install::{Outcome, install, uninstall};

use crate::{
    build::Build,
    images::{self, SSHD_CONFIG, content, uninstall_args},
};

/// An image with this machine's own OpenSSH and a configuration that includes nothing.
fn image() -> Build {
    let build = images::container();
    for program in ["/usr/sbin/sshd", "/usr/bin/ssh"] {
        fs::copy(program, build.path(program)).unwrap_or_else(|error| panic!("{program}: {error}; ./dev installs it"));
    }
    fs::write(build.path("/etc/ssh/ssh_config"), "Host *\n    ProxyCommand none\n").unwrap();
    build
}

/// What a command says in a mount namespace of its own, in which /etc/ssh is the image's.
fn with_its_configuration(build: &Build, command: &str) -> String {
    let script = format!(
        "mount --bind \"$ssh\" /etc/ssh && mount -t tmpfs none /run && mkdir /run/sshd && \
         ssh-keygen -q -t ed25519 -N '' -f /run/key && {command}"
    );
    let output = Command::new("unshare")
        .args(["--mount", "--propagation", "private", "sh", "-c", &script])
        .env("ssh", build.path("/etc/ssh"))
        .output()
        .expect("unshare of util-linux");
    assert!(output.status.success(), "{command}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn a_real_sshd_and_a_real_ssh_read_guestds_part_by_one_line_and_no_more_after_it_is_taken_out() {
    let build = image();
    let before = content(&build);
    let report = build.install();
    for path in ["/etc/ssh/sshd_config", "/etc/ssh/ssh_config"] {
        assert_eq!(report.outcome(path), Some(Outcome::Updated), "{report}");
    }
    assert!(build.read("/etc/ssh/sshd_config").ends_with(SSHD_CONFIG));
    let sshd = || with_its_configuration(&build, "/usr/sbin/sshd -T -h /run/key");
    let ssh = || with_its_configuration(&build, "ssh -G vm.vm.vers.sh");
    let has = |said: &str, line: &str| said.lines().any(|said| said.starts_with(line));
    let said = sshd();
    for line in [
        "permitrootlogin without-password",
        "passwordauthentication no",
        "authorizedkeysfile .ssh/authorized_keys /etc/guestd/ssh/authorized_keys/%u",
        "subsystem sftp /usr/lib/ssh/sftp-server",
    ] {
        assert!(has(&said, line), "{line}: {said}");
    }
    assert!(has(&ssh(), "identityfile /etc/guestd/ssh/golden_ed25519"), "{}", ssh());

    uninstall(&uninstall_args(&build)).unwrap();
    assert_eq!(content(&build), before);
    assert!(has(&sshd(), "permitrootlogin yes") && !has(&ssh(), "identityfile /etc/guestd"));
}

#[test]
fn an_sshd_that_would_not_understand_the_line_gets_none_and_the_builder_is_told() {
    let build = image();
    fs::write(build.path("/usr/sbin/sshd"), "\u{1}OpenSSH_8.1p1\0").unwrap();
    let report = build.install();
    assert_eq!(build.read("/etc/ssh/sshd_config"), SSHD_CONFIG);
    assert!(report.to_string().contains("/etc/ssh/sshd_config does not read"), "{report}");
    assert_eq!(report.outcome("/etc/ssh/ssh_config"), Some(Outcome::Updated), "{report}");
}

#[test]
fn a_configuration_that_came_to_include_it_by_itself_gets_rid_of_guestds_line() {
    let build = image();
    build.install();
    let includes = format!("Include /etc/ssh/sshd_config.d/*.conf\n{SSHD_CONFIG}");
    let with_both = format!("{}{includes}", build.read("/etc/ssh/sshd_config").strip_suffix(SSHD_CONFIG).unwrap());
    fs::write(build.path("/etc/ssh/sshd_config"), with_both).unwrap();
    let report = install(&build.args()).unwrap();
    assert_eq!(report.outcome("/etc/ssh/sshd_config"), Some(Outcome::Updated), "{report}");
    assert_eq!(build.read("/etc/ssh/sshd_config"), includes);
}
