//! Installing into an image, and checking one.

use std::time::Duration;

/// The record of what `guestd install` put into a root file system, in bytes; a line takes 100.
pub const INSTALL_MANIFEST_BYTES: u64 = 64 * 1024;

/// A file of the image that `guestd install` reads for what it says, or puts lines of guestd's own into, in bytes.
pub const INSTALL_FOREIGN_FILE_BYTES: u64 = 1024 * 1024;

/// Entries of a directory that `guestd install` and `uninstall` look at: whether it is empty, and what a run that was killed has left.
pub const INSTALL_DIRECTORY_ENTRIES: usize = 4096;

/// Files, directories and others that `guestd lint` looks at, some 100 bytes each. A large image has 300,000; one with more is named.
pub const LINT_ENTRIES: usize = 1_000_000;

/// Directories inside each other that `guestd lint` goes down. The deepest of a distribution is 15, of nested node_modules 40.
pub const LINT_DEPTH: usize = 128;

/// One directory of an ext4 image, in bytes: more than all its entries take at `LINT_ENTRIES`. A crafted one could be without an end.
pub const LINT_DIRECTORY_BYTES: u64 = 64 * 1024 * 1024;

/// Block groups of an ext4 image: 16 TiB of them, in blocks of 4 KiB. The reader holds 16 bytes for each.
pub const LINT_BLOCK_GROUPS: u64 = 131_072;

/// A configuration file that `guestd lint` reads, in bytes; of a larger one it reads the start and says so.
pub const LINT_TEXT_BYTES: u64 = 1024 * 1024;

/// Read of each file that is searched for keys and tokens, in bytes: a bundle of certificates with its key fits.
pub const LINT_SCAN_BYTES: u64 = 256 * 1024;

/// Read of all of them together, in bytes, at which the rest is named as not searched: some seconds' work.
pub const LINT_SCAN_TOTAL_BYTES: u64 = 4 * 1024 * 1024 * 1024;

/// Findings of one rule that are listed; of more it is said how many.
pub const LINT_FINDINGS: usize = 100;

/// A file of waivers, in bytes.
pub const LINT_WAIVER_BYTES: u64 = 256 * 1024;

/// Files that an OpenSSH configuration includes, and how deep in each other (SERVCONF_MAX_DEPTH of OpenSSH).
pub const LINT_INCLUDES: (usize, usize) = (256, 16);

/// All of `guestd lint`. A large image takes seconds; a crafted file system could keep its reader busy for days.
pub const LINT_TIME: Duration = Duration::from_secs(600);

/// One program of the machine that `guestd lint --host-tools` asks. They take a second.
pub const LINT_TOOL_TIME: Duration = Duration::from_secs(60);

/// What such a program says that is read, in bytes; the rest is let go.
pub const LINT_TOOL_BYTES: u64 = 64 * 1024;
