//! The encodings of BPF instructions (Documentation/bpf/standardization/instruction-set.rst of the kernel).
//!
//! Eight bytes each: opcode, registers (destination in the low four bits), offset and immediate in the machine's byte order.
//! Only what the programs use has a name; all calculation is 64-bit, which every kernel with BPF has.

use std::fmt;

/// A register. R0 takes results, R1 to R5 arguments of calls, which destroy them; R6 to R9 are kept; R10 is the frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names are the document's own")]
pub enum Register {
    R0,
    R1,
    R2,
    R3,
    R4,
    R5,
    R6,
    R7,
    R8,
    R9,
    R10,
}

/// Width of a load or store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Width {
    /// 32 bits (BPF_W).
    U32 = 0x00,
    /// 16 bits (BPF_H).
    U16 = 0x08,
    /// 8 bits (BPF_B).
    U8 = 0x10,
    /// 64 bits (BPF_DW).
    U64 = 0x18,
}

/// What is calculated: `destination = destination OP operand`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Arithmetic {
    /// Sum.
    Add = 0x00,
    /// Difference.
    Subtract = 0x10,
    /// Bitwise or.
    Or = 0x40,
    /// Bitwise and.
    And = 0x50,
    /// Shifted to the right, zeros coming in.
    ShiftRight = 0x70,
    /// The operand itself.
    Move = 0xb0,
}

/// When a jump is taken: `destination CONDITION operand`, unsigned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Condition {
    /// `==`
    Equal = 0x10,
    /// `>`
    Greater = 0x20,
    /// `&`, not 0
    AnyBit = 0x40,
    /// `!=`
    Different = 0x50,
}

/// The second operand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operand {
    /// A register's value.
    Register(Register),
    /// This value, sign-extended to 64 bits.
    Immediate(i32),
}

impl From<Register> for Operand {
    fn from(register: Register) -> Self {
        Self::Register(register)
    }
}

impl From<i32> for Operand {
    fn from(value: i32) -> Self {
        Self::Immediate(value)
    }
}

impl Operand {
    /// BPF_X or BPF_K, register, immediate.
    fn parts(self) -> (u8, Register, i32) {
        match self {
            Self::Register(register) => (REGISTER_OPERAND, register, 0),
            Self::Immediate(value) => (0, Register::R0, value),
        }
    }
}

/// Classes of the opcode's low three bits.
const LD: u8 = 0x00;
const LDX: u8 = 0x01;
const ST: u8 = 0x02;
const STX: u8 = 0x03;
const JMP: u8 = 0x05;
const ALU64: u8 = 0x07;
const ALU: u8 = 0x04;
/// Modes of loads and stores.
const IMM: u8 = 0x00;
const MEM: u8 = 0x60;
const ATOMIC: u8 = 0xc0;
/// BPF_END with BPF_TO_BE.
const TO_BIG_ENDIAN: u8 = 0xd8;
/// BPF_X.
const REGISTER_OPERAND: u8 = 0x08;
const CALL: u8 = 0x80;
const EXIT: u8 = 0x90;
/// Source register of a 64-bit immediate that stands for a map's descriptor (BPF_PSEUDO_MAP_FD).
const MAP_DESCRIPTOR: Register = Register::R1;

/// One instruction, as the kernel takes it.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(transparent)]
pub struct Instruction([u8; 8]);

impl Instruction {
    fn new(opcode: u8, destination: Register, source: Register, offset: i16, immediate: i32) -> Self {
        let (destination, source) = (destination as u8, source as u8);
        // On a big-endian machine the two halves of the byte change places.
        let registers =
            if cfg!(target_endian = "little") { source << 4 | destination } else { destination << 4 | source };
        let ([a, b], [c, d, e, f]) = (offset.to_ne_bytes(), immediate.to_ne_bytes());
        Self([opcode, registers, a, b, c, d, e, f])
    }

