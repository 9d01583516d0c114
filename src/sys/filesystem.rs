//! File systems as wholes: freezing, and growing to the size of their devices.

#![expect(unsafe_code, reason = "ioctl(2)")]

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::path::Path;

use nix::fcntl::{OFlag, open};
use nix::sys::stat::Mode;

/// `_IOWR('X', 119, int)` of linux/fs.h.
const FIFREEZE: libc::Ioctl = 0xc004_5877_u32 as libc::Ioctl;
/// `_IOWR('X', 120, int)`.
const FITHAW: libc::Ioctl = 0xc004_5878_u32 as libc::Ioctl;
/// `_IOR(0x12, 114, size_t)`.
const BLKGETSIZE64: libc::Ioctl = 0x8008_1272_u32 as libc::Ioctl;
/// `_IOW('f', 16, __u64)` of ext4.
const EXT4_IOC_RESIZE_FS: libc::Ioctl = 0x4008_6610;
/// `_IOW('X', 110, struct xfs_growfs_data)`.
const XFS_IOC_FSGROWFSDATA: libc::Ioctl = 0x4010_586e;
/// `_IOR('X', 100, struct xfs_fsop_geom_v1)`.
const XFS_IOC_FSGEOMETRY_V1: libc::Ioctl = 0x8070_5864_u32 as libc::Ioctl;

/// A mounted file system, held open by its mount point.
#[derive(Debug)]
pub struct Mounted(OwnedFd);

/// Its size.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FsSize {
    /// Of a block, in bytes.
    pub block_bytes: u64,
    /// Blocks.
    pub blocks: u64,
    /// Share of inodes in percent, which xfs is told again when it grows.
    xfs_inodes: u32,
}

impl FsSize {
    /// In bytes.
    pub fn bytes(self) -> u64 {
        self.blocks.saturating_mul(self.block_bytes)
    }
}

/// What it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FsKind {
    /// ext4, and ext3 and ext2 by its driver.
    Ext4,
    /// xfs.
    Xfs,
}

impl Mounted {
    /// Opens its mount point.
    ///
    /// # Errors
    /// Those of open(2).
    pub fn open(path: &Path) -> io::Result<Self> {
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        Ok(Self(open(path, flags, Mode::empty())?))
    }

    /// Writes it out and lets nothing write to it, until the thaw. Blocks for as long as that takes.
    ///
    /// # Errors
    /// `EBUSY` where it is frozen, `EOPNOTSUPP` where it cannot be.
    pub fn freeze(&self) -> io::Result<()> {
        self.call(FIFREEZE)
    }

    /// Lets it be written to again. Whether it was frozen.
    ///
    /// # Errors
    /// `EPERM`.
    pub fn thaw(&self) -> io::Result<bool> {
        match self.call(FITHAW) {
            Ok(()) => Ok(true),
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => Ok(false),
            Err(error) => Err(error),
        }
    }

    fn call(&self, request: libc::Ioctl) -> io::Result<()> {
        // SAFETY: the kernel does not look at the argument of these two.
        check(unsafe { libc::ioctl(self.0.as_raw_fd(), request, 0) })
    }

    /// Its size.
    ///
    /// # Errors
    /// Those of reading it, and where the device has no such file system.
    pub fn size(&self, kind: FsKind, device: &File) -> io::Result<FsSize> {
        match kind {
            FsKind::Ext4 => {
                let mut superblock = [0; 1024];
                device.read_exact_at(&mut superblock, 1024)?;
                ext4_size(&superblock).ok_or_else(|| io::Error::other("its superblock is not ext4's"))
            }
            FsKind::Xfs => {
                // struct xfs_fsop_geom_v1: 8 u32, the last of them imaxpct, the first the block size; then the number of data blocks.
                let mut geometry = [0_u64; 14];
                // SAFETY: the kernel writes 112 bytes, which these are, aligned as it wants.
                check(unsafe { libc::ioctl(self.0.as_raw_fd(), XFS_IOC_FSGEOMETRY_V1, geometry.as_mut_ptr()) })?;
                let halves = |word: u64| {
                    let [a, b, c, d, e, f, g, h] = word.to_ne_bytes();
                    (u32::from_ne_bytes([a, b, c, d]), u32::from_ne_bytes([e, f, g, h]))
                };
                let ((block_bytes, _), (_, xfs_inodes)) = (halves(geometry[0]), halves(geometry[3]));
                Ok(FsSize { block_bytes: block_bytes.into(), blocks: geometry[4], xfs_inodes })
            }
        }
    }

    /// Grows it while it is in use. Blocks: while it is frozen, for as long as that.
    ///
    /// # Errors
    /// Those of the file system.
    pub fn grow(&self, kind: FsKind, from: FsSize, blocks: u64) -> io::Result<()> {
        let fd = self.0.as_raw_fd();
        match kind {
            // SAFETY: the kernel reads one u64.
            FsKind::Ext4 => check(unsafe { libc::ioctl(fd, EXT4_IOC_RESIZE_FS, &raw const blocks) }),
            FsKind::Xfs => {
                // struct xfs_growfs_data: blocks, imaxpct, padding.
                let order = [blocks.to_ne_bytes(), u64::from(from.xfs_inodes).to_le_bytes()];
                // SAFETY: the kernel reads 16 bytes.
                check(unsafe { libc::ioctl(fd, XFS_IOC_FSGROWFSDATA, order.as_ptr()) })
            }
        }
    }
}

/// The number and size of blocks, by a superblock of ext4 (fs/ext4/ext4.h).
fn ext4_size(superblock: &[u8; 1024]) -> Option<FsSize> {
    let word = |at: usize| superblock.get(at..at + 4)?.try_into().ok().map(u32::from_le_bytes);
    if superblock[0x38..0x3a] != [0x53, 0xef] {
        return None;
    }
    let is_64bit = word(0x60)? & 0x80 != 0;
    let high = if is_64bit { word(0x150)? } else { 0 };
    let block_bytes = 1024_u64.checked_shl(word(0x18)?)?;
    Some(FsSize { block_bytes, blocks: u64::from(high) << 32 | u64::from(word(0x4)?), xfs_inodes: 0 })
}

/// Size of a block device in bytes.
///
/// # Errors
/// `ENOTTY` for what is none.
pub fn device_bytes(device: &File) -> io::Result<u64> {
    let mut bytes = 0_u64;
    // SAFETY: the kernel writes one u64.
    check(unsafe { libc::ioctl(device.as_raw_fd(), BLKGETSIZE64, &raw mut bytes) })?;
    Ok(bytes)
}

fn check(result: libc::c_int) -> io::Result<()> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_size_of_an_ext4_is_in_its_superblock() {
        let mut superblock = [0; 1024];
        assert_eq!(ext4_size(&superblock), None);
        superblock[0x38..0x3a].copy_from_slice(&[0x53, 0xef]);
        superblock[0x18] = 2;
        superblock[4..8].copy_from_slice(&7_u32.to_le_bytes());
        superblock[0x150] = 1;
        assert_eq!(ext4_size(&superblock).unwrap().bytes(), 7 * 4096);
        superblock[0x60] = 0x80;
        assert_eq!(ext4_size(&superblock).unwrap().blocks, (1 << 32) + 7);
    }

    #[test]
    fn what_is_no_block_device_has_no_size() {
        assert!(device_bytes(&File::open("/dev/null").unwrap()).is_err());
    }
}
