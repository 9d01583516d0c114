//! Steering: IPv6 connections to ports that nothing serves over IPv6 come to one listening socket, which has a port of its own.
//!
//! ```text
//!   listen(2), close ──> count (sock_ops, at the cgroup tree's root) ──┐
//!   close of what is older ──> release (cgroup/sock_release) ──────────┤
//!   guestd: seed, forget (what is older) ──────────────────────────────┼──> listeners: cookie -> port, class
//!   guestd: flags ──> ports: v4, v6, v6_loopback, flags, changes <─────┘
//!                        │                └─ steered ──> bind (cgroup/bind6): SO_REUSEADDR for whoever binds the port
//!   SYN ──> lookup (sk_lookup, of the network namespace) ──> the listening socket, or what the kernel finds itself
//! ```
//!
//! A service's port is never bound, so nothing that a service does is in its way; and steering ends before the service's own
//! listen(2) returns. Which ports are steered is not decided here. Everything that is attached is gone when [`Steering`] is dropped, and
//! with the process.

mod bind;
mod count;
mod lookup;
mod ports;
#[cfg(test)]
mod tests;

use std::{
    collections::HashSet,
    fmt,
    fs::File,
    io,
    net::Ipv6Addr,
    os::fd::{AsFd, AsRawFd, BorrowedFd},
    path::Path,
};

use socket2::{Domain, Socket, Type};

pub use ports::{AUTO, Class, NOT_LOOPBACK, PortCounts, RULE, STEERED};

use super::{Link, Map, Missing, Program, ProgramKind, Ring, open_cgroup};
use crate::{limits, sys::netns};
use ports::{Counted, Doubt, NoPorts, Ports};

/// What this kernel's programs can do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Variant {
    /// Only listeners of the own network namespace are counted (Linux 5.15). Without it those of containers count, too.
    pub own_namespace_only: bool,
    /// What comes by the loopback interface is known (Linux 5.17). Without it what comes from the VM itself is known by
    /// [`Steering::set_own_addresses`] alone.
    pub by_interface: bool,
    /// Why a service cannot bind its port over IPv6 while connections of the bridge are there, unless it asks for SO_REUSEADDR; `None`
    /// if it can.
    pub no_rebind: Option<String>,
}

impl fmt::Display for Variant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let namespaces =
            if self.own_namespace_only { "the own listeners count" } else { "listeners of all namespaces count" };
        let inside = if self.by_interface { "interface and address" } else { "address" };
        write!(f, "{namespaces}; what comes from inside is known by {inside}; ")?;
        match &self.no_rebind {
            None => f.write_str("services can bind beside bridged connections"),
            Some(why) => write!(f, "services without SO_REUSEADDR cannot bind beside bridged connections ({why})"),
        }
    }
}

/// The programs, attached, and what they know.
#[derive(Debug)]
pub struct Steering {
    // Dropped in this order: nothing is steered by counts that nobody keeps.
    _lookup: Link,
    _bind: Option<Link>,
    _count: Link,
    /// Uncounts listeners that are older than `_count`.
    release: Option<Link>,
    ports: Ports,
    /// Socket cookie -> how it was counted.
    listeners: Map,
    /// The VM's own addresses for the program, and which there are.
    own_addresses: (Map, HashSet<Ipv6Addr>),
    /// Until it is taken.
    alarm: Option<Alarm>,
    variant: Variant,
}

/// Readable when there was no room to count a listener, so that nothing is steered any more.
#[derive(Debug)]
pub struct Alarm(Ring);

impl Alarm {
    /// To be called then, or it stays readable.
    pub fn hear(&mut self) {
        self.0.read(0, |_| {});
    }
}

