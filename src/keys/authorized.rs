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
        .map(|(number, line)| {
            // Options, if there are any, are the first field; what follows them is read as if they were not there.
            key(line).or_else(|| key(after_field(line))).unwrap_or(AuthorizedLine::Malformed { number })
        })
}

fn key(line: &str) -> Option<AuthorizedLine<'_>> {
    let mut fields = line.split_ascii_whitespace();
    let (algorithm, data) = (fields.next()?, fields.next()?);
    // RFC 4253, 6.6: key data starts with its own type, as a string with a length of four bytes.
    let blob = STANDARD.decode(data).ok()?;
    let length = u32::from_be_bytes(*blob.first_chunk()?);
    let name = blob.get(4..)?.get(..usize::try_from(length).ok()?)?;
    (name == algorithm.as_bytes()).then_some(AuthorizedLine::Key { algorithm, data })
}

/// The line without its first field, in which blanks between double quotes do not count.
fn after_field(line: &str) -> &str {
    let mut quoted = false;
    let mut escaped = false;
    for (index, character) in line.char_indices() {
        match character {
            '"' if !escaped => quoted = !quoted,
            ' ' | '\t' if !quoted => return line[index..].trim_start(),
            _ => {}
        }
        escaped = character == '\\' && !escaped;
    }
    ""
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
