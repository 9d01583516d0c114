//! Account variables: what guestd manages in `/etc/environment`.

use std::{collections::BTreeMap, fmt};

use serde::{Deserialize, Serialize};

/// Answer of `GET`, `PUT` and `DELETE /v1/env`. Its `Debug` leaves out the values.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Env {
    /// What guestd manages.
    pub env: BTreeMap<String, String>,
    /// Keys of lines that others wrote. Where one is managed too, the managed value counts.
    #[serde(default)]
    pub others: Vec<String>,
    /// What SSH sessions see otherwise than execs do.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
}

/// Body of `PUT /v1/env`.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EnvUpdate {
    /// Variables to set. Keys are shell identifiers of at most 256 bytes, values at most 8192 bytes in one line.
    pub env: BTreeMap<String, String>,
    /// What is managed and not in `env` goes.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub replace: bool,
}

impl fmt::Debug for Env {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Env").field("keys", &self.env.keys()).finish_non_exhaustive()
    }
}

impl fmt::Debug for EnvUpdate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EnvUpdate").field("keys", &self.env.keys()).field("replace", &self.replace).finish()
    }
}
