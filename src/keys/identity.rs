//! Private keys by which this VM logs in elsewhere: read and checked, and none of their text ever in an answer or message.

use nix::unistd::{Gid, Uid, geteuid};

use super::{GOLDEN_IDENTITY, VM_IDENTITY, pair::KeyPair};
use crate::{
    limits,
    sys::root_dir::{Entry, Owner, RootDir, RootDirError},
};

/// The image's shared identity, if there is one; else what is wrong with it, as a sentence.
pub(super) fn golden(root: &RootDir) -> Result<Option<KeyPair>, String> {
    read(root, GOLDEN_IDENTITY)
}

/// The VM's own identity, if there is one; else what is wrong with it, as a sentence.
pub(super) fn own(root: &RootDir) -> Result<Option<KeyPair>, String> {
    read(root, VM_IDENTITY)
}

/// The pair at a path, if there is one; else what is wrong with it, as a sentence.
pub(super) fn read(root: &RootDir, path: &str) -> Result<Option<KeyPair>, String> {
    let sentence = |error: RootDirError| error.to_string();
    let file = match root.look(path).map_err(sentence)? {
        Entry::Absent => return Ok(None),
        Entry::File(file) => file,
        _ => return Err(format!("{path} is not a regular file; put the private key there")),
    };
    let path = file.path().display().to_string();
    if file.mode & 0o077 != 0 {
        let mode = file.mode;
        return Err(format!("{path} has mode {mode:04o}, so OpenSSH does not use it; `chmod 600 {path}`"));
    }
    let content = file.read(limits::KEY_FILE_BYTES).map_err(sentence)?;
    let text = String::from_utf8(content).map_err(|_| format!("{path} is not text, so no OpenSSH private key"))?;
    KeyPair::parse(text).map(Some).map_err(|reason| format!("{path} cannot be used as a key: {reason}"))
}

/// Owner of what guestd writes: root, where it is that.
pub(super) fn owner() -> Owner {
    geteuid().is_root().then_some((Uid::from_raw(0), Gid::from_raw(0)))
}
