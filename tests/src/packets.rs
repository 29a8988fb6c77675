//! The tables: every combination of headers that the packet paths have to do with, one sentence
//! each.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use lb_common::decide::simulation::example;

use crate::wire::{self, Ipv4, Ipv6, Tcp, number};

/// The services of the example world; their addresses end with these numbers from 1.
pub const SERVICES: u8 = 6;

/// An IP address family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    /// Both families, IPv4 first.
    pub const BOTH: [Self; 2] = [Self::V4, Self::V6];

    /// The address of a client that the kernel has a route to.
    pub fn client(self, number: u16) -> IpAddr {
        match self {
            Self::V4 => [203, 0, 113, number as u8 + 1].into(),
            Self::V6 => Ipv6Addr::new(0x2001, 0xdb8, 5, number, 0, 0, 0, 9).into(),
        }
    }

    /// The address of a service of the example world.
    pub fn service(self, number: u32) -> IpAddr {
        match self {
            Self::V4 => [192, 0, 2, number as u8].into(),
            Self::V6 => Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, number as u16).into(),
        }
    }
}

/// A packet of the family of its addresses.
pub fn ip_packet(src: IpAddr, dst: IpAddr, protocol: u8, payload: &[u8]) -> Vec<u8> {
    match (src, dst) {
        (IpAddr::V4(src), IpAddr::V4(dst)) => Ipv4::new(src, dst).packet(protocol, payload),
        (IpAddr::V6(src), IpAddr::V6(dst)) => Ipv6::new(src, dst).packet(protocol, payload),
        _ => panic!("{src} and {dst} are of two families"),
    }
}

fn v4(ip: IpAddr) -> Ipv4Addr {
    let IpAddr::V4(v4) = ip else {
        panic!("{ip} is IPv4")
    };
    v4
}

fn v6(ip: IpAddr) -> Ipv6Addr {
    let IpAddr::V6(v6) = ip else {
        panic!("{ip} is IPv6")
    };
    v6
}

type Table = Vec<(String, Vec<u8>)>;

/// All of them, as frames.
pub fn table() -> Table {
    let mut table = Table::new();
    for family in Family::BOTH {
        for service in 1..=u32::from(SERVICES) {
            segments(&mut table, family, service);
            errors(&mut table, family, service);
            match family {
                Family::V4 => ipv4_headers(&mut table, service),
                Family::V6 => ipv6_headers(&mut table, service),
            }
        }
        strangers(&mut table, family);
    }
    let arp = [&[0xff; 6][..], &[2, 0, 0, 0, 0, 1, 8, 6], &[0; 28]].concat();
    table.push(("a question by ARP".into(), arp));
    table
}

fn syn(src: IpAddr, dst: IpAddr) -> Vec<u8> {
    let mut syn = Tcp::new(40_000, example::PORT, 2);
    // Maximum segment size, SACK permitted, window scale.
    syn.options = vec![2, 4, 0x05, 0xb4, 4, 2, 1, 3, 3, 7, 1, 1];
    syn.bytes(src, dst)
}

/// TCP and UDP to a service, with tags.
fn segments(table: &mut Table, family: Family, service: u32) {
    let (src, dst) = (family.client(0), family.service(service));
    let mut add = |sentence: &str, packet: &[u8]| {
        let tags: [&[(u16, u16)]; 4] = [
            &[],
            &[(0x8100, 5)],
            &[(0x88a8, 5), (0x8100, 6)],
            &[(0x8100, 5), (0x8100, 6), (0x8100, 7)],
        ];
        for tags in tags {
            let sentence = format!("{sentence} to {dst}, {} tags", tags.len());
            table.push((sentence, wire::frame(tags, packet)));
        }
    };
    add("a SYN", &ip_packet(src, dst, number::TCP, &syn(src, dst)));
    for (name, flags) in [
        ("ACK", 16),
        ("data", 24),
        ("FIN", 17),
        ("RST", 4),
        ("no flags", 0),
    ] {
        let mut segment = Tcp::new(40_000, example::PORT, flags);
        segment.data = b"odd".to_vec();
        let bytes = segment.bytes(src, dst);
        add(name, &ip_packet(src, dst, number::TCP, &bytes));
    }
    for length in [0, 3, 1472, 1600] {
        let data = vec![b'u'; length];
        let datagram = wire::udp((src, 40_000), (dst, example::PORT), &data);
        let sentence = format!("a datagram of {length}");
        add(&sentence, &ip_packet(src, dst, number::UDP, &datagram));
    }
    let mut unsummed = wire::udp((src, 40_000), (dst, example::PORT), b"none");
    unsummed[6..8].fill(0);
    add(
        "a datagram without checksum",
        &ip_packet(src, dst, number::UDP, &unsummed),
    );
    let other = Tcp::new(40_000, 81, 2).bytes(src, dst);
    add(
        "a SYN to another port",
        &ip_packet(src, dst, number::TCP, &other),
    );
}

