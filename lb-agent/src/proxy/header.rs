//! The PROXY protocol, versions 1 and 2 (HAProxy, "The PROXY protocol", 2020): the addresses of a
//! connection, told by whoever passes it on before its first byte.

use std::io;
use std::net::{IpAddr, SocketAddr};

use proxy_header::{Error, ParseConfig, ProxiedAddress, ProxyHeader};

use crate::config::http::ProxyVersion;

/// Longest header that is read. The addresses take at most 232 bytes; what may follow them is of
/// no use here, and is skipped.
pub const LONGEST: usize = 2048;

const V1: &[u8] = b"PROXY ";
const V2: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";

/// What the bytes at the beginning of a connection are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Parsed {
    /// A whole header of `length` bytes.
    Header {
        /// Client and the address that it came to; `None` if the header says that the connection
        /// is the proxy's own, or of no IP at all: then the socket's own addresses hold.
        addresses: Option<(SocketAddr, SocketAddr)>,
        /// Where the connection proper begins.
        length: usize,
    },
    /// The beginning of one.
    Partial,
    /// Something else.
    Wrong,
}

/// Reads the header that `bytes` begin with.
pub fn parse(bytes: &[u8]) -> Parsed {
    let begins = |greeting: &[u8]| {
        let common = greeting.len().min(bytes.len());
        bytes[..common] == greeting[..common]
    };
    if !begins(V1) && !begins(V2) {
        return Parsed::Wrong;
    }
    let config = ParseConfig {
        include_tlvs: false,
        ..ParseConfig::default()
    };
    match ProxyHeader::parse(bytes, config) {
        Ok((header, length)) if length <= LONGEST => Parsed::Header {
            addresses: header
                .proxied_address()
                .map(|told| (canonical(told.source), canonical(told.destination))),
            length,
        },
        Err(Error::BufferTooShort) if bytes.len() < LONGEST => Parsed::Partial,
        _ => Parsed::Wrong,
    }
}

/// The header for a connection that `client` made to `local`.
pub fn write(version: ProxyVersion, client: SocketAddr, local: SocketAddr) -> io::Result<Vec<u8>> {
    let (client, local) = same_family(client, local);
    let header = ProxyHeader::with_address(ProxiedAddress::stream(client, local));
    let mut bytes = Vec::with_capacity(108);
    let written = match version {
        ProxyVersion::V1 => header.encode_v1(&mut bytes),
        ProxyVersion::V2 => header.encode_v2(&mut bytes),
    };
    written.map_err(io::Error::other)?;
    Ok(bytes)
}

/// A header names two addresses of one family: an IPv4 address beside an IPv6 one is mapped.
fn same_family(client: SocketAddr, local: SocketAddr) -> (SocketAddr, SocketAddr) {
    let (client, local) = (canonical(client), canonical(local));
    if client.is_ipv4() == local.is_ipv4() {
        return (client, local);
    }
    let mapped = |address: SocketAddr| match address.ip() {
        IpAddr::V4(ip) => SocketAddr::new(ip.to_ipv6_mapped().into(), address.port()),
        IpAddr::V6(_) => address,
    };
    (mapped(client), mapped(local))
}

fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn addr(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    fn told(bytes: &[u8]) -> Parsed {
        parse(bytes)
    }

    #[test]
    fn the_line_of_version_1_is_read() {
        let line = b"PROXY TCP4 203.0.113.9 192.0.2.1 51000 80\r\nGET / HTTP/1.1\r\n";
        let expected = Parsed::Header {
            addresses: Some((addr("203.0.113.9:51000"), addr("192.0.2.1:80"))),
            length: 43,
        };
        assert_eq!(told(line), expected);
        let unknown = Parsed::Header {
            addresses: None,
            length: 15,
        };
        assert_eq!(told(b"PROXY UNKNOWN\r\nGET"), unknown);
    }

    #[test]
    fn a_health_check_of_version_2_has_no_addresses() {
        let local = b"\r\n\r\n\0\r\nQUIT\n\x20\x00\x00\x00";
        let expected = Parsed::Header {
            addresses: None,
            length: 16,
        };
        assert_eq!(told(local), expected);
    }

    #[test]
    fn a_mapped_address_is_told_as_the_ipv4_address_it_is() {
        let line = b"PROXY TCP6 ::ffff:203.0.113.9 ::ffff:192.0.2.1 1 80\r\n";
        let Parsed::Header { addresses, .. } = told(line) else {
            panic!("not read")
        };
        assert_eq!(
            addresses,
            Some((addr("203.0.113.9:1"), addr("192.0.2.1:80")))
        );
    }

    #[test]
    fn what_is_no_header_is_known_from_its_first_byte_that_differs() {
        assert_eq!(told(b""), Parsed::Partial);
        assert_eq!(told(b"PRO"), Parsed::Partial);
        assert_eq!(told(b"\r\n\r\n"), Parsed::Partial);
        assert_eq!(told(b"GET / HTTP/1.1\r\n"), Parsed::Wrong);
        assert_eq!(told(b"POST"), Parsed::Wrong);
        assert_eq!(told(b"PROXYXTCP4 1.1.1.1 2.2.2.2 1 2\r\n"), Parsed::Wrong);
        assert_eq!(
            told(b"PROXY TCP4 1.1.1.1 2.2.2.2 99999 2\r\n"),
            Parsed::Wrong
        );
        let endless = [b"PROXY TCP4 ".as_slice(), &[b'1'; LONGEST]].concat();
        assert_eq!(told(&endless), Parsed::Wrong);
        let long = [V2, b"\x21\x11\xff\xff".as_slice(), &[0; LONGEST]].concat();
        assert_eq!(told(&long), Parsed::Wrong);
    }

    #[test]
    fn addresses_of_two_families_are_told_as_ipv6() {
        let bytes = write(
            ProxyVersion::V1,
            addr("[2001:db8::9]:1"),
            addr("192.0.2.1:80"),
        );
        assert_eq!(
            bytes.unwrap(),
            b"PROXY TCP6 2001:db8::9 ::ffff:192.0.2.1 1 80\r\n"
        );
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(
            client: [u8; 16], local: [u8; 16], v4: bool, ports: (u16, u16), second: bool, tail: Vec<u8>
        ) {
            let ip = |bytes: [u8; 16]| if v4 {
                IpAddr::from([bytes[0], bytes[1], bytes[2], bytes[3]])
            } else {
                IpAddr::from(bytes).to_canonical()
            };
            let client = SocketAddr::new(ip(client), ports.0);
            let local = SocketAddr::new(ip(local), ports.1);
            let version = if second { ProxyVersion::V2 } else { ProxyVersion::V1 };
            let mut bytes = write(version, client, local).unwrap();
            let length = bytes.len();
            for cut in 0..length {
                prop_assert_eq!(parse(&bytes[..cut]), Parsed::Partial);
            }
            bytes.extend(tail);
            prop_assert_eq!(parse(&bytes), Parsed::Header { addresses: Some((client, local)), length });
        }

        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300), v2: bool) {
            let greeting = if v2 { V2 } else { V1 };
            let _ = parse(&[greeting, &bytes].concat());
            let _ = parse(&bytes);
        }
    }
}
