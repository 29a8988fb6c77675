//! Reading a packet's headers: Ethernet, up to two VLAN tags, IPv4 with options, IPv6 with
//! extension headers, TCP, UDP, ICMP. Every walk is bounded.

use crate::abi::packet::{FlowKey, FragmentKey, Ip};
use crate::abi::protocol;
use crate::packet::{Packet, ports};

/// EtherTypes (IEEE 802 numbers) as halves in memory order.
pub mod ether {
    /// IPv4.
    pub const IPV4: u16 = 0x0800u16.to_be();
    /// IPv6.
    pub const IPV6: u16 = 0x86ddu16.to_be();
    /// A VLAN tag (IEEE 802.1Q).
    pub const VLAN: u16 = 0x8100u16.to_be();
    /// A service VLAN tag (IEEE 802.1ad).
    pub const SERVICE_VLAN: u16 = 0x88a8u16.to_be();
}

/// IP protocol numbers beside [`protocol`] (IANA "Protocol Numbers").
pub mod number {
    /// ICMP.
    pub const ICMP: u8 = 1;
    /// IPv4 in IP.
    pub const IPV4: u8 = 4;
    /// IPv6 in IP.
    pub const IPV6: u8 = 41;
    /// ICMP for IPv6.
    pub const ICMPV6: u8 = 58;
    pub(super) const HOP_BY_HOP: u8 = 0;
    pub(super) const ROUTING: u8 = 43;
    pub(super) const FRAGMENT: u8 = 44;
    pub(super) const AUTHENTICATION: u8 = 51;
    pub(super) const DESTINATION: u8 = 60;
}

/// Flags of a TCP header (RFC 9293, section 3.1).
pub mod tcp {
    /// No more data from the sender.
    pub const FIN: u8 = 1;
    /// Synchronize sequence numbers.
    pub const SYN: u8 = 2;
    /// Reset the connection.
    pub const RST: u8 = 4;
    /// The acknowledgment field is significant.
    pub const ACK: u8 = 16;
}

/// Length of an Ethernet header without tags, bytes.
pub const ETHERNET: u32 = 14;
/// Length of the fixed IPv6 header, bytes.
const IPV6: u32 = 40;
/// IPv6 extension headers that are walked.
const EXTENSIONS: u32 = 6;

/// The position of a packet in its datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Piece {
    /// It is the whole datagram.
    Whole,
    /// The first fragment, with the ports.
    First,
    /// A later one.
    Later,
}

/// The IP header of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IpHeader {
    /// Offset of the header, bytes.
    pub at: u32,
    /// Offset of its payload, bytes, behind options and extension headers.
    pub payload: u32,
    /// IPv6, else IPv4.
    pub v6: bool,
    /// Source address.
    pub src: Ip,
    /// Destination address.
    pub dst: Ip,
    /// Length of the packet that the header tells, itself included.
    pub len: u32,
    /// Time to live, or hop limit.
    pub ttl: u8,
    /// Protocol of the payload.
    pub protocol: u8,
    /// Type of service, or traffic class.
    pub tos: u8,
    /// Which piece of its datagram it is.
    pub piece: Piece,
    /// It must not be fragmented on the way (always so for IPv6).
    pub whole_only: bool,
    /// Identification of its datagram, as it lies in the packet.
    pub id: u32,
}

/// Why headers could not be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bad {
    /// Not IP.
    NotIp,
    /// The frame ends within the fixed IP header, or the header contradicts itself.
    Ip,
    /// The address could be read, but not the data behind it: cut off, contradictory, or more
    /// extension headers than are walked.
    Beyond(Ip),
}

/// Reads the Ethernet header and its tags, and the IP header. Of an IPv6 packet only the fixed
/// header: if [`IpHeader::has_extensions`], [`extensions`] reads on.
#[inline(always)]
pub fn ip<P: Packet>(packet: &P) -> Result<IpHeader, Bad> {
    let mut at = ETHERNET;
    let mut kind = packet.half(12).ok_or(Bad::NotIp)?;
    let mut tags = 0;
    while tags < 2 && (kind == ether::VLAN || kind == ether::SERVICE_VLAN) {
        kind = packet.half(at + 2).ok_or(Bad::NotIp)?;
        at += 4;
        tags += 1;
    }
    match kind {
        ether::IPV4 => ipv4(packet, at),
        ether::IPV6 => ipv6(packet, at),
        _ => Err(Bad::NotIp),
    }
}

#[inline(always)]
fn ipv4<P: Packet>(packet: &P, at: u32) -> Result<IpHeader, Bad> {
    let mut header = ipv4_fields(packet, at)?;
    if header.len == 0 {
        header.len = big(packet, at);
    }
    let size = header.payload - at;
    if size < 20 || header.len < size || at + header.len > packet.len() {
        return Err(Bad::Beyond(header.dst));
    }
    Ok(header)
}

