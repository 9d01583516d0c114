//! The allocator of the binary: what is small from one heap, what is large from the system's.
//!
//! musl's gives every page back as soon as it can and takes it again a moment later; an exec paid for that with a dozen of mappings
//! and faults, a tenth of its time. dlmalloc keeps what it has, which is right for what is small and comes and goes. Of what is
//! large, as output in replay rings, it would keep the most that there ever was; so that is the system's, which gives it back.

#![expect(unsafe_code, reason = "an allocator's interface is unsafe")]

use std::alloc::{GlobalAlloc, Layout, System};

use dlmalloc::GlobalDlmalloc;

use crate::limits::SMALL_ALLOCATION_BYTES;

/// See the module.
#[derive(Debug, Clone, Copy, Default)]
pub struct Allocator;

fn is_small(bytes: usize) -> bool {
    bytes < SMALL_ALLOCATION_BYTES
}

// SAFETY: which of the two allocates is told by the size alone, so the same one is asked to free.
unsafe impl GlobalAlloc for Allocator {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's promise.
        unsafe { if is_small(layout.size()) { GlobalDlmalloc.alloc(layout) } else { System.alloc(layout) } }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's promise.
        unsafe {
            if is_small(layout.size()) { GlobalDlmalloc.alloc_zeroed(layout) } else { System.alloc_zeroed(layout) }
        }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise.
        unsafe {
            if is_small(layout.size()) {
                GlobalDlmalloc.dealloc(pointer, layout)
            } else {
                System.dealloc(pointer, layout)
            }
        }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // SAFETY: the caller's promise; what moves from one to the other is copied as far as both are long.
        unsafe {
            match (is_small(layout.size()), is_small(size)) {
                (true, true) => GlobalDlmalloc.realloc(pointer, layout, size),
                (false, false) => System.realloc(pointer, layout, size),
                _ => {
                    let moved = self.alloc(Layout::from_size_align_unchecked(size, layout.align()));
                    if !moved.is_null() {
                        pointer.copy_to_nonoverlapping(moved, layout.size().min(size));
                        self.dealloc(pointer, layout);
                    }
                    moved
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_grows_and_shrinks_over_the_border_keeps_its_bytes() {
        let layout = |size| Layout::from_size_align(size, 16).unwrap();
        let sizes = [100, SMALL_ALLOCATION_BYTES - 1, SMALL_ALLOCATION_BYTES, 5 * SMALL_ALLOCATION_BYTES, 64];
        // SAFETY: each pointer is used with the layout that it was allocated or reallocated with, within its size.
        unsafe {
            let mut pointer = Allocator.alloc_zeroed(layout(16));
            assert_eq!(std::slice::from_raw_parts(pointer, 16), [0; 16]);
            pointer.write_bytes(7, 16);
            let mut before = 16;
            for size in sizes {
                pointer = Allocator.realloc(pointer, layout(before), size);
                assert_eq!(std::slice::from_raw_parts(pointer, 16), [7; 16], "{before} to {size}");
                before = size;
            }
            Allocator.dealloc(pointer, layout(before));
        }
    }
}
