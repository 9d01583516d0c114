//! Keys that no two VMs may share: host keys, by which others know this VM, and the VM's own identity, by which it logs in elsewhere.
//!
//! ```text
//!                     no usable key ──> made
//!  key made for this VM's id, or its id is not known ──> stays
//!  key made for another id, or nobody knows for which ──> made anew; host keys stay with the policy `keep`
//! ```
//!
//! A branched VM has its parent's disk, and a fresh one that of the image: what the record beside the keys says of them tells whether
//! they are this VM's. It is written last, so that what a crash has interrupted is done again from its beginning.
//!
//! Calls block, and ask the kernel for random numbers: after a restore its generator must have been seeded anew before.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::{
    BESIDE_SUFFIX, GUESTD_SSH, KeysError, NewKey, Store, VM_IDENTITY, VM_SOURCE,
    candidate::Accepted,
    identity,
    pair::KeyPair,
    sshd::{self, Sshd},
    trust::Trusted,
};
use crate::{
    api::{AddKeys, DEFAULT_KEY_USER, HostKeyPolicy},
    limits,
    sys::root_dir::{Entry, Existing, RootDir},
};

/// Directory of host keys.
const SSH: &str = "/etc/ssh";

/// The host key that guestd makes, in [`SSH`].
const HOST_KEY: &str = "ssh_host_ed25519_key";

/// The record of the VM for which keys were made, in [`GUESTD_SSH`].
const RECORD: &str = "made_for.json";

/// Ids for which keys were made; None where the id was not known then, or nobody knows.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
struct MadeFor {
    host_keys: Option<String>,
    vm_key: Option<String>,
}

/// What became of a VM's own keys.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Applied {
    /// Host keys were made, or made anew.
    pub host_keys_made: bool,
    /// The VM's own identity was.
    pub vm_key_made: bool,
    /// How many sshds that listen were told.
    pub sshd_told: usize,
    /// Why sshd was not told, or may not have what it needs.
    pub note: Option<String>,
}

/// Gives the processes that may be an sshd which listens.
pub type SshdProcesses = Box<dyn Fn() -> Vec<i32> + Send + Sync>;

/// A VM's own keys, in its root file system.
pub struct OwnKeys {
    processes: SshdProcesses,
}

impl fmt::Debug for OwnKeys {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("OwnKeys").finish_non_exhaustive()
    }
}

/// What to do about keys of one kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Action {
    Leave,
    /// There is none.
    Make,
    /// They are another VM's.
    Renew,
}

fn decide(is_there: bool, policy: HostKeyPolicy, made_for: Option<&str>, vm_id: Option<&str>) -> Action {
    let is_foreign = policy == HostKeyPolicy::Renew && vm_id.is_some() && made_for != vm_id;
    match (is_there, is_foreign) {
        (_, true) => Action::Renew,
        (false, false) => Action::Make,
        (true, false) => Action::Leave,
    }
}

impl OwnKeys {
    /// `processes` gives those that may be an sshd; each is looked at before it is told anything.
    pub fn new(processes: SshdProcesses) -> Self {
        Self { processes }
    }

    /// Has this VM's keys be its own. Does nothing where guestd is not installed.
    ///
    /// # Errors
    /// Some key could not be made; what was is recorded, and to call it again does the rest.
    pub fn apply(
        &self,
        store: &Store,
        policy: HostKeyPolicy,
        vm_id: Option<&str>,
        now: u64,
    ) -> Result<Applied, KeysError> {
        let root = store.root();
        let Some(guestd) = trusted_directory(root, GUESTD_SSH)? else { return Ok(Applied::default()) };
        guestd.wait_and_lock()?;
        let mut applied = Applied::default();
        let mut record = read_record(&guestd);

        // One that fails does not keep the other from being made.
        let host_keys = apply_host_keys(root, policy, vm_id, &record);
        let vm_key = apply_vm_key(store, &guestd, vm_id, &record, now);
        (applied.host_keys_made, applied.vm_key_made) = (matches!(host_keys, Ok(true)), matches!(vm_key, Ok(true)));
        // Before the record: whoever is interrupted here does it again.
        if applied.host_keys_made {
            match self.tell(store) {
                Ok(told) => applied.sshd_told = told,
                Err(why) => applied.note = Some(why),
            }
        }
        if applied.host_keys_made {
            record.host_keys = vm_id.map(str::to_owned);
        }
        if applied.vm_key_made {
            record.vm_key = vm_id.map(str::to_owned);
        }
        if applied.host_keys_made || applied.vm_key_made {
            write_record(&guestd, &record)?;
        }
        host_keys.and(vm_key).map(|_| applied)
    }

