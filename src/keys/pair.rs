//! An ed25519 key pair as a value: made, or read and checked. No files here.

use std::fmt;

use ssh_key::{Algorithm, LineEnding, PrivateKey, PublicKey, rand_core::OsRng};

use super::set::{self, KeyHash};

/// An ed25519 key pair with an unencrypted private half.
pub(super) struct KeyPair {
    private: PrivateKey,
    private_text: String,
    public_text: String,
    hash: KeyHash,
}

impl KeyPair {
    /// Makes a new pair from the kernel's random numbers, which are asked for each time: a clone of the VM has none in stock.
    pub(super) fn generate(comment: &str) -> Result<Self, ssh_key::Error> {
        let mut private = PrivateKey::random(&mut OsRng, Algorithm::Ed25519)?;
        private.set_comment(comment);
        let private_text = private.to_openssh(LineEnding::LF)?.to_string();
        Self::of(private, private_text)
    }

    fn of(private: PrivateKey, private_text: String) -> Result<Self, ssh_key::Error> {
        // Without a comment there is a blank at the end.
        let public_text = private.public_key().to_openssh()?.trim_end().to_owned() + "\n";
        let hash = set::hash(&private.public_key().to_bytes()?);
        Ok(Self { private, private_text, public_text, hash })
    }

    /// Reads a private half. Says what is wrong with it, and nothing of its text.
    pub(super) fn parse(private_text: String) -> Result<Self, String> {
        let private = PrivateKey::from_openssh(&private_text)
            .map_err(|error| format!("{error}; expected an unencrypted ed25519 private key in OpenSSH's format"))?;
        if private.is_encrypted() {
            return Err(
                "it has a passphrase, which nobody is there to type in a VM; remove it with `ssh-keygen -p`".into()
            );
        }
        if private.algorithm() != Algorithm::Ed25519 {
            return Err(format!("it is of type {}; guestd's own keys are ssh-ed25519", private.algorithm()));
        }
        Self::of(private, private_text).map_err(|error| error.to_string())
    }

    /// The private half in OpenSSH's format.
    pub(super) fn private_text(&self) -> &str {
        &self.private_text
    }

    /// The public half, one line with its end.
    pub(super) fn public_text(&self) -> &str {
        &self.public_text
    }

    /// The public half.
    pub(super) fn public_key(&self) -> &PublicKey {
        self.private.public_key()
    }

    /// The private half, to sign with.
    pub(super) fn private_key(&self) -> &PrivateKey {
        &self.private
    }

    /// What the fingerprint is made of.
    pub(super) fn hash(&self) -> KeyHash {
        self.hash
    }

    /// SHA-256 fingerprint, as `ssh-keygen -l` prints it.
    pub(super) fn fingerprint(&self) -> String {
        set::fingerprint(&self.hash)
    }
}

impl fmt::Debug for KeyPair {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("KeyPair").field("fingerprint", &self.fingerprint()).finish_non_exhaustive()
    }
}
