//! One bridged connection: bytes both ways, and every end of them as the peers meant it.
//!
//! Both sockets are watched edge-triggered from beginning to end, so that what is known of them is kept here and no system call
//! is spent on telling epoll what to wait for. Each direction goes through these states:
//!
//! ```text
//!  flowing ──read 0──> ended, with bytes owed ──written──> told (shutdown(2) of the other side's output)
//!     │
//!     └──error──> reset: of both sides, after what the side that was reset has sent before
//! ```
//!
//! A side that `failed` will never take a byte again, but its kernel may still have some that it sent before. They are delivered as
//! far as the other side takes them now; where it has no room, it is reset, as a direct reset loses what is still on its way. Waiting
//! for room could be for ever: both could wait for each other, and nobody would tell the other side. The error that
//! says so is given out once, by whichever call comes first; after that a read of 0 means nothing (`lost`), unless the error
//! was EPIPE: that is what a reset after an end of file is called (tcp_reset() in the kernel). And once it was not given out at all:
//! splice(2) returns what it moved and drops an error that it met behind (splice_to_socket()). What comes next then is EPIPE, too, so
//! that one after a short splice counts as a reset, unless the end of file was seen before.

use std::{
    io,
    os::fd::OwnedFd,
    sync::atomic::{AtomicU64, Ordering::Relaxed},
};

use rustix::{
    event::epoll::EventFlags,
    net::{RecvFlags, SendFlags, Shutdown, recv, send, shutdown},
};

use super::{
    dial,
    pipes::{Pipe, Pipes},
    port::Seat,
};
use crate::limits;

/// Bytes of one direction after which others get their turn. With half of it, the relay of one stream took 0.27 CPU seconds for
/// each GB instead of 0.22.
const TURN_BYTES: usize = 512 * 1024;

/// The most of a first write that is one segment on every interface (the least MTU of IPv6, without headers).
const SMALL_WRITE_BYTES: usize = 1200;

/// What a thread has for all its connections.
#[derive(Debug)]
pub(super) struct Tools {
    pub(super) buffer: Box<[u8]>,
    pub(super) pipes: Pipes,
}

/// One of the two sides.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Side {
    Client,
    Service,
}

/// What is next for a connection.
#[derive(Debug)]
pub(super) enum Next {
    /// An event will come.
    Wait,
    /// There is more to do now; others first.
    More,
    /// Both directions have ended as they should.
    Over,
    /// A side was reset, and the other is to be.
    Reset(io::Error),
}

/// Bytes that were read and not yet written.
#[derive(Debug, Default)]
enum Owed {
    #[default]
    Nothing,
    Bytes(Box<(usize, Vec<u8>)>),
    Piped(Pipe),
}

/// A side's socket, and what is known of it. Also the direction that begins here.
#[derive(Debug)]
struct End {
    socket: OwnedFd,
    /// There may be something to read.
    readable: bool,
    /// There may be room to write.
    writable: bool,
    /// An event will tell when there is.
    watched_for_room: bool,
    /// Is known to be connected.
    connected: bool,
    /// The peer's end of file has arrived, behind what is still to be read.
    hung_up: bool,
    /// Takes no bytes any more.
    failed: bool,
    /// The error has been given out, and was not one that came after an end of file: a read of 0 is no end.
    lost: bool,
    /// That was what a connection is refused with.
    refused: bool,
    /// All of its input has been read.
    ended: bool,
    /// Its peer knows that there is no more to come.
    told: bool,
    /// The last read that was copied filled the buffer, so that what follows is spliced.
    bulk: bool,
    /// Has had urgent data, at which the kernel ends a read early (tcp(7)): that one was short says nothing.
    urgent: bool,
    /// What came last of epoll was an end of file and no error: what is read short ends there.
    closing: bool,
    /// Sends at once what is little: Nagle's delay is off.
    prompt: bool,
    /// Something was written to it.
    written: bool,
    /// From here, for the other side.
    owed: Owed,
}

