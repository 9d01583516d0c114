//! Who may log in, and with which password.

use super::{Findings, Rule, Tree, lines};
use crate::lint::finding::Severity;

static EMPTY_PASSWORD: Rule = Rule {
    id: "empty-password",
    severity: Severity::Error,
    wants: "no account without a password",
    reason: "whoever reaches a prompt is let in; root's is all there is to lose",
    fix: "`passwd --root DIR --lock NAME`",
};

static SHARED_PASSWORD: Rule = Rule {
    id: "shared-password",
    severity: Severity::Warning,
    wants: "no passwords of accounts",
    reason: "all VMs have the same, and whoever reads the image can guess at it for as long as he likes",
    fix: "`passwd --root DIR --lock NAME`; who comes in comes with a key or through the host",
};

static UID_ZERO: Rule = Rule {
    id: "uid-zero",
    severity: Severity::Error,
    wants: "no account with uid 0 but root",
    reason: "it is root under another name, and passed over by whoever looks for root",
    fix: "remove it from /etc/passwd",
};

pub(super) static RULES: &[&Rule] = &[&EMPTY_PASSWORD, &SHARED_PASSWORD, &UID_ZERO];

const PASSWD: &str = "/etc/passwd";
const SHADOW: &str = "/etc/shadow";

/// A line of passwd(5).
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Account {
    pub(super) name: String,
    pub(super) uid: u32,
    pub(super) home: String,
    password: String,
}

/// The accounts of an image. Lines that are none, such as NIS's, are left out.
pub(super) fn accounts(tree: &Tree) -> Vec<Account> {
    let text = tree.text(PASSWD).unwrap_or_default();
    let accounts = lines(&text).filter_map(|line| {
        let fields: Vec<&str> = line.split(':').collect();
        let [name, password, uid, _, _, home, _] = fields.as_slice() else { return None };
        let uid = uid.parse().ok()?;
        Some(Account { name: (*name).to_owned(), uid, home: (*home).to_owned(), password: (*password).to_owned() })
    });
    accounts.collect()
}

pub(super) fn check(tree: &Tree, found: &mut Findings) {
    for account in accounts(tree) {
        judge(PASSWD, &account.name, &account.password, found);
        if account.uid == 0 && account.name != "root" {
            found.add(&UID_ZERO, PASSWD, format_args!("`{}` has uid 0", account.name));
        }
    }
    let text = tree.text(SHADOW).unwrap_or_default();
    for (name, password) in lines(&text).filter_map(|line| {
        let mut fields = line.split(':');
        Some((fields.next()?, fields.next()?))
    }) {
        judge(SHADOW, name, password, found);
    }
}

/// Of either file.
fn judge(file: &str, name: &str, password: &str, found: &mut Findings) {
    // `!` before a password locks it, `*` is none that could be typed, `x` is in the other file.
    if password.is_empty() {
        found.add(&EMPTY_PASSWORD, file, format_args!("`{name}` has none"));
    } else if !password.starts_with(['!', '*', 'x']) {
        found.add(&SHARED_PASSWORD, file, format_args!("`{name}` has one"));
    }
}