impl AsFd for Alarm {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl Steering {
    /// Attaches the programs: to the network namespace of this thread, which must be that of `listener` too, and to the cgroup2
    /// tree with this root, by which listeners of all processes are seen.
    ///
    /// `listener` is an IPv6 socket that listens. It stays the caller's; when it is closed nothing is steered any more. It should have IPV6_V6ONLY and SO_REUSEADDR, which connections inherit: by these no bind of a service conflicts with them.
    ///
    /// At most `most` listeners are counted; with more nothing is steered. No port has flags yet, so that nothing is steered, and listeners older than this are not counted: [`Steering::seed`] them first, and
    /// tell [`Steering::set_own_addresses`].
    ///
    /// # Errors
    /// With what the kernel lacks, or guestd may not.
    pub fn attach(listener: BorrowedFd<'_>, cgroup_root: &Path, most: usize) -> Result<Self, Missing> {
        Self::attach_with(listener, cgroup_root, most, &Kernel::default())
    }

    fn attach_with(
        listener: BorrowedFd<'_>,
        cgroup_root: &Path,
        most: usize,
        kernel: &Kernel,
    ) -> Result<Self, Missing> {
        let cgroup = open_cgroup(cgroup_root)?;
        let netns = File::open("/proc/thread-self/ns/net").map_err(Missing::Namespace)?;
        let cookie = netns::own_cookie().filter(|_| !kernel.no_cookies);
        let ports = Ports::new().map_err(|error| match error {
            NoPorts::Bpf(error) => Missing::Bpf(error),
            NoPorts::Mapping(error) => Missing::Mapping(error),
        })?;
        let listeners = Map::hash("guestd_listener", size_of::<u64>(), Counted::BYTES, most)?;
        // A page, which is the least.
        let alarm = Map::ring("guestd_alarm", 1)?;

        let (count, own_namespace_only) = load_count(&ports, &listeners, &alarm.0, cookie)?;
        let alarm = Some(Alarm(Ring::new(alarm).map_err(Missing::Mapping)?));
        let own = Map::hash("guestd_own", size_of::<Ipv6Addr>(), size_of::<u32>(), limits::STEERING_ADDRESSES)?;
        let (lookup, by_interface) = load_lookup(&ports, listener, &own, kernel.no_interfaces)?;
        ports.set_doubt(Doubt::OwnAddresses, true);
        let count = count.attach_to_cgroup(cgroup.as_fd())?;
        let lookup = lookup.attach_to_netns(netns.as_fd())?;
        let release = (!kernel.no_releases).then(|| attach_release(&ports, &listeners, cgroup.as_fd()));
        // Without it the caller hears of ends in another way.
        let release = release.and_then(Result::ok);
        let bind = attach_bind(&ports, cookie, cgroup.as_fd());
        let (bind, no_rebind) = match bind {
            Ok(bind) => (Some(bind), None),
            Err(why) => (None, Some(why)),
        };
        Ok(Self {
            _lookup: lookup,
            _bind: bind,
            _count: count,
            release,
            ports,
            listeners,
            own_addresses: (own, HashSet::new()),
            alarm,
            variant: Variant { own_namespace_only, by_interface, no_rebind },
        })
    }

    /// What this kernel's programs can do.
    pub fn variant(&self) -> &Variant {
        &self.variant
    }

    /// The end of a seeded listener that a process holds uncounts it by itself. Without it (another BPF in the way), and of one that the kernel holds on a process's behalf
    /// ([`crate::sys::sock_diag::multipath_listeners`]), [`Steering::forget`] must.
    pub fn hears_of_ends(&self) -> bool {
        self.release.is_some()
    }

    /// How a port is to be steered: [`AUTO`], [`RULE`], [`NOT_LOOPBACK`], or not at all: 0. Holds from the next connection on. Port 0 is none.
    pub fn set_flags(&self, port: u16, flags: u32) {
        if port != 0 {
            self.ports.set_flags(port, flags);
        }
    }

    /// A plane before this one had connections on this port: a service that binds it is to be able to, over what is left of them.
    pub fn expect_remains(&self, port: u16) {
        self.ports.set_steered(port, true);
    }

    /// What is known of a port.
    pub fn port(&self, port: u16) -> PortCounts {
        if port == 0 { PortCounts::default() } else { self.ports.counts(port) }
    }

    /// [`PortCounts::changes`] alone: one read of memory.
    ///
    /// It grows after a listener is in the kernel's table, and *before* one is taken out: who dumps the table when it has grown may see
    /// one that is about to end.
    pub fn changes(&self, port: u16) -> u32 {
        if port == 0 { 0 } else { self.ports.changes(port) }
    }

