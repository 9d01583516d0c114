//! What an agent leaves for its successor in `/run/guestd/state.json`: of no use after the boot, as is what it tells of. Where `/run` is on the
//! disk it is there still, and known by the boot's id; a branch of a running VM is the same boot.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::identity::Identity;
use super::machine::Machine;
use crate::api::{ClockMended, GenerationReport, SnapshotReport};

/// All of it.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Saved {
    /// Where the protocol is.
    pub machine: Machine,
    /// Cgroups of commands that stand still for a commit.
    pub held: Vec<PathBuf>,
    /// Who this VM is, or is about to be.
    pub identity: Identity,
    /// Who it was, as long as an announcement is carried out.
    pub former: Option<Identity>,
    /// The generation of which hooks are to be run after its restore, until they are over.
    pub hooks_due: Option<String>,
    /// The last announcement's report.
    pub report: Option<GenerationReport>,
    /// The last prepare's or thaw's.
    pub snapshot: Option<SnapshotReport>,
    /// Clocks that were mended.
    pub resumed: Vec<ClockMended>,
}

/// A file of it.
#[derive(Debug, Serialize)]
struct Written<'saved> {
    boot: Option<&'saved str>,
    #[serde(flatten)]
    saved: &'saved Saved,
}

/// Whose file it is.
#[derive(Debug, Deserialize)]
struct OfBoot {
    boot: Option<String>,
}

impl Saved {
    /// As it is written in this boot.
    ///
    /// # Errors
    /// It cannot be told in JSON.
    pub(super) fn to_json(&self, boot: Option<&str>) -> serde_json::Result<Vec<u8>> {
        serde_json::to_vec(&Written { boot, saved: self })
    }

    /// What was written in this boot; none where that was another one.
    ///
    /// # Errors
    /// It is not what an agent writes.
    pub(super) fn of_json(text: &[u8], boot: Option<&str>) -> serde_json::Result<Option<Self>> {
        let OfBoot { boot: written } = serde_json::from_slice(text)?;
        if written.is_some() && written.as_deref() != boot {
            return Ok(None);
        }
        serde_json::from_slice(text).map(Some)
    }
}

/// The id of this boot (random(4)), where the kernel tells it.
pub(super) fn boot_id() -> Option<String> {
    std::fs::read_to_string("/proc/sys/kernel/random/boot_id").ok().map(|id| id.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_another_boot_has_left_is_not_taken_for_this_ones() {
        let saved = Saved { hooks_due: Some("g1".to_owned()), ..Saved::default() };
        let text = saved.to_json(Some("one")).unwrap();
        assert_eq!(Saved::of_json(&text, Some("one")).unwrap(), Some(saved.clone()));
        assert_eq!(Saved::of_json(&text, Some("two")).unwrap(), None);
        let untold = saved.to_json(None).unwrap();
        assert_eq!(Saved::of_json(&untold, Some("two")).unwrap(), Some(saved));
        assert!(Saved::of_json(b"[]", None).is_err());
    }
}
