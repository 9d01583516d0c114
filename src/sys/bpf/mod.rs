//! eBPF programs that guestd writes itself, instruction by instruction: no compiler, no object files, no BTF.
//!
//! ```text
//!   Assembler ──> [Instruction] ──> Program (verified by the kernel) ──> CgroupLink
//!                      └─ names ──> Map (a ring) ──> Ring: records, as programs write them
//! ```
//!
//! Each room is one step. A kind of program has a room of its own, which knows its context and its records:
//! [`ListenEvents`] is the only one yet. Programs, maps and links live as long as the descriptors here: nothing is pinned, so
//! that nothing is left in the kernel when the agent ends, however it ends.

mod assembler;
mod instruction;
mod listen;
mod object;
mod ring;

pub use assembler::{Assembler, AssemblyError, Helper, Label};
pub use instruction::{Arithmetic, Condition, Instruction, Operand, Register, Width};
pub use listen::{Change, ListenEvent, ListenEvents, Missing};
pub use object::{BpfError, CgroupLink, Map, Program, ProgramKind, attached_to_cgroup};
pub use ring::{Ring, Taken};
