//! Pipes that bulk goes through by reference, shared by all connections of a thread: who has no bytes in one, holds none.

use std::{io, os::fd::OwnedFd};

use rustix::pipe::{PipeFlags, SpliceFlags, fcntl_setpipe_size, pipe_with, splice};

use crate::limits;

/// SPLICE_F_NONBLOCK is for the pipe; the sockets do not block by themselves.
const FLAGS: SpliceFlags = SpliceFlags::NONBLOCK.union(SpliceFlags::MOVE);

/// A pipe and how many bytes are in it.
#[derive(Debug)]
pub(super) struct Pipe {
    read: OwnedFd,
    write: OwnedFd,
    /// Fewer than 4 GiB, so that one that is owed fits where a pointer and a length do.
    bytes: u32,
}

impl Pipe {
    /// Takes what a socket has, 0 at its end. The pipe must be empty: EAGAIN then means that the socket is.
    pub(super) fn fill(&mut self, from: &OwnedFd, most: usize) -> io::Result<usize> {
        debug_assert_eq!(self.bytes, 0, "EAGAIN would be ambiguous");
        let came = splice(from, None, &self.write, None, most.min(u32::MAX as usize), FLAGS)?;
        self.bytes = came as u32;
        Ok(came)
    }

    /// Gives a socket as much as it takes.
    pub(super) fn drain(&mut self, to: &OwnedFd) -> io::Result<usize> {
        let gone = splice(&self.read, None, to, None, self.bytes as usize, FLAGS)?;
        self.bytes -= gone as u32;
        Ok(gone)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.bytes == 0
    }
}

/// A thread's pipes.
#[derive(Debug, Default)]
pub(super) struct Pipes {
    idle: Vec<Pipe>,
    /// Idle or not.
    made: usize,
}

impl Pipes {
    /// An empty pipe; none at the bound or where the kernel gives none: then bytes are copied.
    pub(super) fn take(&mut self) -> Option<Pipe> {
        if let Some(pipe) = self.idle.pop() {
            return Some(pipe);
        }
        if self.made >= limits::BRIDGE_PIPES {
            return None;
        }
        let (read, write) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK).ok()?;
        // Where the user's pages are used up, a pipe has fewer, and works.
        let _ = fcntl_setpipe_size(&write, limits::BRIDGE_PIPE_BYTES);
        self.made += 1;
        Some(Pipe { read, write, bytes: 0 })
    }

    /// A pipe that is not needed any more, with whatever is in it.
    pub(super) fn give_back(&mut self, pipe: Pipe) {
        if pipe.is_empty() && self.idle.len() < limits::BRIDGE_IDLE_PIPES {
            self.idle.push(pipe);
        } else {
            self.made -= 1;
        }
    }
}
