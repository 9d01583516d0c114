//! What an agent leaves for its successor in `/run/guestd/state.json`: gone with the boot, as is what it tells of.

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
