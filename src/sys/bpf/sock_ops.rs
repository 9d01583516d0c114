//! What sock_ops programs are given: fields of `struct bpf_sock_ops`, by their offsets in `linux/bpf.h`; and how those begin that
//! follow what listens.

use super::{
    Arithmetic, Assembler, Condition, Helper, Label,
    Register::{R1, R2, R6},
    Width,
};

const OP: i16 = 0;
const OLD_STATE: i16 = 4;
pub(super) const FAMILY: i16 = 20;
/// The addresses are in network order.
pub(super) const LOCAL_IP4: i16 = 28;
pub(super) const LOCAL_IP6: i16 = 48;
/// In the machine's order.
pub(super) const LOCAL_PORT: i16 = 68;
const CALLBACK_FLAGS: i16 = 84;
/// `op` of a change of state, and of listen(2).
const STATE_CB: i32 = 10;
const LISTEN_CB: i32 = 11;
/// The wish to be called for changes of state.
const STATE_CB_FLAG: i32 = 1 << 2;
/// State of a socket that listens.
const TCP_LISTEN: i32 = 10;

/// Goes to `listens` where a socket begins to listen, on where one ceases to, and to `other` at all else. R6 is the context from here on.
pub(super) fn tell_apart(code: &mut Assembler, listens: Label, other: Label) {
    code.set(R6, R1);
    code.load(Width::U32, R2, R6, OP);
    code.jump_if(Condition::Equal, R2, LISTEN_CB, listens);
    code.jump_if(Condition::Different, R2, STATE_CB, other);
    code.load(Width::U32, R2, R6, OLD_STATE);
    code.jump_if(Condition::Different, R2, TCP_LISTEN, other);
}

/// Asks to be called for the changes of this socket's state. Setting the flags overwrites all: those that other programs have asked for
/// are kept.
pub(super) fn ask_for_changes(code: &mut Assembler) {
    code.load(Width::U32, R2, R6, CALLBACK_FLAGS);
    code.calculate(Arithmetic::Or, R2, STATE_CB_FLAG);
    code.set(R1, R6);
    code.call(Helper::SockOpsCallbackFlagsSet);
}
