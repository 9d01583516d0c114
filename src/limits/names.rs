//! Host names and name servers.

/// Name servers, configured or announced: more are passed over by every resolver (MAXNS of resolv.h).
pub const NAME_SERVERS: usize = 3;

/// `/etc/hosts`, `/etc/hostname` and `/etc/resolv.conf`, in bytes. Larger ones, lists of blocked names, are left alone.
pub const NAMES_FILE_BYTES: u64 = 1024 * 1024;
