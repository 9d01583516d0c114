//! The superblock of ext4: whether there is one, whether the file system was left clean, whether its sizes can be true. Pure.
//!
//! Offsets are those of the kernel's Documentation/filesystems/ext4/super.rst.

use crate::limits;

/// As much of a file as tells what it is: btrfs and ISO 9660 have their marks behind 32 and 64 KiB.
pub(super) const HEAD_BYTES: usize = 66 * 1024;

/// Where the superblock is, and how long it is.
const START: usize = 1024;
const LENGTH: usize = 1024;

const MAGIC: u16 = 0xef53;

const STATE_VALID: u16 = 1;
const STATE_ERRORS: u16 = 2;
const INCOMPAT_RECOVER: u32 = 0x4;
const INCOMPAT_64BIT: u32 = 0x80;
const RO_COMPAT_ORPHAN_PRESENT: u32 = 0x1_0000;

/// Blocks of 1 to 64 KiB, as powers of two over 1 KiB.
const LARGEST_BLOCK: u32 = 6;

/// The fewest blocks that mke2fs gives a group.
const SMALLEST_GROUP: u64 = 256;

/// What other things than ext4 have, and where.
const OTHERS: &[(usize, &[u8], &str)] = &[
    (512, b"EFI PART", "a disk with partitions"),
    (0, b"QFI\xfb", "a qcow2 disk (`qemu-img convert -O raw` makes a raw one)"),
    (0, b"XFSB", "an XFS file system"),
    (0x1_0040, b"_BHRfS_M", "a btrfs file system"),
    (0, b"hsqs", "a squashfs file system"),
    (1024, &0xe0f5_e1e2_u32.to_le_bytes(), "an EROFS file system"),
    (0x8001, b"CD001", "an ISO 9660 file system"),
    (257, b"ustar", "a tar (unpack it into a directory)"),
    (0, b"\x1f\x8b", "compressed by gzip"),
    (0, b"\x28\xb5\x2f\xfd", "compressed by zstd"),
    (0, b"\xfd7zXZ", "compressed by xz"),
    (510, b"\x55\xaa", "a disk with partitions, or a boot sector"),
];

/// What of the superblock counts here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Superblock {
    blocks: u64,
    first_block: u64,
    log_block_size: u32,
    blocks_per_group: u64,
    state: u16,
    incompat: u32,
    ro_compat: u32,
    last_orphan: u32,
    errors: u32,
}

impl Superblock {
    /// Reads the start of an image; what it seems to be, where it is no ext4.
    pub(super) fn parse(head: &[u8]) -> Result<Self, String> {
        let block = head.get(START..START + LENGTH);
        let fields = block.map(Fields).filter(|fields| fields.u16(0x38) == Some(MAGIC));
        fields.and_then(|fields| Self::of(&fields)).ok_or_else(|| seems(head))
    }

    fn of(fields: &Fields<'_>) -> Option<Self> {
        let incompat = fields.u32(0x60)?;
        let high = if incompat & INCOMPAT_64BIT == 0 { 0 } else { fields.u32(0x150)? };
        Some(Self {
            blocks: u64::from(high) << 32 | u64::from(fields.u32(0x04)?),
            first_block: fields.u32(0x14)?.into(),
            log_block_size: fields.u32(0x18)?,
            blocks_per_group: fields.u32(0x20)?.into(),
            state: fields.u16(0x3a)?,
            incompat,
            ro_compat: fields.u32(0x64)?,
            last_orphan: fields.u32(0xe8)?,
            errors: fields.u32(0x194)?,
        })
    }

    fn block_size(&self) -> u64 {
        1024_u64.checked_shl(self.log_block_size).unwrap_or(u64::MAX)
    }

    fn bytes(&self) -> u64 {
        self.blocks.saturating_mul(self.block_size())
    }

    /// What is not as an unmounted and checked file system has it, a sentence each. `length` is that of the image.
    pub(super) fn faults(&self, length: u64) -> Vec<String> {
        let mut faults = Vec::new();
        let mut fault = |is: bool, text: &str| {
            if is {
                faults.push(text.to_owned());
            }
        };
        fault(
            self.incompat & INCOMPAT_RECOVER != 0,
            "its journal has yet to be replayed: it is mounted, or was not unmounted",
        );
        fault(self.state & STATE_VALID == 0, "it is mounted, or was not unmounted");
        fault(self.state & STATE_ERRORS != 0, "the kernel has found errors in it");
        fault(
            self.last_orphan != 0 || self.ro_compat & RO_COMPAT_ORPHAN_PRESENT != 0,
            "it has files that were deleted while they were open, and not yet let go",
        );
        if self.errors > 0 && self.state & STATE_ERRORS == 0 {
            faults.push(format!("errors were found in it {} times", self.errors));
        }
        if self.bytes() > length {
            faults.push(format!("it has {} bytes and the image only {length}: the image was cut off", self.bytes()));
        }
        faults
    }