impl End {
    /// A client, who may have sent something already. The socket has its options from the listening one.
    fn client(socket: OwnedFd) -> Self {
        Self { readable: true, connected: true, prompt: true, ..Self::service(socket) }
    }

    /// A service, connected or soon. Options are set when they are needed.
    fn service(socket: OwnedFd) -> Self {
        Self {
            socket,
            readable: false,
            writable: true,
            watched_for_room: false,
            connected: false,
            hung_up: false,
            failed: false,
            lost: false,
            refused: false,
            ended: false,
            told: false,
            bulk: false,
            urgent: false,
            closing: false,
            prompt: false,
            written: false,
            owed: Owed::Nothing,
        }
    }

    /// To be called before `length` bytes are written. One small write has nothing before it that Nagle's algorithm would wait
    /// for, and most connections to a service of requests and answers have no second one: that is a system call less.
    fn prepare_to_write(&mut self, length: usize) {
        if !self.prompt && (self.written || length > SMALL_WRITE_BYTES) {
            self.prompt = true;
            dial::send_at_once(&self.socket);
        }
        self.written = true;
    }

    /// To be called when the other side has failed, as what is known may be older than that: is there room now?
    fn look_for_room(&mut self) {
        if !self.writable && !self.failed {
            self.writable = dial::has_room(&self.socket);
        }
    }

    /// A socket that is still connecting would be told to give up by the end of file (inet_shutdown() of the kernel).
    fn is_connected(&mut self) -> bool {
        if !self.connected {
            self.connected = dial::has_room(&self.socket);
            self.writable = self.connected;
        }
        self.connected
    }

    /// By the error of a write. One may have been dropped before it, where `cut_short` says so.
    fn fail(&mut self, error: &io::Error, cut_short: bool) {
        self.failed = true;
        self.writable = false;
        self.refused |= error.kind() == io::ErrorKind::ConnectionRefused;
        let after_its_end = error.raw_os_error() == Some(rustix::io::Errno::PIPE.raw_os_error());
        self.lost |= !after_its_end || (cut_short && !self.hung_up);
    }

    /// Hands on an end of file, once.
    fn tell_end(&mut self) {
        if !self.told {
            self.told = true;
            // Fails only on a socket that is gone, and needs to be told nothing.
            let _ = shutdown(&self.socket, Shutdown::Write);
        }
    }

    /// Writes what `owed` has as far as possible.
    fn take(&mut self, owed: &mut Owed, tools: &mut Tools, count: &mut u64) {
        let mut cut_short = false;
        loop {
            let wrote = match owed {
                Owed::Nothing => return,
                Owed::Bytes(bytes) => {
                    let (at, bytes) = &mut **bytes;
                    self.prepare_to_write(bytes.len() - *at);
                    write(&self.socket, &bytes[*at..]).inspect(|wrote| *at += wrote)
                }
                Owed::Piped(pipe) => {
                    self.prepare_to_write(limits::BRIDGE_COPY_BYTES);
                    pipe.drain(&self.socket)
                }
            };
            match wrote {
                Ok(wrote) => *count += wrote as u64,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return self.writable = false,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return self.fail(&error, cut_short),
            }
            if owed.is_settled() {
                return owed.forget(tools);
            }
            cut_short = matches!(owed, Owed::Piped(_));
        }
    }
}

impl Owed {
    fn is_settled(&self) -> bool {
        match self {
            Self::Nothing => true,
            Self::Bytes(bytes) => bytes.0 == bytes.1.len(),
            Self::Piped(pipe) => pipe.is_empty(),
        }
    }

    fn forget(&mut self, tools: &mut Tools) {
        if let Self::Piped(pipe) = std::mem::take(self) {
            tools.pipes.give_back(pipe);
        }
    }
}

/// How a look at one direction ended.
enum Flow {
    /// Nothing to do before an event.
    Dry,
    /// More can be moved.
    Turn,
}

/// A client, a service, and what is on its way between them.
#[derive(Debug)]
pub(super) struct Connection {
    client: End,
    service: End,
    seat: Seat,
    /// Is in the queue of those that have more to do.
    pub(super) queued: bool,
    /// Events come.
    watched: bool,
}

