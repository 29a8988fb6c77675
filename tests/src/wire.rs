//! Packets byte by byte, and a check of every checksum in them. Written by the RFCs and independent of
//! `lb_common`, which it judges.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// IP protocol numbers (IANA "Protocol Numbers").
pub mod number {
    #![allow(missing_docs)]
    pub const ICMP: u8 = 1;
    pub const IPV4: u8 = 4;
    pub const TCP: u8 = 6;
    pub const UDP: u8 = 17;
    pub const IPV6: u8 = 41;
    pub const FRAGMENT: u8 = 44;
    pub const ICMPV6: u8 = 58;
}

/// MAC address of the interface that frames come by.
pub const RECEIVER: [u8; 6] = [2, 0, 0, 0, 0, 1];

/// A frame with these VLAN tags (type and tag control information) around an IP packet.
pub fn frame(tags: &[(u16, u16)], packet: &[u8]) -> Vec<u8> {
    let mut frame = [RECEIVER, [2, 0, 0, 0, 0, 2]].concat();
    for (kind, tci) in tags {
        frame.extend(kind.to_be_bytes());
        frame.extend(tci.to_be_bytes());
    }
    let v6 = packet.first().is_some_and(|first| first >> 4 == 6);
    frame.extend(if v6 { [0x86, 0xdd] } else { [8, 0] });
    frame.extend(packet);
    frame
}

/// Fields of an IPv4 header, except lengths and checksum.
#[derive(Clone, Debug)]
pub struct Ipv4 {
    /// Source address.
    pub src: Ipv4Addr,
    /// Destination address.
    pub dst: Ipv4Addr,
    /// Time to live.
    pub ttl: u8,
    /// Identification.
    pub id: u16,
    /// Flags and fragment offset, as they lie in the header.
    pub fragment: u16,
    /// Options, a multiple of four bytes.
    pub options: Vec<u8>,
}

impl Ipv4 {
    /// From `src` to `dst`, may not be cut up, no options.
    pub fn new(src: Ipv4Addr, dst: Ipv4Addr) -> Self {
        Self {
            src,
            dst,
            ttl: 64,
            id: 0x1234,
            fragment: 0x4000,
            options: Vec::new(),
        }
    }

    /// The IPv4 packet with `payload`.
    pub fn packet(&self, protocol: u8, payload: &[u8]) -> Vec<u8> {
        let header = 20 + self.options.len();
        let mut packet = vec![0x40 | (header / 4) as u8, 0];
        packet.extend(((header + payload.len()) as u16).to_be_bytes());
        packet.extend(self.id.to_be_bytes());
        packet.extend(self.fragment.to_be_bytes());
        packet.extend([self.ttl, protocol, 0, 0]);
        packet.extend(self.src.octets());
        packet.extend(self.dst.octets());
        packet.extend(&self.options);
        let sum = checksum(&[&packet]);
        packet[10..12].copy_from_slice(&sum.to_be_bytes());
        packet.extend(payload);
        packet
    }
}

/// Fields of an IPv6 header, except lengths.
#[derive(Clone, Debug)]
pub struct Ipv6 {
    /// Source address.
    pub src: Ipv6Addr,
    /// Destination address.
    pub dst: Ipv6Addr,
    /// Hop limit.
    pub hops: u8,
    /// Extension headers: the number of each, and its bytes from the third on.
    pub extensions: Vec<(u8, Vec<u8>)>,
}

impl Ipv6 {
    /// From `src` to `dst`, without extension headers.
    pub fn new(src: Ipv6Addr, dst: Ipv6Addr) -> Self {
        Self {
            src,
            dst,
            hops: 64,
            extensions: Vec::new(),
        }
    }

    /// The IPv6 packet with `payload`.
    pub fn packet(&self, protocol: u8, payload: &[u8]) -> Vec<u8> {
        let mut body = Vec::new();
        let followers = self.extensions.iter().skip(1).map(|(kind, _)| *kind);
        for ((kind, rest), next) in self.extensions.iter().zip(followers.chain([protocol])) {
            // RFC 8200, section 4: the length counts eights after the first; a fragment header has
            // none (section 4.5).
            let len = (2 + rest.len()) / 8 - 1;
            let len = if *kind == number::FRAGMENT {
                0
            } else {
                len as u8
            };
            body.extend([next, len]);
            body.extend(rest);
        }
        body.extend(payload);
        let first = self.extensions.first().map_or(protocol, |(kind, _)| *kind);
        let mut packet = vec![0x60, 0, 0, 0];
        packet.extend((body.len() as u16).to_be_bytes());
        packet.extend([first, self.hops]);
        packet.extend(self.src.octets());
        packet.extend(self.dst.octets());
        packet.extend(body);
        packet
    }
}

