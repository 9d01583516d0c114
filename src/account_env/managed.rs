//! The managed block: taken out of a file's text, and put back. Pure.

use std::collections::BTreeMap;

use super::pam_env::{is_identifier, parse_line};
use crate::{limits, sys::root_dir::RootDirError};

/// Opens the block. pam_env and shells take it for a comment.
const BEGIN: &[u8] = b"# guestd: managed variables, change them by `guestctl env`";
/// Ends it.
const END: &[u8] = b"# guestd: end";

/// What pam_env reads at once, before Linux-PAM 1.6 (BUF_SIZE of its source, less the NUL).
const PAM_LINE_BYTES: usize = 8191;
/// `=`, two quotes, the line's end.
const QUOTES_AND_MORE: usize = 4;

/// Why variables cannot be managed. Nothing has changed.
#[derive(Debug, thiserror::Error)]
pub enum EnvError {
    /// A key that no shell could name.
    #[error("{key} is no name of a variable: use letters, digits and _, no digit first")]
    BadKey {
        /// The key, quoted and cut to what can be shown.
        key: String,
    },
    /// A key or value that is too long.
    #[error("the {what} of {key} is {bytes} bytes long and the limit is {limit}")]
    TooLong {
        /// `key` or `value`.
        what: &'static str,
        /// The key, quoted and cut to what can be shown.
        key: String,
        /// The length.
        bytes: usize,
        /// The limit.
        limit: usize,
    },
    /// A value that no line of the file can hold.
    #[error("the value of {key} cannot be written to /etc/environment, whose lines know no escapes: {why}")]
    BadValue {
        /// The key.
        key: String,
        /// What is in it.
        why: &'static str,
    },
    /// The file would be too large.
    #[error("/etc/environment would be {bytes} bytes long and the limit is {limit}; take some variables out")]
    FileTooLarge {
        /// Its length.
        bytes: usize,
        /// The limit.
        limit: u64,
    },
    /// The file could not be read or written.
    #[error(transparent)]
    File(#[from] RootDirError),
    /// There is something else in its place.
    #[error("/etc/environment is no regular file, and nothing else is written to; put a file there")]
    NotAFile,
}

/// A file's text with the managed part apart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Managed {
    /// Managed variables.
    pub env: BTreeMap<String, String>,
    /// The lines of others.
    rest: Vec<Vec<u8>>,
}

impl Managed {
    /// Takes a text apart.
    pub fn of(text: &[u8]) -> Self {
        let mut lines: Vec<Vec<u8>> = text.split(|byte| *byte == b'\n').map(<[u8]>::to_vec).collect();
        if lines.last().is_some_and(Vec::is_empty) {
            lines.pop();
        }
        let mut env = BTreeMap::new();
        while let Some(begin) = lines.iter().position(|line| line == BEGIN) {
            let Some(length) = lines[begin..].iter().position(|line| line == END) else {
                // Where it ended is not known any more, so its lines are everybody's.
                lines.remove(begin);
                continue;
            };
            let block: Vec<_> = lines.drain(begin..=begin + length).collect();
            let mut foreign = Vec::new();
            for line in &block[1..length] {
                match parse_line(line).map(|(key, value)| (key, String::from_utf8(value))) {
                    Some((key, Ok(value))) => drop(env.insert(key, value)),
                    _ => foreign.push(line.clone()),
                }
            }
            lines.splice(begin..begin, foreign);
        }
        Self { env, rest: lines }
    }

    /// Keys that others set.
    pub fn others(&self) -> Vec<String> {
        let keys = self.rest.iter().filter_map(|line| parse_line(line)).map(|(key, _)| key);
        keys.collect::<std::collections::BTreeSet<_>>().into_iter().collect()
    }

    /// What pam_env, and so an SSH session, reads otherwise.
    pub fn notes(&self) -> Vec<String> {
        let note = |(key, value): (&String, &String)| {
            if value.contains('#') {
                Some(format!("{key} holds a `#`, at which pam_env ends a value: SSH sessions see it cut"))
            } else if key.len() + value.len() + QUOTES_AND_MORE > PAM_LINE_BYTES {
                Some(format!(
                    "{key} makes a line of more than {PAM_LINE_BYTES} bytes: pam_env before 1.6 reads what is beyond as a line of its own"
                ))
            } else {
                None
            }
        };
        self.env.iter().filter_map(note).collect()
    }

    /// The text again.
    ///
    /// # Errors
    /// A value that cannot be written, or too much of it.
    pub fn text(&self) -> Result<Vec<u8>, EnvError> {
        let mut text = Vec::new();
        let mut push = |line: &[u8]| {
            text.extend_from_slice(line);
            text.push(b'\n');
        };
        self.rest.iter().for_each(|line| push(line));
        if !self.env.is_empty() {
            push(BEGIN);
            for (key, value) in &self.env {
                push(&line(key, value)?);
            }
            push(END);
        }
        if text.len() as u64 > limits::ENVIRONMENT_FILE_BYTES {
            return Err(EnvError::FileTooLarge { bytes: text.len(), limit: limits::ENVIRONMENT_FILE_BYTES });
        }
        Ok(text)
    }
}

/// Can this variable be managed?
///
/// # Errors
/// Why not.
pub fn check(key: &str, value: &str) -> Result<(), EnvError> {
    let shown = || format!("{:?}", key.chars().take(80).collect::<String>());
    if !is_identifier(key) {
        return Err(EnvError::BadKey { key: shown() });
    }
    let lengths = [("key", key.len(), limits::ENV_KEY_BYTES), ("value", value.len(), limits::ENV_VALUE_BYTES)];
    if let Some((what, bytes, limit)) = lengths.into_iter().find(|(_, bytes, limit)| bytes > limit) {
        return Err(EnvError::TooLong { what, key: shown(), bytes, limit });
    }
    line(key, value).map(drop)
}

