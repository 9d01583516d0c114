//! Puts a program together: instructions in their order, and jumps to labels whose places are found at the end.

use std::os::fd::{AsRawFd, BorrowedFd};

use super::instruction::{Arithmetic, Condition, Instruction, Operand, Register, Width};

/// A place in a program. It is made before it is known where it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Label(usize);

/// Functions of the kernel's that programs call, by their numbers in `linux/bpf.h`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Helper {
    /// `bpf_map_lookup_elem(map, key)`: the value's address, or 0
    MapLookup = 1,
    /// `bpf_map_update_elem(map, key, value, flags)`
    MapUpdate = 2,
    /// `bpf_map_delete_elem(map, key)`
    MapDelete = 3,
    /// `bpf_get_socket_cookie(context)`
    GetSocketCookie = 46,
    /// `bpf_setsockopt(context, level, name, value, length)`
    SetSocketOption = 49,
    /// `bpf_sock_ops_cb_flags_set(context, flags)`, Linux 4.16
    SockOpsCallbackFlagsSet = 59,
    /// `bpf_sk_release(socket)`
    SocketRelease = 86,
    /// `bpf_get_netns_cookie(context)`, for sock_addr from Linux 5.7 on, for sock_ops from 5.15
    GetNetnsCookie = 122,
    /// `bpf_sk_assign(context, socket, flags)`, for sk_lookup from Linux 5.9 on
    SocketAssign = 124,
    /// `bpf_ringbuf_reserve(map, size, flags)`, Linux 5.8
    RingReserve = 131,
    /// `bpf_ringbuf_submit(record, flags)`, Linux 5.8
    RingSubmit = 132,
}

/// A program that makes no sense. Only a mistake in guestd leads to one, so its tests see it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AssemblyError {
    /// A jump leads nowhere.
    #[error("instruction {0} jumps to a label that was never placed")]
    Unplaced(usize),
    /// A label is in two places.
    #[error("a label was placed again at instruction {0}")]
    PlacedTwice(usize),
    /// A jump's offset has 16 bits.
    #[error("the jump of instruction {0} is too long")]
    TooFar(usize),
}

/// A program under construction.
#[derive(Debug, Default)]
pub struct Assembler {
    instructions: Vec<Instruction>,
    /// Index of the instruction that each label is before.
    labels: Vec<Option<usize>>,
    /// Jumps whose offset is missing, with what they lead to.
    jumps: Vec<(usize, Label)>,
    failure: Option<AssemblyError>,
}

impl Assembler {
    /// A label to jump to, which [`Assembler::place`] puts somewhere.
    pub fn label(&mut self) -> Label {
        self.labels.push(None);
        Label(self.labels.len() - 1)
    }

    /// The label is here: before the next instruction.
    pub fn place(&mut self, label: Label) {
        let here = self.instructions.len();
        if self.labels[label.0].replace(here).is_some() {
            self.failure.get_or_insert(AssemblyError::PlacedTwice(here));
        }
    }

    /// `destination = operand`
    pub fn set(&mut self, destination: Register, operand: impl Into<Operand>) {
        self.calculate(Arithmetic::Move, destination, operand);
    }

    /// `destination = destination OP operand`
    pub fn calculate(&mut self, operation: Arithmetic, destination: Register, operand: impl Into<Operand>) {
        self.instructions.push(Instruction::calculate(operation, destination, operand.into()));
    }

    /// `destination = *(width *)(base + offset)`
    pub fn load(&mut self, width: Width, destination: Register, base: Register, offset: i16) {
        self.instructions.push(Instruction::load(width, destination, base, offset));
    }

    /// `*(width *)(base + offset) = operand`
    pub fn store(&mut self, width: Width, base: Register, offset: i16, operand: impl Into<Operand>) {
        self.instructions.push(Instruction::store(width, base, offset, operand.into()));
    }

    /// `*(u32 *)(base + offset) += operand`, whatever other processors do meanwhile.
    pub fn add_atomically(&mut self, base: Register, offset: i16, operand: Register) {
        self.instructions.push(Instruction::add_atomically(base, offset, operand));
    }

    /// Between host and network order, of 16 or 32 bits.
    pub fn swap_network_order(&mut self, register: Register, width: Width) {
        let bits = match width {
            Width::U8 => return,
            Width::U16 => 16,
            Width::U32 => 32,
            Width::U64 => 64,
        };
        self.instructions.push(Instruction::swap_network_order(register, bits));
    }

    /// `destination = value`, where it may have more than 31 bits.
    pub fn set_wide(&mut self, destination: Register, value: u64) {
        self.instructions.extend(Instruction::set_wide(destination, value));
    }

