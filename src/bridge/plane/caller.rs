//! An agent at the plane's line.

use std::{
    io::{self, Write},
    os::{
        fd::{AsFd, BorrowedFd},
        unix::net::UnixStream,
    },
    time::Instant,
};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use rustix::{
    io::Errno,
    net::{RecvFlags, recv},
};

use crate::{
    bridge::orders::{self, Answer, Order},
    limits,
};

/// An agent's connection.
#[derive(Debug)]
pub(super) struct Caller {
    stream: UnixStream,
    /// Of a line that is not whole yet.
    begun: Vec<u8>,
}

/// What came from an agent.
#[derive(Debug)]
pub(super) enum Heard {
    /// Nothing whole.
    Nothing,
    /// An order, or why it is none.
    Order(Result<Order, String>),
    /// The agent is gone, or cannot be understood any more.
    Gone,
}

impl Caller {
    pub(super) fn new(stream: UnixStream) -> io::Result<Self> {
        stream.set_nonblocking(false)?;
        // An agent that does not read is as good as gone.
        stream.set_write_timeout(Some(limits::BRIDGE_ANSWER_TIME))?;
        Ok(Self { stream, begun: Vec::new() })
    }

    /// Takes what is there to read. Never waits: who was to be heard may have gone, and another one be in its place.
    pub(super) fn hear(&mut self) -> Heard {
        let mut piece = [0; 16 * 1024];
        match recv(&self.stream, &mut piece, RecvFlags::DONTWAIT) {
            Ok((0, _)) => return Heard::Gone,
            Ok((length, _)) => self.begun.extend_from_slice(&piece[..length]),
            Err(Errno::INTR | Errno::AGAIN) => return Heard::Nothing,
            Err(_) => return Heard::Gone,
        }
        // One answer an order, and the agent waits for it: there is at most one line, and its newline is the last byte.
        if self.begun.last() == Some(&b'\n') {
            let line = std::mem::take(&mut self.begun);
            return Heard::Order(serde_json::from_slice(&line).map_err(|error| format!("no order: {error}")));
        }
        if self.begun.len() > limits::BRIDGE_LINE_BYTES {
            let message = format!("a line of more than {} bytes", limits::BRIDGE_LINE_BYTES);
            // It is cut off in any case.
            let _ = self.say(&Answer::Error { message });
            return Heard::Gone;
        }
        Heard::Nothing
    }

    /// Waits for the agent that has started the plane to let it go on.
    pub(super) fn await_begin(&mut self) -> io::Result<()> {
        let give_up = Instant::now() + limits::BRIDGE_ANSWER_TIME;
        loop {
            let left = give_up.saturating_duration_since(Instant::now());
            let wait = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
            let come = poll(&mut [PollFd::new(self.stream.as_fd(), PollFlags::POLLIN)], wait);
            match self.hear() {
                Heard::Order(Ok(Order::Begin)) => return Ok(()),
                Heard::Nothing if come.is_err() || !left.is_zero() => {}
                _ => return Err(io::Error::other("the agent does not let it begin")),
            }
        }
    }

    pub(super) fn say(&mut self, answer: &Answer) -> io::Result<()> {
        self.stream.write_all(&orders::line(answer)?)
    }
}

impl AsFd for Caller {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }
}
