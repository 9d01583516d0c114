//! A command's terminal, where the request asked for one: its size, what is typed on it, and what it shows.
//!
//! Owns how the end of input is said on a terminal, which has none: by the character that the terminal itself has for it (VEOF),
//! at the beginning of a line. Refused here: to close the terminal for it, which would be a hang-up, and to guess at
//! control-C and the like, which are bytes that the line discipline turns into signals.
//!
//! ```text
//!  open ──> slave to the command ──> typed, shown, resized ──> last slave closed: end of output ──> hung up when dropped
//! ```

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use bytes::BytesMut;

use crate::api::TtySize;
use crate::sys::process::pending;
use crate::sys::pty::{self, InputMode, Master, Size};

/// TERM of a command on a terminal, unless a layer of its environment says otherwise: what the terminals of this decade answer to,
/// and every terminfo database knows.
pub(super) const TERM: &str = "xterm-256color";

/// What the kernel holds ready for one read of a terminal (N_TTY_BUF_SIZE).
const KERNEL_BUFFER_BYTES: usize = 4096;

impl From<TtySize> for Size {
    fn from(TtySize { rows, cols }: TtySize) -> Self {
        Self { rows, cols }
    }
}

/// Our end of a terminal. Clones are handles on the same.
#[derive(Debug, Clone)]
pub(super) struct Terminal(Arc<Master>);

impl Terminal {
    /// Makes a terminal and the standard streams of a command on it, which belong to this user. Needs to be called within a
    /// runtime.
    ///
    /// # Errors
    /// Those of [`pty::open`]. That it cannot be given to the user is one only for another user than this process's.
    pub(super) fn open(size: TtySize, owner: Option<u32>, tty_group: Option<u32>) -> io::Result<(Self, [OwnedFd; 3])> {
        let (master, slave) = pty::open(size.into())?;
        if let Some(uid) = owner {
            slave.give_to(uid, tty_group)?;
        }
        Ok((Self(Arc::new(master)), slave.into_stdio()?))
    }

    /// Returns when there may be output, or its end.
    pub(super) async fn readable(&self) -> io::Result<()> {
        self.0.readable().await
    }

    /// Appends output; 0 is its end.
    pub(super) fn try_read_buf(&self, buffer: &mut BytesMut) -> io::Result<usize> {
        let mut page = [0; KERNEL_BUFFER_BYTES];
        let count = self.0.try_read(&mut page)?;
        buffer.extend_from_slice(&page[..count]);
        Ok(count)
    }

    /// Bytes of output that wait. What the kernel is still carrying over is not counted.
    pub(super) fn pending(&self) -> usize {
        use std::os::fd::AsFd;
        pending(self.0.as_fd()).unwrap_or(0)
    }

    /// Sets the size; the kernel tells the foreground process group by SIGWINCH.
    pub(super) fn resize(&self, size: TtySize) -> io::Result<()> {
        self.0.resize(size.into())
    }

    /// The process group in the foreground: who gets what is meant for the command that the user looks at.
    pub(super) fn foreground_group(&self, session: i32) -> Option<i32> {
        self.0.foreground_group(session).ok().flatten()
    }

    /// What types on it. One at a time: it knows where on the line it is.
    pub(super) fn keyboard(&self) -> Keyboard {
        Keyboard { master: Arc::clone(&self.0), line_begun: false }
    }
}

/// Types on a terminal.
#[derive(Debug)]
pub(super) struct Keyboard {
    master: Arc<Master>,
    /// Something was typed since the last line's end.
    line_begun: bool,
}

impl Keyboard {
    /// Types it all; waits while the terminal has no room.
    ///
    /// # Errors
    /// `BrokenPipe` where nobody has the terminal open any more.
    pub(super) async fn write_all(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            match self.master.writable().await.and_then(|()| self.master.try_write(bytes)) {
                Ok(count) => {
                    if let Some(last) = bytes[..count].last() {
                        self.line_begun = !ends_line(*last);
                    }
                    bytes = &bytes[count..];
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Types the end of input. The terminal stays: a program may ask for more, as a shell with `ignoreeof` does.
    ///
    /// # Errors
    /// As above.
    pub(super) async fn end(&mut self) -> io::Result<()> {
        let mode = self.master.input_mode()?;
        self.write_all(&end_of_input(mode, self.line_begun)).await?;
        self.line_begun = false;
        Ok(())
    }
}

/// Return and newline; the line discipline turns one into the other.
fn ends_line(byte: u8) -> bool {
    matches!(byte, b'\n' | b'\r')
}

/// What is typed for the end of input. VEOF hands over the line so far, and a line of nothing is the end of file (termios(3)), so
/// in the middle of a line it takes two. A program that takes each byte as it is (a shell with line editing) gets one.
fn end_of_input(mode: InputMode, line_begun: bool) -> Vec<u8> {
    let Some(end) = mode.end else { return Vec::new() };
    vec![end; if mode.lines && line_begun { 2 } else { 1 }]
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINES: InputMode = InputMode { lines: true, end: Some(4) };

    #[test]
    fn the_end_of_input_is_typed_once_at_the_beginning_of_a_line_and_twice_within() {
        assert_eq!(end_of_input(LINES, false), [4]);
        assert_eq!(end_of_input(LINES, true), [4, 4]);
    }

    #[test]
    fn a_program_that_reads_byte_by_byte_gets_one_end_and_the_terminals_own() {
        assert_eq!(end_of_input(InputMode { lines: false, end: Some(5) }, true), [5]);
    }

    #[test]
    fn a_terminal_without_such_a_character_gets_nothing() {
        assert!(end_of_input(InputMode { end: None, ..LINES }, true).is_empty());
    }
}