/// Fields of a TCP segment.
#[derive(Clone, Debug)]
pub struct Tcp {
    /// Source port.
    pub sport: u16,
    /// Destination port.
    pub dport: u16,
    /// Sequence and acknowledgment numbers.
    pub numbers: (u32, u32),
    /// FIN 1, SYN 2, RST 4, ACK 16.
    pub flags: u8,
    /// Options, a multiple of four bytes.
    pub options: Vec<u8>,
    /// Data.
    pub data: Vec<u8>,
}

impl Tcp {
    /// A segment without options and data.
    pub fn new(sport: u16, dport: u16, flags: u8) -> Self {
        Self {
            sport,
            dport,
            numbers: (0x0102_0304, 0x0a0b_0c0d),
            flags,
            options: Vec::new(),
            data: Vec::new(),
        }
    }

    /// Its bytes, between these addresses.
    pub fn bytes(&self, src: IpAddr, dst: IpAddr) -> Vec<u8> {
        let mut bytes = Vec::new();
        bytes.extend(self.sport.to_be_bytes());
        bytes.extend(self.dport.to_be_bytes());
        bytes.extend(self.numbers.0.to_be_bytes());
        bytes.extend(self.numbers.1.to_be_bytes());
        let words = (20 + self.options.len()) / 4;
        bytes.extend([(words << 4) as u8, self.flags, 0xfa, 0xf0, 0, 0, 0, 0]);
        bytes.extend(&self.options);
        bytes.extend(&self.data);
        let sum = transport_sum(src, dst, number::TCP, &bytes);
        bytes[16..18].copy_from_slice(&sum.to_be_bytes());
        bytes
    }
}

/// A UDP datagram between these addresses.
pub fn udp(src: (IpAddr, u16), dst: (IpAddr, u16), data: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    bytes.extend(src.1.to_be_bytes());
    bytes.extend(dst.1.to_be_bytes());
    bytes.extend(((8 + data.len()) as u16).to_be_bytes());
    bytes.extend([0, 0]);
    bytes.extend(data);
    let sum = transport_sum(src.0, dst.0, number::UDP, &bytes);
    // RFC 768: 0 means none, so a sum of 0 is sent as its other form.
    let sum = if sum == 0 { 0xffff } else { sum };
    bytes[6..8].copy_from_slice(&sum.to_be_bytes());
    bytes
}

/// An ICMP message (RFC 792): type, code, the four bytes after the checksum, and the rest.
pub fn icmp(kind: u8, code: u8, second: [u8; 4], rest: &[u8]) -> Vec<u8> {
    let mut bytes = vec![kind, code, 0, 0];
    bytes.extend(second);
    bytes.extend(rest);
    let sum = checksum(&[&bytes]);
    bytes[2..4].copy_from_slice(&sum.to_be_bytes());
    bytes
}

/// The same of ICMPv6 (RFC 4443) between these addresses.
pub fn icmpv6(
    (src, dst): (Ipv6Addr, Ipv6Addr),
    (kind, code): (u8, u8),
    second: [u8; 4],
    rest: &[u8],
) -> Vec<u8> {
    let mut bytes = vec![kind, code, 0, 0];
    bytes.extend(second);
    bytes.extend(rest);
    let sum = transport_sum(src.into(), dst.into(), number::ICMPV6, &bytes);
    bytes[2..4].copy_from_slice(&sum.to_be_bytes());
    bytes
}

/// The Internet checksum (RFC 1071) of these bytes, one after the other; each part but the last has
/// an even length.
pub fn checksum(parts: &[&[u8]]) -> u16 {
    let mut sum = 0u64;
    for part in parts {
        for pair in part.chunks(2) {
            sum += u64::from(pair[0]) << 8 | u64::from(pair.get(1).copied().unwrap_or(0));
        }
    }
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

/// The checksum of a transport's bytes with the pseudo header of its addresses (RFC 9293, section
/// 3.1; RFC 8200, section 8.1).
pub fn transport_sum(src: IpAddr, dst: IpAddr, protocol: u8, bytes: &[u8]) -> u16 {
    let (src, dst) = (octets(src), octets(dst));
    let mut tail = (bytes.len() as u32).to_be_bytes().to_vec();
    tail.extend([0, 0, 0, protocol]);
    checksum(&[&src, &dst, &tail, bytes])
}

fn octets(ip: IpAddr) -> Vec<u8> {
    match ip {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    }
}

/// A parsed frame, as far as its headers are whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    /// Source and destination address.
    pub addresses: (IpAddr, IpAddr),
    /// The protocol behind options and extension headers.
    pub protocol: u8,
    /// Time to live or hop limit.
    pub ttl: u8,
    /// The IP packet's payload; empty for a later fragment.
    pub payload: Vec<u8>,
    /// Whether it is a fragment.
    pub fragment: bool,
}

/// Reads a frame and verifies the checksums in it, also those of packets wrapped in it.
///
/// # Errors
///
/// The first malformed field or wrong checksum, in words.
pub fn see(frame: &[u8]) -> Result<Seen, String> {
    let mut at = 12;
    while matches!(frame.get(at..at + 2), Some([0x81, 0] | [0x88, 0xa8])) {
        at += 4;
    }
    let packet = frame.get(at + 2..).ok_or("no packet in the frame")?;
    match frame[at..at + 2] {
        [8, 0] => see_packet(packet),
        [0x86, 0xdd] => see_packet(packet),
        _ => Err("neither IPv4 nor IPv6".into()),
    }
}