/// ICMP: echo, and errors about a flow of either direction, with quotes of all lengths.
fn errors(table: &mut Table, family: Family, service: u32) {
    let (client, vip) = (family.client(0), family.service(service));
    let quoted_in = ip_packet(vip, client, number::TCP, &{
        let mut segment = Tcp::new(example::PORT, 40_000, 18);
        segment.data = vec![9; 600];
        segment.bytes(vip, client)
    });
    let header = if family == Family::V4 { 20 } else { 40 };
    let add = |table: &mut Table, sentence: String, kind: (u8, u8), quote: &[u8]| {
        let second = [0, 0, 0x04, 0xb0];
        let message = match family {
            Family::V4 => wire::icmp(kind.0, kind.1, second, quote),
            Family::V6 => wire::icmpv6((v6(client), v6(vip)), kind, second, quote),
        };
        let protocol = match family {
            Family::V4 => number::ICMP,
            Family::V6 => number::ICMPV6,
        };
        let packet = ip_packet(client, vip, protocol, &message);
        table.push((sentence, wire::frame(&[], &packet)));
    };
    let kinds: &[(u8, u8)] = match family {
        Family::V4 => &[(3, 1), (3, 3), (3, 4), (11, 0), (12, 0), (5, 0), (13, 0)],
        Family::V6 => &[(1, 0), (1, 4), (2, 0), (3, 0), (4, 0), (137, 0), (135, 0)],
    };
    for kind in kinds {
        for quote in [0, 4, header, header + 4, header + 8, header + 20, 200] {
            let sentence = format!("ICMP {kind:?} about {vip} with {quote} bytes quoted");
            add(table, sentence, *kind, &quoted_in[..quote]);
            // Bytes behind the message and no part of it, at the place of the checksum in a whole
            // segment.
            let (_, frame) = table.last().expect("one more");
            let padded = [&frame[..], &[0; 16]].concat();
            let sentence = format!("{kind:?} about {vip}, {quote} bytes quoted, and padding");
            table.push((sentence, padded));
        }
    }
    let echo = if family == Family::V4 {
        (8, 0)
    } else {
        (128, 0)
    };
    for length in [0, 1, 56] {
        let sentence = format!("echo to {vip} with {length} bytes");
        add(table, sentence, echo, &vec![1; length]);
    }
}

/// IPv4 alone: options, fragments, lifetimes, versions.
fn ipv4_headers(table: &mut Table, service: u32) {
    let (src, dst) = (Family::V4.client(1), Family::V4.service(service));
    let syn = syn(src, dst);
    let datagram = wire::udp((src, 40_000), (dst, example::PORT), &[5; 64]);
    let mut add = |sentence: String, packet: Vec<u8>| {
        table.push((format!("{sentence} to {dst}"), wire::frame(&[], &packet)));
    };
    let base = Ipv4::new(v4(src), v4(dst));
    for options in [4, 8, 40] {
        let mut header = base.clone();
        header.options = vec![1; options];
        add(
            format!("a SYN with {options} bytes of options"),
            header.packet(number::TCP, &syn),
        );
    }
    for ttl in [0, 1, 2, 255] {
        let mut header = base.clone();
        header.ttl = ttl;
        add(
            format!("a SYN with TTL {ttl}"),
            header.packet(number::TCP, &syn),
        );
        add(
            format!("a datagram with TTL {ttl}"),
            header.packet(number::UDP, &datagram),
        );
    }
    for (name, fragment) in [("first", 0x2000), ("later", 0x0004), ("middle", 0x2004)] {
        let mut header = base.clone();
        header.fragment = fragment;
        add(
            format!("the {name} fragment"),
            header.packet(number::UDP, &datagram),
        );
        add(
            format!("the {name} fragment of TCP"),
            header.packet(number::TCP, &syn),
        );
        header.options = vec![1; 4];
        add(
            format!("the {name} fragment with options"),
            header.packet(number::UDP, &datagram),
        );
    }
    let mut header = base.clone();
    header.fragment = 0;
    let big = wire::udp((src, 40_000), (dst, example::PORT), &[5; 1600]);
    add(
        "a big datagram that may be cut up".into(),
        header.packet(number::UDP, &big),
    );
    for (name, at, byte) in [
        ("version 5", 0, 0x55),
        ("a header of 16 bytes", 0, 0x44),
        ("a header longer than the packet", 0, 0x4f),
        ("a length of 10", 3, 10),
        ("a length beyond the frame", 2, 0x40),
        ("a wrong checksum", 10, 0xaa),
        ("an unknown protocol", 9, 200),
    ] {
        let mut packet = base.packet(number::TCP, &syn);
        packet[at] = byte;
        add(format!("a SYN with {name}"), packet);
    }
    let mut crooked = syn.clone();
    crooked[12] = 0xf0;
    add(
        "a SYN whose options are longer than it".into(),
        base.packet(number::TCP, &crooked),
    );
    let mut crooked = datagram.clone();
    crooked[5] = 7;
    add(
        "a datagram shorter than its header".into(),
        base.packet(number::UDP, &crooked),
    );
}

