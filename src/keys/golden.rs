//! The golden pair: generated, or read from a key directory and checked. No files here but the two of that directory.

use std::path::{Path, PathBuf};

use ssh_key::PublicKey;

use super::{PRIVATE_NAME, PUBLIC_NAME, pair::KeyPair};
use crate::{
    limits,
    sys::root_dir::{Entry, RootDir, RootDirError},
};

/// Comment of a generated pair: what an administrator reads in authorized_keys.
const COMMENT: &str = "guestd golden key";

/// An ed25519 key pair, private half unencrypted, whose halves belong together.
#[derive(Debug)]
pub struct GoldenPair {
    pair: KeyPair,
    /// As it is in its file, with its comment.
    public_text: String,
}

/// Why there is no usable pair.
#[derive(Debug, thiserror::Error)]
pub enum GoldenError {
    /// Only one of the two files exists.
    #[error(
        "{dir} has {present} but no {missing}; put the missing half back (a public key is made from the private one by \
         `ssh-keygen -y`), or remove {present} and make a new pair with `guestd keygen`",
        dir = dir.display()
    )]
    Half {
        /// The key directory.
        dir: PathBuf,
        /// The name that exists.
        present: &'static str,
        /// The name that does not.
        missing: &'static str,
    },
    /// The halves are of different pairs.
    #[error(
        "{PRIVATE_NAME} and {PUBLIC_NAME} in {dir} are not of one pair; put back the half that belongs to the other, \
         or remove both and make a new pair with `guestd keygen`",
        dir = dir.display()
    )]
    Mismatch {
        /// The key directory.
        dir: PathBuf,
    },
    /// A half is not what it should be.
    #[error("{path} cannot be used as golden key: {reason}", path = path.display())]
    Unusable {
        /// The file.
        path: PathBuf,
        /// What is wrong, and what would be right.
        reason: String,
    },
    /// A pair could not be generated or written down.
    #[error("cannot generate an ed25519 key pair: {0}")]
    Generate(ssh_key::Error),
    /// The directory or a file could not be read.
    #[error(transparent)]
    Files(#[from] RootDirError),
}

impl GoldenPair {
    /// Makes a new pair from the kernel's random numbers.
    pub fn generate() -> Result<Self, GoldenError> {
        let pair = KeyPair::generate(COMMENT).map_err(GoldenError::Generate)?;
        Ok(Self { public_text: pair.public_text().to_owned(), pair })
    }

    /// Reads and checks the pair in a key directory; `None` when it has neither half.
    pub fn load(dir: &RootDir) -> Result<Option<Self>, GoldenError> {
        let private = read_half(dir, PRIVATE_NAME)?;
        let public = read_half(dir, PUBLIC_NAME)?;
        Self::from_halves(dir.path(), private, public)
    }

    fn from_halves(dir: &Path, private: Option<String>, public: Option<String>) -> Result<Option<Self>, GoldenError> {
        let half = |present, missing| Err(GoldenError::Half { dir: dir.to_owned(), present, missing });
        let (private_text, public_text) = match (private, public) {
            (None, None) => return Ok(None),
            (Some(_), None) => return half(PRIVATE_NAME, PUBLIC_NAME),
            (None, Some(_)) => return half(PUBLIC_NAME, PRIVATE_NAME),
            (Some(private), Some(public)) => (private, public),
        };
        let unusable = |name: &str, reason: String| GoldenError::Unusable { path: dir.join(name), reason };
        let pair = KeyPair::parse(private_text).map_err(|reason| unusable(PRIVATE_NAME, reason))?;
        let public = PublicKey::from_openssh(public_text.trim_end()).map_err(|error| {
            unusable(PUBLIC_NAME, format!("{error}; expected one line `ssh-ed25519 AAAA… comment`"))
        })?;
        if pair.public_key().key_data() != public.key_data() {
            return Err(GoldenError::Mismatch { dir: dir.to_owned() });
        }
        Ok(Some(Self { pair, public_text: format!("{}\n", public_text.trim_end()) }))
    }