impl Connection {
    /// Of a client and a socket on its way to the service, which gets `preface` first.
    pub(super) fn new(client: OwnedFd, service: OwnedFd, preface: Vec<u8>, seat: Seat) -> Self {
        let mut client = End::client(client);
        if !preface.is_empty() {
            client.owed = Owed::Bytes(Box::new((0, preface)));
        }
        Self { client, service: End::service(service), seat, queued: false, watched: false }
    }

    pub(super) fn seat(&self) -> &Seat {
        &self.seat
    }

    pub(super) fn socket(&self, side: Side) -> &OwnedFd {
        match side {
            Side::Client => &self.client.socket,
            Side::Service => &self.service.socket,
        }
    }

    fn end(&mut self, side: Side) -> &mut End {
        match side {
            Side::Client => &mut self.client,
            Side::Service => &mut self.service,
        }
    }

    pub(super) fn is_watched(&self) -> bool {
        self.watched
    }

    pub(super) fn set_watched(&mut self) {
        self.watched = true;
    }

    /// Has this side no room for the first time? From now on events are to tell of it.
    pub(super) fn begins_to_want_room(&mut self, side: Side) -> bool {
        let end = self.end(side);
        let begins = !end.writable && !end.failed && !end.watched_for_room;
        end.watched_for_room |= begins;
        begins
    }

    /// What epoll says of a side.
    pub(super) fn note(&mut self, side: Side, flags: EventFlags) {
        let end = self.end(side);
        end.connected |= flags.intersects(EventFlags::IN | EventFlags::OUT);
        end.urgent |= flags.contains(EventFlags::PRI);
        end.closing =
            flags.contains(EventFlags::RDHUP) && !end.urgent && !flags.intersects(EventFlags::HUP | EventFlags::ERR);
        end.hung_up |= flags.intersects(EventFlags::RDHUP | EventFlags::HUP | EventFlags::ERR);
        end.readable |= flags.contains(EventFlags::IN) || end.hung_up;
        if flags.contains(EventFlags::ERR) {
            end.failed = true;
            end.writable = false;
        } else if !end.failed {
            end.writable |= flags.contains(EventFlags::OUT);
        }
    }

    /// Moves what can be moved, both ways.
    pub(super) fn turn(&mut self, tools: &mut Tools) -> Next {
        if self.client.failed {
            self.service.look_for_room();
        }
        if self.service.failed {
            self.client.look_for_room();
        }
        let inward = match self.pump(Side::Client, tools) {
            Ok(flow) => flow,
            Err(error) => return Next::Reset(error),
        };
        let outward = match self.pump(Side::Service, tools) {
            Ok(flow) => flow,
            Err(error) => return Next::Reset(error),
        };
        let ended = |from: &End, to: &End| from.ended && (from.owed.is_settled() || to.failed);
        let (input, output) = (ended(&self.client, &self.service), ended(&self.service, &self.client));
        if self.client.failed && self.service.failed {
            return Next::Reset(io::ErrorKind::ConnectionReset.into());
        }
        // Closing tells the side that has not been told.
        if input && output && !self.client.failed && !self.service.failed {
            return Next::Over;
        }
        if input && !self.service.told && self.service.is_connected() {
            if !self.service.ended && self.seat.port().is_from_stand_ins() {
                dial::end_first(&self.service.socket);
            }
            self.service.tell_end();
        }
        if output {
            self.client.tell_end();
        }
        let is_told = |failed: &End, has_ended: bool, other: &End| failed.failed && (has_ended || !other.writable);
        if is_told(&self.client, input, &self.service) || is_told(&self.service, output, &self.client) {
            return Next::Reset(io::ErrorKind::ConnectionReset.into());
        }
        match (inward, outward) {
            (Flow::Dry, Flow::Dry) => Next::Wait,
            _ => Next::More,
        }
    }

