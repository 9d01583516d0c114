//! SSH keys of the golden image: making the pair, and saying what a root file system has of it.
//!
//! All VMs of a golden image share one ed25519 pair, so that any of them can reach any other by SSH without set-up. The
//! private half is the identity of root's ssh client, the public half is in root's managed authorized keys. Managed keys
//! lie in files of guestd's own, which sshd reads as a second `AuthorizedKeysFile`; a user's own file is never touched.
//!
//! ```text
//! keygen --out DIR            install --root ROOT --keys DIR              in the VM
//! DIR/id_ed25519      ----->  /etc/guestd/ssh/golden_ed25519        <--   ssh_config.d/10-guestd.conf
//! DIR/id_ed25519.pub  ----->  /etc/guestd/ssh/authorized_keys/root  <--   sshd_config.d/10-guestd.conf
//! ```
//!
//! Refused: overwriting a key, keys that are encrypted or of another kind, following links to where a key is written,
//! printing a private key.

mod authorized;
mod golden;
mod keygen;
mod status;

pub use authorized::{AuthorizedLine, authorized_lines};
pub use golden::{GoldenError, GoldenPair};
pub use keygen::{Keygen, KeygenArgs, KeygenError, keygen, run};
pub use status::{KeysStatus, status};

/// Name of the private half in a key directory, in OpenSSH's format.
pub const PRIVATE_NAME: &str = "id_ed25519";

/// Name of the public half in a key directory.
pub const PUBLIC_NAME: &str = "id_ed25519.pub";

/// Where the golden identity is in a root file system.
pub const GOLDEN_IDENTITY: &str = "/etc/guestd/ssh/golden_ed25519";

/// Directory of the managed authorized keys in a root file system, a file for each user.
pub const AUTHORIZED_KEYS: &str = "/etc/guestd/ssh/authorized_keys";

/// What is added to the name of a file of which a new version was laid beside an edited one.
pub const BESIDE_SUFFIX: &str = ".guestd-new";
