//! What programs and guestd know of each port: an array in memory that both write, by atomic operations alone.
//!
//! ```text
//!   port 0 (no service has it): whether steering is in doubt as a whole, and why
//!   port P: v4 │ v6 │ v6_loopback │ flags │ changes │ steered      u32 each, in the machine's byte order
//! ```

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    os::fd::{AsFd, BorrowedFd},
    sync::atomic::{AtomicU32, Ordering},
};

use crate::sys::bpf::{BpfError, map::Map, memory::Mapping};

/// Offsets in a port's value.
pub(super) const V4: i16 = 0;
pub(super) const V6: i16 = 4;
pub(super) const V6_LOOPBACK: i16 = 8;
pub(super) const FLAGS: i16 = 12;
pub(super) const CHANGES: i16 = 16;
pub(super) const STEERED_AT: i16 = 20;
/// Bytes of a value.
const VALUE: usize = 24;
const PORTS: usize = 1 << 16;

/// Flag: steer what does not come from the VM itself, while there is an IPv4 listener and no IPv6 one.
pub const AUTO: u32 = 1 << 0;
/// Flag: steer on every interface, while there is no IPv6 listener.
pub const RULE: u32 = 1 << 1;
/// Something was steered: connections with this local port may be there. Told, not set.
pub const STEERED: u32 = 1 << 2;
/// Flag: of a rule, do not steer what is sent to `[::1]`. For rules whose target is there on the same port.
pub const NOT_LOOPBACK: u32 = 1 << 3;

/// Why steering is in doubt as a whole: words of port 0's value, which are 0 while it is not. The two make one word of 64 bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Doubt {
    /// A listener was not counted, for want of room.
    Full = DOUBTS as isize,
    /// The VM's own addresses are not known.
    OwnAddresses = DOUBTS as isize + 4,
}
pub(super) const DOUBTS: i16 = 0;

/// What a listener counts as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    /// IPv4 that others than the VM itself reach: automatic bridging may serve it.
    V4 = V4 as isize,
    /// IPv6 that others reach, dual-stack too: nothing is to be steered.
    V6 = V6 as isize,
    /// `[::1]`.
    V6Loopback = V6_LOOPBACK as isize,
}

impl Class {
    /// That of a listener bound to this address; `None` for those that count as nothing. The program for listen(2) decides the same.
    pub fn of(address: IpAddr) -> Option<Self> {
        match address {
            IpAddr::V4(address) => Self::of_ipv4(address),
            IpAddr::V6(Ipv6Addr::LOCALHOST) => Some(Self::V6Loopback),
            IpAddr::V6(address) if address.is_unicast_link_local() => None,
            IpAddr::V6(address) => address.to_ipv4_mapped().map_or(Some(Self::V6), Self::of_ipv4),
        }
    }

    fn of_ipv4(address: Ipv4Addr) -> Option<Self> {
        (!address.is_loopback() && !address.is_link_local()).then_some(Self::V4)
    }

    /// The other way round from `as`.
    fn at(offset: u32) -> Option<Self> {
        [Self::V4, Self::V6, Self::V6Loopback].into_iter().find(|class| *class as u32 == offset)
    }
}

/// A port's listeners, as they are counted now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct PortCounts {
    /// Those of [`Class::V4`].
    pub v4: u32,
    /// Those of [`Class::V6`].
    pub v6: u32,
    /// Those of [`Class::V6Loopback`].
    pub v6_loopback: u32,
    /// [`AUTO`], [`RULE`], [`STEERED`], [`NOT_LOOPBACK`].
    pub flags: u32,
    /// Grows (and wraps) with each change of the counts, after it.
    pub changes: u32,
}

/// The array.
#[derive(Debug)]
pub(super) struct Ports {
    map: Map,
    memory: Mapping,
}

/// Why there is no array.
pub(super) enum NoPorts {
    Bpf(BpfError),
    Mapping(io::Error),
}

impl Ports {
    pub(super) fn new() -> Result<Self, NoPorts> {
        let map = Map::array("guestd_ports", VALUE, PORTS).map_err(NoPorts::Bpf)?;
        let memory = map.mapping(VALUE * PORTS).map_err(NoPorts::Mapping)?;
        Ok(Self { map, memory })
    }

    fn word(&self, port: u16, offset: i16) -> &AtomicU32 {
        let byte = usize::from(port) * VALUE + usize::from(offset.cast_unsigned());
        self.memory.word(byte / size_of::<u32>()).unwrap_or_else(|| unreachable!("every port has a value"))
    }