    /// `destination = map`. The descriptor must be open until the program is loaded, which then holds the map itself.
    pub fn load_map(&mut self, destination: Register, map: BorrowedFd<'_>) {
        self.instructions.extend(Instruction::load_map(destination, map.as_raw_fd()));
    }

    /// `destination = the stack's address + offset`
    pub fn stack_address(&mut self, destination: Register, offset: i16) {
        self.set(destination, Register::R10);
        self.calculate(Arithmetic::Add, destination, i32::from(offset));
    }

    /// R0 is the address of what the map has for the key at `offset` of the stack, or 0.
    pub fn look_up(&mut self, map: BorrowedFd<'_>, offset: i16) {
        self.load_map(Register::R1, map);
        self.stack_address(Register::R2, offset);
        self.call(Helper::MapLookup);
    }

    /// R0 is the address of a record of so many bytes to be filled; goes to `full` where the ring has no room.
    pub fn reserve(&mut self, ring: BorrowedFd<'_>, bytes: i32, full: Label) {
        self.load_map(Register::R1, ring);
        self.set(Register::R2, bytes);
        self.set(Register::R3, 0);
        self.call(Helper::RingReserve);
        self.jump_if(Condition::Equal, Register::R0, 0, full);
    }

    /// Hands out the record at R0.
    pub fn submit(&mut self) {
        self.set(Register::R1, Register::R0);
        self.set(Register::R2, 0);
        self.call(Helper::RingSubmit);
    }

    /// Calls a function of the kernel's: arguments in R1 and on, result in R0.
    pub fn call(&mut self, helper: Helper) {
        self.instructions.push(Instruction::call(helper as i32));
    }

    /// Goes on at `to`.
    pub fn jump(&mut self, to: Label) {
        self.jumps.push((self.instructions.len(), to));
        self.instructions.push(Instruction::jump(0));
    }

    /// Goes on at `to` if `left CONDITION right`.
    pub fn jump_if(&mut self, condition: Condition, left: Register, right: impl Into<Operand>, to: Label) {
        self.jumps.push((self.instructions.len(), to));
        self.instructions.push(Instruction::jump_if(condition, left, right.into(), 0));
    }

    /// Ends the program; R0 is its result.
    pub fn exit(&mut self) {
        self.instructions.push(Instruction::exit());
    }

    /// The program with all jumps filled in.
    ///
    /// # Errors
    /// A label is nowhere, in two places, or too far away.
    pub fn finish(mut self) -> Result<Vec<Instruction>, AssemblyError> {
        if let Some(failure) = self.failure {
            return Err(failure);
        }
        for (from, label) in self.jumps {
            let to = self.labels[label.0].ok_or(AssemblyError::Unplaced(from))?;
            // Counted from the instruction after the jump.
            let distance = to as i64 - (from as i64 + 1);
            let offset = i16::try_from(distance).map_err(|_| AssemblyError::TooFar(from))?;
            self.instructions[from] = self.instructions[from].with_offset(offset);
        }
        Ok(self.instructions)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use Register::{R0, R1};

    #[test]
    fn jumps_lead_to_their_labels_forward_and_backward_and_over_wide_instructions() {
        let mut program = Assembler::default();
        let (begin, end) = (program.label(), program.label());
        program.place(begin);
        program.jump_if(Condition::Equal, R1, 7, end);
        program.load_map(R1, std::io::stdin().lock().as_fd());
        program.jump(begin);
        program.place(end);
        program.exit();
        let program = program.finish().unwrap();
        assert_eq!(program.len(), 5);
        assert_eq!(program[0], Instruction::jump_if(Condition::Equal, R1, 7.into(), 3));
        assert_eq!(program[3], Instruction::jump(-4));
    }

    #[test]
    fn label_that_is_nowhere_or_in_two_places_or_too_far_is_an_error() {
        let mut nowhere = Assembler::default();
        let label = nowhere.label();
        nowhere.set(R0, 1);
        nowhere.jump(label);
        assert_eq!(nowhere.finish(), Err(AssemblyError::Unplaced(1)));

        let mut twice = Assembler::default();
        let label = twice.label();
        twice.place(label);
        twice.exit();
        twice.place(label);
        assert_eq!(twice.finish(), Err(AssemblyError::PlacedTwice(1)));

        let far = |instructions: usize| {
            let mut far = Assembler::default();
            let label = far.label();
            far.jump(label);
            (0..instructions).for_each(|_| far.set(R0, 1));
            far.place(label);
            far.finish()
        };
        assert!(far(32_767).is_ok());
        assert_eq!(far(32_768), Err(AssemblyError::TooFar(0)));
    }

    use std::os::fd::AsFd;
}