/// Length of an IP packet from its frame, if the header tells none; 0 for one whose length would fit
/// into the field. Linux joins TCP segments to packets of more than 64 KiB, whose length field is 0 (BIG
/// TCP: IPv6 since Linux 5.19, until 7.0 with a hop-by-hop header; IPv4 since 6.3).
#[inline(always)]
fn big<P: Packet>(packet: &P, at: u32) -> u32 {
    match packet.len().saturating_sub(at) {
        len if len > 0xffff => len,
        _ => 0,
    }
}

/// RFC 791, section 3.1, as it is written there.
#[inline(always)]
fn ipv4_fields<P: Packet>(packet: &P, at: u32) -> Result<IpHeader, Bad> {
    let words = packet.words::<5>(at).ok_or(Bad::Ip)?;
    let first = u32::from_be(words[0]);
    let fragment = u32::from_be(words[1]);
    let third = u32::from_be(words[2]);
    let dst = Ip::v4(words[4]);
    let header = (first >> 24 & 0xf) * 4;
    let len = first & 0xffff;
    if first >> 28 != 4 {
        return Err(Bad::Ip);
    }
    let piece = if fragment & 0x1fff != 0 {
        Piece::Later
    } else if fragment & 0x2000 != 0 {
        Piece::First
    } else {
        Piece::Whole
    };
    Ok(IpHeader {
        at,
        payload: at + header,
        v6: false,
        src: Ip::v4(words[3]),
        dst,
        len,
        ttl: (third >> 24) as u8,
        protocol: (third >> 16) as u8,
        tos: (first >> 16) as u8,
        piece,
        whole_only: fragment & 0x4000 != 0,
        id: fragment >> 16,
    })
}

#[inline(always)]
fn ipv6<P: Packet>(packet: &P, at: u32) -> Result<IpHeader, Bad> {
    let mut header = ipv6_fields(packet, at)?;
    if header.len == IPV6 {
        header.len = header.len.max(big(packet, at));
    }
    if at + header.len > packet.len() {
        return Err(Bad::Beyond(header.dst));
    }
    Ok(header)
}

/// Steps over the extension headers of an IPv6 packet; `None` when there are too many, or they do
/// not fit the packet.
#[inline(always)]
pub fn extensions<P: Packet>(packet: &P, header: &mut IpHeader) -> Option<()> {
    walk(packet, header)?;
    (header.payload <= header.at + header.len).then_some(())
}

#[inline(always)]
fn quoted_v6<P: Packet>(packet: &P, at: u32) -> Option<IpHeader> {
    let mut header = ipv6_fields(packet, at).ok()?;
    walk(packet, &mut header)?;
    Some(header)
}

/// RFC 8200, section 3.
#[inline(always)]
fn ipv6_fields<P: Packet>(packet: &P, at: u32) -> Result<IpHeader, Bad> {
    let words = packet.words::<10>(at).ok_or(Bad::Ip)?;
    let first = u32::from_be(words[0]);
    let second = u32::from_be(words[1]);
    let src = Ip([words[2], words[3], words[4], words[5]]);
    let dst = Ip([words[6], words[7], words[8], words[9]]);
    let len = IPV6 + (second >> 16);
    // A mapped address on the wire would be taken for IPv4 (RFC 6890 allows it no packet).
    if first >> 28 != 6 || src.is_v4() || dst.is_v4() {
        return Err(Bad::Ip);
    }
    Ok(IpHeader {
        at,
        payload: at + IPV6,
        v6: true,
        src,
        dst,
        len,
        ttl: second as u8,
        protocol: (second >> 8) as u8,
        tos: (first >> 20) as u8,
        piece: Piece::Whole,
        whole_only: true,
        id: 0,
    })
}

/// Steps over the extension headers (RFC 8200, section 4); `None` when there are too many or one
/// is cut off.
#[inline(always)]
fn walk<P: Packet>(packet: &P, header: &mut IpHeader) -> Option<()> {
    for _ in 0..EXTENSIONS {
        if !header.goes_on() {
            return Some(());
        }
        extension(packet, header)?;
    }
    (!header.goes_on()).then_some(())
}

#[inline(always)]
const fn is_extension(protocol: u8) -> bool {
    matches!(
        protocol,
        number::HOP_BY_HOP
            | number::ROUTING
            | number::FRAGMENT
            | number::AUTHENTICATION
            | number::DESTINATION
    )
}

/// Steps over one extension header.
#[inline(always)]
fn extension<P: Packet>(packet: &P, header: &mut IpHeader) -> Option<()> {
    let [word] = packet.words::<1>(header.payload)?;
    let word = u32::from_be(word);
    let kind = header.protocol;
    header.protocol = (word >> 24) as u8;
    let units = word >> 16 & 0xff;
    header.payload += match kind {
        number::FRAGMENT => {
            let [id] = packet.words::<1>(header.payload + 4)?;
            header.id = id;
            // "Atomic" fragments are whole (RFC 6946).
            header.piece = if word & 0xfff8 != 0 {
                Piece::Later
            } else if word & 1 != 0 {
                Piece::First
            } else {
                Piece::Whole
            };
            8
        }
        // RFC 4302, section 2.2: in words of 32 bits, less 2.
        number::AUTHENTICATION => (units + 2) * 4,
        _ => (units + 1) * 8,
    };
    Some(())
}

