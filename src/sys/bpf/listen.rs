//! Programs that tell when TCP sockets begin and cease to listen, in every network namespace.
//!
//! The kernel calls sock_ops programs at set points of a TCP socket's life. This one asks, when a socket begins to listen, to be called
//! for the changes of its state too, and writes a record for both. It changes nothing else: `reply` stays as others left it,
//! and the result is always 1, which is "go on".
//!
//! A connection inherits its listener's wish to be called for changes of state, so the program also runs three or four times
//! in the life of each accepted connection; that is eight instructions each time.
//!
//! A listener that is older than the program has no such wish. A second program, which is called when the last descriptor of a
//! socket is closed, tells of the end of those that it has been given ([`ListenEvents::follow`]).

use std::{
    os::fd::{AsFd, BorrowedFd},
    path::Path,
};

use super::{
    Assembler, Helper, Instruction, Link, Map, Missing, Program, ProgramKind,
    Register::{R0, R1, R2, R6, R7, R8, R9, R10},
    Ring, Taken, Width, open_cgroup,
    sock_ops::{FAMILY, LOCAL_PORT, ask_for_changes, tell_apart},
    sock_release,
};
use crate::{facts::SocketFact, limits};

/// A record: what happened, family, port, network namespace, socket.
const RECORD: usize = 24;
const LISTENS: i32 = 1;
const CLOSES: i32 = 2;

/// Bytes of what is kept of a listener that is older: family and port, as in a record.
const FOLLOWED: usize = 4;
/// On the stack: a socket's cookie.
const COOKIE: i16 = -8;

/// What became of a socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// It listens, and is in the kernel's table.
    Listens,
    /// It is about to be taken out of the kernel's table.
    Closes,
}

/// What the program tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ListenEvent {
    /// What happened.
    pub change: Change,
    /// The socket is an IPv6 one.
    pub ipv6: bool,
    /// Its port.
    pub port: u16,
    /// Its network namespace (SO_NETNS_COOKIE), which kernels before 5.15 do not tell, and none of what is followed.
    pub netns_cookie: Option<u64>,
    /// The socket itself (SO_COOKIE, and in sock_diag's answers).
    pub socket_cookie: u64,
}

impl ListenEvent {
    fn read(record: &[u8]) -> Option<Self> {
        let record: &[u8; RECORD] = record.try_into().ok()?;
        let half = |at: usize| u16::from_ne_bytes([record[at], record[at + 1]]);
        let long = |at: usize| record[at..at + 8].try_into().ok().map(u64::from_ne_bytes);
        let change = match i32::from_ne_bytes(record[..4].try_into().ok()?) {
            LISTENS => Change::Listens,
            CLOSES => Change::Closes,
            _ => return None,
        };
        Some(Self {
            change,
            ipv6: i32::from(half(4)) == libc::AF_INET6,
            port: half(6),
            // Cookies are counted from 1.
            netns_cookie: long(8).filter(|cookie| *cookie != 0),
            socket_cookie: long(16)?,
        })
    }
}

/// The programs, attached, and their records. They are gone from the kernel when this is dropped, and with the process.
#[derive(Debug)]
pub struct ListenEvents {
    ring: Ring,
    _link: Link,
    /// Cookies of listeners that are older than the first program, for the second one; none where the kernel does not take that.
    followed: Option<(Map, Link)>,
}

impl ListenEvents {
    /// Attaches the program to the cgroup of this directory: the tree's root, to hear of all sockets.
    ///
    /// # Errors
    /// With what the kernel lacks, or the agent may not.
    pub fn attach(cgroup: &Path) -> Result<Self, Missing> {
        let directory = open_cgroup(cgroup)?;
        let map = Map::ring("guestd_listen", limits::LISTENER_RING_BYTES)?;
        let kind = ProgramKind::sock_ops("guestd_listen");
        // Which functions a kernel has for such programs is known by loading one.
        let load = |with_netns| Program::load(kind, &program(map.0.as_fd(), with_netns)?);
        let program = load(true).or_else(|error| load(false).map_err(|_| error))?;
        let followed = attach_followed(map.0.as_fd(), directory.as_fd()).ok();
        let ring = Ring::new(map).map_err(Missing::Mapping)?;
        let link = program.attach_to_cgroup(directory.as_fd())?;
        Ok(Self { ring, _link: link, followed })
    }

