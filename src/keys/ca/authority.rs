//! The authority's two key pairs, one for hosts and one for users, and what they sign.

use std::time::Duration;

use ssh_key::{
    PublicKey,
    certificate::{Builder, CertType},
    rand_core::{OsRng, RngCore as _},
};

use crate::{
    keys::{identity, pair::KeyPair},
    sys::root_dir::{Existing, RootDir, RootDirError},
};

/// How far a certificate's beginning lies back: clocks of machines differ.
const BACKDATED: u64 = 5 * 60;

/// What a user may do with a certificate: all that a key without options lets him do.
const EXTENSIONS: [&str; 5] =
    ["permit-X11-forwarding", "permit-agent-forwarding", "permit-port-forwarding", "permit-pty", "permit-user-rc"];

/// What a certificate is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// A host's key.
    Host,
    /// A user's key.
    User,
}

impl Purpose {
    /// Name of the private half in the authority's directory.
    pub(super) fn private_name(self) -> &'static str {
        match self {
            Self::Host => "host_ca_ed25519",
            Self::User => "user_ca_ed25519",
        }
    }

    fn comment(self) -> &'static str {
        match self {
            Self::Host => "guestd host authority",
            Self::User => "guestd user authority",
        }
    }
}

/// What a certificate says.
#[derive(Debug, Clone, Copy)]
pub struct Certified<'a> {
    /// Whose key it is.
    pub purpose: Purpose,
    /// Names of the host, or accounts that the user may log in to.
    pub names: &'a [String],
    /// What sshd logs of it.
    pub key_id: &'a str,
    /// For how long it holds.
    pub valid: Duration,
}

/// Why there is no authority or no certificate.
#[derive(Debug, thiserror::Error)]
pub enum CaError {
    /// The directory is no authority's.
    #[error("{path} is not there; make an authority with `guestd ca init --out {dir}`")]
    NoAuthority {
        /// The private half that is missing.
        path: String,
        /// The directory.
        dir: String,
    },
    /// A private half cannot be used.
    #[error("{0}")]
    Unusable(String),
    /// What was to be certified is no public key. Its text may be a private one, and is not shown.
    #[error(
        "what is to be certified is no public key that can be: {0}; give one line `TYPE KEY [COMMENT]`, as in a .pub file"
    )]
    NoKey(ssh_key::Error),
    /// A key could not be made, or a certificate not be signed.
    #[error("cannot sign: {0}")]
    Sign(ssh_key::Error),
    /// A file could not be read or written.
    #[error(transparent)]
    Files(#[from] RootDirError),
}

/// Makes the pair, or keeps the one that is there: whether it was made. Never overwrites a private half.
pub(super) fn make(dir: &RootDir, purpose: Purpose) -> Result<(bool, KeyPair), CaError> {
    let name = purpose.private_name();
    let known = identity::read(dir, name).map_err(CaError::Unusable)?;
    let is_new = known.is_none();
    let pair = known.map_or_else(|| KeyPair::generate(purpose.comment()), Ok).map_err(CaError::Sign)?;
    if is_new {
        dir.write(name, &mut pair.private_text().as_bytes(), 0o600, None, Existing::Refuse)?;
    }
    dir.write(&format!("{name}.pub"), &mut pair.public_text().as_bytes(), 0o644, None, Existing::Replace)?;
    Ok((is_new, pair))
}

/// A certificate of a public key, one line with its end. `now` is in seconds since 1970.
///
/// # Errors
/// There is no authority in the directory, or the text is no public key.
pub fn certify(dir: &RootDir, key: &str, certified: Certified<'_>, now: u64) -> Result<String, CaError> {
    let name = certified.purpose.private_name();
    let authority = identity::read(dir, name).map_err(CaError::Unusable)?.ok_or_else(|| CaError::NoAuthority {
        path: dir.path().join(name).display().to_string(),
        dir: dir.path().display().to_string(),
    })?;
    let key = PublicKey::from_openssh(key.trim()).map_err(CaError::NoKey)?;
    let until = now.saturating_add(certified.valid.as_secs());
    sign(&authority, &key, certified, now.saturating_sub(BACKDATED), until).map_err(CaError::Sign)
}