    /// Moves bytes that `side` has sent. An error is one that `side` itself was reset by, behind its last byte.
    fn pump(&mut self, side: Side, tools: &mut Tools) -> io::Result<Flow> {
        let counters = self.seat.port().counters();
        let (from, to, counter) = match side {
            Side::Client => (&mut self.client, &mut self.service, &counters.bytes_in),
            Side::Service => (&mut self.service, &mut self.client, &counters.bytes_out),
        };
        let mut count = Count { bytes: 0, counter };
        let mut left = TURN_BYTES;
        loop {
            if to.failed {
                // Nobody will ever take it. What `to` has sent before is still delivered by the other direction.
                from.owed.forget(tools);
                return Ok(Flow::Dry);
            }
            if !to.writable {
                return Ok(Flow::Dry);
            }
            if !matches!(from.owed, Owed::Nothing) {
                to.take(&mut from.owed, tools, &mut count.bytes);
                continue;
            }
            if from.ended || !from.readable {
                return Ok(Flow::Dry);
            }
            if left == 0 {
                return Ok(Flow::Turn);
            }
            match from.read(to, tools, left, &mut count.bytes) {
                Ok(0) if from.refused => return Err(io::ErrorKind::ConnectionRefused.into()),
                Ok(0) if from.lost => return Err(io::ErrorKind::ConnectionReset.into()),
                Ok(0) => {
                    from.ended = true;
                    return Ok(Flow::Dry);
                }
                Ok(length) => left = left.saturating_sub(length),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => from.readable = false,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Makes the coming close a reset, to both.
    pub(super) fn reset_on_close(&self) {
        dial::reset_on_close(&self.client.socket);
        dial::reset_on_close(&self.service.socket);
    }

    /// Leaves nothing behind in `tools`.
    pub(super) fn release(&mut self, tools: &mut Tools) {
        self.client.owed.forget(tools);
        self.service.owed.forget(tools);
    }
}

impl End {
    /// Reads once, and writes at once what `to` takes of it.
    fn read(&mut self, to: &mut End, tools: &mut Tools, most: usize, count: &mut u64) -> io::Result<usize> {
        if self.bulk
            && !self.urgent
            && let Some(mut pipe) = tools.pipes.take()
        {
            let read = pipe.fill(&self.socket, most);
            match read {
                Ok(1..) => self.owed = Owed::Piped(pipe),
                _ => tools.pipes.give_back(pipe),
            }
            // Bulk once is bulk for ever: a stream comes in pieces of all sizes, and one that is copied costs others their turn.
            // What is little later takes one call more.
            // None is the end, or urgent data that came this very moment, which splice(2) does not pass: a read tells.
            if !matches!(read, Ok(0)) {
                return read;
            }
        }
        let read = recv(&self.socket, &mut *tools.buffer, RecvFlags::DONTWAIT)?.0;
        self.bulk = read == tools.buffer.len();
        // Fewer than there was room for: that was all, and what comes later is an event of its own (epoll(7)). Of an end of file
        // the event may have been the one that led here.
        self.ended = self.closing && read > 0 && !self.bulk;
        self.readable = self.bulk || self.urgent || self.hung_up;
        if read > 0 {
            to.prepare_to_write(read);
            let wrote = match write(&to.socket, &tools.buffer[..read]) {
                Ok(wrote) => wrote,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => 0,
                Err(error) => {
                    to.fail(&error, false);
                    return Ok(read);
                }
            };
            *count += wrote as u64;
            if wrote < read {
                to.writable = false;
                self.owed = Owed::Bytes(Box::new((0, tools.buffer[wrote..read].to_vec())));
            }
        }
        Ok(read)
    }
}

/// Bytes moved in a turn, added up at its end: the counter is shared with the other thread.
struct Count<'counter> {
    bytes: u64,
    counter: &'counter AtomicU64,
}

impl Drop for Count<'_> {
    fn drop(&mut self) {
        if self.bytes > 0 {
            self.counter.fetch_add(self.bytes, Relaxed);
        }
    }
}

fn write(to: &OwnedFd, bytes: &[u8]) -> io::Result<usize> {
    Ok(send(to, bytes, SendFlags::NOSIGNAL | SendFlags::DONTWAIT)?)
}
