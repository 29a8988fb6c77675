//! The PROXY protocol, versions 1 and 2 (HAProxy, "The PROXY protocol", 2020). A proxy sends the
//! addresses of a connection ahead of its first byte.
//!
//! Section numbers in comments are those of that specification.

use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;

use lb_config::http::ProxyVersion;

/// Longest header (section 2.2). The addresses take at most 232 bytes. The bytes after them are of
/// no use here, and are skipped.
pub const LONGEST: usize = FIXED + u16::MAX as usize;

const V1: &[u8] = b"PROXY ";
const V2: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";
/// Longest line of version 1 with its CRLF (section 2.1).
const LONGEST_LINE: usize = 107;
/// Bytes of version 2 before the addresses (section 2.2).
const FIXED: usize = 16;
/// Bytes of two addresses of unix sockets (section 2.2).
const UNIX_PAIR: usize = 216;

type Pair = (SocketAddr, SocketAddr);

/// The result of looking for a header at the beginning of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Parsed {
    /// A whole header, which takes `length` bytes.
    Header {
        /// The client, and the address that it connected to. `None` if the header says that the
        /// connection is the proxy's own, or not of IP. The socket's own addresses hold then.
        addresses: Option<Pair>,
        /// Offset of the first byte after the header.
        length: usize,
    },
    /// The beginning of a header.
    Partial,
    /// Bytes that begin no valid header.
    Wrong,
}

/// Reads the header that `bytes` begin with. A valid beginning is [`Parsed::Partial`] as long as
/// the header's end is missing.
pub fn parse(bytes: &[u8]) -> Parsed {
    let begins = |greeting: &[u8]| {
        let common = greeting.len().min(bytes.len());
        bytes[..common] == greeting[..common]
    };
    if begins(V1) {
        parse_v1(bytes)
    } else if begins(V2) {
        parse_v2(bytes)
    } else {
        Parsed::Wrong
    }
}

fn parse_v1(bytes: &[u8]) -> Parsed {
    let line = &bytes[..bytes.len().min(LONGEST_LINE)];
    let Some(end) = line.iter().position(|byte| *byte == b'\n') else {
        return if line.len() < LONGEST_LINE {
            Parsed::Partial
        } else {
            Parsed::Wrong
        };
    };
    let length = end + 1;
    match told_v1(&line[..length]) {
        Some(addresses) => Parsed::Header { addresses, length },
        None => Parsed::Wrong,
    }
}

/// The addresses in a line of version 1; `None` for one that is not well-formed.
fn told_v1(line: &[u8]) -> Option<Option<Pair>> {
    let line = line.strip_prefix(V1)?.strip_suffix(b"\r\n")?;
    let line = std::str::from_utf8(line).ok()?;
    if line == "UNKNOWN" || line.starts_with("UNKNOWN ") {
        return Some(None);
    }
    let mut words = line.split(' ');
    let family = words.next()?;
    let mut ip = || match family {
        "TCP4" => words.next()?.parse().ok().map(IpAddr::V4),
        "TCP6" => words.next()?.parse().ok().map(IpAddr::V6),
        _ => None,
    };
    let (client, local) = (ip()?, ip()?);
    let ports = (port(words.next()?)?, port(words.next()?)?);
    let pair = canonical_pair((client, ports.0), (local, ports.1));
    words.next().is_none().then_some(Some(pair))
}

/// A decimal number without a sign or leading zeros.
fn port(text: &str) -> Option<u16> {
    let plain = text.bytes().all(|byte| byte.is_ascii_digit());
    let leads = text.len() > 1 && text.starts_with('0');
    u16::from_str(text).ok().filter(|_| plain && !leads)
}

fn parse_v2(bytes: &[u8]) -> Parsed {
    let is_local = match bytes.get(V2.len()) {
        None => return Parsed::Partial,
        Some(0x20) => true,
        Some(0x21) => false,
        Some(_) => return Parsed::Wrong,
    };
    let Some(&[_, family, high, low]) = bytes.get(V2.len()..FIXED) else {
        return Parsed::Partial;
    };
    let length = FIXED + usize::from(u16::from_be_bytes([high, low]));
    let Some(told) = bytes.get(FIXED..length) else {
        return Parsed::Partial;
    };
    // For a connection of the proxy's own, the family has no meaning.
    let addresses = if is_local {
        Some(None)
    } else {
        told_v2(family, told)
    };
    match addresses {
        Some(addresses) => Parsed::Header { addresses, length },
        None => Parsed::Wrong,
    }
}

/// The addresses after the fixed part of version 2. `None` for a family that does not exist, or too
/// few bytes. Bytes after the addresses are skipped.
fn told_v2(family: u8, bytes: &[u8]) -> Option<Option<Pair>> {
    match family {
        0x00 => Some(None),
        0x11 | 0x12 => pair::<4>(bytes).map(Some),
        0x21 | 0x22 => pair::<16>(bytes).map(Some),
        0x31 | 0x32 => (bytes.len() >= UNIX_PAIR).then_some(None),
        _ => None,
    }
}

/// Two addresses of `N` bytes, then their ports.
fn pair<const N: usize>(bytes: &[u8]) -> Option<Pair>
where
    IpAddr: From<[u8; N]>,
{
    let (client, rest) = bytes.split_first_chunk::<N>()?;
    let (local, rest) = rest.split_first_chunk::<N>()?;
    let [a, b, c, d] = *rest.first_chunk()?;
    let (client, local) = (IpAddr::from(*client), IpAddr::from(*local));
    let ports = (u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d]));
    Some(canonical_pair((client, ports.0), (local, ports.1)))
}