fn sign(
    authority: &KeyPair,
    key: &PublicKey,
    certified: Certified<'_>,
    from: u64,
    until: u64,
) -> ssh_key::Result<String> {
    let mut certificate = Builder::new_with_random_nonce(&mut OsRng, key.key_data().clone(), from, until)?;
    // So that a single one can be revoked.
    certificate.serial(OsRng.next_u64())?.key_id(certified.key_id)?.comment(key.comment())?;
    certificate.cert_type(match certified.purpose {
        Purpose::Host => CertType::Host,
        Purpose::User => CertType::User,
    })?;
    for name in certified.names {
        certificate.valid_principal(name)?;
    }
    if certified.purpose == Purpose::User {
        for extension in EXTENSIONS {
            certificate.extension(extension, "")?;
        }
    }
    let certificate = certificate.sign(authority.private_key())?;
    Ok(certificate.to_openssh()?.trim_end().to_owned() + "\n")
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::PermissionsExt};

    use ssh_key::Certificate;

    use super::*;

    const NOW: u64 = 1_000_000_000;

    fn authority() -> (tempfile::TempDir, RootDir) {
        let directory = tempfile::tempdir().unwrap();
        let dir = RootDir::open(directory.path()).unwrap();
        make(&dir, Purpose::Host).unwrap();
        make(&dir, Purpose::User).unwrap();
        (directory, dir)
    }

    fn certified(purpose: Purpose, names: &[String]) -> Certified<'_> {
        Certified { purpose, names, key_id: "ada", valid: Duration::from_secs(3600) }
    }

    #[test]
    fn a_certificate_says_for_whom_for_what_and_until_when() {
        let (_directory, dir) = authority();
        let key = KeyPair::generate("ada@lovelace").unwrap();
        for (purpose, cert_type, extensions) in [(Purpose::User, CertType::User, 5), (Purpose::Host, CertType::Host, 0)]
        {
            let names = ["root".to_owned(), "ada".to_owned()];
            let text = certify(&dir, key.public_text(), certified(purpose, &names), NOW).unwrap();
            let read = Certificate::from_openssh(text.trim_end()).unwrap();
            let ca = identity::read(&dir, purpose.private_name()).unwrap().unwrap();
            read.validate_at(NOW, &[ca.public_key().fingerprint(Default::default())]).unwrap();
            assert_eq!((read.cert_type(), read.key_id(), read.comment()), (cert_type, "ada", "ada@lovelace"));
            assert_eq!(read.valid_principals(), names);
            assert_eq!((read.valid_after(), read.valid_before()), (NOW - 300, NOW + 3600));
            assert_eq!((read.extensions().len(), read.critical_options().len()), (extensions, 0));
            assert_eq!(read.public_key(), key.public_key().key_data());
        }
    }

    #[test]
    fn the_two_pairs_are_made_once_and_are_not_the_same() {
        let (directory, dir) = authority();
        let read = |name: &str| fs::read(directory.path().join(name)).unwrap();
        let before = [read("host_ca_ed25519"), read("user_ca_ed25519")];
        assert_ne!(before[0], before[1]);
        for purpose in [Purpose::Host, Purpose::User] {
            assert!(!make(&dir, purpose).unwrap().0);
            let mode = fs::metadata(directory.path().join(purpose.private_name())).unwrap().permissions().mode();
            assert_eq!(mode & 0o7777, 0o600);
        }
        assert_eq!([read("host_ca_ed25519"), read("user_ca_ed25519")], before);
    }

    #[test]
    fn what_is_no_authority_or_no_key_is_refused_without_its_text() {
        let (directory, dir) = authority();
        let names = ["root".to_owned()];
        let secret = KeyPair::generate("").unwrap();
        for text in [secret.private_text(), "s3cret", ""] {
            let said = certify(&dir, text, certified(Purpose::User, &names), NOW).unwrap_err().to_string();
            assert!(said.contains("no public key") && !said.contains("s3cret") && !said.contains("BEGIN"), "{said}");
        }
        fs::remove_file(directory.path().join("user_ca_ed25519")).unwrap();
        let said = certify(&dir, secret.public_text(), certified(Purpose::User, &names), NOW).unwrap_err().to_string();
        assert!(said.contains("user_ca_ed25519 is not there; make an authority"), "{said}");
    }
}
