//! Gives IPv6 connections of ports without an IPv6 listener to the bridge's own, before the kernel looks for one.
//!
//! The kernel calls it for packets that belong to no connection: what it chooses takes a SYN as a listener of that port
//! would, and the connection that comes of it has the address and the port that the client meant. Whatever is not as expected is
//! left to the kernel (result 1, nothing chosen), which then finds what it would find without guestd.
//!
//! ```text
//!   IPv6, TCP, the port has a flag, no IPv6 listener, not to fe80::/10
//!      ├─ RULE: to [::1]? then no NOT_LOOPBACK, no listener there ─────────┐
//!      └─ AUTO: an IPv4 listener; not by loopback, not from an own address ┴─> no doubt ─> STEERED, choose the bridge's socket
//! ```
//!
//! Link-local destinations are left alone because listeners there are not counted: one that is there would be stolen from.

use std::os::fd::BorrowedFd;

use super::ports::{AUTO, DOUBTS, FLAGS, NOT_LOOPBACK, RULE, STEERED_AT, V4, V6, V6_LOOPBACK};
use crate::sys::bpf::{
    Arithmetic, Assembler, AssemblyError, Condition, Helper, Instruction, Label,
    Register::{R0, R1, R2, R3, R6, R7, R8, R9, R10},
    Width,
};

/// Fields of `struct bpf_sk_lookup`, by their offsets in `linux/bpf.h`.
const FAMILY: i16 = 8;
const PROTOCOL: i16 = 12;
const REMOTE_IP6: i16 = 20;
const LOCAL_IP6: i16 = 44;
const LOCAL_PORT: i16 = 60;
/// Linux 5.17.
const INGRESS_INTERFACE: i16 = 64;
/// The loopback interface is the first of every network namespace (LOOPBACK_IFINDEX).
const LOOPBACK_INTERFACE: i32 = 1;
/// The words of an IPv6 address.
const WORDS: [i16; 4] = [0, 4, 8, 12];
/// On the stack: a key of 32 bits, an address.
const KEY: i16 = -4;
const ADDRESS: i16 = -24;

/// The program. `listener` has the bridge's socket at place 0, `own` the VM's own addresses; `by_interface`: the kernel tells by which
/// one a packet came.
pub(super) fn program(
    ports: BorrowedFd<'_>,
    listener: BorrowedFd<'_>,
    own: BorrowedFd<'_>,
    by_interface: bool,
) -> Result<Vec<Instruction>, AssemblyError> {
    let mut code = Assembler::default();
    let [rule, auto, steer, pass] = std::array::from_fn(|_| code.label());
    // R6 is the context throughout, R7 the port's value.
    code.set(R6, R1);
    code.load(Width::U32, R2, R6, FAMILY);
    code.jump_if(Condition::Different, R2, libc::AF_INET6, pass);
    code.load(Width::U32, R2, R6, PROTOCOL);
    code.jump_if(Condition::Different, R2, libc::IPPROTO_TCP, pass);
    code.load(Width::U32, R2, R6, LOCAL_PORT);
    // Port 0 is not a port.
    code.jump_if(Condition::Equal, R2, 0, pass);
    code.store(Width::U32, R10, KEY, R2);
    code.look_up(ports, KEY);
    code.jump_if(Condition::Equal, R0, 0, pass);
    code.set(R7, R0);
    code.load(Width::U32, R8, R7, FLAGS);
    code.jump_if(Condition::Equal, R8, 0, pass);
    code.load(Width::U32, R2, R7, V6);
    code.jump_if(Condition::Different, R2, 0, pass);
    code.load(Width::U32, R9, R6, LOCAL_IP6);
    code.swap_network_order(R9, Width::U32);
    code.set(R2, R9);
    code.calculate(Arithmetic::ShiftRight, R2, 22);
    code.jump_if(Condition::Equal, R2, 0xfe80 >> 6, pass);
    code.jump_if(Condition::AnyBit, R8, RULE as i32, rule);
    code.jump_if(Condition::AnyBit, R8, AUTO as i32, auto);
    code.jump(pass);

    code.place(auto);
    code.load(Width::U32, R2, R7, V4);
    code.jump_if(Condition::Equal, R2, 0, pass);
    from_outside(&mut code, own, by_interface, pass);
    code.jump(steer);

    code.place(rule);
    // To [::1]? R9 is the first word.
    for word in [4, 8] {
        code.load(Width::U32, R2, R6, LOCAL_IP6 + word);
        code.calculate(Arithmetic::Or, R9, R2);
    }
    code.jump_if(Condition::Different, R9, 0, steer);
    code.load(Width::U32, R2, R6, LOCAL_IP6 + 12);
    code.swap_network_order(R2, Width::U32);
    code.jump_if(Condition::Different, R2, 1, steer);
    code.jump_if(Condition::AnyBit, R8, NOT_LOOPBACK as i32, pass);
    code.load(Width::U32, R2, R7, V6_LOOPBACK);
    code.jump_if(Condition::Different, R2, 0, pass);

    code.place(steer);
    code.store(Width::U32, R10, KEY, 0);
    code.look_up(ports, KEY);
    code.jump_if(Condition::Equal, R0, 0, pass);
    // Both doubts at once.
    code.load(Width::U64, R2, R0, DOUBTS);
    code.jump_if(Condition::Different, R2, 0, pass);
    // Place 0, too.
    code.look_up(listener, KEY);
    code.jump_if(Condition::Equal, R0, 0, pass);
    code.set(R8, R0);
    // Before there is a connection. A word of its own, as nothing but this program and one thread of guestd write it.
    code.store(Width::U32, R7, STEERED_AT, 1);
    code.set(R1, R6);
    code.set(R2, R8);
    code.set(R3, 0);
    // If it fails, the kernel goes on looking.
    code.call(Helper::SocketAssign);
    code.set(R1, R8);
    code.call(Helper::SocketRelease);

    code.place(pass);
    code.set(R0, 1);
    code.exit();
    code.finish()
}

/// Goes to `pass` if the connection comes from the VM itself.
///
/// The interface does not tell it alone: what the VM sends to an own address goes by the loopback one, but counts as come
/// by that of the address (`ip6_rcv_core`). Its source is the same address, unless it was bound to another own one.
fn from_outside(code: &mut Assembler, own: BorrowedFd<'_>, by_interface: bool, pass: Label) {
    let other = code.label();
    if by_interface {
        code.load(Width::U32, R2, R6, INGRESS_INTERFACE);
        code.jump_if(Condition::Equal, R2, LOOPBACK_INTERFACE, pass);
    }
    for word in WORDS {
        code.load(Width::U32, R2, R6, REMOTE_IP6 + word);
        code.load(Width::U32, R3, R6, LOCAL_IP6 + word);
        code.jump_if(Condition::Different, R2, R3, other);
    }
    code.jump(pass);
    code.place(other);
    for word in WORDS {
        code.load(Width::U32, R2, R6, REMOTE_IP6 + word);
        code.store(Width::U32, R10, ADDRESS + word, R2);
    }
    code.look_up(own, ADDRESS);
    code.jump_if(Condition::Different, R0, 0, pass);
}
