//! The kernel's random number generator (random(4)): bytes into its pool, and a fresh start from that.

#![expect(unsafe_code, reason = "ioctl(2)")]

use std::fs::OpenOptions;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;

/// `_IOW('R', 0x03, int[2])` of linux/random.h.
const RNDADDENTROPY: libc::Ioctl = 0x4008_5203;
/// `_IO('R', 0x07)`.
const RNDRESEEDCRNG: libc::Ioctl = 0x5207;

/// Mixes bytes in, counted as random where `credit` says so, and starts what getrandom(2) gives anew from the pool.
///
/// The second is what counts: without it the generator goes on from its old key for up to a minute, the same in two copies of a VM.
///
/// # Errors
/// `EPERM` without CAP_SYS_ADMIN.
pub fn reseed(bytes: &[u8], credit: bool) -> io::Result<()> {
    let device = OpenOptions::new().write(true).custom_flags(libc::O_CLOEXEC).open("/dev/urandom")?;
    if !bytes.is_empty() {
        let pool = pool_info(bytes, credit)?;
        // SAFETY: the kernel reads a struct rand_pool_info: two ints and as many bytes as the second one says, which `pool` has.
        check(unsafe { libc::ioctl(device.as_raw_fd(), RNDADDENTROPY, pool.as_ptr()) })?;
    }
    // SAFETY: takes no argument.
    check(unsafe { libc::ioctl(device.as_raw_fd(), RNDRESEEDCRNG, 0) })
}

/// struct rand_pool_info: bits to be credited, bytes, and these, in words as it is aligned.
fn pool_info(bytes: &[u8], credit: bool) -> io::Result<Vec<u32>> {
    let length = u32::try_from(bytes.len()).map_err(io::Error::other)?;
    let bits = if credit { length.saturating_mul(8) } else { 0 };
    let word = |chunk: &[u8]| {
        let mut word = [0; 4];
        word[..chunk.len()].copy_from_slice(chunk);
        u32::from_ne_bytes(word)
    };
    Ok([bits, length].into_iter().chain(bytes.chunks(4).map(word)).collect())
}

fn check(result: libc::c_int) -> io::Result<()> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_lie_behind_their_two_lengths() {
        let info = pool_info(&[1, 2, 3, 4, 5], true).unwrap();
        assert_eq!(info, [40, 5, u32::from_ne_bytes([1, 2, 3, 4]), u32::from_ne_bytes([5, 0, 0, 0])]);
        assert_eq!(pool_info(&[1], false).unwrap()[..2], [0, 1]);
    }
}
