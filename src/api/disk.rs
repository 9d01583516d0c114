//! Disks that grow.

use serde::{Deserialize, Serialize};

/// Body of `POST /v1/disk/grow`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct DiskGrow {
    /// Where the file system is mounted; `/` where it is left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// Size to grow to, in bytes; all of the device where it is left out. Never less than it has.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub size_bytes: Option<u64>,
}

/// Answer of `POST /v1/disk/grow`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiskGrown {
    /// Where it is mounted.
    pub path: String,
    /// `ext4` or `xfs`.
    pub filesystem: String,
    /// Its device.
    pub device: String,
    /// It was smaller than it is now.
    pub grown: bool,
    /// Size of the file system before, in bytes.
    pub before_bytes: u64,
    /// The same now.
    pub after_bytes: u64,
    /// Size of the device, in bytes.
    pub device_bytes: u64,
}
