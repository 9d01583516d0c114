//! Our ends of a command's streams.
//!
//! Where a command is started decides what they are; whoever reads and writes them does not care. A terminal is a source and an
//! input on the same descriptor.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use bytes::BytesMut;
use nix::fcntl::{FcntlArg, OFlag};
use tokio::net::unix::pipe::{Receiver, Sender};

use super::output::Output;
use super::terminal::{Keyboard, Terminal};
use crate::sys::process::pending;

/// Our ends, as they were made for a command.
#[derive(Debug)]
pub(super) enum Io {
    /// A pipe for each stream; no stdin is `/dev/null`.
    Pipes {
        /// Read end.
        stdout: Receiver,
        /// Read end.
        stderr: Receiver,
        /// The other ends of these two, held until the command has ended: else each would tell of its end on its own, and we
        /// would push in while the command still ends.
        held: Vec<OwnedFd>,
        /// Write end.
        stdin: Option<Sender>,
    },
    /// One terminal for all three.
    Terminal(Terminal),
}

/// Where output comes from.
#[derive(Debug)]
pub(super) enum Source {
    /// Ends when the last writer has closed it.
    Pipe(Receiver),
    /// Ends when nobody has the terminal open any more.
    Terminal(Terminal),
}

/// Where input goes.
#[derive(Debug)]
pub(super) enum Input {
    /// Ends by being closed.
    Pipe(Sender),
    /// Ends by a character.
    Terminal(Keyboard),
}

impl Io {
    /// Takes the ends of pipes. Needs to be called within a runtime.
    ///
    /// # Errors
    /// Where they are no pipes, or epoll has no room.
    pub(super) fn pipes(stdout: OwnedFd, stderr: OwnedFd, stdin: Option<OwnedFd>) -> io::Result<Self> {
        Ok(Self::Pipes {
            held: Vec::new(),
            stdout: receiver(stdout)?,
            stderr: receiver(stderr)?,
            stdin: stdin.map(Sender::from_owned_fd).transpose()?,
        })
    }

    /// Takes the command's own ends of stdout and stderr.
    pub(super) fn hold(&mut self, theirs: [OwnedFd; 2]) {
        if let Self::Pipes { held, .. } = self {
            held.extend(theirs);
        }
    }

    /// For the one who reads and the one who writes.
    pub(super) fn split(self) -> (Output, Option<Input>) {
        match self {
            Self::Pipes { stdout, stderr, held, stdin } => {
                (Output::new(Source::Pipe(stdout), Some(Source::Pipe(stderr)), held), stdin.map(Input::Pipe))
            }
            Self::Terminal(terminal) => {
                let keyboard = Input::Terminal(terminal.keyboard());
                (Output::new(Source::Terminal(terminal), None, Vec::new()), Some(keyboard))
            }
        }
    }

    /// The terminal, if it is one.
    pub(super) fn terminal(&self) -> Option<Terminal> {
        match self {
            Self::Pipes { .. } => None,
            Self::Terminal(terminal) => Some(terminal.clone()),
        }
    }
}

/// A pipe of our own making, whose kind needs no asking for.
fn receiver(end: OwnedFd) -> io::Result<Receiver> {
    nix::fcntl::fcntl(&end, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
    Receiver::from_owned_fd_unchecked(end)
}

impl Source {
    /// Waits until there is something to read, or the end.
    pub(super) async fn ready(&self) {
        match self {
            // An error shows in the read that follows.
            Self::Pipe(pipe) => drop(pipe.readable().await),
            Self::Terminal(terminal) => drop(terminal.readable().await),
        }
    }

    /// Reads into the room that the buffer has. `None` where there is nothing yet, 0 at the end.
    pub(super) fn read(&self, buffer: &mut BytesMut) -> Option<usize> {
        let read = match self {
            Self::Pipe(pipe) => pipe.try_read_buf(buffer),
            Self::Terminal(terminal) => terminal.try_read_buf(buffer),
        };
        match read {
            Ok(count) => Some(count),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => None,
            Err(error) => {
                tracing::warn!(%error, "reading a command's output failed");
                Some(0)
            }
        }
    }

    /// The same, without having waited for it.
    pub(super) fn read_unasked(&self, buffer: &mut BytesMut) -> Option<usize> {
        let Self::Pipe(pipe) = self else { return self.read(buffer) };
        let start = buffer.len();
        buffer.resize(buffer.capacity(), 0);
        let read = nix::unistd::read(pipe, &mut buffer[start..]);
        buffer.truncate(start + read.unwrap_or(0));
        read.ok()
    }

    /// Bytes that wait to be read.
    pub(super) fn pending(&self) -> usize {
        match self {
            Self::Pipe(pipe) => pending(pipe.as_fd()).unwrap_or(0),
            Self::Terminal(terminal) => terminal.pending(),
        }
    }
}

impl Input {
    /// Writes all of it, at the pace of the command.
    ///
    /// # Errors
    /// `BrokenPipe` where nobody reads any more.
    pub(super) async fn write_all(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        let pipe = match self {
            Self::Pipe(pipe) => pipe,
            Self::Terminal(keyboard) => return keyboard.write_all(bytes).await,
        };
        while !bytes.is_empty() {
            match pipe.writable().await.and_then(|()| pipe.try_write(bytes)) {
                Ok(count) => bytes = &bytes[count..],
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Tells the command that this is all.
    ///
    /// # Errors
    /// None for a pipe, which is just closed; `BrokenPipe` for a terminal that nobody has open any more.
    pub(super) async fn end(self) -> io::Result<()> {
        match self {
            Self::Pipe(pipe) => {
                drop(pipe);
                Ok(())
            }
            Self::Terminal(mut keyboard) => keyboard.end().await,
        }
    }
}
