//! SSH keys.

use std::time::Duration;

/// One half of an SSH key pair, in bytes; an ed25519 one takes 400.
pub const KEY_FILE_BYTES: u64 = 16 * 1024;

/// A managed authorized_keys file, in bytes: some 2,000 keys.
pub const AUTHORIZED_KEYS_BYTES: u64 = 256 * 1024;

/// Users with managed authorized keys.
pub const AUTHORIZED_KEYS_USERS: usize = 256;

/// Names in their directory that are looked at: a file for each user, versions beside those, and what killed writers have left.
pub const AUTHORIZED_KEYS_NAMES: usize = 4 * AUTHORIZED_KEYS_USERS;

/// A line with a key and its options that somebody adds, in bytes, as much as every sshd reads. An RSA key of 16,384 bits takes 2,800.
pub const KEY_LINE_BYTES: usize = 8 * 1024;

/// Pause after expired keys could not be taken out, until it is tried again. sshd refuses them all the same.
pub const KEYS_RETRY: Duration = Duration::from_secs(60);

/// Names in the directories of host keys that are looked at. There are a dozen.
pub const HOST_KEY_NAMES: usize = 1024;

/// Read of a program of OpenSSH, in bytes, whose version is looked for in it. Debian's sshd has 1.3 MB.
pub const OPENSSH_PROGRAM_BYTES: u64 = 16 * 1024 * 1024;

/// For an sshd to say what its configuration comes to. It takes some milliseconds, under emulation some tenths of a second.
pub const SSHD_RUN_TIME: Duration = Duration::from_secs(5);

/// What an sshd says of its configuration, on each of two pipes, in bytes: what a pipe holds. It has 7 KB.
pub const SSHD_OUTPUT_BYTES: u64 = 64 * 1024;

/// How long the keys' directory is waited for, which an init's own call of `guestd host-key` and the agent lock for some milliseconds each. Any
/// user can lock it, too, and can delay the agent by no more than this.
pub const ROOT_LOCK_WAIT: Duration = Duration::from_secs(2);
