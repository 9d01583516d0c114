//! The record of what was installed, by which an edit is told from an old version, and what is guestd's from what is not.
//!
//! Files are in the format of sha256sum(1), so that `sha256sum --check` in the image lists what was edited since. What has no hash of a whole
//! file is in comments of that format. A path has more than one hash while an installation is under way: the old and the new content.
//!
//! ```text
//! HASH  /usr/local/bin/guestd
//! #directory  /etc/guestd                             made by guestd
//! #link  guestd  /usr/local/bin/guestctl              its target
//! #lines  HASH  /etc/inittab                          guestd's own lines in a file of somebody else's
//! #saved  /sbin/init                                  what was there has the name with `.guestd-saved`
//! ```

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::{self, Write as _},
    io::{self, Read},
};

use ssh_key::sha2::{Digest as _, Sha256};

/// Where the record is in an image.
pub(super) const MANIFEST: &str = "/usr/local/share/guestd/manifest";

const HEADER: &str =
    "# Files that `guestd install` put here. `sha256sum --check` with this file shows what was edited since.\n";

/// A SHA-256 hash in lower-case hexadecimal.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Sha256Hex(String);

impl Sha256Hex {
    /// Hash of all that `reader` gives.
    pub(super) fn of_stream(reader: &mut dyn Read) -> io::Result<Self> {
        let mut hasher = Sha256::new();
        let mut buffer = [0; 64 * 1024];
        loop {
            match reader.read(&mut buffer) {
                Ok(0) => break,
                Ok(length) => hasher.update(&buffer[..length]),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(Self::from_bytes(&hasher.finalize()))
    }

    /// Hash of some bytes.
    pub(super) fn of(bytes: &[u8]) -> Self {
        Self::from_bytes(&Sha256::digest(bytes))
    }

    fn from_bytes(bytes: &[u8]) -> Self {
        let mut text = String::with_capacity(2 * bytes.len());
        for byte in bytes {
            // Writing to a string cannot fail.
            let _ = write!(text, "{byte:02x}");
        }
        Self(text)
    }

    fn parse(text: &str) -> Option<Self> {
        let valid = text.len() == 64 && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        valid.then(|| Self(text.to_owned()))
    }
}

/// What was installed, by its path in the image.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Manifest {
    /// Files, with the hash of their content.
    pub(super) files: Hashes,
    /// Files of somebody else's, with the hash of guestd's lines in them.
    pub(super) lines: Hashes,
    /// Links, with their target.
    pub(super) links: BTreeMap<String, String>,
    /// Directories that were missing before.
    pub(super) directories: BTreeSet<String>,
    /// Paths whose former file or link has another name.
    pub(super) saved: BTreeSet<String>,
}

/// Hashes by path; usually one each.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Hashes(BTreeMap<String, BTreeSet<Sha256Hex>>);

impl Hashes {
    pub(super) fn record(&mut self, path: &str, content: Sha256Hex) {
        self.0.entry(path.to_owned()).or_default().insert(content);
    }

    /// Whether this is what was installed.
    pub(super) fn has(&self, path: &str, content: &Sha256Hex) -> bool {
        self.0.get(path).is_some_and(|hashes| hashes.contains(content))
    }

    pub(super) fn paths(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(String::as_str)
    }

    /// Takes over what another record has of a path.
    pub(super) fn keep(&mut self, path: &str, from: &Self) {
        if let Some(hashes) = from.0.get(path) {
            self.0.entry(path.to_owned()).or_default().extend(hashes.iter().cloned());
        }
    }

    fn add(&mut self, other: &Self) {
        for path in other.paths() {
            self.keep(path, other);
        }
    }

    fn entries(&self) -> impl Iterator<Item = (&String, &Sha256Hex)> {
        self.0.iter().flat_map(|(path, hashes)| hashes.iter().map(move |hash| (path, hash)))
    }
}

impl Manifest {
    /// Reads a record and says how many of its lines are none. A file that has no line counts as edited.
    pub(super) fn parse(text: &str) -> (Self, usize) {
        let mut manifest = Self::default();
        let malformed = text.lines().filter(|line| !line.is_empty() && !manifest.take(line)).count();
        (manifest, malformed)
    }