    /// Has the end of a listener that is older than this be told as well, unless it was closed before; says whether it will be. Not for one
    /// that the kernel holds for a multipath socket ([`crate::sys::sock_diag::multipath_listeners`]): of that nothing is told.
    pub fn follow(&self, listener: &SocketFact) -> bool {
        let (Some((table, _)), Some(cookie)) = (&self.followed, listener.cookie) else { return false };
        let family = if listener.address.is_ipv4() { libc::AF_INET } else { libc::AF_INET6 } as u16;
        let ([a, b], [c, d]) = (family.to_ne_bytes(), listener.port.to_ne_bytes());
        // No room is among what fails.
        table.insert(&cookie.to_ne_bytes(), &[a, b, c, d]).is_ok()
    }

    /// Hands over every event that is there now.
    pub fn read(&mut self, mut event: impl FnMut(ListenEvent)) -> Taken {
        self.ring.read(RECORD, |record| {
            if let Some(read) = ListenEvent::read(record) {
                event(read);
            }
        })
    }
}

impl AsFd for ListenEvents {
    /// Readable while there are events.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.ring.as_fd()
    }
}

/// The program.
fn program(map: BorrowedFd<'_>, with_netns: bool) -> Result<Vec<Instruction>, super::AssemblyError> {
    let mut code = Assembler::default();
    let (listens, tell, end) = (code.label(), code.label(), code.label());
    tell_apart(&mut code, listens, end);
    code.set(R7, CLOSES);
    code.jump(tell);

    code.place(listens);
    ask_for_changes(&mut code);
    code.set(R7, LISTENS);

    code.place(tell);
    if with_netns {
        code.set(R1, R6);
        code.call(Helper::GetNetnsCookie);
        code.set(R8, R0);
    } else {
        code.set(R8, 0);
    }
    code.set(R1, R6);
    code.call(Helper::GetSocketCookie);
    code.set(R9, R0);
    // No room: the reader sees that it was full, and looks at all.
    code.reserve(map, RECORD as i32, end);
    code.store(Width::U32, R0, 0, R7);
    code.load(Width::U32, R1, R6, FAMILY);
    code.store(Width::U16, R0, 4, R1);
    code.load(Width::U32, R1, R6, LOCAL_PORT);
    code.store(Width::U16, R0, 6, R1);
    code.store(Width::U64, R0, 8, R8);
    code.store(Width::U64, R0, 16, R9);
    code.submit();

    code.place(end);
    code.set(R0, 1);
    code.exit();
    code.finish()
}

fn attach_followed(ring: BorrowedFd<'_>, cgroup: BorrowedFd<'_>) -> Result<(Map, Link), Missing> {
    let table = Map::hash("guestd_followed", size_of::<u64>(), FOLLOWED, limits::LISTENERS)?;
    let program = Program::load(ProgramKind::sock_release("guestd_followed"), &followed_program(ring, table.as_fd())?)?;
    let link = program.attach_to_cgroup(cgroup)?;
    Ok((table, link))
}

