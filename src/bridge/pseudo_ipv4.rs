//! A stand-in IPv4 address for an IPv6 client.
//!
//! 240.0.0.0/4 is reserved (RFC 1112, section 4), so no route leads there and no service trusts it. The same client always
//! gets the same address, on every VM and version, so a service can tell clients apart, count and log them.

use std::net::{Ipv4Addr, Ipv6Addr};

/// The block that stand-ins are taken from.
pub const PSEUDO_IPV4: Ipv4Addr = Ipv4Addr::new(240, 0, 0, 0);

/// Its prefix length.
pub const PSEUDO_IPV4_BITS: u8 = 4;

/// Where services on `0.0.0.0` are dialled: local, as the whole block is made, and no loopback address.
pub const PSEUDO_IPV4_SERVICE: Ipv4Addr = Ipv4Addr::new(240, 0, 0, 1);

/// The stand-in of `client`: 64-bit FNV-1a of its 16 bytes, folded to the block without its first address and
/// 255.255.255.255 (limited broadcast, RFC 919).
pub fn pseudo_ipv4(client: Ipv6Addr) -> Ipv4Addr {
    const OFFSET_BASIS: u64 = 0xcbf2_9ce4_8422_2325;
    const PRIME: u64 = 0x0100_0000_01b3;
    let hash = client.octets().iter().fold(OFFSET_BASIS, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(PRIME));
    let hosts = (1u64 << (32 - PSEUDO_IPV4_BITS)) - 2;
    let host = u32::try_from((hash ^ (hash >> 32)) % hosts).unwrap_or_default() + 1;
    Ipv4Addr::from_bits(PSEUDO_IPV4.to_bits() | host)
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn the_mapping_is_a_contract_and_does_not_change() {
        assert_eq!(pseudo_ipv4("2001:db8::1".parse().unwrap()), Ipv4Addr::new(248, 251, 184, 116));
        assert_eq!(pseudo_ipv4("fd00::1".parse().unwrap()), Ipv4Addr::new(244, 161, 118, 244));
    }

    #[test]
    fn neighbouring_clients_are_told_apart() {
        let clients = (0..10_000u16).map(|host| Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, host));
        let stand_ins: HashSet<_> = clients.map(pseudo_ipv4).collect();
        // 10,000 draws from 2^28 collide 0.2 times on average.
        assert!(stand_ins.len() >= 9_990, "{} of 10000", stand_ins.len());
    }

    proptest::proptest! {
        #[test]
        fn a_stand_in_is_always_a_unicast_address_of_the_block(bits: u128) {
            let stand_in = pseudo_ipv4(Ipv6Addr::from_bits(bits));
            assert_eq!(stand_in.octets()[0] & 0xf0, 240);
            assert!(!stand_in.is_broadcast() && stand_in != PSEUDO_IPV4);
        }
    }
}