impl IpHeader {
    /// No header.
    pub const NONE: Self = Self {
        at: 0,
        payload: 0,
        v6: false,
        src: Ip([0; 4]),
        dst: Ip([0; 4]),
        len: 0,
        ttl: 0,
        protocol: 0,
        tos: 0,
        piece: Piece::Whole,
        whole_only: false,
        id: 0,
    };

    /// Whether another extension header follows in this packet.
    #[inline(always)]
    const fn goes_on(&self) -> bool {
        is_extension(self.protocol) && !matches!(self.piece, Piece::Later)
    }

    /// Whether extension headers stand before the payload.
    #[inline(always)]
    pub const fn has_extensions(&self) -> bool {
        self.v6 && is_extension(self.protocol)
    }

    /// The key under which the ports of its datagram are remembered.
    #[inline(always)]
    pub fn fragment_key(&self) -> FragmentKey {
        FragmentKey {
            src: self.src,
            dst: self.dst,
            id: self.id,
            protocol: u32::from(self.protocol),
        }
    }

    /// The flow key with these ports.
    #[inline(always)]
    pub fn key(&self, ports: [u16; 2]) -> FlowKey {
        FlowKey {
            src: self.src,
            dst: self.dst,
            sport_be: ports[0],
            dport_be: ports[1],
            protocol: u32::from(self.protocol),
        }
    }

    /// Bytes behind the IP header, as far as the header tells.
    #[inline(always)]
    pub const fn payload_len(&self) -> u32 {
        // `payload` is at most `at + len`: both readers check.
        self.len - (self.payload - self.at)
    }
}

/// The fields of a transport header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Transport {
    /// Source and destination port, network byte order.
    pub ports: [u16; 2],
    /// TCP: sequence number, host byte order.
    pub seq: u32,
    /// TCP: acknowledgment number, host byte order.
    pub ack: u32,
    /// TCP: flags.
    pub flags: u8,
    /// Length of the transport header, bytes.
    pub header: u32,
}

impl Transport {
    /// No header.
    pub const NONE: Self = Self {
        ports: [0; 2],
        seq: 0,
        ack: 0,
        flags: 0,
        header: 0,
    };
}

/// Reads the TCP or UDP header of a packet that is not a later fragment; `None` if it is cut off
/// or contradicts itself.
#[inline(always)]
pub fn transport<P: Packet>(packet: &P, ip: &IpHeader) -> Option<Transport> {
    if ip.protocol == protocol::TCP {
        return tcp_header(packet, ip);
    }
    // RFC 768.
    let words = packet.words::<2>(ip.payload)?;
    let len = u32::from_be(words[1]) >> 16;
    let whole = ip.piece == Piece::Whole;
    if ip.payload_len() < 8 || len < 8 || whole && len > ip.payload_len() {
        return None;
    }
    Some(Transport {
        ports: ports(words[0]),
        header: 8,
        ..Transport::NONE
    })
}

/// RFC 9293, section 3.1.
#[inline(always)]
fn tcp_header<P: Packet>(packet: &P, ip: &IpHeader) -> Option<Transport> {
    let words = packet.words::<5>(ip.payload)?;
    let fourth = u32::from_be(words[3]);
    let header = (fourth >> 28) * 4;
    if header < 20 || header > ip.payload_len() {
        return None;
    }
    Some(Transport {
        ports: ports(words[0]),
        seq: u32::from_be(words[1]),
        ack: u32::from_be(words[2]),
        flags: (fourth >> 16) as u8,
        header,
    })
}

/// Reads the IP header that an ICMP error quotes at `at`. The packet that it belongs to is longer
/// than the quote (RFC 792: the header and eight bytes).
#[inline(always)]
pub fn quoted<P: Packet>(packet: &P, at: u32, v6: bool) -> Option<IpHeader> {
    if v6 {
        return quoted_v6(packet, at);
    }
    let header = ipv4_fields(packet, at).ok()?;
    (header.payload >= at + 20).then_some(header)
}

/// The MAC address that a frame goes to, two bytes each in memory order.
#[inline(always)]
pub fn destination<P: Packet>(packet: &P) -> Option<[u16; 3]> {
    Some([packet.half(0)?, packet.half(2)?, packet.half(4)?])
}

/// Two MAC addresses in the other order.
#[inline(always)]
pub const fn exchanged(macs: [u32; 3]) -> [u32; 3] {
    let (a, b, c) = (
        macs[0].to_ne_bytes(),
        macs[1].to_ne_bytes(),
        macs[2].to_ne_bytes(),
    );
    [
        u32::from_ne_bytes([b[2], b[3], c[0], c[1]]),
        u32::from_ne_bytes([c[2], c[3], a[0], a[1]]),
        u32::from_ne_bytes([a[2], a[3], b[0], b[1]]),
    ]
}
