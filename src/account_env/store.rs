//! The file itself: read, changed and put into its place, by one at a time.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use nix::unistd::{Gid, Uid};

use super::managed::{EnvError, Managed, check};
use crate::limits;
use crate::sys::root_dir::{Entry, Existing, Owner, RootDir};

/// Where it is in a root file system.
const FILE: &str = "/etc/environment";

/// `/etc/environment` of a root file system.
#[derive(Debug)]
pub struct EnvStore {
    root: PathBuf,
    turn: Mutex<()>,
}

impl EnvStore {
    /// Below this root.
    pub fn new(root: &Path) -> Self {
        Self { root: root.to_owned(), turn: Mutex::default() }
    }

    /// What is in it.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn read(&self) -> Result<Managed, EnvError> {
        let root = self.open()?;
        Ok(Managed::of(&load(&root)?.0))
    }

    /// Changes the managed part: `change` is given what is managed. What it makes of it is checked and written, unless it is the same; and
    /// is on the disk then where it is to be `durable`.
    ///
    /// # Errors
    /// A variable that cannot be managed, or the file cannot be read or written.
    pub fn change(
        &self,
        durable: bool,
        change: impl FnOnce(&mut BTreeMap<String, String>),
    ) -> Result<Managed, EnvError> {
        let _turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        let root = self.open()?;
        let (text, mode, owner) = load(&root)?;
        let mut managed = Managed::of(&text);
        let before = managed.env.clone();
        change(&mut managed.env);
        // What somebody has written there by hand is not judged.
        let mut changed = managed.env.iter().filter(|(key, value)| before.get(*key) != Some(value));
        changed.try_for_each(|(key, value)| check(key, value))?;
        let after = managed.text()?;
        if after != text {
            let written = if durable {
                root.write(FILE, &mut after.as_slice(), mode, owner, Existing::Replace)
            } else {
                root.place(FILE, &after, mode, owner)
            };
            written?;
        }
        Ok(managed)
    }

    fn open(&self) -> Result<RootDir, EnvError> {
        Ok(RootDir::open(&self.root)?)
    }
}

/// Its text, and the mode and owner that the next one is to have.
fn load(root: &RootDir) -> Result<(Vec<u8>, u32, Owner), EnvError> {
    match root.look(FILE)? {
        Entry::Absent => Ok((Vec::new(), 0o644, None)),
        Entry::File(found) => {
            let text = found.read(limits::ENVIRONMENT_FILE_BYTES)?;
            Ok((text, found.mode, Some((Uid::from_raw(found.uid), Gid::from_raw(found.gid)))))
        }
        Entry::Link(_) | Entry::Directory | Entry::Special => Err(EnvError::NotAFile),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    fn store() -> (tempfile::TempDir, EnvStore) {
        let root = tempfile::tempdir().unwrap();
        std::fs::create_dir(root.path().join("etc")).unwrap();
        let store = EnvStore::new(root.path());
        (root, store)
    }

    #[test]
    fn a_change_keeps_the_files_mode_and_is_there_at_once() {
        let (root, store) = store();
        let path = root.path().join("etc/environment");
        store.change(true, |env| drop(env.insert("A".to_owned(), "1".to_owned()))).unwrap();
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o600)).unwrap();
        store.change(true, |env| drop(env.insert("B".to_owned(), "2".to_owned()))).unwrap();
        assert_eq!(store.read().unwrap().env.len(), 2);
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        let others = std::fs::read_dir(root.path().join("etc")).unwrap().count();
        assert_eq!(others, 1, "a temporary file is left");
    }

    #[test]
    fn what_cannot_be_managed_changes_nothing() {
        let (root, store) = store();
        store.change(true, |env| drop(env.insert("A".to_owned(), "1".to_owned()))).unwrap();
        assert!(store.change(true, |env| drop(env.insert("B".to_owned(), "a\nb".to_owned()))).is_err());
        assert_eq!(store.read().unwrap().env.len(), 1);
        drop(root);
    }

    #[test]
    fn a_link_is_neither_followed_nor_replaced() {
        let (root, store) = store();
        symlink("/nowhere", root.path().join("etc/environment")).unwrap();
        let error = store.change(true, |env| drop(env.insert("A".to_owned(), "1".to_owned()))).unwrap_err();
        assert!(error.to_string().contains("no regular file"), "{error}");
    }
}
