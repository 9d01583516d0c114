//! Users and groups of the guest, by `/etc/passwd` and `/etc/group` alone: a static binary has no NSS, so no LDAP and no
//! systemd-homed. A user may be named or numbered; a number without an entry is refused, for it would have no home and no group.

use std::io;
use std::sync::Arc;

use super::config::ExecConfig;
use super::error::{ExecError, shown};
use super::kept_file::KeptFile;
use crate::limits;

/// A user with all groups.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Account {
    pub(super) name: String,
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) home: Vec<u8>,
    pub(super) shell: Vec<u8>,
    /// Supplementary groups, the primary one among them, as initgroups(3) sets them.
    pub(super) groups: Vec<u32>,
}

/// The guest's files on users.
#[derive(Debug)]
pub(super) struct AccountFiles {
    passwd: KeptFile,
    group: KeptFile,
    /// Variables of all.
    pub(super) environment: KeptFile,
}

impl AccountFiles {
    /// Those of this configuration.
    pub(super) fn new(config: &ExecConfig) -> Self {
        Self {
            passwd: KeptFile::new(&config.passwd, limits::ACCOUNT_FILE_BYTES),
            group: KeptFile::new(&config.group, limits::ACCOUNT_FILE_BYTES),
            environment: KeptFile::new(&config.environment_file, limits::ENVIRONMENT_FILE_BYTES),
        }
    }
}

/// Finds a user by name, else by number.
///
/// root is known even where there are no account files, as in an image of one static binary.
///
/// # Errors
/// No such user, or a file that cannot be read.
pub(super) fn find(user: &str, files: &AccountFiles) -> Result<Account, ExecError> {
    let read = |file: &KeptFile| match file.read() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Arc::default()),
        other => other.map_err(|source| ExecError::AccountsUnreadable { path: file.path().to_owned(), source }),
    };
    let AccountFiles { passwd, group, .. } = files;
    let mut account = find_in(&read(passwd)?, user)
        .or_else(|| known_root(user))
        .ok_or_else(|| ExecError::UserNotFound { user: shown(user), passwd: passwd.path().to_owned() })?;
    account.groups = groups_of(&account, &read(group)?);
    Ok(account)
}

fn find_in(passwd: &[u8], user: &str) -> Option<Account> {
    let number = id(user.as_bytes());
    let entries = || lines(passwd).filter_map(Entry::parse);
    let found =
        entries().find(|entry| entry.name == user).or_else(|| entries().find(|entry| Some(entry.uid) == number));
    found.map(Account::from)
}

/// A line of passwd(5).
struct Entry<'a> {
    name: &'a str,
    uid: u32,
    gid: u32,
    home: &'a [u8],
    shell: &'a [u8],
}

impl<'a> Entry<'a> {
    /// `name:password:uid:gid:comment:home:shell`. Anything else, such as NIS's `+` lines, is no user.
    fn parse(line: &'a [u8]) -> Option<Self> {
        let mut fields = line.split(|byte| *byte == b':');
        let mut next = || fields.next();
        let (name, _, uid, gid, _, home, shell) = (next()?, next()?, next()?, next()?, next()?, next()?, next()?);
        let name = text(name).filter(|name| !name.is_empty() && next().is_none())?;
        Some(Self { name, uid: id(uid)?, gid: id(gid)?, home, shell })
    }
}

impl From<Entry<'_>> for Account {
    fn from(entry: Entry<'_>) -> Self {
        let or = |field: &[u8], default: &str| {
            if field.is_empty() { default.into() } else { field.to_vec() }
        };
        Self {
            name: entry.name.to_owned(),
            uid: entry.uid,
            gid: entry.gid,
            home: or(entry.home, "/"),
            shell: or(entry.shell, "/bin/sh"),
            groups: Vec::new(),
        }
    }
}

fn known_root(user: &str) -> Option<Account> {
    ["root", "0"].contains(&user).then(|| Account {
        name: "root".into(),
        uid: 0,
        gid: 0,
        home: b"/root".into(),
        shell: b"/bin/sh".into(),
        groups: Vec::new(),
    })
}

