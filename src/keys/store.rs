//! Managed authorized keys on disk: a file for each user, read anew each time, replaced whole, and never one of the user's own.
//!
//! Each change of a file is one rename, so that a crash leaves it as it was or as it should be. Of a change of several files
//! some may be made and others not yet: to ask for the same again completes it. Calls block. One task owns the store
//! ([`super::KeysTask`]); two at once could undo each other's changes.

use std::{collections::BTreeMap, path::Path};

use super::{
    AUTHORIZED_KEYS, BESIDE_SUFFIX, KeysError,
    candidate::{Accepted, Candidate},
    identity,
    set::{self, Entry, KeyHash, KeySet, Wanted},
    ssh_time::Dialect,
    sshd::{Effective, Sshd},
    trust::Trusted,
};
use crate::{
    api::{AddKeys, AuthorizedKey, KeysChanged, PublicSshKey},
    calendar, limits,
    sys::root_dir::{Existing, RootDir},
};

/// Mode of a managed file: sshd reads it as the user.
const MODE: u32 = 0o644;

/// The managed authorized keys of a root file system, which is `/` in a VM.
#[derive(Debug)]
pub struct Store {
    root: RootDir,
}

/// A key on behalf of a source.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewKey {
    /// The account that it opens.
    pub user: String,
    /// `[OPTIONS] TYPE KEY [COMMENT]`, as in an authorized_keys file.
    pub line: String,
    /// Until when, in seconds since 1970.
    pub expires: Option<u64>,
}

/// Keys that were checked, each with its end, by user.
type Checked = BTreeMap<String, Vec<(Candidate, Option<u64>)>>;

impl Store {
    /// The store of this tree. What is in it is looked at with each call.
    ///
    /// # Errors
    /// There is no such directory.
    pub fn open(root: &Path) -> Result<Self, KeysError> {
        Ok(Self { root: RootDir::open(root)? })
    }

    pub(super) fn root(&self) -> &RootDir {
        &self.root
    }

    /// All keys, and what could not be read, a sentence each.
    pub fn list(&self) -> (Vec<AuthorizedKey>, Vec<String>) {
        let (mut keys, mut problems) = (Vec::new(), Vec::new());
        let files = match Files::open(self) {
            Ok(files) => files,
            Err(KeysError::NotInstalled { .. }) => return (keys, problems),
            Err(error) => return (keys, vec![error.to_string()]),
        };
        for user in files.users().unwrap_or_else(|error| {
            problems.push(error.to_string());
            Vec::new()
        }) {
            match files.read(&user) {
                Ok(set) => keys.extend(set.entries().map(|entry| wire(&user, entry))),
                Err(error) => problems.push(error.to_string()),
            }
        }
        (keys, problems)
    }

    /// Has all of these keys be there, or changes nothing; gives them as they are now. A key that is there already gets the new time,
    /// options and comment.
    ///
    /// # Errors
    /// The first key that sshd would refuse, a user who is none, a limit, or what the file system says.
    pub fn add(&self, request: &AddKeys, now: u64) -> Result<KeysChanged, KeysError> {
        let Effective { accepted, objection } = self.effective();
        let keys = self.add_checked(request, &accepted, now)?;
        Ok(KeysChanged { keys, note: objection })
    }

    /// What the running system's sshd takes; where there is none to ask, what they all do.
    fn effective(&self) -> Effective {
        let managed = format!("{AUTHORIZED_KEYS}/%u");
        // One that cannot say it does not run either, which is not for this call to report.
        let said = Sshd::running(&self.root).and_then(|sshd| sshd.effective(&managed).ok());
        said.unwrap_or(Effective { accepted: Accepted::USUAL, objection: None })
    }

    pub(super) fn add_checked(
        &self,
        request: &AddKeys,
        accepted: &Accepted,
        now: u64,
    ) -> Result<Vec<AuthorizedKey>, KeysError> {
        let AddKeys { keys, user, source, expires } = request;
        let new = |line: &String| NewKey { user: user.clone(), line: line.clone(), expires: *expires };
        let keys: Vec<_> = keys.iter().map(new).collect();
        if keys.is_empty() {
            return Err(bad_field("keys", "it is empty; give at least one key"));
        }
        let checked = self.check(source, &keys, accepted, now)?;
        let files = Files::open(self)?;
        let mut added = Vec::new();
        for (user, keys) in &checked {
            let set = files.change(user, |set| files.put(set, source, keys, now))?;
            let hashes: Vec<_> = keys.iter().map(|(key, _)| key.hash()).collect();
            let asked_for = |entry: &&Entry| entry.source == *source && hashes.contains(&entry.hash);
            added.extend(set.entries().filter(asked_for).map(|entry| wire(user, entry)));
        }
        Ok(added)
    }