    fn take(&mut self, line: &str) -> bool {
        let (kind, path) = match line.split_once("  ") {
            Some((kind, path)) if kind.starts_with('#') => (kind, path),
            Some((hash, path)) => return note(&mut self.files, hash, path),
            // A comment for people.
            None => return line.starts_with('#'),
        };
        match (kind, path.split_once("  ")) {
            ("#directory", None) => self.directories.insert(path.to_owned()),
            ("#saved", None) => self.saved.insert(path.to_owned()),
            ("#link", Some((target, path))) => self.links.insert(path.to_owned(), target.to_owned()).is_none(),
            ("#lines", Some((hash, path))) => note(&mut self.lines, hash, path),
            _ => false,
        }
    }

    /// What is there while an installation is under way: what was before and what will be.
    pub(super) fn with(&self, later: &Self) -> Self {
        let mut both = self.clone();
        both.files.add(&later.files);
        both.lines.add(&later.lines);
        both.links.extend(later.links.iter().map(|(path, target)| (path.clone(), target.clone())));
        both.directories.extend(later.directories.iter().cloned());
        both.saved.extend(later.saved.iter().cloned());
        both
    }
}

fn note(hashes: &mut Hashes, hash: &str, path: &str) -> bool {
    let hash = Sha256Hex::parse(hash);
    let is_one = hash.is_some();
    if let Some(hash) = hash {
        hashes.record(path, hash);
    }
    is_one
}

impl fmt::Display for Manifest {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(HEADER)?;
        for (path, Sha256Hex(hash)) in self.files.entries() {
            writeln!(formatter, "{hash}  {path}")?;
        }
        for path in &self.directories {
            writeln!(formatter, "#directory  {path}")?;
        }
        for (path, target) in &self.links {
            writeln!(formatter, "#link  {target}  {path}")?;
        }
        for (path, Sha256Hex(hash)) in self.lines.entries() {
            writeln!(formatter, "#lines  {hash}  {path}")?;
        }
        self.saved.iter().try_for_each(|path| writeln!(formatter, "#saved  {path}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn full() -> Manifest {
        let mut manifest = Manifest::default();
        manifest.files.record("/etc/guestd/config.toml", Sha256Hex::of(b"one"));
        manifest.files.record("/path with blanks", Sha256Hex::of(b"two"));
        manifest.lines.record("/etc/inittab", Sha256Hex::of(b"three"));
        manifest.links.insert("/usr/local/bin/guestctl".into(), "guestd".into());
        manifest.directories.insert("/etc/guestd".into());
        manifest.saved.insert("/sbin/init".into());
        manifest
    }

    #[test]
    fn a_record_reads_back_as_it_was_written() {
        assert_eq!(Manifest::parse(&full().to_string()), (full(), 0));
    }

    #[test]
    fn while_an_installation_is_under_way_the_old_and_the_new_content_count() {
        let mut later = Manifest::default();
        later.files.record("/etc/guestd/config.toml", Sha256Hex::of(b"later"));
        let both = full().with(&later);
        assert_eq!(Manifest::parse(&both.to_string()), (both.clone(), 0));
        for content in [&b"one"[..], b"later"] {
            assert!(both.files.has("/etc/guestd/config.toml", &Sha256Hex::of(content)));
        }
        assert_eq!(both.with(&full()), both);
    }

    #[test]
    fn hashes_are_those_of_sha256sum() {
        let abc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(Sha256Hex::of(b"abc"), Sha256Hex(abc.into()));
        assert_eq!(Sha256Hex::of_stream(&mut &b"abc"[..]).unwrap(), Sha256Hex(abc.into()));
    }

    #[test]
    fn lines_that_are_none_are_counted_and_the_others_hold() {
        let hash = "0".repeat(64);
        let text = format!(
            "# a comment\n\n{hash}  /a\nnonsense\n{hash} /one-blank\nABC  /short\n#lines  ABC  /b\n#other  /c\n"
        );
        let (manifest, malformed) = Manifest::parse(&text);
        assert_eq!(malformed, 5);
        assert_eq!(manifest.files.paths().collect::<Vec<_>>(), ["/a"]);
    }
}
