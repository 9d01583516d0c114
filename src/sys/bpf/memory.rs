//! Memory of maps that is shared between the kernel, programs and this process.

#![expect(unsafe_code, reason = "memory that is shared with the kernel")]

use std::{
    io,
    os::fd::{AsFd, AsRawFd},
    ptr::NonNull,
    sync::atomic::{AtomicU32, AtomicUsize},
};

use super::map::Map;

/// Bytes of a page of memory.
pub(super) fn page_size() -> usize {
    // SAFETY: no argument can be wrong.
    let size = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
    usize::try_from(size).ok().filter(|size| size.is_power_of_two()).unwrap_or(4096)
}

/// Memory shared with the kernel. Unmapped when dropped.
#[derive(Debug)]
pub(super) struct Mapping {
    start: NonNull<u8>,
    length: usize,
}

// SAFETY: it is memory of the process, not of a thread; what is written there is written by atomics.
unsafe impl Send for Mapping {}
// SAFETY: the same; references to it are to atomics.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// So many bytes of the map, from there on.
    pub(super) fn new(map: &Map, length: usize, offset: usize, protection: libc::c_int) -> io::Result<Self> {
        let offset = libc::off_t::try_from(offset).map_err(io::Error::other)?;
        // SAFETY: a new mapping, at an address that the kernel chooses.
        let start = unsafe {
            libc::mmap(std::ptr::null_mut(), length, protection, libc::MAP_SHARED, map.as_fd().as_raw_fd(), offset)
        };
        match NonNull::new(start) {
            Some(mapped) if start != libc::MAP_FAILED => Ok(Self { start: mapped.cast(), length }),
            _ => Err(io::Error::last_os_error()),
        }
    }

    /// Its first byte.
    pub(super) fn start(&self) -> NonNull<u8> {
        self.start
    }

    /// The word of 32 bits with this number, which programs write as a whole, as atomics do. `None` beyond the end.
    pub(super) fn word(&self, number: usize) -> Option<&AtomicU32> {
        let offset = number.checked_mul(size_of::<u32>())?;
        (offset + size_of::<u32>() <= self.length).then(|| {
            // SAFETY: inside of the mapping, which is whole pages; aligned, because pages are.
            unsafe { self.start.add(offset).cast().as_ref() }
        })
    }

    /// The position at its beginning, an `unsigned long` that only grows (and wraps).
    pub(super) fn position(&self) -> &AtomicUsize {
        // SAFETY: a page is aligned, and lives as long as this; both sides access the word as a whole.
        unsafe { self.start.cast().as_ref() }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: nothing refers to the mapping any more.
        unsafe { libc::munmap(self.start.as_ptr().cast(), self.length) };
    }
}
