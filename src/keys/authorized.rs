//! authorized_keys(5), read line by line: which lines are keys, which are none.
//!
//! Key data is not interpreted beyond its type, so that every algorithm that sshd knows counts.

use base64::{Engine as _, engine::general_purpose::STANDARD};

/// One line of an authorized_keys file that is neither empty nor a comment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AuthorizedLine<'text> {
    /// A key.
    Key {
        /// Its type, such as `ssh-ed25519`.
        algorithm: &'text str,
        /// The key itself, in base64.
        data: &'text str,
    },
    /// What sshd will pass over.
    Malformed {
        /// Line number, from 1.
        number: usize,
    },
}

/// The lines of an authorized_keys file that are neither empty nor comments.
pub fn authorized_lines(text: &str) -> impl Iterator<Item = AuthorizedLine<'_>> {
    text.lines()
        .enumerate()
        .map(|(index, line)| (index + 1, line.trim()))
        .filter(|(_, line)| !line.is_empty() && !line.starts_with('#'))
        .map(|(number, line)| match Parts::of(line) {
            Some(Parts { algorithm, data, .. }) => AuthorizedLine::Key { algorithm, data },
            None => AuthorizedLine::Malformed { number },
        })
}

/// A line with a key, taken apart as sshd does (`check_authkey_line` of `auth2-pubkeyfile.c`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Parts<'line> {
    /// What comes before the key, if anything does.
    pub(super) options: &'line str,
    pub(super) algorithm: &'line str,
    /// The key in base64.
    pub(super) data: &'line str,
    /// The key itself, its type at its beginning.
    pub(super) blob: Vec<u8>,
    /// The rest of the line.
    pub(super) comment: &'line str,
}

/// What separates the fields of a line; nothing else does.
const BLANKS: [char; 2] = [' ', '\t'];

impl<'line> Parts<'line> {
    /// The parts of a line without its end; None where there is no key on it.
    pub(super) fn of(line: &'line str) -> Option<Self> {
        let line = line.trim_start_matches(BLANKS).trim_end();
        // Options, if there are any, are the first field; what follows them is read as if they were not there.
        Self::without_options(line).or_else(|| {
            let (options, rest) = after_options(line)?;
            Some(Self { options, ..Self::without_options(rest)? })
        })
    }

    fn without_options(line: &'line str) -> Option<Self> {
        let (algorithm, rest) = line.split_once(BLANKS)?;
        let rest = rest.trim_start_matches(BLANKS);
        let (data, comment) = rest.split_once(BLANKS).unwrap_or((rest, ""));
        // RFC 4253, 6.6: key data starts with its own type, as a string with a length of four bytes.
        let blob = STANDARD.decode(data).ok()?;
        let length = u32::from_be_bytes(*blob.first_chunk()?);
        let name = blob.get(4..)?.get(..usize::try_from(length).ok()?)?;
        let comment = comment.trim_start_matches(BLANKS);
        (name == algorithm.as_bytes()).then_some(Self { options: "", algorithm, data, blob, comment })
    }
}

/// The first field, in which blanks between double quotes do not count, and what follows it. A backslash escapes a quote and nothing
/// else, itself not either (`sshkey_advance_past_options`).
fn after_options(line: &str) -> Option<(&str, &str)> {
    let bytes = line.as_bytes();
    let (mut at, mut quoted) = (0, false);
    while let Some(byte) = bytes.get(at) {
        match byte {
            b'\\' if bytes.get(at + 1) == Some(&b'"') => at += 1,
            b'"' => quoted = !quoted,
            b' ' | b'\t' if !quoted => return Some((&line[..at], line[at..].trim_start_matches(BLANKS))),
            _ => {}
        }
        at += 1;
    }
    None
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ED25519: &str =
        "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIDPt7Yk5VzMSxo4Cv8gmDL3d8TqwQCJtQyBr5Zg1V8mX somebody@somewhere";

    fn kinds(text: &str) -> Vec<Result<&str, usize>> {
        authorized_lines(text)
            .map(|line| match line {
                AuthorizedLine::Key { algorithm, .. } => Ok(algorithm),
                AuthorizedLine::Malformed { number } => Err(number),
            })
            .collect()
    }

    #[test]
    fn keys_are_counted_and_comments_and_empty_lines_are_not() {
        assert_eq!(kinds(&format!("# golden\n\n{ED25519}\n  \t\n{ED25519}")), [Ok("ssh-ed25519"), Ok("ssh-ed25519")]);
    }

    #[test]
    fn options_before_a_key_are_passed_over_with_their_quoted_blanks() {
        for options in
            ["restrict", r#"command="echo \"a b\" c",no-pty"#, r#"from="10.0.0.0/8, fd00::/8",environment="A=b c""#]
        {
            assert_eq!(kinds(&format!("{options} {ED25519}")), [Ok("ssh-ed25519")], "{options}");
        }
    }

    #[test]
    fn a_line_is_taken_apart_as_sshd_does() {
        let parts = |line: &str| {
            let owned = |parts: Parts<'_>| (parts.options.to_owned(), parts.comment.to_owned());
            Parts::of(line).map(owned)
        };
        let found = |options: &str, comment: &str| Some((options.to_owned(), comment.to_owned()));
        let (key, _) = ED25519.rsplit_once(' ').unwrap();
        assert_eq!(parts(&format!("  {key}\r\n")), found("", ""));
        assert_eq!(parts(&format!("restrict\t {key}  a  b \n")), found("restrict", "a  b"));
        // The backslash before the last one escapes nothing, and the last one escapes the quote: the value has no end.
        assert_eq!(parts(&format!(r#"command="a\\" {key}"#)), None);
        assert_eq!(parts(&format!(r#"command="a\\"" {key}"#)), found(r#"command="a\\"""#, ""));
        assert_eq!(parts("restrict"), None);
    }

    #[test]
    fn key_types_that_guestd_does_not_make_count_too() {
        let algorithm = "sk-ssh-ed25519@openssh.com";
        let blob = STANDARD.encode([&26_u32.to_be_bytes()[..], algorithm.as_bytes(), b"the key itself"].concat());
        assert_eq!(kinds(&format!("{algorithm} {blob}")), [Ok(algorithm)]);
        assert_eq!(kinds(&format!("ssh-ed25519 {blob}")), [Err(1)]);
    }

    #[test]
    fn broken_lines_are_named_by_their_number() {
        assert_eq!(kinds("# one\nnonsense\nssh-ed25519 AAAA\nssh-rsa AAAAC3NzaC1lZDI1NTE5"), [Err(2), Err(3), Err(4)]);
    }

    proptest! {
        #[test]
        fn any_text_is_read_without_a_panic(text in "\\PC*") {
            let _ = authorized_lines(&text).count();
        }
    }
}
