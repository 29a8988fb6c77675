//! Packets for tests: built field by field, and checked by another library's eyes.

use std::net::IpAddr;

use etherparse::{NetSlice, PacketBuilder, SlicedPacket, TransportSlice};
use lb_common::packet::Frame;

/// A TCP or UDP packet to be built.
#[derive(Clone)]
pub(crate) struct Spec {
    pub(crate) src: IpAddr,
    pub(crate) dst: IpAddr,
    pub(crate) sport: u16,
    pub(crate) dport: u16,
    /// VLAN tags, none to two.
    pub(crate) tags: u8,
    pub(crate) ttl: u8,
    /// TCP flags, `None` for UDP.
    pub(crate) flags: Option<u8>,
    pub(crate) payload: usize,
}

/// TCP flags.
pub(crate) const SYN: u8 = 2;
pub(crate) const RST: u8 = 4;
pub(crate) const ACK: u8 = 16;
pub(crate) const FIN: u8 = 1;

/// A packet from a client to a service.
pub(crate) fn tcp(src: &str, dst: &str, flags: u8) -> Spec {
    Spec {
        src: src.parse().unwrap(),
        dst: dst.parse().unwrap(),
        sport: 40_000,
        dport: 80,
        tags: 0,
        ttl: 61,
        flags: Some(flags),
        payload: 0,
    }
}

/// The same for UDP.
pub(crate) fn udp(src: &str, dst: &str) -> Spec {
    Spec {
        flags: None,
        payload: 32,
        ..tcp(src, dst, 0)
    }
}

impl Spec {
    /// The frame.
    pub(crate) fn frame(&self) -> Frame {
        let payload: Vec<u8> = (0..self.payload).map(|i| i as u8).collect();
        let link = PacketBuilder::ethernet2([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]);
        let vlan = |id: u16| id.try_into().unwrap();
        let ip = match (self.src, self.dst) {
            (IpAddr::V4(src), IpAddr::V4(dst)) => {
                let mut header = etherparse::Ipv4Header::new(
                    0,
                    self.ttl,
                    self.protocol(),
                    src.octets(),
                    dst.octets(),
                )
                .unwrap();
                header.dont_fragment = true;
                header.identification = 0x1234;
                etherparse::IpHeaders::Ipv4(header, Default::default())
            }
            (IpAddr::V6(src), IpAddr::V6(dst)) => etherparse::IpHeaders::Ipv6(
                etherparse::Ipv6Header {
                    source: src.octets(),
                    destination: dst.octets(),
                    hop_limit: self.ttl,
                    next_header: self.protocol(),
                    ..Default::default()
                },
                Default::default(),
            ),
            _ => panic!("two families"),
        };
        let step = match self.tags {
            0 => link.ip(ip),
            1 => link.single_vlan(vlan(5)).ip(ip),
            _ => link.double_vlan(vlan(5), vlan(6)).ip(ip),
        };
        let mut bytes = Vec::new();
        match self.flags {
            Some(flags) => {
                let mut header = etherparse::TcpHeader::new(self.sport, self.dport, 1000, 64_000);
                header.syn = flags & SYN != 0;
                header.ack = flags & ACK != 0;
                header.rst = flags & RST != 0;
                header.fin = flags & FIN != 0;
                header.acknowledgment_number = if header.ack { 7000 } else { 0 };
                if header.syn {
                    header
                        .set_options(&[etherparse::TcpOptionElement::MaximumSegmentSize(1460)])
                        .unwrap();
                }
                step.tcp_header(header).write(&mut bytes, &payload).unwrap();
            }
            None => step
                .udp(self.sport, self.dport)
                .write(&mut bytes, &payload)
                .unwrap(),
        }
        Frame(bytes)
    }

    fn protocol(&self) -> etherparse::IpNumber {
        if self.flags.is_some() {
            etherparse::IpNumber::TCP
        } else {
            etherparse::IpNumber::UDP
        }
    }
}

/// What a packet looks like from outside.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Seen {
    pub(crate) src: IpAddr,
    pub(crate) dst: IpAddr,
    pub(crate) ttl: u8,
    pub(crate) sport: u16,
    pub(crate) dport: u16,
    /// TCP: flags and numbers.
    pub(crate) tcp: Option<(u8, u32, u32)>,
    /// TCP: maximum segment size.
    pub(crate) mss: Option<u16>,
    pub(crate) payload: Vec<u8>,
}

/// Reads a TCP or UDP packet, and checks every checksum in it.
pub(crate) fn seen(frame: &Frame) -> Seen {
    let sliced = SlicedPacket::from_ethernet(&frame.0).unwrap();
    read(&sliced)
}

/// The same for an IP packet.
pub(crate) fn seen_ip(bytes: &[u8]) -> Seen {
    read(&SlicedPacket::from_ip(bytes).unwrap())
}