    /// `destination = destination OP operand`
    pub(super) fn calculate(operation: Arithmetic, destination: Register, operand: Operand) -> Self {
        let (form, source, immediate) = operand.parts();
        Self::new(ALU64 | form | operation as u8, destination, source, 0, immediate)
    }

    /// `destination = *(width *)(base + offset)`, extended by zeros.
    pub(super) fn load(width: Width, destination: Register, base: Register, offset: i16) -> Self {
        Self::new(LDX | MEM | width as u8, destination, base, offset, 0)
    }

    /// `*(width *)(base + offset) = operand`
    pub(super) fn store(width: Width, base: Register, offset: i16, operand: Operand) -> Self {
        let (_, source, immediate) = operand.parts();
        let class = if matches!(operand, Operand::Register(_)) { STX } else { ST };
        Self::new(class | MEM | width as u8, base, source, offset, immediate)
    }

    /// `*(u32 *)(base + offset) += operand`, in one step that no other processor comes between.
    ///
    /// The immediate says which calculation, and 0 is the sum: what was BPF_XADD before Linux 5.12 has the same bytes.
    pub(super) fn add_atomically(base: Register, offset: i16, operand: Register) -> Self {
        Self::new(STX | ATOMIC | Width::U32 as u8, base, operand, offset, 0)
    }

    /// `register = the lower bits of it, swapped if the machine is little-endian`, the others zeros: between host and network order.
    pub(super) fn swap_network_order(register: Register, bits: i32) -> Self {
        Self::new(ALU | TO_BIG_ENDIAN, register, Register::R0, 0, bits)
    }

    /// `destination = value`, 64 bits of it, which takes two instructions.
    pub(super) fn set_wide(destination: Register, value: u64) -> [Self; 2] {
        let [low, high] = [value as u32, (value >> 32) as u32].map(u32::cast_signed);
        [
            Self::new(LD | IMM | Width::U64 as u8, destination, Register::R0, 0, low),
            Self::new(0, Register::R0, Register::R0, 0, high),
        ]
    }

    /// `destination = the map`, which takes two instructions.
    pub(super) fn load_map(destination: Register, descriptor: i32) -> [Self; 2] {
        [
            Self::new(LD | IMM | Width::U64 as u8, destination, MAP_DESCRIPTOR, 0, descriptor),
            Self::new(0, Register::R0, Register::R0, 0, 0),
        ]
    }

    /// Goes on `offset` instructions after the next one.
    pub(super) fn jump(offset: i16) -> Self {
        Self::new(JMP, Register::R0, Register::R0, offset, 0)
    }

    /// The same, if `left CONDITION right`.
    pub(super) fn jump_if(condition: Condition, left: Register, right: Operand, offset: i16) -> Self {
        let (form, source, immediate) = right.parts();
        Self::new(JMP | form | condition as u8, left, source, offset, immediate)
    }

    /// Calls a function of the kernel's (bpf-helpers(7)).
    pub(super) fn call(helper: i32) -> Self {
        Self::new(JMP | CALL, Register::R0, Register::R0, 0, helper)
    }

    /// Ends the program with R0 as its result.
    pub(super) fn exit() -> Self {
        Self::new(JMP | EXIT, Register::R0, Register::R0, 0, 0)
    }

    /// The same jump, of this length.
    pub(super) fn with_offset(self, offset: i16) -> Self {
        let [opcode, registers, _, _, c, d, e, f] = self.0;
        let [a, b] = offset.to_ne_bytes();
        Self([opcode, registers, a, b, c, d, e, f])
    }
}

impl fmt::Debug for Instruction {
    /// As bpftool prints raw instructions.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

#[cfg(all(test, target_endian = "little"))]
mod tests {
    use super::{Operand::Immediate, Register::*, *};