/// The same of an IP packet.
///
/// # Errors
///
/// The first malformed field or wrong checksum, in words.
pub fn see_packet(packet: &[u8]) -> Result<Seen, String> {
    let seen = match packet.first().ok_or("empty")? >> 4 {
        4 => see_ipv4(packet)?,
        6 => see_ipv6(packet)?,
        version => return Err(format!("IP version {version}")),
    };
    if seen.fragment {
        return Ok(seen);
    }
    let (src, dst) = seen.addresses;
    let sum = |protocol| transport_sum(src, dst, protocol, &seen.payload);
    let right = match seen.protocol {
        number::TCP => sum(number::TCP) == 0,
        number::UDP => {
            let none = seen.payload.get(6..8) == Some(&[0, 0]);
            (none && src.is_ipv4()) || sum(number::UDP) == 0 || is_wrapping(&seen)
        }
        number::ICMP => checksum(&[&seen.payload]) == 0,
        number::ICMPV6 => sum(number::ICMPV6) == 0,
        number::IPV4 | number::IPV6 => return see_packet(&seen.payload).map(|_| seen),
        _ => true,
    };
    if right {
        Ok(seen)
    } else {
        Err(format!(
            "a wrong checksum in protocol {}: {packet:02x?}",
            seen.protocol
        ))
    }
}

/// GUE may go without a checksum over IPv6 (RFC 6935).
fn is_wrapping(seen: &Seen) -> bool {
    seen.payload.get(2..4) == Some(&6080u16.to_be_bytes())
        && seen.payload.get(6..8) == Some(&[0, 0])
}

fn see_ipv4(packet: &[u8]) -> Result<Seen, String> {
    let header = usize::from(packet[0] & 15) * 4;
    let bytes = packet.get(..header).ok_or("an IPv4 header cut off")?;
    if header < 20 || checksum(&[bytes]) != 0 {
        return Err(format!("a wrong IPv4 header: {bytes:02x?}"));
    }
    let len = usize::from(u16::from_be_bytes([packet[2], packet[3]]));
    let payload = packet.get(header..len).ok_or("a wrong IPv4 length")?;
    let address =
        |at: usize| IpAddr::from([packet[at], packet[at + 1], packet[at + 2], packet[at + 3]]);
    Ok(Seen {
        addresses: (address(12), address(16)),
        protocol: packet[9],
        ttl: packet[8],
        payload: payload.to_vec(),
        fragment: packet[6] & 0x3f != 0 || packet[7] != 0,
    })
}

fn see_ipv6(packet: &[u8]) -> Result<Seen, String> {
    let header = packet.get(..40).ok_or("an IPv6 header cut off")?;
    let len = usize::from(u16::from_be_bytes([header[4], header[5]]));
    let mut payload = packet.get(40..40 + len).ok_or("a wrong IPv6 length")?;
    let address = |at: usize| {
        let bytes: [u8; 16] = header[at..at + 16].try_into().expect("sixteen bytes");
        IpAddr::from(bytes)
    };
    let (mut protocol, mut fragment) = (header[6], false);
    // Hop-by-hop, routing, fragment and destination options (RFC 8200, section 4).
    while matches!(protocol, 0 | 43 | 44 | 60) {
        let extension = payload.get(..8).ok_or("an extension header cut off")?;
        let len = match protocol {
            number::FRAGMENT => {
                fragment |= extension[2] != 0 || extension[3] & 0xf9 != 0;
                8
            }
            _ => 8 * (usize::from(extension[1]) + 1),
        };
        protocol = extension[0];
        payload = payload.get(len..).ok_or("an extension header too long")?;
    }
    Ok(Seen {
        addresses: (address(8), address(24)),
        protocol,
        ttl: header[7],
        payload: payload.to_vec(),
        fragment,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_checksum_is_that_of_the_example_in_rfc_1071() {
        let bytes = [0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7];
        assert_eq!(checksum(&[&bytes]), !0xddf2);
    }

    #[test]
    fn one_wrong_bit_anywhere_behind_the_frame_is_seen() {
        let (src, dst) = ([192, 0, 2, 1].into(), [192, 0, 2, 2].into());
        let segment = Tcp::new(1000, 80, 2).bytes(IpAddr::V4(src), IpAddr::V4(dst));
        let right = frame(&[], &Ipv4::new(src, dst).packet(number::TCP, &segment));
        assert_eq!(see(&right).unwrap().protocol, number::TCP);
        for at in 14..right.len() {
            let mut wrong = right.clone();
            wrong[at] ^= 0x40;
            // Another protocol number or fragment offset hides the segment.
            assert!(see(&wrong).is_err(), "byte {at}");
        }
    }
}