/// IPv6 alone: extension headers, fragments, lifetimes.
fn ipv6_headers(table: &mut Table, service: u32) {
    let (src, dst) = (Family::V6.client(1), Family::V6.service(service));
    let syn = syn(src, dst);
    let datagram = wire::udp((src, 40_000), (dst, example::PORT), &[5; 64]);
    let mut add = |sentence: String, packet: Vec<u8>| {
        table.push((format!("{sentence} to {dst}"), wire::frame(&[], &packet)));
    };
    let base = Ipv6::new(v6(src), v6(dst));
    let fragment = |word: u16| {
        let [high, low] = word.to_be_bytes();
        (number::FRAGMENT, vec![high, low, 0, 0, 0, 9])
    };
    let plain = |kind: u8| (kind, vec![0; 6]);
    let long = |kind: u8| (kind, vec![0; 22]);
    for (name, extensions) in [
        ("hop-by-hop options", vec![plain(0)]),
        ("destination options", vec![long(60)]),
        ("a routing header", vec![plain(43)]),
        (
            "three extension headers",
            vec![plain(0), long(60), plain(43)],
        ),
        ("six extension headers", vec![plain(60); 6]),
        ("seven extension headers", vec![plain(60); 7]),
        ("an atomic fragment header", vec![fragment(0)]),
        ("a first fragment's header", vec![fragment(1)]),
        ("a later fragment's header", vec![fragment(8)]),
        (
            "options and a later fragment's header",
            vec![plain(0), fragment(9)],
        ),
    ] {
        let mut header = base.clone();
        header.extensions = extensions;
        add(
            format!("a SYN with {name}"),
            header.packet(number::TCP, &syn),
        );
        add(
            format!("a datagram with {name}"),
            header.packet(number::UDP, &datagram),
        );
    }
    for hops in [0, 1, 2, 255] {
        let mut header = base.clone();
        header.hops = hops;
        add(
            format!("a SYN with hop limit {hops}"),
            header.packet(number::TCP, &syn),
        );
        add(
            format!("a datagram with hop limit {hops}"),
            header.packet(number::UDP, &datagram),
        );
    }
    for (name, at, byte) in [
        ("version 7", 0, 0x70),
        ("a length of 2", 5, 2),
        ("a length beyond the frame", 4, 0x40),
        ("no next header", 6, 59),
    ] {
        let mut packet = base.packet(number::TCP, &syn);
        packet[at] = byte;
        add(format!("a SYN with {name}"), packet);
    }
}

/// Impossible source addresses, and destinations that belong to no host.
fn strangers(table: &mut Table, family: Family) {
    let sources: &[&str] = match family {
        Family::V4 => &[
            "127.0.0.1",
            "0.0.0.0",
            "0.1.2.3",
            "224.0.0.1",
            "239.1.1.1",
            "240.0.0.1",
            "255.255.255.255",
            "192.0.2.254",
            "192.0.2.1",
            "198.51.100.77",
        ],
        Family::V6 => &[
            "::1",
            "::",
            "ff02::1",
            "2001:db8::fe",
            "2001:db8::1",
            "::ffff:192.0.2.9",
            "2001:db8:99::1",
        ],
    };
    for src in sources {
        let src: IpAddr = src.parse().unwrap();
        for service in 1..=u32::from(SERVICES) {
            let dst = family.service(service);
            let syn = syn(src, dst);
            let packet = ip_packet(src, dst, number::TCP, &syn);
            table.push((
                format!("a SYN from {src} to {dst}"),
                wire::frame(&[], &packet),
            ));
            let datagram = wire::udp((src, 40_000), (dst, example::PORT), b"x");
            let packet = ip_packet(src, dst, number::UDP, &datagram);
            table.push((
                format!("a datagram from {src} to {dst}"),
                wire::frame(&[], &packet),
            ));
        }
    }
    let src = family.client(2);
    let others: [&str; 2] = match family {
        Family::V4 => ["192.0.2.254", "8.8.8.8"],
        Family::V6 => ["2001:db8::fe", "2001:db8:aaaa::1"],
    };
    for dst in others {
        let dst = dst.parse().unwrap();
        let packet = ip_packet(src, dst, number::TCP, &syn(src, dst));
        table.push((format!("a SYN to {dst}"), wire::frame(&[], &packet)));
        let packet = ip_packet(src, dst, 47, &[0; 40]);
        table.push((format!("GRE to {dst}"), wire::frame(&[], &packet)));
    }
}
