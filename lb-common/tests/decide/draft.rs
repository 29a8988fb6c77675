//! Frames from recipes: words that say what is in a frame, in any order after the first, which is `4:N` or
//! `6:N`: a packet of that family to service N, or to an address that is nobody's (`4:x`).
//!
//! | word | meaning |
//! | --- | --- |
//! | `syn`, `ack`, `fin`, `rst`, `synack`, `noflags`, `xmas` | TCP with these flags, 7 bytes of data |
//! | `udp=N` | a datagram of N bytes; `nosum` without a checksum, `udplen=N` with that length field |
//! | `proto=N` | 24 zeros of that protocol |
//! | `echo=N` | an echo request with N bytes |
//! | `error=T.C.W` | an ICMP error with second word W, about what the service sent; `quote=N` bytes of it |
//! | `port=N` | to that port instead of 80 |
//! | `ttl=N`, `opt=HEX`, `off=HEX` | lifetime; IPv4 options; IPv4 fragment field |
//! | `ext=KIND,…` | IPv6 extension headers by number; 44:HEX is a fragment header with that field |
//! | `tags=HEX,…` | VLAN tags of these types |
//! | `wrap=N` | all of it as payload of protocol N in another packet from and to the same addresses |
//! | `from=ADDRESS` | from another client |
//! | `set=AT:HEX`, `cut=N`, `pad=N` | bytes of the IP packet, its first N bytes alone, zeros behind it; last of all |
//! | `open` | amid an established flow |

use std::net::IpAddr;

use lb_common::packet::Frame;

use crate::Family;
use crate::packets::checksum;

pub(crate) struct Draft {
    pub(crate) service: Option<u32>,
    pub(crate) src: IpAddr,
    pub(crate) dst: IpAddr,
    /// Whether it is an ICMP error.
    pub(crate) is_icmp: bool,
    v6: bool,
    tags: Vec<u16>,
    packet: Vec<u8>,
    /// Where the transport header is in the packet, and its protocol; none of later fragments.
    transport: Option<(usize, u8)>,
    has_checksum: bool,
}

impl Draft {
    pub(crate) fn of(family: &Family, words: &[&str]) -> Self {
        let word = |name: &str| {
            let mut values = words
                .iter()
                .filter_map(|w| w.strip_prefix(name)?.strip_prefix('='));
            values.next_back()
        };
        let number =
            |name: &str, default: usize| word(name).map_or(default, |n| n.parse().unwrap());
        let service = words[0][2..].parse().ok();
        let nobody = if family.v6 {
            "2001:db8:9::1"
        } else {
            "198.51.100.7"
        };
        let dst: IpAddr = match service {
            Some(number) => family.service(number).parse().unwrap(),
            None => nobody.parse().unwrap(),
        };
        let src: IpAddr = word("from").unwrap_or(family.client).parse().unwrap();
        let port = number("port", 80) as u16;
        let (mut protocol, mut body) = (6, Vec::new());
        for (name, flags) in FLAGS {
            if words.contains(&name) {
                body = tcp(src, dst, (40_000, port), flags, b"7 bytes");
            }
        }
        if let Some(length) = word("udp") {
            protocol = 17;
            body = udp(
                src,
                dst,
                port,
                length.parse().unwrap(),
                words.contains(&"nosum"),
            );
            let length = number("udplen", body.len()) as u16;
            body[4..6].copy_from_slice(&length.to_be_bytes());
        }
        if let Some(other) = word("proto") {
            (protocol, body) = (other.parse().unwrap(), vec![0; 24]);
        }
        let control = if family.v6 { 58 } else { 1 };
        if let Some(length) = word("echo") {
            let kind = if family.v6 { 128 } else { 8 };
            let rest = vec![0x61; length.parse().unwrap()];
            (protocol, body) = (control, message(src, dst, (kind, 0, 0x0001_0002), &rest));
        }
        if let Some(error) = word("error") {
            let parts: Vec<u32> = error.split('.').map(|part| part.parse().unwrap()).collect();
            let said = tcp(dst, src, (80, 40_000), 0x18, &[9; 400]);
            let said = ip(dst, src, 6, 63, &said);
            let quote = &said[..number("quote", said.len())];
            let head = (parts[0] as u8, parts[1] as u8, parts[2]);
            (protocol, body) = (control, message(src, dst, head, quote));
        }
        let options = word("opt").map(hex).unwrap_or_default();
        let mut extensions = Vec::new();
        let kinds: Vec<&str> = word("ext").map_or(Vec::new(), |list| list.split(',').collect());
        let mut first = protocol;
        for (nth, kind) in kinds.iter().enumerate() {
            let (kind, field) = kind.split_once(':').unwrap_or((kind, "0000"));
            let next = kinds.get(nth + 1).map_or(protocol, |next| {
                next.split(':').next().unwrap().parse().unwrap()
            });
            if nth == 0 {
                first = kind.parse().unwrap();
            }
            match kind {
                "44" => extensions.extend([&[next, 0][..], &hex(field), &[0, 0, 0, 9]].concat()),
                // Authentication: in words, less two.
                "51" => extensions.extend([next, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]),
                _ => extensions.extend([next, 0, 1, 4, 0, 0, 0, 0]),
            }
        }
        let inside = [extensions, body].concat();
        let mut packet = ip(src, dst, first, number("ttl", 61) as u8, &inside);
        if !family.v6 {
            add_options(
                &mut packet,
                &options,
                &word("off").map_or(vec![0x40, 0], hex),
            );
        }
        let at = packet.len() - inside.len() + (inside.len() - body_len(&inside, &kinds));
        if let Some(outer) = word("wrap") {
            packet = ip(src, dst, outer.parse().unwrap(), 61, &packet);
        }
        for edit in words.iter().filter_map(|word| word.strip_prefix("set=")) {
            let (at, bytes) = edit.split_once(':').unwrap();
            let (at, bytes) = (at.parse::<usize>().unwrap(), hex(bytes));
            packet[at..at + bytes.len()].copy_from_slice(&bytes);
        }
        packet.truncate(number("cut", packet.len()));
        packet.resize(packet.len() + number("pad", 0), 0);
        let tags = word("tags").map_or(Vec::new(), |tags| {
            tags.split(',')
                .map(|tag| u16::from_str_radix(tag, 16).unwrap())
                .collect()
        });
        Self {
            service,
            src,
            dst,
            is_icmp: word("error").is_some(),
            v6: family.v6,
            tags,
            packet,
            transport: matches!(protocol, 6 | 17).then_some((at, protocol)),
            has_checksum: !words.contains(&"nosum") && word("off").is_none() && !has_more(&kinds),
        }
    }