    /// Whether a reader may rely on its sizes; else what cannot be true.
    pub(super) fn check(&self, length: u64) -> Result<(), String> {
        if self.log_block_size > LARGEST_BLOCK {
            return Err("its blocks are larger than 64 KiB".to_owned());
        }
        if self.blocks_per_group < SMALLEST_GROUP {
            return Err(format!("it has only {} blocks in a group", self.blocks_per_group));
        }
        let groups = self.blocks.saturating_sub(self.first_block).div_ceil(self.blocks_per_group);
        if groups > limits::LINT_BLOCK_GROUPS {
            return Err(format!("it has {groups} groups of blocks, more than {}", limits::LINT_BLOCK_GROUPS));
        }
        // A descriptor of each group is read before anything else.
        if groups.saturating_mul(32) > length {
            return Err(format!("it has {groups} groups of blocks, more than the image has room for"));
        }
        Ok(())
    }
}

struct Fields<'block>(&'block [u8]);

impl Fields<'_> {
    fn u16(&self, at: usize) -> Option<u16> {
        self.0.get(at..)?.first_chunk().copied().map(u16::from_le_bytes)
    }

    fn u32(&self, at: usize) -> Option<u32> {
        self.0.get(at..)?.first_chunk().copied().map(u32::from_le_bytes)
    }
}

/// What a file seems to be that is no ext4.
fn seems(head: &[u8]) -> String {
    let known = OTHERS.iter().find(|(at, mark, _)| head.get(*at..).is_some_and(|rest| rest.starts_with(mark)));
    known.map_or("no ext4 file system", |(.., what)| what).to_owned()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn head(fields: &[(usize, &[u8])]) -> Vec<u8> {
        let mut head = vec![0; HEAD_BYTES];
        let plain: [(usize, &[u8]); 5] = [
            (0x04, &65_536_u32.to_le_bytes()),
            (0x18, &2_u32.to_le_bytes()),
            (0x20, &32_768_u32.to_le_bytes()),
            (0x38, &MAGIC.to_le_bytes()),
            (0x3a, &STATE_VALID.to_le_bytes()),
        ];
        for (at, bytes) in plain.iter().chain(fields) {
            head[START + at..][..bytes.len()].copy_from_slice(bytes);
        }
        head
    }

    fn faults(fields: &[(usize, &[u8])]) -> Vec<String> {
        Superblock::parse(&head(fields)).unwrap().faults(65_536 * 4096)
    }

    #[test]
    fn a_file_system_that_was_left_clean_has_no_faults() {
        assert_eq!(faults(&[]), Vec::<String>::new());
    }

    #[test]
    fn each_way_of_not_being_clean_is_said() {
        for (at, bytes, said) in [
            (0x60, &INCOMPAT_RECOVER.to_le_bytes()[..], "journal has yet to be replayed"),
            (0x3a, &0_u16.to_le_bytes(), "was not unmounted"),
            (0x3a, &(STATE_VALID | STATE_ERRORS).to_le_bytes(), "the kernel has found errors"),
            (0x194, &7_u32.to_le_bytes(), "errors were found in it 7 times"),
            (0xe8, &12_u32.to_le_bytes(), "deleted while they were open"),
            (0x64, &RO_COMPAT_ORPHAN_PRESENT.to_le_bytes(), "deleted while they were open"),
            (0x04, &65_537_u32.to_le_bytes(), "the image was cut off"),
        ] {
            let faults = faults(&[(at, bytes)]);
            assert!(faults.len() == 1 && faults[0].contains(said), "{said}: {faults:?}");
        }
    }

    #[test]
    fn sizes_that_cannot_be_true_are_refused_before_anything_is_read_by_them() {
        let check =
            |fields: &[(usize, &[u8])], length| Superblock::parse(&head(fields)).unwrap().check(length).unwrap_err();
        assert!(check(&[(0x18, &7_u32.to_le_bytes())], 1 << 30).contains("64 KiB"));
        assert!(check(&[(0x20, &1_u32.to_le_bytes())], 1 << 30).contains("only 1 blocks in a group"));
        let many: [(usize, &[u8]); 2] = [(0x04, &[0xff; 4]), (0x20, &256_u32.to_le_bytes())];
        assert!(check(&many, u64::MAX).contains("16777216 groups of blocks, more than 131072"));
        assert!(check(&[(0x04, &[0xff; 4])], 1 << 20).contains("more than the image has room for"));
    }

    #[test]
    fn other_things_than_ext4_are_named() {
        for (at, mark, what) in OTHERS {
            let mut head = vec![0; HEAD_BYTES];
            head[*at..][..mark.len()].copy_from_slice(mark);
            assert_eq!(&Superblock::parse(&head).unwrap_err(), what);
        }
        assert_eq!(Superblock::parse(b"short").unwrap_err(), "no ext4 file system");
    }

    proptest! {
        #[test]
        fn any_superblock_is_judged_without_a_panic(mut bytes in prop::collection::vec(any::<u8>(), 0..START + LENGTH + 1), length: u64) {
            if let Some(magic) = bytes.get_mut(START + 0x38..START + 0x3a) {
                magic.copy_from_slice(&MAGIC.to_le_bytes());
            }
            if let Ok(superblock) = Superblock::parse(&bytes) {
                let _ = (superblock.faults(length), superblock.check(length));
            }
        }
    }
}
