//! How sshd and ssh are set up: whether they read guestd's part, who is let in, whether sshd would start.

use super::{Findings, Rule, Tree};
use crate::{
    keys::AUTHORIZED_KEYS,
    lint::{
        finding::Severity,
        sshd_config::{Configuration, Directive, is_known},
    },
};

static SSH_INCLUDE: Rule = Rule {
    id: "ssh-include",
    severity: Severity::Error,
    wants: "sshd and ssh to read guestd's part of their configuration",
    reason: "without it neither the golden keys nor names of VMs work",
    fix: "put `Include` and the directory with `/*.conf` at the top of the file",
};

static SSHD_AUTHORIZED_KEYS: Rule = Rule {
    id: "sshd-authorized-keys",
    severity: Severity::Error,
    wants: "an AuthorizedKeysFile of sshd with guestd's managed keys",
    reason: "keys that the host gives, and the golden one, would let nobody in",
    fix: "`AuthorizedKeysFile .ssh/authorized_keys /etc/guestd/ssh/authorized_keys/%u`, before any other; sshd takes the first",
};

static SSHD_PASSWORD: Rule = Rule {
    id: "sshd-password",
    severity: Severity::Error,
    wants: "no logins by password over SSH",
    reason: "the whole internet reaches a VM and tries passwords",
    fix: "`PasswordAuthentication no` and `KbdInteractiveAuthentication no`, before any other; sshd takes the first",
};

static SSHD_CONFIG: Rule = Rule {
    id: "sshd-config",
    severity: Severity::Error,
    wants: "a configuration that sshd understands",
    reason: "sshd does not start with a line that it does not understand",
    fix: "mend the line; see sshd_config(5), and `sshd -t` in a VM of the image",
};

pub(super) static RULES: &[&Rule] = &[&SSH_INCLUDE, &SSHD_AUTHORIZED_KEYS, &SSHD_PASSWORD, &SSHD_CONFIG];

const SSHD_CONFIG_FILE: &str = "/etc/ssh/sshd_config";
const SSHD_PART: &str = "/etc/ssh/sshd_config.d/10-guestd.conf";
const SSH_CONFIG_FILE: &str = "/etc/ssh/ssh_config";
const SSH_PART: &str = "/etc/ssh/ssh_config.d/10-guestd.conf";

/// Where distributions have the programs. Settings of one that is not there are not read by anybody.
const SSHD: &[&str] = &["/usr/sbin/sshd", "/usr/bin/sshd", "/sbin/sshd", "/usr/local/sbin/sshd"];
const SSH: &[&str] = &["/usr/bin/ssh", "/bin/ssh", "/usr/local/bin/ssh"];

pub(super) fn check(tree: &Tree, found: &mut Findings) {
    let has = |programs: &[&str]| programs.iter().any(|path| tree.follow(path).is_some());
    for (programs, main, part) in [(SSHD, SSHD_CONFIG_FILE, SSHD_PART), (SSH, SSH_CONFIG_FILE, SSH_PART)] {
        if !has(programs) || tree.follow(part).is_none() {
            continue;
        }
        if !Configuration::read(tree, main).is_some_and(|configuration| configuration.includes(part)) {
            found.add(&SSH_INCLUDE, main, format_args!("it does not include {part}"));
        }
    }
    if has(SSHD) {
        // Without a file, sshd does not start; it comes with the package.
        match Configuration::read(tree, SSHD_CONFIG_FILE) {
            Some(configuration) => sshd(tree, &configuration, found),
            None => found.add(&SSHD_CONFIG, SSHD_CONFIG_FILE, format_args!("it is missing")),
        }
    }
}

fn sshd(tree: &Tree, configuration: &Configuration, found: &mut Findings) {
    for malformed in &configuration.malformed {
        found.add(&SSHD_CONFIG, &malformed.file, format_args!("line {}: {}", malformed.line, malformed.why));
    }
    for Directive { file, line, keyword, .. } in &configuration.directives {
        if !is_known(keyword) {
            found.add(&SSHD_CONFIG, file, format_args!("line {line}: sshd knows no `{keyword}`"));
        }
    }
    if tree.follow(AUTHORIZED_KEYS).is_some() {
        let managed = format!("{AUTHORIZED_KEYS}/%u");
        match configuration.value("authorizedkeysfile") {
            Some(set) if set.arguments.contains(&managed) => {}
            Some(Directive { file, line, .. }) => {
                found.add(&SSHD_AUTHORIZED_KEYS, file, format_args!("line {line} leaves {managed} out"));
            }
            None => found.add(&SSHD_AUTHORIZED_KEYS, SSHD_CONFIG_FILE, format_args!("nothing adds {managed}")),
        }
    }
    passwords(configuration, found);
}

/// Each way in by password that is open: to all, or to those whom a `Match` block means.
fn passwords(configuration: &Configuration, found: &mut Findings) {
    // The old name of one of them, and what sshd does where nothing is said.
    for (keyword, old_name, default) in [
        ("passwordauthentication", "", true),
        ("kbdinteractiveauthentication", "challengeresponseauthentication", true),
        ("permitemptypasswords", "", false),
    ] {
        let all = || configuration.directives.iter().filter(|it| it.keyword == keyword || it.keyword == old_name);
        let for_all = all().find(|directive| !directive.conditional);
        for directive in for_all.into_iter().chain(all().filter(|directive| directive.conditional)) {
            let Directive { file, line, arguments, conditional, .. } = directive;
            if arguments.first().is_some_and(|argument| argument.eq_ignore_ascii_case("yes")) {
                let whom = if *conditional { " for those who match" } else { "" };
                found.add(&SSHD_PASSWORD, file, format_args!("line {line}: `{keyword}` is yes{whom}"));
            }
        }
        if default && for_all.is_none() {
            found.add(&SSHD_PASSWORD, SSHD_CONFIG_FILE, format_args!("`{keyword}` is not set, which is yes"));
        }
    }
}