    pub(crate) fn frame(&self) -> Frame {
        let mut bytes = vec![2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1];
        for tag in &self.tags {
            bytes.extend(tag.to_be_bytes());
            bytes.extend([0, 5]);
        }
        let kind: [u8; 2] = if self.v6 { [0x86, 0xdd] } else { [8, 0] };
        bytes.extend(kind);
        bytes.extend(&self.packet);
        Frame(bytes)
    }

    /// The IP packet in a frame of this recipe.
    pub(crate) fn packet_of<'a>(&self, frame: &'a [u8]) -> &'a [u8] {
        &frame[14 + 4 * self.tags.len()..]
    }

    /// A packet without addresses, ports and checksums.
    pub(crate) fn blanked(&self, packet: &[u8]) -> Vec<u8> {
        let mut packet = packet.to_vec();
        let addresses = if self.v6 { 8..40 } else { 10..20 };
        // The lifetime of IPv4 is before its checksum.
        let sum_only = if self.v6 { 0..0 } else { 10..12 };
        packet[sum_only].fill(0);
        packet[addresses].fill(0);
        if let Some((at, protocol)) = self.transport {
            packet[at..at + 4].fill(0);
            let sum = at + if protocol == 6 { 16 } else { 6 };
            packet[sum..sum + 2].fill(0);
        }
        packet
    }

    /// What is wrong with the transport checksum of a packet that was sent on.
    pub(crate) fn transport_checksum_fault(&self, packet: &[u8]) -> Option<String> {
        let (at, protocol) = self.transport?;
        if !self.has_checksum {
            let none = protocol == 17 && packet[at + 6..at + 8] == [0, 0];
            let whole = none || packet.len() < at + 8;
            return (self.is_unsummed() && !whole).then(|| "a checksum from nowhere".into());
        }
        let length = if self.v6 {
            40 + usize::from(u16::from_be_bytes([packet[4], packet[5]]))
        } else {
            usize::from(u16::from_be_bytes([packet[2], packet[3]]))
        };
        let (addresses, body) = (if self.v6 { 8..40 } else { 12..20 }, &packet[at..length]);
        let mut pseudo = packet[addresses].to_vec();
        pseudo.extend((body.len() as u32).to_be_bytes());
        pseudo.extend([0, 0, 0, protocol]);
        pseudo.extend(body);
        (checksum(&pseudo, 0) != 0).then(|| "a wrong transport checksum".into())
    }

    fn is_unsummed(&self) -> bool {
        matches!(self.transport, Some((at, 17)) if self.packet.get(at + 6..at + 8) == Some(&[0, 0]))
    }
}

const FLAGS: [(&str, u8); 7] = [
    ("syn", 2),
    ("ack", 0x10),
    ("fin", 0x11),
    ("rst", 4),
    ("synack", 0x12),
    ("noflags", 0),
    ("xmas", 0x29),
];

