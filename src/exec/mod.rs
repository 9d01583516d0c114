//! Exec: commands run for the host.
//!
//! Owns the life of every command from the request to its last byte of output. A command belongs to the agent, not to the
//! connection that asked for it: a reader that goes away ends nothing. Refused here: shells that nobody asked for, waiting on
//! children in general (each is waited for by its own pidfd), signals by pid, and buffers without a bound.
//!
//! ```text
//!  request ── order ──> claimed ── start ──> running ──────────────> draining ──> over: a record,
//!             │ refused    │ limit,   │ refused  │ time-out, DELETE,   ▲ ▲        until it is too old
//!             ▼            ▼ id used  ▼          ▼ shutdown            │ │        or there are too many
//!          ExecError    ExecError  ExecError   ending: TERM, KILL ─────┘ │
//!                                              └── the command ends ─────┘
//!
//!  pipes ── output ──> journal: replay ring ──> attachments, logs, the answer of `run`
//!                         └── spill: disk ──────────┘
//! ```
//!
//! Starts wait at a `gate` while the VM is being committed or restored; `fork` says what became of the execs of a restored VM.
//!
//! `order`, `environment`, `signal` and `replay` decide and touch nothing, `accounts` and `program` look things up, `start` makes
//! the process and `io` its streams, `session` is the one task that owns a command's life, with `output` for what it prints,
//! `stdin` for what it is sent and `tree` for ending all that it started. `record` is what others see of an exec, `table` knows
//! all of them, `journal` keeps what each has printed, within the `budget` of all, and `attachment` reads it.

mod accounts;
mod attachment;
mod budget;
mod cleanup;
mod collect;
mod config;
mod ending;
mod environment;
mod error;
mod execs;
mod fork;
mod gate;
mod io;
mod journal;
mod kept_file;
mod logs;
mod order;
mod output;
mod program;
mod record;
mod replay;
mod resources;
mod session;
mod signal;
mod spill;
mod start;
mod stdin;
mod table;
mod terminal;
mod tree;

pub use crate::sys::cgroup::{CgroupParent, CgroupUnavailable, Controller, Controllers, NoControllers};
pub use attachment::{AttachFrom, Attachment, Event};
pub use config::ExecConfig;
pub use error::ExecError;
pub use execs::{ExecGauges, Execs};
pub use fork::{Fork, Held, Inherited};
pub use logs::LogQuery;
pub use record::Exec;
pub use start::CGROUP_PREFIX;
pub use table::ExecCounters;
