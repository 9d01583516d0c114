//! A key that somebody wants to be authorized: is it one, and will sshd take it? Pure.
//!
//! No message repeats what was given: it may be a private key, given by mistake.

use super::{
    authorized::Parts,
    options,
    set::{self, KeyHash},
};
use crate::limits;

/// A line with a key that sshd will take.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Candidate {
    pub(super) options: String,
    pub(super) algorithm: String,
    /// The key in base64.
    pub(super) data: String,
    pub(super) comment: String,
    blob: Vec<u8>,
}

/// Types of keys that sshd takes, in the words of its `PubkeyAcceptedAlgorithms`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Accepted(Option<Vec<String>>);

impl Accepted {
    /// What an sshd said of itself.
    pub(super) fn by(algorithms: &str) -> Self {
        Self(Some(algorithms.split(',').map(str::to_owned).collect()))
    }

    /// What every sshd takes, unless it is told not to.
    pub(super) const USUAL: Self = Self(None);

    fn takes(&self, algorithm: &str) -> bool {
        let Some(algorithms) = &self.0 else { return LAYOUTS.iter().any(|(known, _)| *known == algorithm) };
        // An RSA key signs by other names than its own (RFC 8332).
        let names: &[&str] = match algorithm {
            "ssh-rsa" => &["ssh-rsa", "rsa-sha2-256", "rsa-sha2-512"],
            other => &[other],
        };
        algorithms.iter().any(|algorithm| names.contains(&algorithm.as_str()))
    }
}

/// A part of a key's blob after its type.
#[derive(Debug, Clone, Copy)]
enum Field {
    /// So many bytes.
    Bytes(usize),
    /// A point of a curve, uncompressed, with coordinates of so many bytes.
    Point(usize),
    /// The name of the curve.
    Curve(&'static str),
    /// An exponent.
    Exponent,
    /// A modulus of RSA.
    Modulus,
    /// Text that is not empty.
    Text,
}

/// What keys are made of (RFC 8332, 5656 and 8709, and OpenSSH's PROTOCOL.u2f).
const LAYOUTS: [(&str, &[Field]); 7] = [
    ("ssh-ed25519", &[Field::Bytes(32)]),
    ("ssh-rsa", &[Field::Exponent, Field::Modulus]),
    ("ecdsa-sha2-nistp256", &[Field::Curve("nistp256"), Field::Point(32)]),
    ("ecdsa-sha2-nistp384", &[Field::Curve("nistp384"), Field::Point(48)]),
    ("ecdsa-sha2-nistp521", &[Field::Curve("nistp521"), Field::Point(66)]),
    ("sk-ssh-ed25519@openssh.com", &[Field::Bytes(32), Field::Text]),
    ("sk-ecdsa-sha2-nistp256@openssh.com", &[Field::Curve("nistp256"), Field::Point(32), Field::Text]),
];

/// Bits of an RSA key: sshd refuses smaller ones (`RequiredRSASize`, 1024 unless set higher) and cannot read larger ones.
const RSA_BITS: std::ops::RangeInclusive<usize> = 1024..=16_384;

impl Field {
    fn fits(self, value: &[u8]) -> bool {
        match self {
            Self::Bytes(length) => value.len() == length,
            Self::Point(coordinate) => value.len() == 2 * coordinate + 1 && value[0] == 4,
            Self::Curve(name) => value == name.as_bytes(),
            Self::Exponent => bits(value).is_some_and(|bits| bits > 1),
            Self::Modulus => bits(value).is_some_and(|bits| RSA_BITS.contains(&bits)),
            Self::Text => !value.is_empty(),
        }
    }
}

/// Bits of a positive number as SSH writes it; None where it is none.
fn bits(number: &[u8]) -> Option<usize> {
    let (first, rest) = number.split_first()?;
    match (first, rest.first()) {
        (0, Some(second)) if *second >= 0x80 => Some(8 * rest.len()),
        (1..=0x7f, _) => Some(8 * number.len() - usize::try_from(first.leading_zeros()).ok()?),
        _ => None,
    }
}

/// The strings that a blob consists of, each with a length of four bytes before it.
fn strings(mut blob: &[u8]) -> Option<Vec<&[u8]>> {
    let mut strings = Vec::new();
    while !blob.is_empty() {
        let (length, rest) = blob.split_first_chunk()?;
        let length = usize::try_from(u32::from_be_bytes(*length)).ok()?;
        let (string, rest) = rest.split_at_checked(length)?;
        strings.push(string);
        blob = rest;
    }
    Some(strings)
}

impl Candidate {
    /// Reads a line. Says what is wrong with it, as a sentence without subject: "is …".
    pub(super) fn parse(line: &str, accepted: &Accepted) -> Result<Self, String> {
        if line.contains("PRIVATE KEY") {
            return Err("is a private key: keep it to yourself and give its public half, the .pub file".to_owned());
        }
        if line.len() > limits::KEY_LINE_BYTES {
            return Err(format!("has more than {} bytes", limits::KEY_LINE_BYTES));
        }
        let line = line.trim();
        if line.chars().any(|character| character.is_control() && character != '\t') {
            return Err(
                "has control characters, such as the ends of several lines: give one key as one line".to_owned()
            );
        }
        let Some(parts) = Parts::of(line) else {
            return Err("is no public key: expected `[OPTIONS] TYPE KEY [COMMENT]`, as in a .pub file".to_owned());
        };
        let Parts { options, algorithm, data, blob, comment } = parts;
        if algorithm.contains("-cert-") {
            return Err(
                "is a certificate, which opens nothing by itself: give the key of its authority with the option cert-authority"
                    .to_owned(),
            );
        }
        if !accepted.takes(algorithm) {
            return Err(format!("is of type {algorithm}, which this VM's sshd does not accept"));
        }
        let layout = LAYOUTS.iter().find(|(known, _)| *known == algorithm);
        let fits = |layout: &[Field]| {
            let strings = strings(&blob).unwrap_or_default();
            // The first is its type.
            let fields = strings.get(1..).unwrap_or_default();
            fields.len() == layout.len() && layout.iter().zip(fields).all(|(field, value)| field.fits(value))
        };
        if layout.is_some_and(|(_, layout)| !fits(layout)) {
            return Err(format!("is a damaged key of type {algorithm}, or one of a size that sshd refuses"));
        }
        if !options.is_empty() {
            options::check(options).map_err(|why| format!("has options that sshd refuses: {why}"))?;
            if options::expires(options) {
                return Err("has the option expiry-time: give `expires` instead".to_owned());
            }
        }
        Ok(Self {
            options: options.to_owned(),
            algorithm: algorithm.to_owned(),
            data: data.to_owned(),
            comment: comment.to_owned(),
            blob,
        })
    }

