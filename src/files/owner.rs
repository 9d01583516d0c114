//! Owners as a request names them: `UID`, `UID:GID`, or names of `/etc/passwd` and `/etc/group`, as chown(1) has it.

use std::{fs::File, io::Read};

use super::FileError;
use crate::limits;

/// Who a file is given to. What is not said stays as it is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Owner {
    /// User.
    pub uid: Option<u32>,
    /// Group.
    pub gid: Option<u32>,
}

impl Owner {
    /// Reads `USER`, `USER:GROUP` or `:GROUP`.
    ///
    /// # Errors
    /// There is no such user or group.
    pub fn parse(text: &str) -> Result<Self, FileError> {
        let (user, group) = text.split_once(':').unwrap_or((text, ""));
        let unknown = || FileError::UnknownOwner { owner: text.to_owned() };
        let id = |name: &str, file: &str| match name {
            "" => Ok(None),
            _ => id_of(name, file).map(Some).ok_or_else(unknown),
        };
        if user.is_empty() && group.is_empty() {
            return Err(unknown());
        }
        Ok(Self { uid: id(user, "/etc/passwd")?, gid: id(group, "/etc/group")? })
    }
}

/// The number, or the third field of the line of that name.
fn id_of(name: &str, file: &str) -> Option<u32> {
    if name.bytes().all(|byte| byte.is_ascii_digit()) {
        // 2^32-1 means "leave it" to chown(2).
        return name.parse().ok().filter(|id| *id != u32::MAX);
    }
    let mut lines = Vec::new();
    File::open(file).ok()?.take(limits::ACCOUNT_FILE_BYTES).read_to_end(&mut lines).ok()?;
    lines.split(|byte| *byte == b'\n').find_map(|line| {
        let mut fields = line.split(|byte| *byte == b':');
        let found = fields.next()? == name.as_bytes();
        let id = fields.nth(1)?;
        if found { str::from_utf8(id).ok()?.parse().ok() } else { None }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_owner_is_numbers_or_names_that_exist() {
        let owner = |uid, gid| Owner { uid, gid };
        assert_eq!(Owner::parse("1000").unwrap(), owner(Some(1000), None));
        assert_eq!(Owner::parse("7:8").unwrap(), owner(Some(7), Some(8)));
        assert_eq!(Owner::parse(":8").unwrap(), owner(None, Some(8)));
        assert_eq!(Owner::parse("root:root").unwrap(), owner(Some(0), Some(0)));
        for wrong in ["", ":", "no-such-user", "4294967295", "-1", "root:no-such-group"] {
            assert!(Owner::parse(wrong).is_err(), "{wrong}");
        }
    }
}
