//! Keys and tokens by how they look. Pure, and strict: a mark alone, as in a manual or a program, is none.

/// Base64 that must follow a key's first line: the shortest key has 64 of it.
const KEY_BODY: usize = 40;

/// A token: what it begins with, how many characters follow at least, and whose it is.
const TOKENS: &[(&[u8], usize, &str)] = &[
    (b"ghp_", 36, "GitHub"),
    (b"gho_", 36, "GitHub"),
    (b"ghu_", 36, "GitHub"),
    (b"ghs_", 36, "GitHub"),
    (b"ghr_", 36, "GitHub"),
    (b"github_pat_", 60, "GitHub"),
    (b"glpat-", 20, "GitLab"),
    (b"xoxb-", 40, "Slack"),
    (b"xoxp-", 40, "Slack"),
    (b"sk-ant-", 80, "Anthropic"),
    (b"sk-proj-", 40, "OpenAI"),
    (b"npm_", 36, "npm"),
    (b"pypi-AgEIcHlwaS5vcmc", 50, "PyPI"),
    (b"hf_", 34, "Hugging Face"),
    (b"AIza", 35, "Google"),
    (b"AKIA", 16, "AWS"),
    (b"dop_v1_", 64, "DigitalOcean"),
];

/// What kind of private key is in a content.
pub(super) fn private_key(content: &[u8]) -> Option<&'static str> {
    for (at, rest) in first_lines(content) {
        let label = rest.iter().position(|byte| *byte == b'-').map(|end| &rest[..end]).unwrap_or_default();
        let starts_line = at == 0 || matches!(content[at - 1], b'\n' | b'\r' | b'"' | b'\'' | b' ' | b'\t' | b'|');
        let is_key = label.ends_with(b"PRIVATE KEY") || label == b"PGP PRIVATE KEY BLOCK";
        if starts_line && is_key && has_body(&rest[label.len()..]) {
            return Some(match label {
                b"OPENSSH PRIVATE KEY" => "a private key of OpenSSH",
                b"PGP PRIVATE KEY BLOCK" => "a private key of PGP",
                b"ENCRYPTED PRIVATE KEY" => "a private key, with a passphrase",
                _ => "a private key in PEM",
            });
        }
    }
    if content.starts_with(b"PuTTY-User-Key-File-") {
        return Some("a private key of PuTTY");
    }
    words(content).any(|word| word.starts_with(b"AGE-SECRET-KEY-1")).then_some("a private key of age")
}

/// Whether base64 follows the end of a key's first line; lines may end as they do in a JSON text, and headers come before it.
fn has_body(rest: &[u8]) -> bool {
    let Some(rest) = rest.strip_prefix(b"-----") else { return false };
    let mut body = 0;
    let mut lines = 0;
    let mut left = rest;
    while body < KEY_BODY && lines < 8 {
        left = match left {
            [b'\r', b'\n', after @ ..] | [b'\\', b'n', after @ ..] | [b'\n' | b' ' | b'\t', after @ ..] => after,
            _ => return false,
        };
        let end = left.iter().position(|byte| matches!(byte, b'\n' | b'\r' | b'\\')).unwrap_or(left.len());
        let line = left[..end].trim_ascii();
        if run(line, |byte| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'/' | b'=')) == line.len() {
            body += line.len();
        } else if !line.contains(&b':') {
            return false;
        }
        left = &left[end..];
        lines += 1;
    }
    body >= KEY_BODY
}

/// Whose token is in a content.
pub(super) fn token(content: &[u8]) -> Option<&'static str> {
    words(content).find_map(|word| {
        let is = |mark: &[u8], length| {
            word.strip_prefix(mark).is_some_and(|value| value.len() >= length && is_random(value))
        };
        TOKENS.iter().find(|(mark, length, _)| is(mark, *length)).map(|(.., whose)| *whose)
    })
}

/// Words that are long enough for a token.
fn words(content: &[u8]) -> impl Iterator<Item = &[u8]> {
    let of_word = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-');
    content.split(move |byte| !of_word(byte)).filter(|word| word.len() >= 20)
}

/// As many different characters as chance gives, digits among them.
fn is_random(value: &[u8]) -> bool {
    let mut seen = [false; 256];
    for byte in value {
        seen[usize::from(*byte)] = true;
    }
    seen.iter().filter(|seen| **seen).count() >= 8 && value.iter().any(u8::is_ascii_digit)
}