    pub(super) fn counts(&self, port: u16) -> PortCounts {
        let read = |offset| self.word(port, offset).load(Ordering::Acquire);
        // Before the counts: who reads them again when `changes` has grown misses none.
        let changes = read(CHANGES);
        let steered = if read(STEERED_AT) == 0 { 0 } else { STEERED };
        PortCounts { v4: read(V4), v6: read(V6), v6_loopback: read(V6_LOOPBACK), flags: read(FLAGS) | steered, changes }
    }

    pub(super) fn changes(&self, port: u16) -> u32 {
        self.word(port, CHANGES).load(Ordering::Acquire)
    }

    pub(super) fn set_flags(&self, port: u16, flags: u32) {
        self.word(port, FLAGS).store(flags & (AUTO | RULE | NOT_LOOPBACK), Ordering::Release);
    }

    pub(super) fn set_steered(&self, port: u16, steered: bool) {
        self.word(port, STEERED_AT).store(steered.into(), Ordering::Release);
    }

    /// One more, or one less, as the programs do it.
    pub(super) fn count(&self, Counted { port, class }: Counted, step: i32) {
        self.word(port, class as i16).fetch_add(step.cast_unsigned(), Ordering::AcqRel);
        self.word(port, CHANGES).fetch_add(1, Ordering::AcqRel);
    }

    pub(super) fn set_doubt(&self, why: Doubt, doubted: bool) {
        self.word(0, why as i16).store(doubted.into(), Ordering::Release);
    }

    pub(super) fn in_doubt(&self, why: Doubt) -> bool {
        self.word(0, why as i16).load(Ordering::Acquire) != 0
    }
}

impl AsFd for Ports {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.map.as_fd()
    }
}

/// How a socket was counted, so that it is uncounted in the same way: port, and offset of the count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Counted {
    pub(super) port: u16,
    pub(super) class: Class,
}

impl Counted {
    pub(super) const BYTES: usize = 8;

    pub(super) fn bytes(self) -> [u8; Self::BYTES] {
        let ([a, b, c, d], [e, f, g, h]) = (u32::from(self.port).to_ne_bytes(), (self.class as u32).to_ne_bytes());
        [a, b, c, d, e, f, g, h]
    }

    pub(super) fn read([a, b, c, d, e, f, g, h]: [u8; Self::BYTES]) -> Option<Self> {
        let port = u16::try_from(u32::from_ne_bytes([a, b, c, d])).ok()?;
        Some(Self { port, class: Class::at(u32::from_ne_bytes([e, f, g, h]))? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn class_is_by_family_and_reach() {
        for (address, class) in [
            ("0.0.0.0", Some(Class::V4)),
            ("10.0.0.1", Some(Class::V4)),
            ("127.0.0.1", None),
            ("127.255.0.1", None),
            ("169.254.1.1", None),
            ("::", Some(Class::V6)),
            ("fd00::1", Some(Class::V6)),
            ("2001:db8::1", Some(Class::V6)),
            ("fec0::1", Some(Class::V6)),
            ("::1", Some(Class::V6Loopback)),
            ("fe80::1", None),
            ("febf::1", None),
            ("::ffff:0.0.0.0", Some(Class::V4)),
            ("::ffff:10.0.0.1", Some(Class::V4)),
            ("::ffff:127.0.0.1", None),
            ("::ffff:169.254.0.1", None),
        ] {
            assert_eq!(Class::of(address.parse().unwrap()), class, "{address}");
        }
    }

    #[test]
    fn counted_sockets_are_read_as_they_were_written() {
        for class in [Class::V4, Class::V6, Class::V6Loopback] {
            let counted = Counted { port: 65_535, class };
            assert_eq!(Counted::read(counted.bytes()), Some(counted));
        }
        assert_eq!(Counted::read([255; 8]), None);
    }

    #[test]
    fn first_and_last_port_have_values_of_their_own() {
        let Ok(ports) = Ports::new() else { panic!("no array") };
        for port in [1, 65_535] {
            ports.count(Counted { port, class: Class::V6Loopback }, 1);
            ports.set_flags(port, u32::MAX);
            ports.set_steered(port, true);
            let flags = AUTO | RULE | STEERED | NOT_LOOPBACK;
            assert_eq!(ports.counts(port), PortCounts { v6_loopback: 1, flags, changes: 1, ..PortCounts::default() });
            ports.count(Counted { port, class: Class::V6Loopback }, -1);
            assert_eq!((ports.counts(port).v6_loopback, ports.changes(port)), (0, 2));
        }
        assert_eq!(ports.counts(2), PortCounts::default());
    }
}
