//! Reads a BPF ring buffer (Documentation/bpf/ringbuf.rst of the kernel): records of many writers, in the order of their making.
//!
//! Three pieces of memory are shared with the kernel: a page with the reader's position, which is ours to write, a page with
//! the writers' position, and the data, mapped twice in a row so that no record is broken at its end.

#![expect(unsafe_code, reason = "memory that is shared with the kernel")]

use std::{
    io,
    os::fd::{AsFd, BorrowedFd},
    ptr::NonNull,
    sync::atomic::{AtomicU32, Ordering},
};

use super::{
    map::Map,
    memory::{Mapping, page_size},
};

/// Before each record: its length with two flags in it, and a word that is the kernel's own.
const HEADER: usize = 8;
/// The record is still being written.
const BUSY: u32 = 1 << 31;
/// The record is to be skipped.
const DISCARDED: u32 = 1 << 30;

/// What one reading found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Taken {
    /// There may have been no room for records that came after these.
    pub was_full: bool,
}

/// The reader. Readable, for poll(2), while there is a record.
#[derive(Debug)]
pub struct Ring {
    map: Map,
    /// Bytes of data.
    size: usize,
    consumer: Mapping,
    producer: Mapping,
}

impl Ring {
    /// Takes over the reading of `map`, made by [`Map::ring`] with `size` bytes.
    ///
    /// # Errors
    /// The kernel does not let it be mapped.
    pub fn new((map, size): (Map, usize)) -> io::Result<Self> {
        let page = page_size();
        let consumer = Mapping::new(&map, page, 0, libc::PROT_READ | libc::PROT_WRITE)?;
        let producer = Mapping::new(&map, page + 2 * size, page, libc::PROT_READ)?;
        Ok(Self { map, size, consumer, producer })
    }

    /// Hands over every record that is there now, and frees its room. `longest` is the longest that a writer writes.
    ///
    /// Bounded: what is written meanwhile waits for the next call.
    pub fn read(&mut self, longest: usize, mut record: impl FnMut(&[u8])) -> Taken {
        let begin = self.consumer.position().load(Ordering::Relaxed);
        // Acquire: the headers up to there are seen as they were written.
        let end = self.producer.position().load(Ordering::Acquire);
        let mut position = begin;
        while position != end {
            let header = self.header(position).load(Ordering::Acquire);
            if header & BUSY != 0 {
                break;
            }
            let length = (header & !DISCARDED) as usize;
            if header & DISCARDED == 0 {
                record(self.data(position, length));
            }
            position = position.wrapping_add((HEADER + length).next_multiple_of(HEADER));
            // Release: we are through with the record before its room is another's.
            self.consumer.position().store(position, Ordering::Release);
        }
        // What found no room since the last reading did so at a position that the writers have reached by now, and while ours was
        // this one or a later one.
        let reached = self.producer.position().load(Ordering::Acquire).wrapping_sub(begin);
        Taken { was_full: reached + HEADER + longest.next_multiple_of(HEADER) >= self.size }
    }

    /// Where the record at `position` begins in the mapping.
    fn at(&self, position: usize) -> NonNull<u8> {
        let offset = page_size() + (position & (self.size - 1));
        // SAFETY: below one page and `size`, so inside of the mapping of a page and twice `size`.
        unsafe { self.producer.start().add(offset) }
    }

    fn header(&self, position: usize) -> &AtomicU32 {
        // SAFETY: records are aligned to 8 bytes, and the kernel writes their headers as a whole, as atomics do.
        unsafe { self.at(position).cast().as_ref() }
    }

    fn data(&self, position: usize, length: usize) -> &[u8] {
        assert!(length <= self.size - HEADER, "a record is not longer than the ring");
        // SAFETY: a record that is not busy is not written to until the consumer's position has passed it, and it lies
        // inside of the data, which are mapped twice.
        unsafe { std::slice::from_raw_parts(self.at(position).add(HEADER).as_ptr(), length) }
    }
}

impl AsFd for Ring {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.map.as_fd()
    }
}
