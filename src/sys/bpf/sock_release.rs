//! What programs are given when a process lets go of a socket for the last time: fields of `struct bpf_sock`, by their offsets in
//! `linux/bpf.h`; and how those begin that know some listeners by their cookies.
//!
//! By it the end is told of listeners that are older than the programs of [`super::sock_ops`], at next to no cost: nothing but this is
//! called for the sockets of others. It is not called for sockets that the kernel holds for itself, such as those below a multipath
//! one (MPTCP), or of its own NFS server.

use std::os::fd::BorrowedFd;

use super::{
    Assembler, Condition, Helper, Label,
    Register::{R0, R1, R2, R6, R10},
    Width,
};

const PROTOCOL: i16 = 12;
const STATE: i16 = 72;
/// States of a socket that listens, and of one that did and was shut down.
const TCP_LISTEN: i32 = 10;
const TCP_CLOSE: i32 = 7;

/// Goes on where the socket's cookie is a key of `table`, with R0 at its value, and to `other` at all else. R6 is the context from here on, the stack's
/// 8 bytes at `cookie` are the key.
pub(super) fn find(code: &mut Assembler, table: BorrowedFd<'_>, cookie: i16, other: Label) {
    let candidate = code.label();
    code.set(R6, R1);
    code.load(Width::U32, R2, R6, PROTOCOL);
    code.jump_if(Condition::Different, R2, libc::IPPROTO_TCP, other);
    code.load(Width::U32, R2, R6, STATE);
    code.jump_if(Condition::Equal, R2, TCP_LISTEN, candidate);
    code.jump_if(Condition::Different, R2, TCP_CLOSE, other);
    code.place(candidate);
    code.set(R1, R6);
    code.call(Helper::GetSocketCookie);
    code.store(Width::U64, R10, cookie, R0);
    code.look_up(table, cookie);
    code.jump_if(Condition::Equal, R0, 0, other);
}
