//! What others say: programs of this machine that were asked, and waivers that waive nothing.

use super::{Findings, Rule, all};
use crate::lint::finding::Severity;

pub(in crate::lint) static SSHD_SAYS: Rule = Rule {
    id: "sshd-says",
    severity: Severity::Error,
    wants: "`sshd -t` of this machine to accept the image's configuration (with --host-tools)",
    reason: "sshd does not start with a configuration that it does not accept",
    fix: "mend what it names; an sshd of another version may know more, or less",
};

pub(in crate::lint) static SYSTEMD_SAYS: Rule = Rule {
    id: "systemd-says",
    severity: Severity::Warning,
    wants: "`systemd-analyze verify` of this machine to accept the image's units (with --host-tools)",
    reason: "systemd passes over what it does not understand, or does not start the unit",
    fix: "mend what it names; a systemd of another version may know more, or less",
};

static WAIVER_UNKNOWN: Rule = Rule {
    id: "waiver-unknown",
    severity: Severity::Error,
    wants: "waivers of rules that there are",
    reason: "it waives nothing: the rule's name is misspelt, or of another version",
    fix: "see `guestd lint --rules`",
};

static WAIVER_UNUSED: Rule = Rule {
    id: "waiver-unused",
    severity: Severity::Warning,
    wants: "waivers that are needed",
    reason: "what it was for is gone, and one day it would hide something else",
    fix: "remove it from the file of waivers",
};

pub(super) static RULES: &[&Rule] = &[&SSHD_SAYS, &SYSTEMD_SAYS, &WAIVER_UNKNOWN, &WAIVER_UNUSED];

pub(super) fn check_waivers(found: &mut Findings) {
    let unused: Vec<_> = found.waivers().unused().map(|waiver| (waiver.rule.clone(), waiver.path.clone())).collect();
    for (rule, path) in unused {
        if all().any(|known| known.id == rule) {
            found.add(&WAIVER_UNUSED, &path, format_args!("nothing there trips `{rule}`"));
        } else {
            found.add(&WAIVER_UNKNOWN, &path, format_args!("there is no rule `{rule}`"));
        }
    }
}
