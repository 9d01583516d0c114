//! Files and trees: queries, answers, and the headers of raw content.

use serde::{Deserialize, Serialize};

/// Media type of raw content.
pub const OCTET_STREAM: &str = "application/octet-stream";

/// Media type of trees.
pub const TAR: &str = "application/x-tar";

/// Headers of a raw answer of `GET /v1/files`: what [`FileStat`] says, for who does not ask for it apart.
pub mod file_headers {
    /// Permission bits, in octal.
    pub const MODE: &str = "x-guestd-mode";
    /// Owner, a number.
    pub const UID: &str = "x-guestd-uid";
    /// Group, a number.
    pub const GID: &str = "x-guestd-gid";
    /// Last change of the content, in seconds since 1970 with nine digits after the point.
    pub const MTIME: &str = "x-guestd-mtime";
}

/// Answer of `GET /v1/files` as JSON: the platform's form.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileContent {
    /// The content in standard base64.
    pub content_b64: String,
}

/// Body of `PUT /v1/files` as JSON: the platform's form.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FileWrite {
    /// Absolute path.
    pub path: String,
    /// The content in standard base64.
    #[serde(default)]
    pub content_b64: String,
    /// Permission bits, as octal text (`"0644"`) or as a number. Default: those of the file that is replaced, else 0644.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mode: Option<FileMode>,
    /// Make the directories that are missing on the way, mode 0755.
    #[serde(default)]
    pub create_dirs: bool,
    /// `UID[:GID]` or names. Default: that of the file that is replaced, else root.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner: Option<String>,
}

/// Permission bits in JSON: a number is taken as it is (420 is 0644), a text as octal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum FileMode {
    /// The bits.
    Bits(u32),
    /// The bits in octal.
    Octal(String),
}

impl FileMode {
    /// The permission bits; none where they are none.
    #[must_use]
    pub fn bits(&self) -> Option<u32> {
        let bits = match self {
            Self::Bits(bits) => *bits,
            Self::Octal(text) => octal(text)?,
        };
        (bits <= 0o7777).then_some(bits)
    }
}

fn octal(text: &str) -> Option<u32> {
    let digits = text.strip_prefix("0o").unwrap_or(text);
    if digits.starts_with('+') { None } else { u32::from_str_radix(digits, 8).ok() }
}

/// What is at a path. Answer of `GET /v1/files?stat=true` and of every `PUT /v1/files`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileStat {
    /// The path, or in a listing the name; bytes that are no UTF-8 are replaced, and then `path_b64` holds them.
    pub path: String,
    /// The exact bytes in base64; only where `path` could not hold them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path_b64: Option<String>,
    /// What it is; a link is not followed.
    #[serde(rename = "type")]
    pub kind: FileType,
    /// Length in bytes.
    pub size: u64,
    /// Permission bits (420 is 0644).
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Last change of the content, in seconds since 1970.
    pub mtime: i64,
    /// Nanoseconds after that.
    pub mtime_ns: u32,
    /// What a link points to; bytes that are no UTF-8 are replaced.
    pub link_target: Option<String>,
    /// What a link leads to in the end is a directory.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub leads_to_directory: bool,
}

/// What is at a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FileType {
    /// A regular file.
    File,
    /// A directory.
    Directory,
    /// A symbolic link.
    Symlink,
    /// A named pipe.
    Fifo,
    /// A socket.
    Socket,
    /// A character device.
    CharDevice,
    /// A block device.
    BlockDevice,
    /// A type that this version of the client does not know.
    #[serde(other)]
    Unknown,
}

/// Answer of `GET /v1/files?list=true`: a page of a directory, by name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileList {
    /// What is in it, in the order of names' bytes.
    pub entries: Vec<FileStat>,
    /// There is more: ask again with `after` set to the last name.
    pub more: bool,
}

/// Answer of `PUT /v1/tree`: all of it was extracted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TreeWritten {
    /// Entries.
    pub entries: u64,
    /// Content of files, in bytes, holes left out.
    pub bytes: u64,
    /// Extended attributes that the file system could not take.
    pub xattrs_skipped: u64,
}

/// Query of `/v1/files` and `/v1/tree`. Its own reading, since a path is bytes and need not be UTF-8.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FileQuery {
    /// Absolute path.
    pub path: Option<Vec<u8>>,
    /// `GET`: what is there, and not its content.
    pub stat: bool,
    /// `GET`: what is in the directory.
    pub list: bool,
    /// `list`: names after this one.
    pub after: Option<Vec<u8>>,
    /// `PUT`: permission bits.
    pub mode: Option<u32>,
    /// `PUT`: `UID[:GID]` or names.
    pub owner: Option<String>,
    /// `PUT`: make the directories that are missing on the way, mode 0755.
    pub create_dirs: bool,
    /// `PUT` with `type=directory`: make a directory.
    pub directory: bool,
    /// `DELETE`: with all that is in it.
    pub recursive: bool,
}