/// The second program.
fn followed_program(ring: BorrowedFd<'_>, table: BorrowedFd<'_>) -> Result<Vec<Instruction>, super::AssemblyError> {
    let mut code = Assembler::default();
    let end = code.label();
    sock_release::find(&mut code, table, COOKIE, end);
    code.load(Width::U32, R7, R0, 0);
    code.load_map(R1, table);
    code.stack_address(R2, COOKIE);
    code.call(Helper::MapDelete);
    code.reserve(ring, RECORD as i32, end);
    code.store(Width::U32, R0, 0, CLOSES);
    code.store(Width::U32, R0, 4, R7);
    code.store(Width::U64, R0, 8, 0);
    code.load(Width::U64, R1, R10, COOKIE);
    code.store(Width::U64, R0, 16, R1);
    code.submit();
    code.place(end);
    code.set(R0, 1);
    code.exit();
    code.finish()
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, TcpListener, TcpStream};

    use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

    use super::*;
    use crate::sys::{bpf::BpfError, cgroup, sock_diag};

    fn attached() -> ListenEvents {
        ListenEvents::attach(&cgroup::root().unwrap()).unwrap()
    }

    /// Events of this port, until there are so many.
    fn events(source: &mut ListenEvents, port: u16, count: usize) -> Vec<ListenEvent> {
        let mut found = Vec::new();
        while found.len() < count {
            let mut readable = [PollFd::new(source.as_fd(), PollFlags::POLLIN)];
            assert_eq!(poll(&mut readable, PollTimeout::from(30_000u16)).unwrap(), 1, "only {found:?} came");
            source.read(|event| found.extend((event.port == port).then_some(event)));
        }
        found
    }

    #[test]
    fn listening_and_closing_are_told_with_port_family_and_socket() {
        let mut source = attached();
        for (address, ipv6) in [("127.0.0.1:0", false), ("[::1]:0", true)] {
            let listener = TcpListener::bind(address).unwrap();
            let port = listener.local_addr().unwrap().port();
            let cookie = socket2::SockRef::from(&listener).cookie().unwrap();
            // Its connections inherit the wish to be told of changes of state, and are none of ours.
            let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
            let served = listener.accept().unwrap();
            drop((client, served));
            drop(listener);
            let found = events(&mut source, port, 2);
            let told: Vec<_> = found.iter().map(|event| (event.change, event.ipv6, event.socket_cookie)).collect();
            assert_eq!(told, [(Change::Listens, ipv6, cookie), (Change::Closes, ipv6, cookie)]);
            assert!(found[0].netns_cookie.is_some() && found[0].netns_cookie == found[1].netns_cookie);
        }
    }

    #[test]
    fn end_of_an_older_listener_is_told_if_it_is_followed() {
        let facts = |listener: &TcpListener| {
            let port = listener.local_addr().unwrap().port();
            sock_diag::listening_tcp_on(port, 8).unwrap().into_iter().find(|fact| fact.port == port).unwrap()
        };
        for (address, ipv6) in [("127.0.0.1:0", false), ("[::1]:0", true)] {
            let (older, other, shut) = (
                TcpListener::bind(address).unwrap(),
                TcpListener::bind(address).unwrap(),
                TcpListener::bind(address).unwrap(),
            );
            let mut source = attached();
            assert!(source.follow(&facts(&older)) && source.follow(&facts(&shut)));
            let port = older.local_addr().unwrap().port();
            let cookie = socket2::SockRef::from(&older).cookie().unwrap();
            // It has a descriptor left.
            drop(older.try_clone().unwrap());
            let client = TcpStream::connect(older.local_addr().unwrap()).unwrap();
            drop((client, older.accept().unwrap()));
            let unfollowed = other.local_addr().unwrap().port();
            drop((other, older));
            let found = events(&mut source, port, 1);
            let expected =
                ListenEvent { change: Change::Closes, ipv6, port, netns_cookie: None, socket_cookie: cookie };
            assert_eq!(found, [expected]);
            let port = shut.local_addr().unwrap().port();
            socket2::SockRef::from(&shut).shutdown(std::net::Shutdown::Read).unwrap();
            let mut all = Vec::new();
            source.read(|event| all.push(event.port));
            assert!(!all.contains(&unfollowed) && !all.contains(&port), "{all:?}");
            drop(shut);
            assert_eq!(events(&mut source, port, 1)[0].change, Change::Closes);
        }
    }

    #[test]
    fn full_ring_says_so_and_goes_on_when_it_was_read() {
        let mut source = attached();
        // The kernel leaves the last byte free.
        let records = (limits::LISTENER_RING_BYTES - 1) / (RECORD + 8);
        for _ in 0..=records / 2 {
            drop(TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap());
        }
        let mut count = 0;
        assert!(source.read(|_| count += 1).was_full);
        assert_eq!(count, records);
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        assert_eq!(events(&mut source, listener.local_addr().unwrap().port(), 1)[0].change, Change::Listens);
    }

    #[test]
    fn program_without_the_namespaces_cookie_is_taken_too() {
        let map = Map::ring("test", 4096).unwrap();
        Program::load(ProgramKind::sock_ops("test"), &program(map.0.as_fd(), false).unwrap()).unwrap();
    }

    #[test]
    fn directory_that_is_no_cgroup_is_named() {
        let error = ListenEvents::attach(Path::new("/nonexistent")).unwrap_err();
        assert!(error.to_string().starts_with("opening the cgroup /nonexistent failed"), "{error}");
        assert!(matches!(ListenEvents::attach(Path::new("/proc")), Err(Missing::Bpf(BpfError::Attach { .. }))));
    }
}
