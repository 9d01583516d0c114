//! Findings that are meant to be so: a TOML file of them, each with its reason. Pure, but for the reading of the file.
//!
//! ```toml
//! [[waiver]]
//! rule = "ssh-host-key"
//! path = "/etc/ssh/ssh_host_ed25519_key*"   # `*` and `?` within a name, `**` for any number of directories
//! reason = "all VMs of this image are to answer with one host key"
//! ```

use std::{
    fs::File,
    io::Read as _,
    path::{Path, PathBuf},
};

use super::pattern;
use crate::limits;

/// A finding that is meant to be so.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Waiver {
    pub(super) rule: String,
    pub(super) path: String,
    reason: String,
    used: bool,
}

/// All of a file.
#[derive(Debug, Default)]
pub(super) struct Waivers(Vec<Waiver>);

/// Why a file of waivers cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("{path}: {why}", path = path.display())]
pub struct WaiverError {
    path: PathBuf,
    why: String,
}

impl Waivers {
    pub(super) fn load(path: &Path) -> Result<Self, WaiverError> {
        let failed = |why| WaiverError { path: path.to_owned(), why };
        let mut text = String::new();
        let read = File::open(path).and_then(|file| file.take(limits::LINT_WAIVER_BYTES + 1).read_to_string(&mut text));
        let length = read.map_err(|error| failed(format!("the waivers cannot be read: {error}")))?;
        if length as u64 > limits::LINT_WAIVER_BYTES {
            return Err(failed(format!("it is larger than {} bytes", limits::LINT_WAIVER_BYTES)));
        }
        Self::parse(&text).map_err(failed)
    }

    fn parse(text: &str) -> Result<Self, String> {
        let table: toml::Table = text.parse().map_err(|error: toml::de::Error| {
            let line = error.span().map_or(1, |span| text[..span.start].matches('\n').count() + 1);
            format!("is no TOML at line {line}: {}", error.message())
        })?;
        let mut waivers = Vec::new();
        for (key, value) in &table {
            let tables = value.as_array().filter(|_| key == "waiver");
            let tables = tables.ok_or_else(|| format!("`{key}` is not known; waivers are tables `[[waiver]]`"))?;
            for (at, value) in tables.iter().enumerate() {
                waivers.push(Waiver::of(value).map_err(|why| format!("waiver {}: {why}", at + 1))?);
            }
        }
        Ok(Self(waivers))
    }

    /// The reason that a finding is waived for, by the first waiver that fits it.
    pub(super) fn reason_for(&mut self, rule: &str, path: &str) -> Option<String> {
        let waiver = self.0.iter_mut().find(|waiver| waiver.rule == rule && pattern::path_fits(&waiver.path, path))?;
        waiver.used = true;
        Some(waiver.reason.clone())
    }

    /// Those that have waived nothing.
    pub(super) fn unused(&self) -> impl Iterator<Item = &Waiver> {
        self.0.iter().filter(|waiver| !waiver.used)
    }
}

impl Waiver {
    fn of(value: &toml::Value) -> Result<Self, String> {
        let table = value.as_table().ok_or("it is no table")?;
        if let Some(key) = table.keys().find(|key| !matches!(key.as_str(), "rule" | "path" | "reason")) {
            return Err(format!("`{key}` is not known; a waiver has `rule`, `path` and `reason`"));
        }
        let text = |key: &str| {
            let text = table.get(key).and_then(toml::Value::as_str).map(str::trim).filter(|text| !text.is_empty());
            text.map(str::to_owned).ok_or_else(|| format!("it wants `{key}`, a text"))
        };
        let waiver = Self { rule: text("rule")?, path: text("path")?, reason: text("reason")?, used: false };
        if !waiver.path.starts_with('/') {
            return Err(format!("`path` is `{}`; it begins with /, the root of the image", waiver.path));
        }
        Ok(waiver)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: &str = "[[waiver]]\nrule = \"ssh-host-key\"\npath = \"/etc/ssh/*\"\nreason = \"by design\"\n";

    #[test]
    fn a_finding_is_waived_by_rule_and_path_and_the_waiver_counts_as_used() {
        let mut waivers = Waivers::parse(ONE).unwrap();
        assert_eq!(waivers.reason_for("ssh-host-key", "/root/key"), None);
        assert_eq!(waivers.reason_for("private-key", "/etc/ssh/key"), None);
        assert_eq!(waivers.unused().count(), 1);
        assert_eq!(waivers.reason_for("ssh-host-key", "/etc/ssh/key").as_deref(), Some("by design"));
        assert_eq!(waivers.unused().count(), 0);
    }

    #[test]
    fn what_is_no_waiver_is_said_with_its_number() {
        for (text, said) in [
            ("rule = 1", "`rule` is not known; waivers are tables `[[waiver]]`"),
            ("[waiver]\nrule = \"x\"", "`waiver` is not known"),
            ("[[waiver]]\nrule = \"x\"\npath = \"/\"", "waiver 1: it wants `reason`, a text"),
            ("[[waiver]]\nrule = \"x\"\npath = \"/\"\nreason = \" \"", "waiver 1: it wants `reason`, a text"),
            ("[[waiver]]\nrule = \"x\"\npath = \"etc\"\nreason = \"y\"", "it begins with /"),
            ("[[waiver]]\npaths = \"x\"", "waiver 1: `paths` is not known"),
            ("\n[[waiver\n", "is no TOML at line 2"),
        ] {
            let error = Waivers::parse(text).unwrap_err();
            assert!(error.contains(said), "{text}: {error}");
        }
    }

    #[test]
    fn a_file_that_is_not_there_is_an_error_that_names_it() {
        let error = Waivers::load(Path::new("/nowhere/waivers.toml")).unwrap_err().to_string();
        assert!(error.starts_with("/nowhere/waivers.toml: the waivers cannot be read: "), "{error}");
    }
}