impl FileQuery {
    /// A query for this path.
    #[must_use]
    pub fn path(path: impl Into<Vec<u8>>) -> Self {
        Self { path: Some(path.into()), ..Self::default() }
    }

    /// Reads the part of a URI after `?`.
    ///
    /// # Errors
    /// A sentence that names the key that is wrong or unknown.
    pub fn parse(query: &str) -> Result<Self, String> {
        let mut parsed = Self::default();
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            let bytes = decode(value).ok_or_else(|| format!("`{key}` has a `%` without two hexadecimal digits"))?;
            let text = || String::from_utf8(bytes.clone()).map_err(|_| format!("`{key}` is no UTF-8"));
            let flag = || match bytes.as_slice() {
                b"true" | b"1" | b"" => Ok(true),
                b"false" | b"0" => Ok(false),
                _ => Err(format!("`{key}` is neither true nor false")),
            };
            match key {
                "path" => parsed.path = Some(bytes),
                "after" => parsed.after = Some(bytes),
                "stat" => parsed.stat = flag()?,
                "list" => parsed.list = flag()?,
                "create_dirs" => parsed.create_dirs = flag()?,
                "recursive" => parsed.recursive = flag()?,
                "owner" => parsed.owner = Some(text()?),
                "mode" => {
                    let mode = octal(&text()?).filter(|mode| *mode <= 0o7777);
                    parsed.mode = Some(mode.ok_or("`mode` is no octal number up to 7777")?);
                }
                "type" => match bytes.as_slice() {
                    b"directory" => parsed.directory = true,
                    b"file" => parsed.directory = false,
                    _ => return Err("`type` is neither file nor directory".to_owned()),
                },
                _ => return Err(format!("there is no `{key}` here")),
            }
        }
        Ok(parsed)
    }

    /// The same as the part of a URI after `?`.
    #[must_use]
    pub fn encode(&self) -> String {
        let mut pairs = Vec::new();
        let mut pair = |key: &str, value: &[u8]| pairs.push(format!("{key}={}", encode(value)));
        if let Some(path) = &self.path {
            pair("path", path);
        }
        if let Some(after) = &self.after {
            pair("after", after);
        }
        if let Some(mode) = self.mode {
            pair("mode", format!("{mode:04o}").as_bytes());
        }
        if let Some(owner) = &self.owner {
            pair("owner", owner.as_bytes());
        }
        if self.directory {
            pair("type", b"directory");
        }
        let flags = [
            ("stat", self.stat),
            ("list", self.list),
            ("create_dirs", self.create_dirs),
            ("recursive", self.recursive),
        ];
        for (key, _) in flags.iter().filter(|(_, set)| *set) {
            pair(key, b"true");
        }
        pairs.join("&")
    }
}

/// Percent-encoding (RFC 3986, section 2.1) of all but unreserved characters and the slash.
fn encode(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len());
    for byte in bytes {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' | b'/' => text.push(char::from(*byte)),
            other => text.push_str(&format!("%{other:02X}")),
        }
    }
    text
}

/// A plus is a space, as in a form: whoever means a plus writes `%2B`, as every library does.
fn decode(text: &str) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((byte, after)) = rest.split_first() {
        rest = after;
        match byte {
            b'%' => {
                let (digits, after) = rest.split_at_checked(2)?;
                let digit = |digit: u8| char::from(digit).to_digit(16);
                bytes.push(u8::try_from(digit(digits[0])? * 16 + digit(digits[1])?).ok()?);
                rest = after;
            }
            b'+' => bytes.push(b' '),
            other => bytes.push(*other),
        }
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_query_names_what_is_wrong_with_it() {
        for (query, says) in [
            ("paht=/x", "paht"),
            ("path=%2", "path"),
            ("path=%zz", "path"),
            ("mode=0999", "mode"),
            ("mode=17777", "mode"),
            ("stat=maybe", "stat"),
            ("type=pipe", "type"),
            ("owner=%ff", "owner"),
        ] {
            let why = FileQuery::parse(query).unwrap_err();
            assert!(why.contains(says), "{query}: {why}");
        }
    }

    #[test]
    fn a_mode_is_octal_text_or_the_bits_themselves() {
        assert_eq!(FileMode::Octal("0644".into()).bits(), Some(0o644));
        assert_eq!(FileMode::Octal("755".into()).bits(), Some(0o755));
        assert_eq!(FileMode::Bits(420).bits(), Some(0o644));
        for wrong in ["", "rwx", "0888", "+644", "77777"] {
            assert_eq!(FileMode::Octal(wrong.into()).bits(), None, "{wrong}");
        }
        assert_eq!(FileMode::Bits(0o10000).bits(), None);
    }

    proptest! {
        #[test]
        fn a_path_of_any_bytes_passes_through_a_query(path in proptest::collection::vec(any::<u8>(), 0..64), mode in 0..=0o7777_u32) {
            let query = FileQuery { mode: Some(mode), list: true, ..FileQuery::path(path) };
            prop_assert_eq!(FileQuery::parse(&query.encode()).unwrap(), query);
        }
    }
}
