//! Who may read and write what.

use super::{Findings, Rule, Tree, accounts::accounts};
use crate::{
    keys::AUTHORIZED_KEYS,
    lint::{
        finding::Severity,
        tree::{Kind, Place},
    },
};

static ROOT_HOME: Rule = Rule {
    id: "root-home",
    severity: Severity::Warning,
    wants: "/root for root alone (mode 0700)",
    reason: "what root leaves there is often nobody else's business",
    fix: "`chmod 0700 /root`",
};

static SSH_PERMISSIONS: Rule = Rule {
    id: "ssh-permissions",
    severity: Severity::Error,
    wants: "homes, .ssh and authorized keys to be their owner's alone to write to, and .ssh alone to read",
    reason: "sshd passes over keys that others could have written (StrictModes)",
    fix: "`chown` it to the user; `chmod 0700` .ssh, `chmod 0600` authorized_keys, `chmod go-w` the home",
};

static WORLD_WRITABLE_DIRECTORY: Rule = Rule {
    id: "world-writable-directory",
    severity: Severity::Error,
    wants: "no directory that all may write to, but with the sticky bit",
    reason: "any user or service can remove and replace what others have there",
    fix: "`chmod o-w` it, or `chmod +t` where all are to write",
};

static WORLD_WRITABLE_FILE: Rule = Rule {
    id: "world-writable-file",
    severity: Severity::Warning,
    wants: "no file that all may write to",
    reason: "any user or service can change it",
    fix: "`chmod o-w` it",
};

static SETUID: Rule = Rule {
    id: "setuid",
    severity: Severity::Info,
    wants: "no setuid or setgid programs but the usual ones",
    reason: "each is a way to root for who finds a flaw in it",
    fix: "`chmod ug-s` it if nobody needs it",
};

static SHADOW_MODE: Rule = Rule {
    id: "shadow-mode",
    severity: Severity::Error,
    wants: "/etc/shadow and /etc/gshadow to be root's, and not to be read by all",
    reason: "who can read them can guess at passwords",
    fix: "`chown root:shadow` and `chmod 0640` it",
};

static SYSTEM_OWNER: Rule = Rule {
    id: "system-owner",
    severity: Severity::Error,
    wants: "the system's directories and settings to be root's alone to write to",
    reason: "who can write them is root",
    fix: "`chown root:root` it and `chmod go-w` it",
};

pub(super) static RULES: &[&Rule] = &[
    &ROOT_HOME,
    &SSH_PERMISSIONS,
    &WORLD_WRITABLE_DIRECTORY,
    &WORLD_WRITABLE_FILE,
    &SETUID,
    &SHADOW_MODE,
    &SYSTEM_OWNER,
];

/// Write permission for others than the owner.
const OTHERS_WRITE: u32 = 0o022;

/// Programs that have their set-id bit from their distribution, by name.
const USUAL_SETUID: &str = "\
    at bbsuid bsd-write chage chfn chsh crontab dbus-daemon-launch-helper doas dotlockfile expiry fusermount fusermount3 \
    gpasswd mail-lock mail-touchlock mail-unlock mlocate mount mount.cifs mount.nfs newgidmap newgrp newuidmap \
    ntfs-3g pam_extrausers_chkpwd passwd ping ping6 pkexec plocate polkit-agent-helper-1 ssh-agent ssh-keysign su \
    sudo sudoedit traceroute6.iputils umount unix_chkpwd utempter wall write write.ul";

/// What only root may write, each with the files that are directly in it if it is a directory of settings. guestd's program and the
/// managed keys have rules of their own.
const SYSTEM: &[(&str, bool)] = &[
    ("/", false),
    ("/etc", false),
    ("/usr", false),
    ("/usr/bin", false),
    ("/usr/sbin", false),
    ("/usr/lib", false),
    ("/usr/local/bin", false),
    ("/usr/local/sbin", false),
    ("/etc/crontab", false),
    ("/etc/environment", false),
    ("/etc/group", false),
    ("/etc/ld.so.conf", false),
    ("/etc/ld.so.preload", false),
    ("/etc/passwd", false),
    ("/etc/profile", false),
    ("/etc/sudoers", false),
    ("/etc/cron.d", true),
    ("/etc/guestd", true),
    ("/etc/guestd/hooks.d", true),
    ("/etc/guestd/ssh", true),
    ("/etc/ld.so.conf.d", true),
    ("/etc/pam.d", true),
    ("/etc/profile.d", true),
    ("/etc/ssh", true),
    ("/etc/ssh/sshd_config.d", true),
    ("/etc/sudoers.d", true),
    ("/etc/systemd/system", true),
];

