//! Users and groups of the guest, by `/etc/passwd` and `/etc/group` alone: a static binary has no NSS, so no LDAP and no
//! systemd-homed. A user may be named or numbered; a number without an entry is refused, for it would have no home and no group.

use std::io;
use std::sync::Arc;

use super::config::ExecConfig;
use super::error::{ExecError, shown};
use super::kept_file::KeptFile;
use crate::accounts;
pub(super) use crate::accounts::Account;
use crate::limits;

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
    let mut account = accounts::find(&read(passwd)?, user)
        .ok_or_else(|| ExecError::UserNotFound { user: shown(user), passwd: passwd.path().to_owned() })?;
    account.groups = accounts::groups_of(&account, &read(group)?);
    Ok(account)
}

/// Number of a group by its name; none where that cannot be told.
pub(super) fn group(name: &str, files: &AccountFiles) -> Option<u32> {
    accounts::group(&files.group.read().ok()?, name)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::api::ErrorCode;

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
