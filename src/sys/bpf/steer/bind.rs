//! Lets services bind ports that have connections of the bridge, or may have some soon: sets SO_REUSEADDR for them, inside of bind(2).
//!
//! A connection that was steered has the service's port as its local one, and the kernel refuses a bind beside it unless both sockets have
//! SO_REUSEADDR. Without guestd there would be no such connection, so a service has no cause to ask for it. Two listeners still exclude each
//! other: SO_REUSEADDR does not allow that.
//!
//! The kernel looks once more in listen(2), and a connection may come in between; so it is not enough to look whether there has been one. It
//! is not done for all ports, because of two sockets with SO_REUSEADDR that do not listen yet the second is not refused before
//! its listen(2).
//!
//! For IPv6 sockets alone: the bridge's connections are IPv6-only, and no IPv4 bind minds those.

use std::os::fd::BorrowedFd;

use super::ports::{AUTO, FLAGS, RULE, STEERED_AT, V4};
use crate::sys::bpf::{
    Arithmetic, Assembler, AssemblyError, Condition, Helper, Instruction,
    Register::{R0, R1, R2, R3, R4, R5, R6, R10},
    Width,
};

/// Fields of `struct bpf_sock_addr`, by their offsets in `linux/bpf.h`.
const USER_PORT: i16 = 24;
const PROTOCOL: i16 = 36;
/// On the stack: a port as a key, and then the option's value.
const KEY: i16 = -4;

/// The program. `own` is the namespace's cookie.
pub(super) fn program(ports: BorrowedFd<'_>, own: u64) -> Result<Vec<Instruction>, AssemblyError> {
    let mut code = Assembler::default();
    let [allow, end] = std::array::from_fn(|_| code.label());
    code.set(R6, R1);
    code.load(Width::U32, R2, R6, PROTOCOL);
    code.jump_if(Condition::Different, R2, libc::IPPROTO_TCP, end);
    code.load(Width::U32, R2, R6, USER_PORT);
    code.swap_network_order(R2, Width::U16);
    // Port 0 is "any"; the kernel finds one that nothing else has.
    code.jump_if(Condition::Equal, R2, 0, end);
    code.store(Width::U32, R10, KEY, R2);
    code.set(R1, R6);
    code.call(Helper::GetNetnsCookie);
    code.set_wide(R1, own);
    code.jump_if(Condition::Different, R0, R1, end);
    code.look_up(ports, KEY);
    code.jump_if(Condition::Equal, R0, 0, end);
    code.load(Width::U32, R2, R0, STEERED_AT);
    code.jump_if(Condition::Different, R2, 0, allow);
    // Nothing yet: might it be steered before the socket listens?
    code.load(Width::U32, R2, R0, FLAGS);
    code.jump_if(Condition::AnyBit, R2, RULE as i32, allow);
    code.calculate(Arithmetic::And, R2, AUTO as i32);
    code.jump_if(Condition::Equal, R2, 0, end);
    code.load(Width::U32, R2, R0, V4);
    code.jump_if(Condition::Equal, R2, 0, end);

    code.place(allow);
    code.store(Width::U32, R10, KEY, 1);
    code.set(R1, R6);
    code.set(R2, libc::SOL_SOCKET);
    code.set(R3, libc::SO_REUSEADDR);
    code.stack_address(R4, KEY);
    code.set(R5, size_of::<u32>() as i32);
    // If it fails, the bind is what it would be without us.
    code.call(Helper::SetSocketOption);
    code.place(end);
    // Go on with bind(2).
    code.set(R0, 1);
    code.exit();
    code.finish()
}