fn read(sliced: &SlicedPacket<'_>) -> Seen {
    let (src, dst, ttl) = addresses(sliced);
    let v4 = match &sliced.net {
        Some(NetSlice::Ipv4(ip)) => Some(ip.header()),
        _ => None,
    };
    match sliced.transport.as_ref().expect("a transport header") {
        TransportSlice::Tcp(tcp) => {
            let header = tcp.to_header();
            let sum = match (&sliced.net, v4) {
                (_, Some(ip)) => header
                    .calc_checksum_ipv4_raw(ip.source(), ip.destination(), tcp.payload())
                    .unwrap(),
                (Some(NetSlice::Ipv6(ip)), _) => header
                    .calc_checksum_ipv6_raw(
                        ip.header().source(),
                        ip.header().destination(),
                        tcp.payload(),
                    )
                    .unwrap(),
                _ => panic!("no IP"),
            };
            assert_eq!(header.checksum, sum, "the TCP checksum");
            let flags = u8::from(header.fin)
                | u8::from(header.syn) << 1
                | u8::from(header.rst) << 2
                | u8::from(header.ack) << 4;
            let mss = header.options_iterator().find_map(|option| match option {
                Ok(etherparse::TcpOptionElement::MaximumSegmentSize(size)) => Some(size),
                _ => None,
            });
            Seen {
                src,
                dst,
                ttl,
                sport: header.source_port,
                dport: header.destination_port,
                tcp: Some((flags, header.sequence_number, header.acknowledgment_number)),
                mss,
                payload: tcp.payload().to_vec(),
            }
        }
        TransportSlice::Udp(udp) => {
            let header = udp.to_header();
            if header.checksum != 0 {
                let sum = match (&sliced.net, v4) {
                    (_, Some(ip)) => header
                        .calc_checksum_ipv4_raw(ip.source(), ip.destination(), udp.payload())
                        .unwrap(),
                    (Some(NetSlice::Ipv6(ip)), _) => header
                        .calc_checksum_ipv6_raw(
                            ip.header().source(),
                            ip.header().destination(),
                            udp.payload(),
                        )
                        .unwrap(),
                    _ => panic!("no IP"),
                };
                assert_eq!(header.checksum, sum, "the UDP checksum");
            }
            Seen {
                src,
                dst,
                ttl,
                sport: header.source_port,
                dport: header.destination_port,
                tcp: None,
                mss: None,
                payload: udp.payload().to_vec(),
            }
        }
        other => panic!("neither TCP nor UDP: {other:?}"),
    }
}

/// The addresses of an IP packet; checks its header checksum.
pub(crate) fn addresses(sliced: &SlicedPacket<'_>) -> (IpAddr, IpAddr, u8) {
    match sliced.net.as_ref().expect("an IP header") {
        NetSlice::Ipv4(ip) => {
            let header = ip.header().to_header();
            assert_eq!(
                header.header_checksum,
                header.calc_header_checksum(),
                "the IPv4 checksum"
            );
            (
                header.source.into(),
                header.destination.into(),
                header.time_to_live,
            )
        }
        NetSlice::Ipv6(ip) => {
            let header = ip.header();
            (
                header.source().into(),
                header.destination().into(),
                header.hop_limit(),
            )
        }
        other => panic!("not IP: {other:?}"),
    }
}

/// An ICMP message, its checksum checked: type, code, second word, and what follows.
pub(crate) fn icmp(frame: &Frame) -> (IpAddr, IpAddr, u8, u8, u32, Vec<u8>) {
    let sliced = SlicedPacket::from_ethernet(&frame.0).unwrap();
    let (src, dst, _) = addresses(&sliced);
    let bytes = match sliced.transport.as_ref().expect("an ICMP header") {
        TransportSlice::Icmpv4(icmp) => {
            assert_eq!(checksum(icmp.slice(), 0), 0, "the ICMP checksum");
            icmp.slice()
        }
        TransportSlice::Icmpv6(icmp) => {
            let (IpAddr::V6(s), IpAddr::V6(d)) = (src, dst) else {
                panic!("ICMPv6 in IPv4");
            };
            assert!(
                icmp.is_checksum_valid(s.octets(), d.octets()),
                "the ICMPv6 checksum"
            );
            icmp.slice()
        }
        other => panic!("not ICMP: {other:?}"),
    };
    let word = u32::from_be_bytes(bytes[4..8].try_into().unwrap());
    (src, dst, bytes[0], bytes[1], word, bytes[8..].to_vec())
}

/// RFC 1071, section 4.1; 0 for a message whose checksum is right.
pub(crate) fn checksum(bytes: &[u8], start: u32) -> u16 {
    let mut sum = start;
    for pair in bytes.chunks(2) {
        sum += u32::from(u16::from_be_bytes([pair[0], *pair.get(1).unwrap_or(&0)]));
    }
    while sum >> 16 != 0 {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}