/// The header for a connection that `client` made to `local`.
pub fn write(version: ProxyVersion, client: SocketAddr, local: SocketAddr) -> Vec<u8> {
    let (client, local) = same_family(client, local);
    match version {
        ProxyVersion::V1 => {
            let family = if client.is_ipv4() { "TCP4" } else { "TCP6" };
            let (from, to) = (client.ip(), local.ip());
            let ports = (client.port(), local.port());
            format!("PROXY {family} {from} {to} {} {}\r\n", ports.0, ports.1).into_bytes()
        }
        ProxyVersion::V2 => write_v2(client, local),
    }
}

fn write_v2(client: SocketAddr, local: SocketAddr) -> Vec<u8> {
    let octets = |ip: IpAddr| match ip {
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => ip.octets().to_vec(),
    };
    let told = [
        octets(client.ip()),
        octets(local.ip()),
        client.port().to_be_bytes().to_vec(),
        local.port().to_be_bytes().to_vec(),
    ]
    .concat();
    let family = if client.is_ipv4() { 0x11 } else { 0x21 };
    [V2, &[0x21, family, 0, told.len() as u8], &told].concat()
}

fn canonical_pair(client: (IpAddr, u16), local: (IpAddr, u16)) -> Pair {
    let address = |(ip, port): (IpAddr, u16)| canonical(SocketAddr::new(ip, port));
    (address(client), address(local))
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
        assert!(matches!(
            told(&long),
            Parsed::Header {
                length: LONGEST,
                ..
            }
        ));
    }

    #[test]
    fn a_line_of_more_than_107_bytes_is_refused_whole_and_in_pieces() {
        let of = |length: usize| {
            let filler = vec![b'x'; length - "PROXY UNKNOWN \r\n".len()];
            [b"PROXY UNKNOWN ".as_slice(), &filler, b"\r\n"].concat()
        };
        let whole = Parsed::Header {
            addresses: None,
            length: 107,
        };
        assert_eq!(told(&of(107)), whole);
        assert_eq!(told(&of(107)[..106]), Parsed::Partial);
        for length in [108, 109, 400] {
            assert_eq!(told(&of(length)), Parsed::Wrong, "{length}");
            assert_eq!(told(&of(length)[..107]), Parsed::Wrong, "{length}");
        }
    }

    #[test]
    fn lines_that_the_specification_does_not_have_are_refused() {
        for line in [
            "PROXY TCP4 1.1.1.1 2.2.2.2 +1 2\r\n",
            "PROXY TCP4 1.1.1.1 2.2.2.2 01 2\r\n",
            "PROXY TCP4 1.1.1.1 2.2.2.2 1 2 \r\n",
            "PROXY TCP4 1.1.1.1  2.2.2.2 1 2\r\n",
            "PROXY TCP4 1.1.1.01 2.2.2.2 1 2\r\n",
            "PROXY TCP4 ::1 ::2 1 2\r\n",
            "PROXY TCP6 1.1.1.1 2.2.2.2 1 2\r\n",
            "PROXY TCP6 fe80::1%1 ::2 1 2\r\n",
            "PROXY TCP4 1.1.1.1 2.2.2.2 1 2\n",
            "PROXY UNKNOWNX\r\n",
            "PROXY UDP4 1.1.1.1 2.2.2.2 1 2\r\n",
            "PROXY \r\n",
        ] {
            assert_eq!(told(line.as_bytes()), Parsed::Wrong, "{line:?}");
        }
    }

    #[test]
    fn version_2_of_no_ip_tells_no_addresses_and_what_follows_them_is_skipped() {
        let header = |command: u8, family: u8, told: &[u8]| {
            let length = (told.len() as u16).to_be_bytes();
            [V2, &[command, family], &length, told].concat()
        };
        let v4 = [203, 0, 113, 9, 192, 0, 2, 1, 0, 7, 0, 80];
        let more = [v4.as_slice(), &[4, 0, 1, 0]].concat();
        let expected = Some((addr("203.0.113.9:7"), addr("192.0.2.1:80")));
        for (bytes, addresses) in [
            (header(0x21, 0x11, &v4), expected),
            (header(0x21, 0x11, &more), expected),
            (header(0x21, 0x00, &[1, 2, 3]), None),
            (header(0x20, 0xff, &[1, 2, 3]), None),
            (header(0x21, 0x31, &[0; UNIX_PAIR]), None),
        ] {
            let length = bytes.len();
            assert_eq!(told(&bytes), Parsed::Header { addresses, length });
        }
        for bytes in [
            header(0x21, 0x11, &v4[..11]),
            header(0x21, 0x21, &v4),
            header(0x21, 0x13, &v4),
            header(0x21, 0x41, &v4),
            header(0x22, 0x11, &v4),
            header(0x11, 0x11, &v4),
            header(0x21, 0x31, &[0; UNIX_PAIR - 1]),
        ] {
            assert_eq!(told(&bytes), Parsed::Wrong, "{bytes:?}");
        }
    }

    #[test]
    fn addresses_of_two_families_are_told_as_ipv6() {
        let bytes = write(
            ProxyVersion::V1,
            addr("[2001:db8::9]:1"),
            addr("192.0.2.1:80"),
        );
        assert_eq!(bytes, b"PROXY TCP6 2001:db8::9 ::ffff:192.0.2.1 1 80\r\n");
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
            let mut bytes = write(version, client, local);
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
