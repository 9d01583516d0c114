//! Counts the listeners of each port of one network namespace, inside of listen(2) and of the listener's end.
//!
//! ```text
//!   listens ── not ours? ──> end              ends (a wish to be told was left when it began)
//!      │                                        │
//!      └─> in the table already: out of it, uncount <─┘ ──> it ended: end
//!              │
//!          class by address ── none ──> end
//!              │
//!          into the table ── it is there: another counted it ──> end
//!              │         └── no room: steering is in doubt as a whole, and that is told once ──> end
//!              └─> count
//! ```
//!
//! Who puts a socket into the table counts it, and who takes it out uncounts it, be it this program or guestd with what it finds
//! at its start: whichever comes first, each socket counts once. A count is added before `changes`.
//!
//! The kernel calls it when the socket is in its table and listen(2) has not returned, and before it takes it out again. Of a listener that is
//! older it tells neither; the end of those is told by a second program, which is called when the last descriptor is closed.

use std::os::fd::BorrowedFd;

use super::ports::{CHANGES, Class, Doubt, V4, V6, V6_LOOPBACK};
use crate::sys::bpf::{
    Arithmetic, Assembler, AssemblyError, Condition, Helper, Instruction, Label,
    Register::{R0, R1, R2, R3, R4, R6, R7, R8, R9, R10},
    Width,
    map::NO_EXIST,
    sock_ops::{FAMILY, LOCAL_IP4, LOCAL_IP6, LOCAL_PORT, ask_for_changes, tell_apart},
    sock_release,
};

/// On the stack: the socket's cookie; how it is counted (port, class); a port as a key.
const COOKIE: i16 = -8;
const PORT: i16 = -16;
const CLASS: i16 = -12;
const KEY: i16 = -24;

/// Bytes of a record of the alarm's ring, which says nothing but that it is there.
const ALARM: i32 = 8;

/// The program. `listeners` is the table, `alarm` the ring by which it is told that it is full, `own` the namespace's cookie, where the
/// kernel tells it to such programs.
pub(super) fn program(
    ports: BorrowedFd<'_>,
    listeners: BorrowedFd<'_>,
    alarm: BorrowedFd<'_>,
    own: Option<u64>,
) -> Result<Vec<Instruction>, AssemblyError> {
    let mut code = Assembler::default();
    let [listens, known, fresh, full, end] = std::array::from_fn(|_| code.label());
    // R9 is whether the socket listens.
    tell_apart(&mut code, listens, end);
    // The namespace is not asked for: what is in the table is ours.
    code.set(R9, 0);
    code.jump(known);

    code.place(listens);
    code.set(R9, 1);
    if let Some(own) = own {
        code.set(R1, R6);
        code.call(Helper::GetNetnsCookie);
        code.set_wide(R1, own);
        code.jump_if(Condition::Different, R0, R1, end);
    }

    code.place(known);
    code.set(R1, R6);
    code.call(Helper::GetSocketCookie);
    code.store(Width::U64, R10, COOKIE, R0);
    code.look_up(listeners, COOKIE);
    code.jump_if(Condition::Equal, R0, 0, fresh);
    uncount(&mut code, ports, listeners, fresh);

    code.place(fresh);
    code.jump_if(Condition::Equal, R9, 0, end);
    classify(&mut code, end);
    ask_for_changes(&mut code);
    code.load(Width::U32, R7, R6, LOCAL_PORT);
    code.store(Width::U32, R10, PORT, R7);
    code.store(Width::U32, R10, CLASS, R8);
    code.load_map(R1, listeners);
    code.stack_address(R2, COOKIE);
    code.stack_address(R3, PORT);
    code.set(R4, NO_EXIST as i32);
    code.call(Helper::MapUpdate);
    code.jump_if(Condition::Equal, R0, -libc::EEXIST, end);
    code.jump_if(Condition::Different, R0, 0, full);
    count(&mut code, ports, 1);
    code.jump(end);

    code.place(full);
    code.store(Width::U32, R10, KEY, 0);
    code.look_up(ports, KEY);
    code.jump_if(Condition::Equal, R0, 0, end);
    code.load(Width::U32, R1, R0, Doubt::Full as i16);
    code.jump_if(Condition::Different, R1, 0, end);
    code.store(Width::U32, R0, Doubt::Full as i16, 1);
    // No room: one is there that was not read yet.
    code.reserve(alarm, ALARM, end);
    code.store(Width::U64, R0, 0, 0);
    code.submit();

    code.place(end);
    code.set(R0, 1);
    code.exit();
    code.finish()
}

