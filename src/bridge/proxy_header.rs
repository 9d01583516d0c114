//! The PROXY protocol's header, which tells a service who its client is: HAProxy's proxy-protocol.txt, sections 2.1 and 2.2.
//!
//! Both addresses are the true ones, over IPv6 always: the client's, and the one that it connected to. The address from which the
//! bridge dials is not in it. Made once for a connection, and sent before the client's first byte.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

/// What every header of version 2 begins with.
const SIGNATURE: [u8; 12] = *b"\r\n\r\n\0\r\nQUIT\n";

/// Version 2, command PROXY.
const VERSION_AND_COMMAND: u8 = 0x21;

/// TCP over IPv6, and the length of its two addresses and ports.
const TCP_OVER_IPV6: u8 = 0x21;
const ADDRESSES_BYTES: u16 = 36;

/// A line of text, of at most 107 bytes.
pub fn v1(client: SocketAddr, local: SocketAddr) -> Vec<u8> {
    // `Ipv6Addr` writes ::ffff:1.2.3.4 where that is what it is, and so the parser of who reads it must know that form; they do
    // (inet_pton(3)).
    format!("PROXY TCP6 {} {} {} {}\r\n", ipv6(client), ipv6(local), client.port(), local.port()).into_bytes()
}

/// 52 bytes.
pub fn v2(client: SocketAddr, local: SocketAddr) -> Vec<u8> {
    let mut header = Vec::with_capacity(SIGNATURE.len() + 4 + usize::from(ADDRESSES_BYTES));
    header.extend(SIGNATURE);
    header.extend([VERSION_AND_COMMAND, TCP_OVER_IPV6]);
    header.extend(ADDRESSES_BYTES.to_be_bytes());
    header.extend(ipv6(client).octets());
    header.extend(ipv6(local).octets());
    header.extend(client.port().to_be_bytes());
    header.extend(local.port().to_be_bytes());
    header
}

/// The address without a scope, which means nothing to others.
fn ipv6(address: SocketAddr) -> Ipv6Addr {
    match address.ip() {
        IpAddr::V6(address) => address,
        IpAddr::V4(address) => address.to_ipv6_mapped(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CLIENT: &str = "[2001:db8::1]:56324";
    const LOCAL: &str = "[fd00::2]:443";

    #[test]
    fn version_1_is_the_line_of_the_specification() {
        let header = v1(CLIENT.parse().unwrap(), LOCAL.parse().unwrap());
        assert_eq!(header, b"PROXY TCP6 2001:db8::1 fd00::2 56324 443\r\n");
        let header = v1("10.0.0.1:1".parse().unwrap(), "[fe80::1%3]:2".parse().unwrap());
        assert_eq!(header, b"PROXY TCP6 ::ffff:10.0.0.1 fe80::1 1 2\r\n");
    }

    #[test]
    fn version_1_is_never_longer_than_the_specification_allows() {
        let longest: SocketAddr = "[ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff]:65535".parse().unwrap();
        // 107 bytes is said for the longest of any family, UNKNOWN; for TCP6 it is 104.
        assert_eq!(v1(longest, longest).len(), 104);
    }

    #[test]
    fn version_2_is_the_bytes_of_the_specification() {
        let header = v2(CLIENT.parse().unwrap(), LOCAL.parse().unwrap());
        #[rustfmt::skip]
        let expected = [
            0x0D, 0x0A, 0x0D, 0x0A, 0x00, 0x0D, 0x0A, 0x51, 0x55, 0x49, 0x54, 0x0A, 0x21, 0x21, 0x00, 0x24,
            0x20, 0x01, 0x0d, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1,
            0xfd, 0x00, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2,
            0xdc, 0x04, 0x01, 0xbb,
        ];
        assert_eq!(header, expected);
    }
}