pub(super) fn check(tree: &Tree, found: &mut Findings) {
    if let Some(root) = tree.follow("/root").filter(|root| root.facts().mode & 0o077 != 0) {
        found.at(&ROOT_HOME, root, format_args!("its mode is {:04o}", root.facts().mode));
    }
    ssh(tree, found);
    tree.root().walk(&mut |place| {
        modes(place, found);
        true
    });
    for name in ["shadow", "gshadow", "shadow-", "gshadow-"] {
        let Some(place) = tree.look(&format!("/etc/{name}")).filter(|place| place.is_file()) else { continue };
        let facts = place.facts();
        if facts.mode & 0o037 != 0 || !tree.is_roots(place) {
            found.at(&SHADOW_MODE, place, format_args!("uid {}, mode {:04o}", facts.uid, facts.mode));
        }
    }
    for (path, with_content) in SYSTEM {
        let Some(place) = tree.follow(path) else { continue };
        let below = with_content.then(|| place.children().filter(|place| place.is_file())).into_iter().flatten();
        for place in std::iter::once(place).chain(below) {
            let facts = place.facts();
            if facts.mode & OTHERS_WRITE != 0 || !tree.is_roots(place) {
                found.at(&SYSTEM_OWNER, place, format_args!("uid {}, mode {:04o}", facts.uid, facts.mode));
            }
        }
    }
}

/// What sshd insists on, for each user and for the managed keys.
fn ssh(tree: &Tree, found: &mut Findings) {
    let mut complain = |place: Place<'_>, uid: u32, mode: u32| {
        let facts = place.facts();
        if facts.mode & mode != 0 {
            found.at(&SSH_PERMISSIONS, place, format_args!("its mode is {:04o}", facts.mode));
        } else if facts.uid != uid && !tree.is_roots(place) {
            found.at(&SSH_PERMISSIONS, place, format_args!("it belongs to uid {}", facts.uid));
        }
    };
    let mut seen: Vec<Place<'_>> = Vec::new();
    let homes = accounts(tree).into_iter().map(|account| (account.home, account.uid));
    for (home, uid) in homes.chain([("/root".to_owned(), 0)]) {
        let Some(home) = tree.follow(&home) else { continue };
        let Some(directory) = home.child(b".ssh").and_then(Place::followed).filter(|it| it.is_directory()) else {
            continue;
        };
        if seen.contains(&directory) {
            continue;
        }
        seen.push(directory);
        complain(home, uid, OTHERS_WRITE);
        complain(directory, uid, 0o077);
        for place in directory.children().filter(|place| place.is_file()) {
            let is_public = place.name().ends_with(b".pub") || place.name().starts_with(b"known_hosts");
            let is_keys = place.name().starts_with(b"authorized_keys") || place.name() == b"config";
            if is_keys || is_public {
                complain(place, uid, OTHERS_WRITE);
            }
        }
    }
    if let Some(managed) = tree.follow(AUTHORIZED_KEYS) {
        for place in std::iter::once(managed).chain(managed.children().filter(|place| place.is_file())) {
            complain(place, 0, OTHERS_WRITE);
        }
    }
}

fn modes(place: Place<'_>, found: &mut Findings) {
    let facts = place.facts();
    if facts.mounted {
        return;
    }
    let by_all = facts.mode & 0o002 != 0;
    match facts.kind {
        Kind::Directory if by_all && facts.mode & 0o1000 == 0 => {
            found.at(&WORLD_WRITABLE_DIRECTORY, place, format_args!("its mode is {:04o}", facts.mode));
        }
        Kind::File if by_all => found.at(&WORLD_WRITABLE_FILE, place, format_args!("its mode is {:04o}", facts.mode)),
        _ => {}
    }
    let set_id = facts.kind == Kind::File && facts.mode & 0o6000 != 0 && facts.mode & 0o111 != 0;
    if set_id && !USUAL_SETUID.split(' ').any(|usual| usual.as_bytes() == place.name()) {
        let which = if facts.mode & 0o4000 != 0 { format!("uid {}", facts.uid) } else { format!("gid {}", facts.gid) };
        found.at(&SETUID, place, format_args!("who runs it gets {which}"));
    }
}
