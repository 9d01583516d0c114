//! The account's variables in `/etc/environment`: read for each command, and a part of them managed for the platform.
//!
//! The managed part is a block between two comments at the file's end, where its lines win. Whatever else is in the file belongs to
//! somebody else and stays, line by line; so does what is left of a block whose end somebody has taken away. A file comes into its
//! place whole, with the mode and owner that it had.

mod managed;
mod pam_env;
mod store;

pub use managed::{EnvError, Managed, check};
pub use pam_env::{Variables, is_identifier, parse};
pub use store::EnvStore;