    pub(super) fn hash(&self) -> KeyHash {
        set::hash(&self.blob)
    }
}

#[cfg(test)]
mod tests {
    use base64::{Engine as _, engine::general_purpose::STANDARD};

    use super::*;

    const ED25519: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIDPt7Yk5VzMSxo4Cv8gmDL3d8TqwQCJtQyBr5Zg1V8mX";

    fn line(strings: &[&[u8]]) -> String {
        let mut blob = Vec::new();
        for string in strings {
            blob.extend(u32::try_from(string.len()).unwrap().to_be_bytes());
            blob.extend_from_slice(string);
        }
        format!("{} {}", str::from_utf8(strings[0]).unwrap(), STANDARD.encode(blob))
    }

    fn rsa(bits: usize) -> String {
        let mut modulus = vec![0xff; bits / 8];
        modulus.insert(0, 0);
        line(&[b"ssh-rsa", &[1, 0, 1], &modulus])
    }

    fn usual(line: &str) -> Result<Candidate, String> {
        Candidate::parse(line, &Accepted::USUAL)
    }

    #[test]
    fn a_line_is_taken_with_its_options_and_its_comment() {
        let key = usual(&format!("  restrict,command=\"a  b\"  {ED25519}  ada  lovelace \r\n")).unwrap();
        assert_eq!(
            (key.options.as_str(), key.algorithm.as_str(), key.comment.as_str()),
            (r#"restrict,command="a  b""#, "ssh-ed25519", "ada  lovelace")
        );
        assert_eq!(set::fingerprint(&key.hash()), "SHA256:hShpdVhKj0zHbjmp+UEVpzvjh9lZ3lK0B4snpsszPrg");
    }

    #[test]
    fn keys_of_every_type_are_taken_and_damaged_ones_are_not() {
        let point = |coordinate: usize| [&[4][..], &vec![7; 2 * coordinate]].concat();
        let good = [
            ED25519.to_owned(),
            rsa(1024),
            rsa(16_384),
            line(&[b"ecdsa-sha2-nistp256", b"nistp256", &point(32)]),
            line(&[b"ecdsa-sha2-nistp384", b"nistp384", &point(48)]),
            line(&[b"ecdsa-sha2-nistp521", b"nistp521", &point(66)]),
            line(&[b"sk-ssh-ed25519@openssh.com", &[7; 32], b"ssh:"]),
            line(&[b"sk-ecdsa-sha2-nistp256@openssh.com", b"nistp256", &point(32), b"ssh:"]),
        ];
        for line in good {
            assert!(usual(&line).is_ok(), "{line}");
        }
        let bad = [
            line(&[b"ssh-ed25519", &[7; 31]]),
            line(&[b"ssh-ed25519", &[7; 32], b""]),
            line(&[b"ssh-ed25519"]),
            rsa(1016),
            rsa(16_392),
            line(&[b"ssh-rsa", &[1], &[0x7f; 256]]),
            line(&[b"ssh-rsa", &[1, 0, 1], &[0x80; 256]]),
            line(&[b"ecdsa-sha2-nistp256", b"nistp384", &point(32)]),
            line(&[b"ecdsa-sha2-nistp256", b"nistp256", &[2; 65]]),
            line(&[b"sk-ssh-ed25519@openssh.com", &[7; 32], b""]),
        ];
        for line in bad {
            assert!(usual(&line).unwrap_err().starts_with("is a damaged key of type "), "{line}");
        }
    }

    #[test]
    fn what_sshd_says_that_it_accepts_decides() {
        let sshd = Accepted::by("ssh-ed25519,rsa-sha2-256,ssh-future-key");
        let future = line(&[b"ssh-future-key", b"whatever"]);
        for good in [ED25519, &rsa(2048), &future] {
            assert!(Candidate::parse(good, &sshd).is_ok(), "{good}");
        }
        let ecdsa = line(&[b"ecdsa-sha2-nistp256", b"nistp256", &[4; 65]]);
        let refused = Candidate::parse(&ecdsa, &sshd).unwrap_err();
        assert_eq!(refused, "is of type ecdsa-sha2-nistp256, which this VM's sshd does not accept");
        assert!(Candidate::parse(&rsa(2048), &Accepted::by("ssh-ed25519")).is_err());
        assert!(usual(&future).is_err());
    }

    #[test]
    fn what_is_no_key_is_refused_and_never_repeated() {
        let certificate = line(&[b"ssh-ed25519-cert-v01@openssh.com", b"nonce"]);
        let secret = "b3BlbnNzaC1rZXktdjEAAAAABG5vbmUAAAAEbm9uZQAAAA";
        for (wrong, says) in [
            (format!("-----BEGIN OPENSSH PRIVATE KEY-----\n{secret}"), "is a private key"),
            (secret.to_owned(), "is no public key"),
            (format!("{secret} {ED25519}"), "has options that sshd refuses"),
            (format!("{secret}=\"{secret}\" {ED25519}"), "has options that sshd refuses"),
            (format!("{ED25519} a\n{ED25519} {secret}"), "has control characters"),
            (format!("{ED25519} \u{1b}[2J{secret}"), "has control characters"),
            (format!("{ED25519} {}", secret.repeat(200)), "has more than 8192 bytes"),
            (certificate, "is a certificate"),
            (format!("expiry-time=\"20991231\" {ED25519} {secret}"), "has the option expiry-time"),
            (String::new(), "is no public key"),
            (format!("# {ED25519}"), "has options that sshd refuses"),
        ] {
            let why = usual(&wrong).unwrap_err();
            assert!(why.starts_with(says) && !why.contains(secret), "{wrong}: {why}");
        }
    }
}