    /// Takes out the key with this id, and gives what it was.
    ///
    /// # Errors
    /// There is none with this id, or what the file system says.
    pub fn remove(&self, id: &str) -> Result<Vec<AuthorizedKey>, KeysError> {
        let files = Files::open(self)?;
        let mut first_error = None;
        for user in files.users()? {
            let mut removed = Vec::new();
            match files.change(&user, |set| removed = set.remove(id)) {
                Ok(_) if removed.is_empty() => {}
                Ok(_) => return Ok(removed.iter().map(|entry| wire(&user, entry)).collect()),
                Err(error) => first_error = first_error.or(Some(error)),
            }
        }
        // It may be in a file that cannot be read.
        Err(first_error.unwrap_or_else(|| KeysError::NoKey { id: id.chars().take(64).collect() }))
    }

    /// Has the keys of a source be these, over all users, and no others; what other sources and other people have written stays.
    ///
    /// # Errors
    /// Nothing is changed where one of the keys is wrong. Where a file cannot be written the others are, and to ask for the same again
    /// completes it.
    pub fn replace_source(&self, source: &str, keys: &[NewKey], now: u64) -> Result<(), KeysError> {
        let mut checked = self.check(source, keys, &Accepted::USUAL, now)?;
        let files = Files::open(self)?;
        for user in files.users()? {
            checked.entry(user).or_default();
        }
        each(checked, |(user, keys)| {
            let hashes: Vec<_> = keys.iter().map(|(key, _)| key.hash()).collect();
            let replace = |set: &mut KeySet| {
                set.keep_of(source, &hashes);
                files.put(set, source, &keys, now);
            };
            files.change(&user, replace).map(drop)
        })
    }

    /// Takes out what has expired, and says when the next key does.
    ///
    /// # Errors
    /// What the file system says of one file; the others are done.
    pub fn expire(&self, now: u64) -> Result<Option<u64>, KeysError> {
        let files = match Files::open(self) {
            Err(KeysError::NotInstalled { .. }) => return Ok(None),
            files => files?,
        };
        let mut next = None;
        each(files.users()?, |user| {
            let mut expired = 0;
            let set = files.change(&user, |set| expired = set.expire(now))?;
            if expired > 0 {
                tracing::info!(user, keys = expired, "keys: expired, and taken out");
            }
            next = next.into_iter().chain(set.next_expiry()).min();
            Ok(())
        })?;
        Ok(next)
    }

    /// Removes what an agent that was killed has left half written. Gives how many files.
    ///
    /// # Errors
    /// What the file system says.
    pub fn sweep(&self) -> Result<usize, KeysError> {
        match self.root.descend(AUTHORIZED_KEYS)? {
            Some(directory) => Ok(directory.remove_leftovers(limits::AUTHORIZED_KEYS_NAMES)?),
            None => Ok(0),
        }
    }

    fn check(&self, source: &str, keys: &[NewKey], accepted: &Accepted, now: u64) -> Result<Checked, KeysError> {
        if !set::is_source(source) || source == set::UNMARKED {
            let form = "give 1 to 32 lower-case letters, digits, `-` or `_`, and not `file`, which lines are called that \
                        guestd did not write";
            return Err(bad_field("source", form));
        }
        let mut checked = Checked::new();
        for (index, NewKey { user, line, expires }) in keys.iter().enumerate() {
            let key = Candidate::parse(line, accepted).map_err(|why| KeysError::BadKey { number: index + 1, why })?;
            if expires.is_some_and(|expires| expires <= now) {
                return Err(bad_field("expires", "it is in the past; give seconds since 1970"));
            }
            if expires.is_some_and(|expires| expires > calendar::LAST) {
                return Err(bad_field(
                    "expires",
                    "it is after the year 9999; leave it out for a key that does not expire",
                ));
            }
            if !checked.contains_key(user) {
                self.check_user(user)?;
            }
            checked.entry(user.clone()).or_default().push((key, *expires));
        }
        Ok(checked)
    }

    fn check_user(&self, user: &str) -> Result<(), KeysError> {
        let none = || KeysError::NoUser { user: user.chars().take(64).collect() };
        if !is_file_of_user(user) || user.contains(['/', ':', '\n']) {
            return Err(none());
        }
        let passwd = match self.root.follow("/etc/passwd")? {
            Some(file) => file.read(limits::ACCOUNT_FILE_BYTES)?,
            None => Vec::new(),
        };
        let is_it = |line: &[u8]| line.strip_prefix(user.as_bytes()).is_some_and(|rest| rest.starts_with(b":"));
        // root is there even where there is no such file, as in an image of one static binary.
        if user == "root" || passwd.split(|byte| *byte == b'\n').any(is_it) { Ok(()) } else { Err(none()) }
    }
}