    /// The private half in OpenSSH's format.
    pub fn private_text(&self) -> &str {
        self.pair.private_text()
    }

    /// The public half, one line with its end.
    pub fn public_text(&self) -> &str {
        &self.public_text
    }

    /// SHA-256 fingerprint, as `ssh-keygen -l` prints it.
    pub fn fingerprint(&self) -> String {
        self.pair.fingerprint()
    }
}

fn read_half(dir: &RootDir, name: &str) -> Result<Option<String>, GoldenError> {
    let unusable = |reason: &str| GoldenError::Unusable { path: dir.path().join(name), reason: reason.to_owned() };
    match dir.look(name)? {
        Entry::Absent => Ok(None),
        Entry::File(file) => String::from_utf8(file.read(limits::KEY_FILE_BYTES)?)
            .map(Some)
            .map_err(|_| unusable("it is not text; expected a key in OpenSSH's format")),
        Entry::Link(_) => Err(unusable("it is a symbolic link; put the key itself there")),
        Entry::Directory | Entry::Special => Err(unusable("it is not a regular file")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn halves(pair: &GoldenPair) -> (Option<String>, Option<String>) {
        (Some(pair.private_text().to_owned()), Some(pair.public_text().to_owned()))
    }

    fn parsed(private: Option<String>, public: Option<String>) -> Result<Option<GoldenPair>, GoldenError> {
        GoldenPair::from_halves(Path::new("/keys"), private, public)
    }

    #[test]
    fn a_generated_pair_reads_back_as_the_same_pair() {
        let made = GoldenPair::generate().unwrap();
        let (private, public) = halves(&made);
        let read = parsed(private, public).unwrap().unwrap();
        assert_eq!(read.fingerprint(), made.fingerprint());
        assert_eq!(read.public_text(), made.public_text());
        assert!(made.public_text().starts_with("ssh-ed25519 AAAA"));
        assert!(made.public_text().ends_with(" guestd golden key\n"));
        assert!(made.private_text().starts_with("-----BEGIN OPENSSH PRIVATE KEY-----\n"));
    }

    #[test]
    fn no_half_is_no_pair_and_one_half_is_an_error_that_names_both() {
        assert!(parsed(None, None).unwrap().is_none());
        let (private, public) = halves(&GoldenPair::generate().unwrap());
        let message = parsed(private, None).unwrap_err().to_string();
        assert!(message.starts_with("/keys has id_ed25519 but no id_ed25519.pub;"), "{message}");
        let message = parsed(None, public).unwrap_err().to_string();
        assert!(message.starts_with("/keys has id_ed25519.pub but no id_ed25519;"), "{message}");
    }

    #[test]
    fn halves_of_two_pairs_are_refused() {
        let (private, _) = halves(&GoldenPair::generate().unwrap());
        let (_, public) = halves(&GoldenPair::generate().unwrap());
        assert!(matches!(parsed(private, public), Err(GoldenError::Mismatch { .. })));
    }

    #[test]
    fn text_that_is_no_key_is_refused_with_the_name_of_the_file() {
        let (private, public) = halves(&GoldenPair::generate().unwrap());
        let message = parsed(Some("no key".into()), public).unwrap_err().to_string();
        assert!(message.starts_with("/keys/id_ed25519 cannot be used as golden key: "), "{message}");
        let message = parsed(private, Some("no key".into())).unwrap_err().to_string();
        assert!(message.starts_with("/keys/id_ed25519.pub cannot be used as golden key: "), "{message}");
    }

    #[test]
    fn debug_output_has_no_private_key() {
        let pair = GoldenPair::generate().unwrap();
        let shown = format!("{pair:?}");
        assert!(shown.contains("SHA256:"));
        assert!(!shown.contains("PRIVATE"));
    }
}