    /// Opcodes by the tables of the document; registers, offset and immediate by its picture of the layout.
    #[test]
    fn encodings_are_those_of_the_instruction_set_document() {
        let hex = |instruction: Instruction| format!("{instruction:?}");
        for (instruction, expected) in [
            // mov64 dst, imm is 0xb7; mov64 dst, src is 0xbf.
            (Instruction::calculate(Arithmetic::Move, R0, Immediate(1)), "b700000001000000"),
            (Instruction::calculate(Arithmetic::Move, R6, R1.into()), "bf16000000000000"),
            (Instruction::calculate(Arithmetic::Add, R2, Immediate(-8)), "07020000f8ffffff"),
            (Instruction::calculate(Arithmetic::Add, R2, R3.into()), "0f32000000000000"),
            (Instruction::calculate(Arithmetic::Subtract, R9, Immediate(2)), "1709000002000000"),
            (Instruction::calculate(Arithmetic::Or, R2, Immediate(4)), "4702000004000000"),
            (Instruction::calculate(Arithmetic::And, R2, R7.into()), "5f72000000000000"),
            // ldxw 0x61, ldxh 0x69, ldxb 0x71, ldxdw 0x79.
            (Instruction::load(Width::U32, R2, R6, 84), "6162540000000000"),
            (Instruction::load(Width::U16, R2, R6, 2), "6962020000000000"),
            (Instruction::load(Width::U8, R2, R6, 0), "7162000000000000"),
            (Instruction::load(Width::U64, R3, R10, -8), "79a3f8ff00000000"),
            (Instruction::calculate(Arithmetic::ShiftRight, R3, Immediate(24)), "7703000018000000"),
            // be16 and be32 0xdc.
            (Instruction::swap_network_order(R2, 16), "dc02000010000000"),
            // The 32-bit atomic add 0xc3.
            (Instruction::add_atomically(R0, 4, R1), "c310040000000000"),
            // stw 0x62 … with an immediate, stxw 0x63, stxh 0x6b, stxb 0x73, stxdw 0x7b with a register.
            (Instruction::store(Width::U32, R10, -4, Immediate(7)), "620afcff07000000"),
            (Instruction::store(Width::U32, R0, 0, R7.into()), "6370000000000000"),
            (Instruction::store(Width::U16, R0, 4, R1.into()), "6b10040000000000"),
            (Instruction::store(Width::U8, R0, 6, R1.into()), "7310060000000000"),
            (Instruction::store(Width::U64, R10, -16, R8.into()), "7b8af0ff00000000"),
            // ja 0x05, jeq 0x15 and 0x1d, jgt 0x25, jset 0x45, jne 0x55 and 0x5d, call 0x85, exit 0x95.
            (Instruction::jump(3), "0500030000000000"),
            (Instruction::jump_if(Condition::Equal, R1, Immediate(11), 5), "150105000b000000"),
            (Instruction::jump_if(Condition::Equal, R1, R2.into(), -2), "1d21feff00000000"),
            (Instruction::jump_if(Condition::Greater, R1, Immediate(9), 1), "2501010009000000"),
            (Instruction::jump_if(Condition::AnyBit, R1, Immediate(4), 1), "4501010004000000"),
            (Instruction::jump_if(Condition::Different, R1, Immediate(10), 1), "550101000a000000"),
            (Instruction::call(131), "8500000083000000"),
            (Instruction::exit(), "9500000000000000"),
        ] {
            assert_eq!(hex(instruction), expected);
        }
        // lddw with source 1: the map of this descriptor.
        assert_eq!(Instruction::load_map(R1, 5).map(hex), ["1811000005000000", "0000000000000000"]);
        // lddw with source 0: the immediates are the value.
        let wide = Instruction::set_wide(R1, 0x1122_3344_5566_7788).map(hex);
        assert_eq!(wide, ["1801000088776655", "0000000044332211"]);
        assert_eq!(hex(Instruction::jump(0).with_offset(-3)), "0500fdff00000000");
    }
}