    /// Has sshds that listen read their host keys again, and gives how many. Sshd before 9.8 does that for each connection anyway
    /// (measured with 9.2).
    ///
    /// # Errors
    /// A sentence: why it was not told.
    pub(super) fn tell(&self, store: &Store) -> Result<usize, String> {
        let processes = (self.processes)();
        if processes.is_empty() {
            return Ok(0);
        }
        // One that finds fault with its files when it starts over ends, and nobody can log in any more.
        let check = Sshd::running(store.root()).map_or(Ok(Ok(())), Sshd::check);
        check.map_err(|error| error.to_string()).flatten().map_err(|why| {
            tracing::warn!(why, "keys: sshd is not told of its host key");
            format!("sshd was not told of its new host key, as it would not start with it: {why}")
        })?;
        Ok(sshd::tell(&processes))
    }
}

/// Makes the host key below `root` where there is none, and says whether it has: for an init that starts sshd before the agent has come
/// to it. A key that is there is left to the agent, who alone knows which id the VM has by now.
///
/// # Errors
/// The key could not be made or recorded.
pub fn make_host_key(root: &RootDir, vm_id: Option<&str>) -> Result<bool, KeysError> {
    let Some(guestd) = trusted_directory(root, GUESTD_SSH)? else { return Ok(false) };
    // The agent may be about to make the same key, or to sweep away what it takes for half a key.
    guestd.wait_and_lock()?;
    let (Some(ssh), Some(_)) = (trusted_directory(root, SSH)?, Sshd::find(root)) else { return Ok(false) };
    if is_not_empty(&ssh, HOST_KEY)? {
        return Ok(false);
    }
    write_pair(&ssh, HOST_KEY, &KeyPair::generate("").map_err(KeysError::Generate)?)?;
    let record = MadeFor { host_keys: vm_id.map(str::to_owned), ..read_record(&guestd) };
    write_record(&guestd, &record)?;
    Ok(true)
}

/// The VM's host keys: whether they were made.
fn apply_host_keys(
    root: &RootDir,
    policy: HostKeyPolicy,
    vm_id: Option<&str>,
    record: &MadeFor,
) -> Result<bool, KeysError> {
    let (Some(ssh), Some(_)) = (trusted_directory(root, SSH)?, Sshd::find(root)) else { return Ok(false) };
    let action = decide(is_not_empty(&ssh, HOST_KEY)?, policy, record.host_keys.as_deref(), vm_id);
    if action == Action::Leave {
        return Ok(false);
    }
    if action == Action::Renew {
        // Keys of other types are the other VM's, too, and guestd makes one alone; its configuration names that to sshd. A certificate
        // is of a key, and goes with it.
        for name in host_key_files(&ssh)?.iter().filter(|name| *name != HOST_KEY) {
            ssh.remove_before_write(name)?;
        }
    }
    write_pair(&ssh, HOST_KEY, &KeyPair::generate("").map_err(KeysError::Generate)?)?;
    tracing::info!(anew = action == Action::Renew, "keys: host key made");
    Ok(true)
}

/// The VM's own identity, which opens the VM itself, too: whether it was made.
fn apply_vm_key(
    store: &Store,
    guestd: &RootDir,
    vm_id: Option<&str>,
    record: &MadeFor,
    now: u64,
) -> Result<bool, KeysError> {
    let name = VM_IDENTITY.rsplit('/').next().unwrap_or(VM_IDENTITY);
    let is_there = is_not_empty(guestd, name)?;
    let action = decide(is_there, HostKeyPolicy::Renew, record.vm_key.as_deref(), vm_id);
    if action == Action::Leave {
        return Ok(false);
    }
    let comment = format!("guestd VM {}", vm_id.unwrap_or("without an id"));
    let pair = KeyPair::generate(&comment).map_err(KeysError::Generate)?;
    let (user, line) = (DEFAULT_KEY_USER.to_owned(), pair.public_text().to_owned());
    if action == Action::Renew {
        // First, so that the other VM's own keys open nothing here from here on.
        match store.replace_source(VM_SOURCE, &[NewKey { user, line, expires: None }], now) {
            // There is nothing of guestd's in a file that somebody else has made. Health tells of it.
            Err(KeysError::Untrusted { .. }) => {}
            replaced => replaced?,
        }
        write_pair(guestd, name, &pair)?;
    } else {
        write_pair(guestd, name, &pair)?;
        let keys = AddKeys { keys: vec![line], user, source: VM_SOURCE.to_owned(), expires: None };
        store.add_checked(&keys, &Accepted::USUAL, now)?;
    }
    tracing::info!(anew = action == Action::Renew, "keys: the VM's own key made");
    Ok(true)
}

