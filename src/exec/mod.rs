//! Exec: commands run for the host.
//!
//! Owns the life of every command from the request to its last byte of output. A command belongs to the agent, not to the
//! connection that asked for it: a reader that goes away ends nothing. Refused here: shells that nobody asked for, waiting on
//! children in general (each is waited for by its own pidfd), signals by pid, and buffers without a bound.
//!
//! ```text
//!  request ── order ──> claimed ── start ──> running ──────────────> draining ──> over
//!             │ refused    │ limit,   │ refused  │ time-out, shutdown  ▲ ▲  exit frame sent;
//!             ▼            ▼ id used  ▼          ▼                     │ │  a daemon's output is
//!          ExecError    ExecError  ExecError   ending: TERM, KILL ─────┘ │  thrown away from here on
//!                                              └── the command ends ─────┘
//! ```
//!
//! `order` and `environment` decide and touch nothing, `accounts` and `program` look things up, `start` makes the process,
//! `session` is the one task that owns a command's life, with `output` for its pipes, `sink` for who reads them and `tree` for
//! ending all that it started. `table` knows which run.

mod accounts;
mod environment;
mod error;
mod execs;
mod order;
mod output;
mod program;
mod session;
mod sink;
mod start;
mod table;
mod tree;

pub use crate::sys::cgroup::{CgroupParent, CgroupUnavailable};
pub use error::ExecError;
pub use execs::{ExecConfig, ExecStream, Execs};
pub use table::ExecCounters;