/// Does a file of this name in the directory hold a user's keys? A dot begins a temporary file, and sshd's `%u` is never so.
pub(super) fn is_file_of_user(name: &str) -> bool {
    !name.is_empty() && !name.starts_with('.') && !name.ends_with(BESIDE_SUFFIX)
}

/// Does all of it, and gives the first error: of those that are not about a file that is left alone, if there is one.
fn each<T>(all: impl IntoIterator<Item = T>, mut act: impl FnMut(T) -> Result<(), KeysError>) -> Result<(), KeysError> {
    let mut result = Ok(());
    for one in all {
        result = match (result, act(one)) {
            (Err(KeysError::Untrusted { .. }) | Ok(()), Err(error)) => Err(error),
            (result, _) => result,
        };
    }
    result
}

fn bad_field(field: &'static str, why: &str) -> KeysError {
    KeysError::BadField { field, why: why.to_owned() }
}

/// The directory of managed files, for the time of one call.
struct Files<'store> {
    root: &'store RootDir,
    directory: RootDir,
    trusted: Trusted,
    golden: Option<KeyHash>,
}

impl<'store> Files<'store> {
    fn open(store: &'store Store) -> Result<Self, KeysError> {
        let root = &store.root;
        let trusted = Trusted::of(root);
        let directory = root.descend(AUTHORIZED_KEYS)?.ok_or(KeysError::NotInstalled { directory: AUTHORIZED_KEYS })?;
        if let Some(found) = directory.follow_directory("")? {
            trusted.check(&found)?;
        }
        let golden = identity::golden(root).ok().flatten().map(|pair| pair.hash());
        Ok(Self { root, directory, trusted, golden })
    }

    /// Users that have a file.
    fn users(&self) -> Result<Vec<String>, KeysError> {
        let names = self.directory.names("", limits::AUTHORIZED_KEYS_NAMES)?;
        let users = names.into_iter().filter_map(|name| name.into_string().ok());
        Ok(users.filter(|name| is_file_of_user(name)).collect())
    }

    fn read(&self, user: &str) -> Result<KeySet, KeysError> {
        let content = match self.trusted.file(&self.directory, user)? {
            Some(file) => file.read(limits::AUTHORIZED_KEYS_BYTES)?,
            None => Vec::new(),
        };
        Ok(KeySet::parse(user, self.golden, &content))
    }

    /// Changes a user's file, if there is something to change, and gives it as it is then.
    fn change(&self, user: &str, change: impl FnOnce(&mut KeySet)) -> Result<KeySet, KeysError> {
        let before = self.read(user)?;
        let mut set = before.clone();
        change(&mut set);
        let content = set.content();
        if content == before.content() {
            return Ok(set);
        }
        if content.is_empty() {
            self.directory.remove(user)?;
            return Ok(set);
        }
        if content.len() as u64 > limits::AUTHORIZED_KEYS_BYTES {
            return Err(KeysError::TooMany { user: user.to_owned() });
        }
        let users = self.users()?;
        if users.len() >= limits::AUTHORIZED_KEYS_USERS && !users.iter().any(|known| known == user) {
            return Err(KeysError::TooManyUsers);
        }
        let owner = identity::owner();
        self.directory.write(user, &mut content.as_slice(), MODE, owner, Existing::Replace)?;
        Ok(set)
    }

    fn put(&self, set: &mut KeySet, source: &str, keys: &[(Candidate, Option<u64>)], now: u64) {
        // It stands in a program of more than a megabyte.
        let dialect = match keys.iter().any(|(_, expires)| expires.is_some()).then(|| Sshd::find(self.root)).flatten() {
            Some(sshd) => sshd.dialect(self.root),
            None => Dialect::Utc,
        };
        for (key, expires) in keys {
            set.put(Wanted { key, source, expires: *expires }, now, dialect);
        }
    }
}

fn wire(user: &str, entry: &Entry) -> AuthorizedKey {
    AuthorizedKey {
        id: entry.id.clone(),
        user: user.to_owned(),
        source: entry.source.clone(),
        key: PublicSshKey {
            algorithm: entry.algorithm.clone(),
            fingerprint: set::fingerprint(&entry.hash),
            key: format!("{} {}", entry.algorithm, entry.data),
        },
        comment: entry.comment.clone(),
        options: entry.options.clone(),
        added: entry.added,
        expires: entry.expires,
    }
}

#[cfg(test)]
mod tests;
