//! SSH keys: those that open accounts of this VM, those by which it logs in elsewhere, and those by which others know it.
//!
//! All VMs of a golden image share one ed25519 pair, so that any of them can reach any other by SSH without set-up. The
//! private half is the identity of root's ssh client, the public half is in root's managed authorized keys. Managed keys
//! lie in files of guestd's own, which sshd reads as a second `AuthorizedKeysFile`; a user's own file is never touched.
//!
//! ```text
//! keygen --out DIR            install --root ROOT --keys DIR              in the VM
//! DIR/id_ed25519      ----->  /etc/guestd/ssh/golden_ed25519        <--   ssh_config.d/10-guestd.conf
//! DIR/id_ed25519.pub  ----->  /etc/guestd/ssh/authorized_keys/root  <--   sshd_config.d/10-guestd.conf
//!
//! the host, root              KeysTask ──> Store  (set: pure)
//! add, remove, replace -----> /etc/guestd/ssh/authorized_keys/USER  <--   sshd_config.d/10-guestd.conf
//!
//! a VM's id                   KeysTask ──> OwnKeys
//! apply                -----> /etc/guestd/ssh/vm_ed25519            <--   ssh_config.d/10-guestd.conf
//!                             /etc/ssh/ssh_host_ed25519_key         <--   sshd, told by SIGHUP
//! ```
//!
//! One task owns all of it ([`KeysTask`]); others have a [`KeysHandle`]. What the generation protocol needs of it is
//! [`KeysHandle::replace_source`] and [`KeysHandle::apply`].
//!
//! Refused: overwriting a key that guestd did not make, keys that are encrypted or of another kind, following links to where a key is
//! written, believing a file that others can write, printing a private key.

mod authorized;
pub mod ca;
mod candidate;
mod error;
mod golden;
mod identity;
mod keygen;
mod options;
mod own;
mod pair;
mod set;
mod ssh_time;
mod sshd;
mod status;
mod store;
mod task;
mod trust;

pub use authorized::{AuthorizedLine, authorized_lines};
pub use error::KeysError;
pub use golden::{GoldenError, GoldenPair};
pub use keygen::{Keygen, KeygenArgs, KeygenError, keygen, run};
pub use own::{Applied, OwnKeys, SshdProcesses, make_host_key};
pub(crate) use sshd::openssh_version;
pub use status::{KeysStatus, status};
pub use store::{NewKey, Store};
pub use task::{KeysHandle, KeysTask, Trouble};

/// Name of the private half in a key directory, in OpenSSH's format.
pub const PRIVATE_NAME: &str = "id_ed25519";

/// Name of the public half in a key directory.
pub const PUBLIC_NAME: &str = "id_ed25519.pub";

/// Directory of guestd's SSH keys in a root file system.
pub const GUESTD_SSH: &str = "/etc/guestd/ssh";

/// Where the golden identity is in a root file system.
pub const GOLDEN_IDENTITY: &str = "/etc/guestd/ssh/golden_ed25519";

/// Where the VM's own identity is.
pub const VM_IDENTITY: &str = "/etc/guestd/ssh/vm_ed25519";

/// Directory of the managed authorized keys in a root file system, a file for each user.
pub const AUTHORIZED_KEYS: &str = "/etc/guestd/ssh/authorized_keys";

/// Source of the image's shared key.
pub const GOLDEN_SOURCE: &str = "golden";

/// Source of keys that are for this VM id alone: with another one they go.
pub const VM_SOURCE: &str = "vm";

/// Source of keys that the host has given, all of which it replaces at once.
pub const HOST_SOURCE: &str = "host";

/// What is added to the name of a file of which a new version was laid beside an edited one.
pub const BESIDE_SUFFIX: &str = ".guestd-new";
