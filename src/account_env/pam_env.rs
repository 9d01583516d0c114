//! `/etc/environment` as pam_env reads it, so that a command run for the host sees what an SSH session sees.
//!
//! `KEY=VALUE` lines, an optional `export `, one pair of quotes, comments, nothing expanded, and a line that is none of this is
//! skipped. One difference is meant: pam_env ends a value at any `#`, even in quotes, which cuts a token in two without a word;
//! here a comment starts a line or follows a blank outside of quotes.

use std::collections::BTreeMap;

/// Variables by their keys. Values are bytes: files need not be UTF-8.
pub type Variables = BTreeMap<String, Vec<u8>>;

/// The variables of a file's content; a later line wins.
pub fn parse(text: &[u8]) -> Variables {
    text.split(|byte| *byte == b'\n').filter_map(parse_line).collect()
}

pub(super) fn parse_line(line: &[u8]) -> Option<(String, Vec<u8>)> {
    let line = line.trim_ascii();
    let line = line.strip_prefix(b"export ").unwrap_or(line).trim_ascii_start();
    let equals = line.iter().position(|byte| *byte == b'=')?;
    let key = str::from_utf8(&line[..equals]).ok().filter(|key| is_identifier(key))?;
    let value = unquote(&line[equals + 1..]);
    (!value.contains(&0)).then(|| (key.to_owned(), value.to_vec()))
}

fn unquote(value: &[u8]) -> &[u8] {
    if let Some((quote @ (b'"' | b'\''), rest)) = value.split_first() {
        // Up to the last such quote, as pam_env: a quote within stands for itself.
        if let Some(end) = without_comment_after(*quote, rest) {
            return &rest[..end];
        }
        return rest;
    }
    let comment = (1..value.len()).find(|&at| value[at] == b'#' && value[at - 1].is_ascii_whitespace());
    let comment = if value.starts_with(b"#") { Some(0) } else { comment };
    value[..comment.unwrap_or(value.len())].trim_ascii_end()
}

/// Where the value ends that was opened by this quote: at the last one, but before a comment that follows a closing one.
fn without_comment_after(quote: u8, rest: &[u8]) -> Option<usize> {
    let closes = |at: usize| {
        let after = rest[at + 1..].trim_ascii_start();
        rest[at] == quote && (after.is_empty() || (after.starts_with(b"#") && after.len() < rest.len() - at - 1))
    };
    (0..rest.len()).find(|&at| closes(at))
}

/// A name that a shell can use: letters, digits and `_`, no digit first.
pub fn is_identifier(key: &str) -> bool {
    !key.is_empty()
        && !key.starts_with(|first: char| first.is_ascii_digit())
        && key.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value_of(line: &str) -> Option<String> {
        let (key, value) = parse_line(line.as_bytes())?;
        assert_eq!(key, "K");
        Some(String::from_utf8(value).unwrap())
    }

    #[test]
    fn lines_are_read_as_pam_env_reads_them() {
        for (line, value) in [
            ("K=v", "v"),
            ("  export K=v", "v"),
            ("K=a b", "a b"),
            ("K=v  \r", "v"),
            ("K=\"a  b\"", "a  b"),
            ("K='a\"b'", "a\"b"),
            ("K=\"it's\"", "it's"),
            ("K=\"say \"hi\" now\"", "say \"hi\" now"),
            ("K=\"open", "open"),
            ("K=$HOME/\\n", "$HOME/\\n"),
            ("K=a=b", "a=b"),
            ("K=", ""),
            ("K=\"\"", ""),
            ("K=v # comment", "v"),
            ("K=\"v\" # comment", "v"),
            ("K=# comment", ""),
        ] {
            assert_eq!(value_of(line).as_deref(), Some(value), "{line}");
        }
    }

    #[test]
    fn a_number_sign_inside_a_value_does_not_cut_it() {
        for (line, value) in [("K=to#ken", "to#ken"), ("K=\"a #b\"", "a #b"), ("K=\"a\"#b\"", "a\"#b")] {
            assert_eq!(value_of(line).as_deref(), Some(value), "{line}");
        }
    }

    #[test]
    fn what_is_no_assignment_is_skipped() {
        for line in ["", "# K=v", "K", "1K=v", "K K=v", "=v", "K-1=v", "export", "K=a\0b", "Ä=v"] {
            assert_eq!(parse_line(line.as_bytes()), None, "{line}");
        }
    }

    #[test]
    fn a_later_line_wins_and_bytes_stay_bytes() {
        let variables = parse(b"A=1\nnonsense\nA=2\nB=\xff\n");
        assert_eq!(variables["A"], b"2");
        assert_eq!(variables["B"], b"\xff");
    }
}