/// Every place of a key's first line, and what follows its mark.
fn first_lines(content: &[u8]) -> impl Iterator<Item = (usize, &[u8])> {
    let mut from = 0;
    std::iter::from_fn(move || {
        loop {
            let at = from + content.get(from..)?.iter().position(|byte| *byte == b'-')?;
            if let Some(rest) = content[at..].strip_prefix(b"-----BEGIN ") {
                from = at + 1;
                return Some((at, rest));
            }
            from = at + 1;
        }
    })
}

/// How many of the first bytes are of a kind.
fn run(bytes: &[u8], is: impl Fn(&u8) -> bool) -> usize {
    bytes.iter().position(|byte| !is(byte)).unwrap_or(bytes.len())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::keys::GoldenPair;

    const BODY: &str = "MC4CAQAwBQYDK2VwBCIEIGRlYWRiZWVmZGVhZGJlZWZkZWFkYmVlZmRlYWRi";

    fn pem(label: &str, body: &str) -> String {
        format!("-----BEGIN {label}-----\n{body}\n-----END {label}-----\n")
    }

    #[test]
    fn keys_are_found_wherever_they_are_in_a_file() {
        let golden = GoldenPair::generate().unwrap();
        assert_eq!(private_key(golden.private_text().as_bytes()), Some("a private key of OpenSSH"));
        let bundle = format!("{}{}", pem("CERTIFICATE", BODY), pem("RSA PRIVATE KEY", BODY));
        assert_eq!(private_key(bundle.as_bytes()), Some("a private key in PEM"));
        let with_headers = pem("EC PRIVATE KEY", &format!("Proc-Type: 4,ENCRYPTED\nDEK-Info: AES,00\n\n{BODY}"));
        assert_eq!(private_key(with_headers.as_bytes()), Some("a private key in PEM"));
        assert_eq!(
            private_key(pem("PRIVATE KEY", BODY).replace('\n', "\r\n").as_bytes()),
            Some("a private key in PEM")
        );
        let json = format!("{{\"private_key\": \"{}\"}}", pem("PRIVATE KEY", BODY).replace('\n', "\\n"));
        assert_eq!(private_key(json.as_bytes()), Some("a private key in PEM"));
        let indented =
            pem("ENCRYPTED PRIVATE KEY", BODY).lines().map(|line| format!("    {line}\n")).collect::<String>();
        assert_eq!(private_key(indented.as_bytes()), Some("a private key, with a passphrase"));
    }

    #[test]
    fn public_things_and_talk_of_keys_are_none() {
        for text in [
            pem("CERTIFICATE", BODY),
            pem("PUBLIC KEY", BODY),
            pem("PRIVATE KEY", "..."),
            "a file that begins with -----BEGIN PRIVATE KEY-----".to_owned(),
            "parse(\"-----BEGIN PRIVATE KEY-----\\n\")".to_owned(),
            "-----BEGIN RSA PRIVATE KEY-----\0-----BEGIN".to_owned(),
        ] {
            assert_eq!(private_key(text.as_bytes()), None, "{text}");
        }
    }

    #[test]
    fn tokens_are_found_and_examples_of_them_are_none() {
        let random = "a8F3kq09Zx7Lw2Rt5Yb1Nc6Vd4Hs0Jg8Pm3Qe7";
        assert_eq!(token(format!("token: ghp_{random}").as_bytes()), Some("GitHub"));
        assert_eq!(token(b"aws_access_key_id=AKIA7Q2XW9ER4TYU1OPL"), Some("AWS"));
        for text in ["ghp_xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx", "ghp_short1", "AKIAIOSFODNNEXAMPLEX", "aghp_", ""] {
            assert_eq!(token(text.as_bytes()), None, "{text}");
        }
        assert_eq!(token(format!("xghp_{random}").as_bytes()), None, "the middle of a word");
    }

    proptest! {
        #[test]
        fn any_bytes_are_searched_without_a_panic(before: Vec<u8>, after: Vec<u8>) {
            for mark in ["-----BEGIN PRIVATE KEY-----", "-----BEGIN ", "ghp_", "AGE-SECRET-KEY-1"] {
                let content = [&before, mark.as_bytes(), &after].concat();
                let _ = (private_key(&content), token(&content));
            }
        }
    }
}