/// Number of a group by its name; none where that cannot be told.
pub(super) fn group(name: &str, files: &AccountFiles) -> Option<u32> {
    let file = files.group.read().ok()?;
    lines(&file).find_map(|line| {
        let mut fields = line.split(|byte| *byte == b':');
        fields.next().filter(|found| *found == name.as_bytes())?;
        id(fields.nth(1)?)
    })
}

/// `name:password:gid:member,member`.
fn groups_of(account: &Account, group: &[u8]) -> Vec<u32> {
    let member = |line: &[u8]| {
        let mut fields = line.split(|byte| *byte == b':').skip(2);
        let gid = id(fields.next()?)?;
        let members = fields.next()?;
        members.split(|byte| *byte == b',').any(|name| name == account.name.as_bytes()).then_some(gid)
    };
    let mut groups = vec![account.gid];
    for gid in lines(group).filter_map(member) {
        if !groups.contains(&gid) {
            groups.push(gid);
        }
    }
    groups
}

fn lines(file: &[u8]) -> impl Iterator<Item = &[u8]> {
    file.split(|byte| *byte == b'\n')
}

/// A uid or gid. The largest number is none: setresuid(2) takes it for "leave as it is", which would be root.
fn id(field: &[u8]) -> Option<u32> {
    let digits = text(field).filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()))?;
    digits.parse().ok().filter(|id| *id != u32::MAX)
}

fn text(field: &[u8]) -> Option<&str> {
    str::from_utf8(field).ok()
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::api::ErrorCode;

    const PASSWD: &[u8] =
        b"root:x:0:0:root:/root:/bin/bash\n+::::::\nbroken:x:1\nbad:x:-1:0::/:\nmax:x:4294967295:0::/:\n\
        ada:x:1000:100:Ada,,,:/home/ada:\n7:x:1007:100::/home/seven:/bin/sh\nseven:x:7:7:::/bin/sh\n";
    const GROUP: &[u8] =
        b"root:x:0:\nusers:x:100:bob\nsudo:x:27:bob,ada\nbroken\nadalike:x:50:adam\nusers2:x:100:ada\n";

    #[test]
    fn a_name_is_looked_for_before_a_number() {
        assert_eq!(find_in(PASSWD, "ada").unwrap().uid, 1000);
        assert_eq!(find_in(PASSWD, "1000").unwrap().name, "ada");
        assert_eq!(find_in(PASSWD, "7").unwrap().uid, 1007);
    }

    #[test]
    fn empty_fields_get_what_login_gives_them() {
        assert_eq!(find_in(PASSWD, "ada").unwrap().shell, b"/bin/sh");
        assert_eq!(find_in(PASSWD, "seven").unwrap().home, b"/");
    }

    #[test]
    fn lines_that_are_no_users_are_passed_over() {
        for user in ["+", "+7", "broken", "bad", "max", "", "4294967295"] {
            assert_eq!(find_in(PASSWD, user), None, "{user}");
        }
    }

    #[test]
    fn supplementary_groups_are_those_that_name_the_user_exactly() {
        let ada = find_in(PASSWD, "ada").unwrap();
        assert_eq!(groups_of(&ada, GROUP), [100, 27]);
    }

    fn files(passwd: &Path, group: &Path) -> AccountFiles {
        let config = ExecConfig { passwd: passwd.to_owned(), group: group.to_owned(), ..ExecConfig::default() };
        AccountFiles::new(&config)
    }

    #[test]
    fn a_group_is_found_by_its_whole_name() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "ttys:x:4:\ntty:x:5:ada\n").unwrap();
        let none = Path::new("/nonexistent/file");
        let files_with = files(none, file.path());
        assert_eq!((group("tty", &files_with), group("tt", &files_with)), (Some(5), None));
        assert_eq!(group("tty", &files(none, none)), None);
    }

    #[test]
    fn root_is_known_without_account_files_and_nobody_else_is() {
        let none = Path::new("/nonexistent/file");
        let files = files(none, none);
        assert_eq!(find("0", &files).unwrap().name, "root");
        assert_eq!(find("ada", &files).unwrap_err().code(), ErrorCode::UserNotFound);
    }
}
