//! The few facts of an ELF file that decide whether it can run in an image: elf(5).

/// What a program needs from the machine and the image that it runs on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Elf {
    /// `e_machine`.
    pub(crate) machine: u16,
    /// Whether it needs a dynamic loader, and so the C library that it was linked with.
    pub(crate) dynamic: bool,
}

/// How much of a file [`Elf::parse`] wants to see: the header and any usual number of program headers.
pub(crate) const HEAD_BYTES: u64 = 8 * 1024;

const EI_CLASS: usize = 4;
const EI_DATA: usize = 5;
const CLASS_64: u8 = 2;
const DATA_LITTLE_ENDIAN: u8 = 1;
const PT_INTERP: u32 = 3;

impl Elf {
    /// Reads the head of a file; `None` when it is not an ELF file.
    pub(crate) fn parse(head: &[u8]) -> Option<Self> {
        if !head.starts_with(b"\x7fELF") {
            return None;
        }
        let fields = Fields { head, little: *head.get(EI_DATA)? == DATA_LITTLE_ENDIAN };
        let (table, size, count) = if *head.get(EI_CLASS)? == CLASS_64 {
            (fields.u64(0x20)?, fields.u16(0x36)?, fields.u16(0x38)?)
        } else {
            (fields.u32(0x1c)?.into(), fields.u16(0x2a)?, fields.u16(0x2c)?)
        };
        let table = usize::try_from(table).ok()?;
        let dynamic = (0..usize::from(count))
            .filter_map(|index| fields.u32(table.checked_add(index * usize::from(size))?))
            .any(|kind| kind == PT_INTERP);
        Some(Self { machine: fields.u16(0x12)?, dynamic })
    }

    /// Name of the machine, as `uname -m` has it.
    pub(crate) fn machine_name(self) -> String {
        match self.machine {
            3 => "i686".to_owned(),
            40 => "arm".to_owned(),
            62 => "x86_64".to_owned(),
            183 => "aarch64".to_owned(),
            243 => "riscv".to_owned(),
            other => format!("ELF machine {other}"),
        }
    }
}

struct Fields<'file> {
    head: &'file [u8],
    little: bool,
}

impl Fields<'_> {
    fn bytes<const N: usize>(&self, at: usize) -> Option<[u8; N]> {
        let mut bytes = *self.head.get(at..)?.first_chunk::<N>()?;
        if !self.little {
            bytes.reverse();
        }
        Some(bytes)
    }

    fn u16(&self, at: usize) -> Option<u16> {
        self.bytes(at).map(u16::from_le_bytes)
    }

    fn u32(&self, at: usize) -> Option<u32> {
        self.bytes(at).map(u32::from_le_bytes)
    }

    fn u64(&self, at: usize) -> Option<u64> {
        self.bytes(at).map(u64::from_le_bytes)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A 64-bit file with one program header of type `kind`.
    fn elf64(machine: u16, kind: u32) -> Vec<u8> {
        let mut head = vec![0; 0x40 + 0x38];
        head[..6].copy_from_slice(b"\x7fELF\x02\x01");
        head[0x12..0x14].copy_from_slice(&machine.to_le_bytes());
        head[0x20..0x28].copy_from_slice(&0x40_u64.to_le_bytes());
        head[0x36..0x38].copy_from_slice(&0x38_u16.to_le_bytes());
        head[0x38..0x3a].copy_from_slice(&1_u16.to_le_bytes());
        head[0x40..0x44].copy_from_slice(&kind.to_le_bytes());
        head
    }

    #[test]
    fn static_and_dynamic_programs_are_told_apart() {
        assert_eq!(Elf::parse(&elf64(62, 1)), Some(Elf { machine: 62, dynamic: false }));
        assert_eq!(Elf::parse(&elf64(183, PT_INTERP)), Some(Elf { machine: 183, dynamic: true }));
    }

    #[test]
    fn this_test_is_an_elf_program_of_this_machine() {
        let head = std::fs::read(std::env::current_exe().unwrap()).unwrap();
        assert_eq!(Elf::parse(&head).unwrap().machine_name(), std::env::consts::ARCH);
    }

    #[test]
    fn a_script_is_none() {
        assert_eq!(Elf::parse(b"#!/bin/sh\n"), None);
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_a_panic(mut bytes in prop::collection::vec(any::<u8>(), 0..256), magic: bool) {
            if magic && bytes.len() >= 4 {
                bytes[..4].copy_from_slice(b"\x7fELF");
            }
            let _ = Elf::parse(&bytes);
        }
    }
}
