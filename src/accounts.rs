//! Users and groups by the texts of `/etc/passwd` and `/etc/group`. Pure: who reads the files says what a failure means.

/// A user with all groups.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Account {
    /// Login name.
    pub name: String,
    /// Number of the user.
    pub uid: u32,
    /// Number of the primary group.
    pub gid: u32,
    /// Home directory.
    pub home: Vec<u8>,
    /// Login shell.
    pub shell: Vec<u8>,
    /// Supplementary groups, the primary one among them, as initgroups(3) sets them.
    pub groups: Vec<u32>,
}

/// Finds a user by name, else by number; root even where no file has one, as in an image of one static binary.
///
/// `groups` of it is empty; see [`groups_of`].
pub fn find(passwd: &[u8], user: &str) -> Option<Account> {
    find_in(passwd, user).or_else(|| known_root(user))
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

/// Number of a group by its name.
pub fn group(file: &[u8], name: &str) -> Option<u32> {
    lines(file).find_map(|line| {
        let mut fields = line.split(|byte| *byte == b':');
        fields.next().filter(|found| *found == name.as_bytes())?;
        id(fields.nth(1)?)
    })
}

/// All groups of a user by the text of group(5): `name:password:gid:member,member`.
pub fn groups_of(account: &Account, group: &[u8]) -> Vec<u32> {
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
    use super::*;

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
}
