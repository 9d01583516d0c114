//! The environment of a command, in layers: what login(1) sets, the agent's own, `/etc/environment`, the request.
//!
//! `/etc/environment` is where the account's variables land: see [`crate::account_env`].

use std::ffi::CString;
use std::io;

use super::accounts::Account;
use super::kept_file::KeptFile;
use crate::account_env::parse;
use crate::sys::process::c_string;

pub(super) use crate::account_env::{Variables, is_identifier};

/// PATH of root's login; that of others has no sbin.
const ROOT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
const USER_PATH: &str = "/usr/local/bin:/usr/bin:/bin";

/// What login(1) sets for an account.
pub(super) fn login(account: &Account) -> Variables {
    let path = if account.uid == 0 { ROOT_PATH } else { USER_PATH };
    [
        ("HOME", account.home.clone()),
        ("SHELL", account.shell.clone()),
        ("USER", account.name.clone().into_bytes()),
        ("LOGNAME", account.name.clone().into_bytes()),
        ("PATH", path.into()),
    ]
    .map(|(key, value)| (key.to_owned(), value))
    .into()
}

/// The variables in `/etc/environment`; none where the file is missing.
///
/// # Errors
/// Those of reading it.
pub(super) fn of_file(file: &KeptFile) -> io::Result<Variables> {
    match file.read() {
        Ok(text) => Ok(parse(&text)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Variables::new()),
        Err(error) => Err(error),
    }
}

/// One layer over the other, as execve wants them.
///
/// # Errors
/// A NUL byte in a layer that nobody has checked; the key is in the text.
pub(super) fn strings(variables: &Variables) -> io::Result<Vec<CString>> {
    let string = |(key, value): (&String, &Vec<u8>)| {
        c_string([key.as_bytes(), b"=", value].concat())
            .map_err(|_| io::Error::other(format!("variable {key:?} has a NUL byte in it")))
    };
    variables.iter().map(string).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_file_is_an_empty_layer() {
        assert!(of_file(&KeptFile::new("/nonexistent/environment".as_ref(), 1)).unwrap().is_empty());
    }
}
