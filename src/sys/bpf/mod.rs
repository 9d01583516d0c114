//! eBPF programs that guestd writes itself, instruction by instruction: no compiler, no object files, no BTF.
//!
//! ```text
//!   Assembler ──> [Instruction] ──> Program (verified by the kernel) ──> Link
//!                      └─ names ──> Map ──> Ring: records, as programs write them
//! ```
//!
//! Each room is one step. A kind of program has a room of its own, which knows its context and its records:
//! [`ListenEvents`] tells of listeners, [`steer`] gives connections to another socket than the one that they would find. Programs, maps and links live as long as the descriptors here: nothing is pinned, so
//! that nothing is left in the kernel when the agent ends, however it ends.

mod assembler;
mod instruction;
mod listen;
mod map;
mod memory;
mod missing;
mod object;
mod program;
mod ring;
mod sock_ops;
mod sock_release;
pub mod steer;

pub use assembler::{Assembler, AssemblyError, Helper, Label};
pub use instruction::{Arithmetic, Condition, Instruction, Operand, Register, Width};
pub use listen::{Change, ListenEvent, ListenEvents};
pub use map::Map;
pub use missing::Missing;
pub use object::BpfError;
pub use program::{Link, Program, ProgramKind, attached_to_cgroup};
pub use ring::{Ring, Taken};

use missing::open_cgroup;