/// The line that is read as this value: bare where that will do, in one kind of quotes or the other where not.
fn line(key: &str, value: &str) -> Result<Vec<u8>, EnvError> {
    let bad = |why| EnvError::BadValue { key: key.to_owned(), why };
    if value.contains(['\n', '\r', '\0']) {
        return Err(bad("it has a line's end or a NUL in it"));
    }
    let forms = [format!("{key}={value}"), format!("{key}=\"{value}\""), format!("{key}='{value}'")];
    let is_read = |form: &String| parse_line(form.as_bytes()).is_some_and(|(_, read)| read == value.as_bytes());
    // A `#` is safer in quotes, and so is a blank; and pam_env takes a `\` at a line's end for the wish to go on with the next.
    let bare_last = (value.contains(['#', ' ', '\t']) || value.ends_with('\\')) as usize;
    let mut forms = forms.into_iter().collect::<Vec<_>>();
    forms.rotate_left(bare_last);
    let form = forms.into_iter().find(is_read).ok_or_else(|| bad("it has a quote followed by a blank and a `#`"))?;
    Ok(form.into_bytes())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::account_env::parse;

    fn set(text: &str, pairs: &[(&str, &str)]) -> String {
        let mut managed = Managed::of(text.as_bytes());
        managed.env.extend(pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())));
        String::from_utf8(managed.text().unwrap()).unwrap()
    }

    #[test]
    fn a_users_own_lines_stay_and_the_managed_ones_win() {
        let text = set("# mine\nA=1\n\nexport B=\"two words\"\nno assignment\n", &[("A", "9"), ("C", "x y")]);
        insta::assert_snapshot!(text, @r#"
        # mine
        A=1

        export B="two words"
        no assignment
        # guestd: managed variables, change them by `guestctl env`
        A=9
        C="x y"
        # guestd: end
        "#);
        let variables = parse(text.as_bytes());
        assert_eq!((&variables["A"][..], &variables["B"][..]), (&b"9"[..], &b"two words"[..]));
        let managed = Managed::of(text.as_bytes());
        assert_eq!((managed.env.len(), managed.others()), (2, vec!["A".to_owned(), "B".to_owned()]));
    }

    #[test]
    fn the_last_managed_variable_takes_the_block_along() {
        let mut managed = Managed::of(set("A=1\n", &[("B", "2")]).as_bytes());
        managed.env.clear();
        assert_eq!(managed.text().unwrap(), b"A=1\n");
    }

    #[test]
    fn a_block_without_its_end_loses_nothing() {
        let text = set("", &[("B", "2")]).replace("# guestd: end\n", "MINE=1\n");
        let again = set(&text, &[("C", "3")]);
        assert_eq!(again, format!("B=2\nMINE=1\n{}\nC=3\n# guestd: end\n", String::from_utf8_lossy(BEGIN)));
    }

    #[test]
    fn what_somebody_wrote_into_the_block_stays() {
        let text = set("", &[("B", "2")]).replace("B=2", "# note\nB=2\nD=4");
        let managed = Managed::of(text.as_bytes());
        assert_eq!(managed.env.keys().collect::<Vec<_>>(), ["B", "D"]);
        assert!(managed.text().unwrap().starts_with(b"# note\n"));
    }

    #[test]
    fn keys_and_values_have_their_limits_and_the_error_names_them() {
        let long = "x".repeat(limits::ENV_VALUE_BYTES + 1);
        assert!(check("K", &long[1..]).is_ok());
        insta::assert_snapshot!(check("K", &long).unwrap_err(), @r#"the value of "K" is 8193 bytes long and the limit is 8192"#);
        assert!(matches!(check(&long[..257], ""), Err(EnvError::TooLong { what: "key", .. })));
        assert!(matches!(check("1K", ""), Err(EnvError::BadKey { .. })));
        assert!(matches!(check("K", "two\nlines"), Err(EnvError::BadValue { .. })));
    }

    #[test]
    fn a_value_at_which_pam_env_stumbles_is_named() {
        let managed = Managed::of(set("", &[("K", "to#ken"), ("L", "fine")]).as_bytes());
        assert_eq!(managed.notes().len(), 1);
        assert!(managed.notes()[0].starts_with("K holds a `#`"));
    }

    #[test]
    fn no_line_ends_in_a_backslash_which_would_draw_the_next_one_in() {
        for value in ["C:\\x\\", "\\", "\"\\"] {
            let text = set("", &[("K", value)]);
            let line = text.lines().find(|line| line.starts_with("K=")).unwrap();
            assert!(!line.ends_with('\\'), "{line}");
            assert_eq!(parse(text.as_bytes())["K"], value.as_bytes());
        }
        let long = Managed::of(set("", &[("K", &"x".repeat(limits::ENV_VALUE_BYTES))]).as_bytes());
        assert!(long.notes()[0].contains("8191"), "{:?}", long.notes());
    }

    proptest! {
        #[test]
        fn every_value_that_is_taken_is_read_back(value in "[ -~\t\u{e4}]{0,24}", text in "([A-C# =\"'a-c]{0,12}\n){0,4}") {
            if check("K", &value).is_ok() {
                let written = set(&text, &[("K", &value)]);
                prop_assert_eq!(&parse(written.as_bytes())["K"], value.as_bytes());
                let mut managed = Managed::of(written.as_bytes());
                prop_assert_eq!(managed.env.get("K"), Some(&value));
                managed.env.clear();
                prop_assert_eq!(String::from_utf8(managed.text().unwrap()).unwrap(), text);
            }
        }
    }
}
