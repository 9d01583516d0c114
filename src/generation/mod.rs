//! Generations: what makes a VM safe to pause, to commit and to branch.
//!
//! A restored VM goes on in the middle of whatever it did, with the random numbers, the clock, the name and the bridged
//! connections of another one. Between the host's two calls, `prepare` before a commit and the announcement of a generation after a restore, no
//! new command is started, and in that time all of this is set right. Owned here: how far that has come, in one task that carries out
//! one call after the other. Refused: to stay closed. Whatever fails, hangs or is killed, the gate opens and the disk thaws.
//!
//! ```text
//!                prepare                                announcement
//!   Running ───────────────> Prepared ──────────────────────────────────> Restoring
//!    ▲ ▲ │                    │ │  the host thaws, or has been silent for     │ │
//!    │ │ │ <──────────────────┘ │  limits::SNAPSHOT_WATCHDOG: the parent      │ │ all steps were tried
//!    │ │ └─────────────────────────────────────────── announcement ──────────>│ │
//!    │ └─────────────────────────────────────────────────────────────────────┘ │
//!    └── the agent was killed in any state: its successor thaws, and in Restoring notes that the announcement is to be made again
//! ```
//!
//! An announcement is known by its id. The present one's again is answered as before, or carried out again where a step failed or
//! the agent was killed in the midst of it; a former one's, and the present one's with another content, are conflicts. Signs of a restore that come
//! without an announcement are kept until there is one, and make the VM degraded.
//!
//! `machine` decides and touches nothing. `steps` says what is done and in which order, `runner` is the task, and what it does
//! to the VM goes through `effects`, with `vm` for a real one.

mod detect;
mod effects;
mod fault;
mod handle;
mod hooks;
mod identity;
mod local;
mod machine;
mod order;
mod runner;
mod saved;
mod steps;
mod vm;

pub use detect::{Detector, LookForRestore};
pub use effects::{Effect, Effects};
pub use handle::{GenerationError, GenerationHandle};
pub use hooks::{Hook, HookStage};
pub use identity::Identity;
pub use machine::{Announcement, Machine, Refusal, Verdict};
pub use order::{BadField, Net, Order};
pub use runner::Generations;
pub use saved::Saved;
pub use steps::Step;
pub use vm::{Parts, Reach, Vm, load};