    /// What tells that [`Steering::is_full`] has become true by itself. There is one.
    pub fn take_alarm(&mut self) -> Option<Alarm> {
        self.alarm.take()
    }

    /// Counts a listener that sock_diag has shown, unless it is counted, and says whether it was not. `cookie` is its socket cookie.
    ///
    /// One that ended after it was shown is counted for ever unless [`Steering::forget`] is called for it, so: dump, seed, dump again, forget what
    /// is not shown any more. Where an end does not uncount it ([`Steering::hears_of_ends`]), begin before that to hear of ends in another way (sock_diag's multicast
    /// groups), and forget it then.
    ///
    /// # Errors
    /// Those of bpf(2). No room for more listeners is none. After both nothing is steered, see [`Steering::is_full`].
    pub fn seed(&self, cookie: u64, port: u16, class: Class) -> io::Result<bool> {
        let counted = Counted { port, class };
        // Before it is in the table: a service's listen(2) that finds it there returns, and must be counted then.
        self.ports.count(counted, 1);
        let inserted = self.listeners.insert_new(&cookie.to_ne_bytes(), &counted.bytes());
        if !matches!(inserted, Ok(true)) {
            self.ports.count(counted, -1);
        }
        if inserted.is_err() {
            self.ports.set_doubt(Doubt::Full, true);
        }
        match inserted {
            Err(error) if error.raw_os_error() == Some(libc::E2BIG) => Ok(false),
            other => other,
        }
    }

    /// Uncounts a socket that is no listener any more, if it is counted, and says whether it was.
    ///
    /// # Errors
    /// Those of bpf(2).
    pub fn forget(&self, cookie: u64) -> io::Result<bool> {
        let key = cookie.to_ne_bytes();
        let mut value = [0; Counted::BYTES];
        // The kernel's own program may be at it too: who takes it out uncounts it.
        if !self.listeners.find(&key, &mut value)? || !self.listeners.remove(&key)? {
            return Ok(false);
        }
        if let Some(counted) = Counted::read(value) {
            self.ports.count(counted, -1);
        }
        Ok(true)
    }

    /// There was no room to count a listener, or it failed: nothing is steered any more.
    pub fn is_full(&self) -> bool {
        self.ports.in_doubt(Doubt::Full)
    }

    /// Steers again after [`Steering::is_full`], or does not because what listens is not known. To be cleared before all listeners
    /// are seeded anew; if there is no room again, it is full again.
    ///
    /// Until they are, some are not counted: take the flags of all ports away before.
    pub fn set_full(&self, full: bool) {
        self.ports.set_doubt(Doubt::Full, full);
    }

    /// The VM's own addresses are not known any more: nothing is steered until [`Steering::set_own_addresses`].
    pub fn forget_own_addresses(&self) {
        self.ports.set_doubt(Doubt::OwnAddresses, true);
    }

