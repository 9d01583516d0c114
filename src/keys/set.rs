//! The content of one managed file, as lines: keys are put in and taken out, and every other byte stays as it was. Pure.
//!
//! What guestd has written carries a mark at its end, so that each line is an entry whole, wherever an editor moves it:
//!
//! ```text
//! [OPTIONS,expiry-time="…Z"] TYPE KEY [COMMENT] [guestd source=host added=20260101000000Z]
//! ```
//!
//! Lines without a mark are somebody's own. They are listed, and go only when they are asked for by their id.

use std::fmt::Write as _;

use base64::{Engine as _, engine::general_purpose::STANDARD_NO_PAD};
use ssh_key::sha2::{Digest as _, Sha256};

use super::{
    GOLDEN_SOURCE,
    authorized::Parts,
    candidate::Candidate,
    options,
    ssh_time::{self, Dialect},
};

/// Source of a line that guestd did not write.
pub(super) const UNMARKED: &str = "file";

const MARK: &str = "[guestd ";

/// SHA-256 of a key, which its fingerprint is made of.
pub(super) type KeyHash = [u8; 32];

/// The hash of a key's blob.
pub(super) fn hash(blob: &[u8]) -> KeyHash {
    Sha256::digest(blob).into()
}

/// As `ssh-keygen -l` prints it.
pub(super) fn fingerprint(hash: &KeyHash) -> String {
    format!("SHA256:{}", STANDARD_NO_PAD.encode(hash))
}

/// A file's lines.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct KeySet {
    user: String,
    /// The image's shared key, whose line has no mark where `guestd install` wrote it.
    golden: Option<KeyHash>,
    lines: Vec<Line>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Line {
    /// Its bytes with its end, if it has one.
    raw: Vec<u8>,
    entry: Option<Entry>,
}

/// A key on its line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) id: String,
    pub(super) source: String,
    pub(super) hash: KeyHash,
    pub(super) algorithm: String,
    /// The key in base64.
    pub(super) data: String,
    /// Without the time at which it expires.
    pub(super) options: String,
    pub(super) comment: String,
    /// When guestd wrote it, in seconds since 1970; None where it did not.
    pub(super) added: Option<u64>,
    /// Until when it is accepted, in seconds since 1970.
    pub(super) expires: Option<u64>,
}

/// A key that is to be in the file.
#[derive(Debug, Clone, Copy)]
pub(super) struct Wanted<'a> {
    pub(super) key: &'a Candidate,
    pub(super) source: &'a str,
    pub(super) expires: Option<u64>,
}

impl KeySet {
    /// The lines of a file's content, whatever it is.
    pub(super) fn parse(user: &str, golden: Option<KeyHash>, content: &[u8]) -> Self {
        let mut set = Self { user: user.to_owned(), golden, lines: Vec::new() };
        set.lines = content.split_inclusive(|byte| *byte == b'\n').map(|raw| set.line(raw.to_vec())).collect();
        set
    }

    fn line(&self, raw: Vec<u8>) -> Line {
        // What is no UTF-8 can be in a comment alone, where it is nobody's business.
        let entry = Parts::of(&String::from_utf8_lossy(&raw)).map(|parts| self.entry(&parts));
        Line { raw, entry }
    }

    fn entry(&self, parts: &Parts<'_>) -> Entry {
        let hash = hash(&parts.blob);
        let (comment, mark) = match parts.comment.rfind(MARK).map(|at| parts.comment.split_at(at)) {
            Some((comment, mark)) => match Mark::parse(mark) {
                Some(mark) => (comment.trim_end(), Some(mark)),
                None => (parts.comment, None),
            },
            None => (parts.comment, None),
        };
        let (source, added) = match mark {
            Some(Mark { source, added }) => (source, Some(added)),
            None if self.golden == Some(hash) => (GOLDEN_SOURCE, None),
            None => (UNMARKED, None),
        };
        Entry {
            id: id(&self.user, source, &hash),
            source: source.to_owned(),
            hash,
            algorithm: parts.algorithm.to_owned(),
            data: parts.data.to_owned(),
            options: options::without_expiry(parts.options),
            comment: comment.to_owned(),
            added,
            expires: options::expiry(parts.options),
        }
    }

    /// The file's content.
    pub(super) fn content(&self) -> Vec<u8> {
        self.lines.iter().flat_map(|line| &line.raw).copied().collect()
    }

    /// Every key in it.
    pub(super) fn entries(&self) -> impl Iterator<Item = &Entry> {
        self.lines.iter().filter_map(|line| line.entry.as_ref())
    }