/// The same for listeners that are older than that one: a program for the end of sockets.
pub(super) fn release_program(
    ports: BorrowedFd<'_>,
    listeners: BorrowedFd<'_>,
) -> Result<Vec<Instruction>, AssemblyError> {
    let mut code = Assembler::default();
    let end = code.label();
    sock_release::find(&mut code, listeners, COOKIE, end);
    uncount(&mut code, ports, listeners, end);
    code.place(end);
    code.set(R0, 1);
    code.exit();
    code.finish()
}

/// Takes the socket whose cookie is on the stack out of the table, in which R0 is the address of its value, and uncounts it. Goes to `taken` if another
/// has taken it out meanwhile, who uncounts it.
fn uncount(code: &mut Assembler, ports: BorrowedFd<'_>, listeners: BorrowedFd<'_>, taken: Label) {
    code.load(Width::U32, R7, R0, 0);
    code.load(Width::U32, R8, R0, 4);
    code.load_map(R1, listeners);
    code.stack_address(R2, COOKIE);
    code.call(Helper::MapDelete);
    code.jump_if(Condition::Different, R0, 0, taken);
    count(code, ports, -1);
}

/// Adds `step` to the count of port R7 and class R8, and then 1 to its changes.
fn count(code: &mut Assembler, ports: BorrowedFd<'_>, step: i32) {
    let [v6, loopback, counted, none] = std::array::from_fn(|_| code.label());
    code.store(Width::U32, R10, KEY, R7);
    code.look_up(ports, KEY);
    code.jump_if(Condition::Equal, R0, 0, none);
    code.set(R1, step);
    code.jump_if(Condition::Equal, R8, Class::V6 as i32, v6);
    code.jump_if(Condition::Equal, R8, Class::V6Loopback as i32, loopback);
    code.add_atomically(R0, V4, R1);
    code.jump(counted);
    code.place(v6);
    code.add_atomically(R0, V6, R1);
    code.jump(counted);
    code.place(loopback);
    code.add_atomically(R0, V6_LOOPBACK, R1);
    code.place(counted);
    code.set(R1, 1);
    code.add_atomically(R0, CHANGES, R1);
    code.place(none);
}

/// R8 is the class of the context's local address; goes to `none` if it counts as nothing. As [`Class::of`].
fn classify(code: &mut Assembler, none: Label) {
    let [ipv4, ipv6, mapped, loopback, done] = std::array::from_fn(|_| code.label());
    code.load(Width::U32, R2, R6, FAMILY);
    code.jump_if(Condition::Equal, R2, libc::AF_INET6, ipv6);
    code.jump_if(Condition::Different, R2, libc::AF_INET, none);
    code.load(Width::U32, R2, R6, LOCAL_IP4);
    code.jump(ipv4);

    code.place(ipv6);
    // Unless something else turns up.
    code.set(R8, Class::V6 as i32);
    code.load(Width::U32, R2, R6, LOCAL_IP6);
    code.swap_network_order(R2, Width::U32);
    code.set(R3, R2);
    code.calculate(Arithmetic::ShiftRight, R3, 22);
    code.jump_if(Condition::Equal, R3, 0xfe80 >> 6, none);
    code.load(Width::U32, R3, R6, LOCAL_IP6 + 4);
    code.calculate(Arithmetic::Or, R2, R3);
    code.jump_if(Condition::Different, R2, 0, done);
    // 64 zero bits.
    code.load(Width::U32, R3, R6, LOCAL_IP6 + 8);
    code.swap_network_order(R3, Width::U32);
    code.load(Width::U32, R2, R6, LOCAL_IP6 + 12);
    code.jump_if(Condition::Equal, R3, 0xffff, mapped);
    code.jump_if(Condition::Different, R3, 0, done);
    code.swap_network_order(R2, Width::U32);
    code.jump_if(Condition::Equal, R2, 1, loopback);
    code.jump(done);
    code.place(loopback);
    code.set(R8, Class::V6Loopback as i32);
    code.jump(done);

    code.place(mapped);
    code.place(ipv4);
    code.swap_network_order(R2, Width::U32);
    code.set(R3, R2);
    code.calculate(Arithmetic::ShiftRight, R3, 24);
    code.jump_if(Condition::Equal, R3, 127, none);
    code.calculate(Arithmetic::ShiftRight, R2, 16);
    code.jump_if(Condition::Equal, R2, 0xa9fe, none);
    code.set(R8, Class::V4 as i32);
    code.place(done);
}