    /// Tells the VM's own IPv6 addresses, all of them: what comes from these is not steered unless a rule says so. Nothing is
    /// steered before the first time, nor after one that failed.
    ///
    /// # Errors
    /// Those of bpf(2); E2BIG: more than `limits::STEERING_ADDRESSES`.
    pub fn set_own_addresses(&mut self, addresses: &[Ipv6Addr]) -> io::Result<()> {
        let (map, known) = &mut self.own_addresses;
        let wanted: HashSet<_> = addresses.iter().copied().collect();
        let gone: Vec<_> = known.difference(&wanted).copied().collect();
        let remove = |known: &mut HashSet<_>| {
            for gone in &gone {
                map.remove(&gone.octets())?;
                known.remove(gone);
            }
            io::Result::Ok(())
        };
        // New ones first, so that none that stays or comes is missing meanwhile; unless there is no room for both.
        let is_tight = known.union(&wanted).count() > limits::STEERING_ADDRESSES;
        let mut change = || {
            if is_tight {
                self.ports.set_doubt(Doubt::OwnAddresses, true);
                remove(known)?;
            }
            for address in &wanted {
                map.insert(&address.octets(), &1_u32.to_ne_bytes())?;
                known.insert(*address);
            }
            remove(known)
        };
        let changed = change();
        self.ports.set_doubt(Doubt::OwnAddresses, changed.is_err());
        changed
    }
}

/// What a kernel lacks though it has it, for tests.
#[derive(Debug, Default)]
struct Kernel {
    /// It does not tell cookies of namespaces.
    no_cookies: bool,
    /// It does not tell interfaces.
    no_interfaces: bool,
    /// It does not tell when sockets end.
    no_releases: bool,
}

/// Which functions and fields a kernel has for a program is known by loading one.
fn load_count(ports: &Ports, listeners: &Map, alarm: &Map, cookie: Option<u64>) -> Result<(Program, bool), Missing> {
    let kind = ProgramKind::sock_ops("guestd_count");
    let load = |own| {
        let code = count::program(ports.as_fd(), listeners.as_fd(), alarm.as_fd(), own)?;
        Ok(Program::load(kind, &code)?)
    };
    if cookie.is_some()
        && let Ok(program) = load(cookie)
    {
        return Ok((program, true));
    }
    load(None).map(|program| (program, false))
}

fn load_lookup(
    ports: &Ports,
    listener: BorrowedFd<'_>,
    own: &Map,
    no_interfaces: bool,
) -> Result<(Program, bool), Missing> {
    let sockets = Map::sockets("guestd_bridge", 1)?;
    let descriptor = u64::from(listener.as_raw_fd().cast_unsigned());
    sockets.insert(&0_u32.to_ne_bytes(), &descriptor.to_ne_bytes()).map_err(Missing::Listener)?;
    let kind = ProgramKind::sk_lookup("guestd_steer");
    let load = |by_interface| {
        let code = lookup::program(ports.as_fd(), sockets.as_fd(), own.as_fd(), by_interface)?;
        Ok(Program::load(kind, &code)?)
    };
    if !no_interfaces && let Ok(program) = load(true) {
        return Ok((program, true));
    }
    load(false).map(|program| (program, false))
}

fn attach_release(ports: &Ports, listeners: &Map, cgroup: BorrowedFd<'_>) -> Result<Link, Missing> {
    let code = count::release_program(ports.as_fd(), listeners.as_fd())?;
    Ok(Program::load(ProgramKind::sock_release("guestd_release"), &code)?.attach_to_cgroup(cgroup)?)
}

/// Attaches the program for bind(2), or says why there is none to be had.
fn attach_bind(ports: &Ports, cookie: Option<u64>, cgroup: BorrowedFd<'_>) -> Result<Link, String> {
    let own = cookie.ok_or("the kernel does not tell the own network namespace's cookie; it takes Linux 5.14")?;
    let instructions = bind::program(ports.as_fd(), own).map_err(|error| error.to_string())?;
    let program = Program::load(ProgramKind::bind6("guestd_bind"), &instructions).map_err(|error| error.to_string())?;
    let link = program.attach_to_cgroup(cgroup).map_err(|error| error.to_string())?;
    // A kernel may have the function for such programs, and not the option for the function.
    match sets_reuse_address(ports) {
        Ok(true) => Ok(link),
        Ok(false) => Err("the kernel does not let BPF set SO_REUSEADDR; it takes Linux 6.1".to_owned()),
        Err(error) => Err(format!("binding a socket to try it failed: {error}")),
    }
}

/// Tries it out on a port that nobody else can bind meanwhile.
fn sets_reuse_address(ports: &Ports) -> io::Result<bool> {
    let socket = || {
        let socket = Socket::new(Domain::IPV6, Type::STREAM, None)?;
        socket.set_only_v6(true)?;
        io::Result::Ok(socket)
    };
    let (holder, second) = (socket()?, socket()?);
    holder.bind(&std::net::SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0)).into())?;
    let address = holder.local_addr()?;
    let port = address.as_socket().map_or(0, |address| address.port());
    ports.set_steered(port, true);
    // It is refused, as the other one is there, but not before the program has run.
    let _ = second.bind(&address);
    ports.set_steered(port, false);
    second.reuse_address()
}
