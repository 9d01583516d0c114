//! The record of what was installed, by which an edit is told from an old version.
//!
//! It is in the format of sha256sum(1), so that `sha256sum --check` in the image lists what was edited since.

use std::{
    collections::BTreeMap,
    fmt::{self, Write as _},
    io::{self, Read},
};

use ssh_key::sha2::{Digest as _, Sha256};

/// Where the record is in an image.
pub(super) const MANIFEST: &str = "/usr/local/share/guestd/manifest";

const HEADER: &str =
    "# Files that `guestd install` put here. `sha256sum --check` with this file shows what was edited since.\n";

/// A SHA-256 hash in lower-case hexadecimal.
#[derive(Debug, Clone, PartialEq, Eq)]
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

/// Hash of each installed file by its path in the image.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Manifest {
    files: BTreeMap<String, Sha256Hex>,
}

impl Manifest {
    /// Reads a record and says how many of its lines are none. A file that has no line counts as edited.
    pub(super) fn parse(text: &str) -> (Self, usize) {
        let mut manifest = Self::default();
        let mut malformed = 0;
        for line in text.lines().filter(|line| !line.starts_with('#') && !line.is_empty()) {
            match line.split_once("  ").and_then(|(hash, path)| Some((Sha256Hex::parse(hash)?, path))) {
                Some((hash, path)) => manifest.record(path, hash),
                None => malformed += 1,
            }
        }
        (manifest, malformed)
    }

    pub(super) fn recorded(&self, path: &str) -> Option<&Sha256Hex> {
        self.files.get(path)
    }

    pub(super) fn record(&mut self, path: &str, content: Sha256Hex) {
        self.files.insert(path.to_owned(), content);
    }
}

impl fmt::Display for Manifest {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(HEADER)?;
        self.files.iter().try_for_each(|(path, Sha256Hex(hash))| writeln!(formatter, "{hash}  {path}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_reads_back_as_it_was_written() {
        let mut manifest = Manifest::default();
        manifest.record("/etc/guestd/config.toml", Sha256Hex::of(b"one"));
        manifest.record("/path with  blanks", Sha256Hex::of(b"two"));
        assert_eq!(Manifest::parse(&manifest.to_string()), (manifest, 0));
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
        let text = format!("{hash}  /a\nnonsense\n{hash} /one-blank\nABC  /short\n");
        let (manifest, malformed) = Manifest::parse(&text);
        assert_eq!(malformed, 3);
        assert!(manifest.recorded("/a").is_some());
    }
}