fn write_pair(dir: &RootDir, name: &str, pair: &KeyPair) -> Result<(), KeysError> {
    let public = format!("{name}.pub");
    let files = [(name, pair.private_text(), 0o600), (public.as_str(), pair.public_text(), 0o644)];
    Ok(dir.write_all(&files, identity::owner())?)
}

/// A directory of keys, if there is one and others cannot write it.
fn trusted_directory(root: &RootDir, path: &'static str) -> Result<Option<RootDir>, KeysError> {
    let Some(directory) = root.descend(path)? else { return Ok(None) };
    if let Some(found) = directory.follow_directory("")? {
        Trusted::of(root).check(&found)?;
    }
    Ok(Some(directory))
}

/// An empty file is what a power cut can leave of one that somebody else has written; sshd refuses to start with it.
fn is_not_empty(dir: &RootDir, name: &str) -> Result<bool, KeysError> {
    let in_the_way = || KeysError::Untrusted {
        path: dir.path().join(name),
        why: "it is a directory or device, where a private key belongs; move it away".to_owned(),
    };
    match dir.look(name)? {
        Entry::Absent => Ok(false),
        // Of a link it is the image's own business where it leads to; a new key takes its place.
        Entry::Link(_) => Ok(true),
        Entry::File(file) => {
            let mut byte = [0];
            Ok(matches!(std::io::Read::read(&mut file.reader(), &mut byte), Ok(1)))
        }
        Entry::Directory | Entry::Special => Err(in_the_way()),
    }
}

/// Names of files that belong to host keys: private and public halves, and certificates.
fn host_key_files(ssh: &RootDir) -> Result<Vec<String>, KeysError> {
    let names = ssh.names("", limits::HOST_KEY_NAMES)?.into_iter().filter_map(|name| name.into_string().ok());
    let is_one = |name: &str| {
        let plain = name.trim_end_matches(".pub").trim_end_matches("-cert");
        plain.strip_prefix("ssh_host_").and_then(|name| name.strip_suffix("_key")).is_some_and(|kind| !kind.is_empty())
    };
    Ok(names.filter(|name| is_one(name) && !name.ends_with(BESIDE_SUFFIX)).collect())
}

/// The host key that guestd makes, if there is one; else what is wrong with it, as a sentence.
pub(super) fn host_key(root: &RootDir) -> Result<Option<KeyPair>, String> {
    identity::read(root, &format!("{SSH}/{HOST_KEY}"))
}

/// Names of the public halves of host keys.
pub(super) fn public_host_keys(root: &RootDir) -> Result<Vec<String>, KeysError> {
    let Some(ssh) = root.descend(SSH)? else { return Ok(Vec::new()) };
    let names = host_key_files(&ssh)?.into_iter().filter(|name| name.ends_with("_key.pub"));
    Ok(names.map(|name| format!("{SSH}/{name}")).collect())
}

/// A record that cannot be read says nothing.
fn read_record(guestd: &RootDir) -> MadeFor {
    let Ok(Entry::File(file)) = guestd.look(RECORD) else { return MadeFor::default() };
    let content = file.read(limits::KEY_FILE_BYTES).unwrap_or_default();
    serde_json::from_slice(&content).unwrap_or_default()
}

fn write_record(guestd: &RootDir, record: &MadeFor) -> Result<(), KeysError> {
    // Two strings always serialize.
    let text = serde_json::to_vec(record).unwrap_or_default();
    Ok(guestd.write(RECORD, &mut text.as_slice(), 0o644, identity::owner(), Existing::Replace)?)
}

/// Removes what an agent that was killed has left half written beside the keys.
pub(super) fn sweep(root: &RootDir) -> Result<usize, KeysError> {
    let Some(guestd) = trusted_directory(root, GUESTD_SSH)? else { return Ok(0) };
    // What others may be writing at this moment stays for the next start.
    if !guestd.wait_and_lock()? {
        return Ok(0);
    }
    let mut removed = guestd.remove_leftovers(limits::HOST_KEY_NAMES)?;
    if let Some(ssh) = trusted_directory(root, SSH)? {
        removed += ssh.remove_leftovers(limits::HOST_KEY_NAMES)?;
    }
    Ok(removed)
}

#[cfg(test)]
mod tests;