fn hex(text: &str) -> Vec<u8> {
    let digits = text.as_bytes().chunks(2);
    digits
        .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap())
        .collect()
}

/// Whether a fragment header says that there is more, or that it is not the first.
fn has_more(kinds: &[&str]) -> bool {
    kinds
        .iter()
        .any(|kind| kind.starts_with("44:") && *kind != "44:0000")
}

fn body_len(inside: &[u8], kinds: &[&str]) -> usize {
    let headers: usize = kinds
        .iter()
        .map(|kind| if *kind == "51" { 12 } else { 8 })
        .sum();
    inside.len() - headers
}

fn pseudo_sum(src: IpAddr, dst: IpAddr, protocol: u8, body: &[u8]) -> u16 {
    let mut bytes = match (src, dst) {
        (IpAddr::V4(src), IpAddr::V4(dst)) => [src.octets(), dst.octets()].concat(),
        (IpAddr::V6(src), IpAddr::V6(dst)) => [src.octets(), dst.octets()].concat(),
        _ => panic!("two families"),
    };
    bytes.extend((body.len() as u32).to_be_bytes());
    bytes.extend([0, 0, 0, protocol]);
    bytes.extend(body);
    checksum(&bytes, 0)
}

fn tcp(src: IpAddr, dst: IpAddr, ports: (u16, u16), flags: u8, data: &[u8]) -> Vec<u8> {
    let mut body = [ports.0.to_be_bytes(), ports.1.to_be_bytes()].concat();
    // Numbers as `packets::tcp` has them, so that they fit an open flow.
    body.extend(1000u32.to_be_bytes());
    body.extend(7000u32.to_be_bytes());
    body.extend([0x50, flags, 0xfa, 0, 0, 0, 0, 0]);
    body.extend(data);
    let sum = pseudo_sum(src, dst, 6, &body);
    body[16..18].copy_from_slice(&sum.to_be_bytes());
    body
}

fn udp(src: IpAddr, dst: IpAddr, port: u16, length: usize, nosum: bool) -> Vec<u8> {
    let mut body = [40_000u16.to_be_bytes(), port.to_be_bytes()].concat();
    body.extend((8 + length as u16).to_be_bytes());
    body.extend([0, 0]);
    body.extend(vec![0x75; length]);
    if !nosum {
        let sum = pseudo_sum(src, dst, 17, &body);
        body[6..8].copy_from_slice(&sum.to_be_bytes());
    }
    body
}

fn message(src: IpAddr, dst: IpAddr, (kind, code, word): (u8, u8, u32), rest: &[u8]) -> Vec<u8> {
    let mut body = vec![kind, code, 0, 0];
    body.extend(word.to_be_bytes());
    body.extend(rest);
    let sum = match src {
        IpAddr::V4(_) => checksum(&body, 0),
        IpAddr::V6(_) => pseudo_sum(src, dst, 58, &body),
    };
    body[2..4].copy_from_slice(&sum.to_be_bytes());
    body
}

fn ip(src: IpAddr, dst: IpAddr, protocol: u8, ttl: u8, body: &[u8]) -> Vec<u8> {
    match (src, dst) {
        (IpAddr::V4(src), IpAddr::V4(dst)) => {
            let mut packet = vec![0x45, 0, 0, 0, 0x12, 0x34, 0x40, 0, ttl, protocol, 0, 0];
            packet.extend(src.octets());
            packet.extend(dst.octets());
            packet.extend(body);
            finish(&mut packet);
            packet
        }
        (IpAddr::V6(src), IpAddr::V6(dst)) => {
            let mut packet = vec![0x60, 0, 0, 0];
            packet.extend((body.len() as u16).to_be_bytes());
            packet.extend([protocol, ttl]);
            packet.extend(src.octets());
            packet.extend(dst.octets());
            packet.extend(body);
            packet
        }
        _ => panic!("two families"),
    }
}

/// Length and checksum of an IPv4 header.
fn finish(packet: &mut [u8]) {
    let length = (packet.len() as u16).to_be_bytes();
    packet[2..4].copy_from_slice(&length);
    packet[10..12].fill(0);
    let header = usize::from(packet[0] & 15) * 4;
    let sum = checksum(&packet[..header], 0);
    packet[10..12].copy_from_slice(&sum.to_be_bytes());
}

fn add_options(packet: &mut Vec<u8>, options: &[u8], fragment: &[u8]) {
    packet.splice(20..20, options.iter().copied());
    packet[0] = 0x45 + (options.len() / 4) as u8;
    packet[6..8].copy_from_slice(fragment);
    finish(packet);
}