    /// Has a key be there, once for its source. One that is there keeps its place and the time at which it was added.
    pub(super) fn put(&mut self, wanted: Wanted<'_>, now: u64, dialect: Dialect) {
        let id = id(&self.user, wanted.source, &wanted.key.hash());
        let is_it = |entry: &Entry| entry.added.is_some() && entry.id == id;
        let place = self.lines.iter().position(|line| line.entry.as_ref().is_some_and(is_it));
        let known = place.and_then(|at| self.lines[at].entry.as_ref());
        let added = known.and_then(|entry| entry.added).unwrap_or(now);
        let line = self.line(wanted.line(added, dialect).into_bytes());
        match place {
            // Written anew only where that says something else: its bytes may be as an editor left them.
            Some(at) if self.lines[at].entry != line.entry => self.lines[at] = line,
            Some(_) => {}
            None => {
                self.end_last_line();
                self.lines.push(line);
            }
        }
        let mut seen = false;
        self.retain(|entry| !is_it(entry) || !std::mem::replace(&mut seen, true));
    }

    fn end_last_line(&mut self) {
        if let Some(last) = self.lines.last_mut().filter(|last| !last.raw.ends_with(b"\n")) {
            last.raw.push(b'\n');
        }
    }

    /// Takes out every line with this id, and gives what was on them.
    pub(super) fn remove(&mut self, id: &str) -> Vec<Entry> {
        let removed = self.entries().filter(|entry| entry.id == id).cloned().collect();
        self.retain(|entry| entry.id != id);
        removed
    }

    /// Takes out what guestd has written for a source, but for these keys.
    pub(super) fn keep_of(&mut self, source: &str, keys: &[KeyHash]) {
        self.retain(|entry| entry.added.is_none() || entry.source != source || keys.contains(&entry.hash));
    }

    /// Takes out what guestd has written and is not accepted any more. Gives how many.
    pub(super) fn expire(&mut self, now: u64) -> usize {
        let before = self.lines.len();
        self.retain(|entry| entry.added.is_none() || entry.expires.is_none_or(|expires| expires > now));
        before - self.lines.len()
    }

    /// When the next key that guestd has written expires.
    pub(super) fn next_expiry(&self) -> Option<u64> {
        self.entries().filter(|entry| entry.added.is_some()).filter_map(|entry| entry.expires).min()
    }

    fn retain(&mut self, mut keep: impl FnMut(&Entry) -> bool) {
        self.lines.retain(|line| line.entry.as_ref().is_none_or(&mut keep));
    }
}

impl Wanted<'_> {
    fn line(&self, added: u64, dialect: Dialect) -> String {
        let Candidate { options, algorithm, data, comment, .. } = self.key;
        let expires = self.expires.map(|at| format!("{}=\"{}\"", ssh_time::OPTION, ssh_time::write(at, dialect)));
        let options = [(!options.is_empty()).then(|| options.clone()), expires].into_iter().flatten();
        let options = options.collect::<Vec<_>>().join(",");
        let source = self.source;
        let mark = format!("{MARK}source={source} added={}]", ssh_time::write(added, Dialect::Utc));
        let fields = [options.as_str(), algorithm.as_str(), data.as_str(), comment.as_str(), mark.as_str()];
        fields.into_iter().filter(|field| !field.is_empty()).collect::<Vec<_>>().join(" ") + "\n"
    }
}

/// By what guestd knows what it has written.
struct Mark<'line> {
    source: &'line str,
    added: u64,
}

impl<'line> Mark<'line> {
    fn parse(text: &'line str) -> Option<Self> {
        let mut fields = text.strip_prefix(MARK)?.trim_end().strip_suffix(']')?.split(' ');
        let source = fields.next()?.strip_prefix("source=").filter(|source| is_source(source))?;
        let added = fields.next()?.strip_prefix("added=").and_then(ssh_time::parse)?;
        fields.next().is_none().then_some(Self { source, added })
    }
}

/// Can a source be called so?
pub(super) fn is_source(name: &str) -> bool {
    (1..=32).contains(&name.len())
        && name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'-' | b'_'))
}

/// The same for the same: 64 bits of a hash, as an attacker gains nothing by two keys with one id.
fn id(user: &str, source: &str, key: &KeyHash) -> String {
    const BYTES: usize = 8;
    let digest = Sha256::new().chain_update(user).chain_update([0]).chain_update(source).chain_update([0]);
    let mut text = String::with_capacity(2 * BYTES);
    for byte in digest.chain_update(key).finalize().iter().take(BYTES) {
        // Writing to a string cannot fail.
        let _ = write!(text, "{byte:02x}");
    }
    text
}

#[cfg(test)]
mod tests;
