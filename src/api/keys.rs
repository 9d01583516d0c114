//! SSH keys, as clients see and set them. Private keys are in no request and no answer.

use serde::{Deserialize, Serialize};

/// Whose keys are set, where a request does not say.
pub const DEFAULT_KEY_USER: &str = "root";

/// Source of keys that somebody adds without naming one.
pub const DEFAULT_KEY_SOURCE: &str = "manual";

/// Answer of `GET /v1/keys`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Keys {
    /// Managed authorized keys of all users, in the order of their files.
    pub authorized: Vec<AuthorizedKey>,
    /// Keys by which this VM logs in elsewhere.
    pub identities: Vec<IdentityKey>,
    /// Keys by which others know this VM.
    pub host_keys: Vec<PublicSshKey>,
    /// What could not be read, a sentence each: the lists are not the whole then.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub problems: Vec<String>,
}

/// A key that opens an account of this VM.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuthorizedKey {
    /// Made from user, source and key: the same for the same.
    pub id: String,
    /// The account.
    pub user: String,
    /// On whose behalf: `golden` (the image's), `vm` (this VM id's own), `host` (the generation protocol's), `manual`, or another
    /// word. `file` is a line that guestd did not write.
    pub source: String,
    /// The key itself.
    #[serde(flatten)]
    pub key: PublicSshKey,
    /// What follows the key on its line.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub comment: String,
    /// Options of sshd(8) before it.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub options: String,
    /// Since when, in seconds since 1970; null for a line that guestd did not write.
    pub added: Option<u64>,
    /// Until when, in seconds since 1970; null for ever.
    pub expires: Option<u64>,
}

/// A key by which this VM logs in elsewhere.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct IdentityKey {
    /// `golden`, which all VMs of the image have, or `vm`, its own.
    pub name: String,
    /// Its public half.
    #[serde(flatten)]
    pub key: PublicSshKey,
}

/// The public half of a key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PublicSshKey {
    /// Its type, such as `ssh-ed25519`.
    #[serde(rename = "type")]
    pub algorithm: String,
    /// SHA-256 fingerprint, as `ssh-keygen -l` prints it.
    pub fingerprint: String,
    /// Type and key in base64, as in a `.pub` file.
    pub key: String,
}

/// Body of `POST /v1/keys`: all of the keys, or none if one of them is wrong.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AddKeys {
    /// Lines of an authorized_keys file: `[OPTIONS] TYPE KEY [COMMENT]`.
    pub keys: Vec<String>,
    /// The account.
    #[serde(default = "default_user")]
    pub user: String,
    /// On whose behalf: 1 to 32 lower-case letters, digits, `-` or `_`.
    #[serde(default = "default_source")]
    pub source: String,
    /// Until when, in seconds since 1970.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires: Option<u64>,
}

fn default_user() -> String {
    DEFAULT_KEY_USER.to_owned()
}

fn default_source() -> String {
    DEFAULT_KEY_SOURCE.to_owned()
}

/// Answer of `POST` and `DELETE /v1/keys`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeysChanged {
    /// The keys that were asked for as they are now, or as they were before they were removed.
    pub keys: Vec<AuthorizedKey>,
    /// Why they may not do what they are there for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
}

/// What becomes of host keys when the VM gets another id.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HostKeyPolicy {
    /// They stay: VMs share them by design.
    Keep,
    /// They are made anew, so that no two VMs have the same.
    #[default]
    Renew,
}
