//! The packet paths in the kernel do the same as on the host. Compared are tables of packets, each cut
//! off at every byte, conversations in both directions, and a million random and mutated packets.
//! Forwarded packets are checked by code that shares nothing with the packet paths.

use std::collections::HashMap;
use std::net::IpAddr;

use lb_common::abi::ServiceId;
use lb_common::abi::access::ALL_SERVICES;
use lb_common::access::{Ban, Lists, Net, rules};
use lb_common::addr;
use lb_common::decide::Outcome;
use lb_common::decide::simulation::example;
use lb_common::headers;
use lb_common::packet::Frame;
use lb_tests::both::Both;
use lb_tests::packets::{self, Family, SERVICES, ip_packet};
use lb_tests::random::Random;
use lb_tests::wire::{self, Tcp, number};

/// Packets between fresh starts.
const BATCH: usize = 10_000;

#[test]
fn every_kind_of_packet_gets_the_same_from_kernel_and_host() {
    let mut both = Both::new();
    for (number, (sentence, frame)) in packets::table().iter().enumerate() {
        if number % 50 == 0 {
            both.start_afresh(number % 100 == 0);
        }
        // The second packet of a kind meets the state that the first has left.
        for _ in 0..2 {
            both.agree(frame, sentence);
        }
    }
}

#[test]
fn banned_clients_get_the_same_from_kernel_and_host() {
    let mut both = Both::new();
    let ban = |family: &Family| Ban {
        net: Net {
            first: addr::from_ip(family.client(0)),
            bits: 128,
        },
        service: ALL_SERVICES,
        end_ns: 0,
    };
    let deny = |service: u32| Lists {
        service: ServiceId(service),
        deny: Family::BOTH.map(|family| ban(&family).net).to_vec(),
        ..Lists::default()
    };
    let lists = [deny(1), deny(4)];
    for rules in [
        rules(&Family::BOTH.map(|family| ban(&family)), &[]),
        rules(&[], &lists),
    ] {
        both.put_rules(rules);
        for (number, (sentence, frame)) in packets::table().iter().enumerate() {
            if number % 50 == 0 {
                both.start_afresh(number % 100 == 0);
            }
            for _ in 0..2 {
                both.agree(frame, &format!("{sentence}, with bans"));
            }
        }
    }
}

#[test]
fn packets_cut_off_at_any_byte_get_the_same_from_kernel_and_host() {
    let mut both = Both::new();
    for (number, (sentence, frame)) in packets::table().iter().enumerate() {
        if number % 50 == 0 {
            both.start_afresh(false);
        }
        for length in (14..frame.len().min(200)).rev() {
            let sentence = format!("{sentence}, {length} bytes of it");
            both.agree(&frame[..length], &sentence);
        }
    }
}

#[test]
fn there_and_back_is_the_identity() {
    let mut both = Both::new();
    let mut random = Random::new();
    both.start_afresh(false);
    let mut conversations = 0;
    for _ in 0..400 {
        if both.has_turned() {
            both.start_afresh(false);
        }
        for family in Family::BOTH {
            for service in [1, 2] {
                conversation(&mut both, &mut random, family, service);
                conversations += 1;
            }
        }
    }
    assert_eq!(conversations, 1600);
}

/// A client's packet goes to a backend, and the answer comes back. The client sees the service's
/// address and the very bytes that the backend sent.
fn conversation(both: &mut Both, random: &mut Random, family: Family, service: u32) {
    let client = family.client(random.below(8) as u16);
    let vip = family.service(service);
    let sport = 1024 + random.below(50_000) as u16;
    let data: Vec<u8> = (0..random.below(300))
        .map(|_| random.number() as u8)
        .collect();
    let tcp = random.below(2) == 0;
    let there = segment(tcp, (client, sport), (vip, example::PORT), 2, &data);
    let (outcome, out) = both.agree(&wire::frame(&[], &there), "a client's packet");
    assert!(matches!(outcome, Outcome::Redirect(_)), "{outcome:?}");
    let at_backend = wire::see(&out).expect("a whole packet");
    let ports = &at_backend.payload[..4];
    let (seen_port, backend_port) = (port(&ports[..2]), port(&ports[2..]));
    assert_eq!(at_backend.ttl, 63);
    assert_eq!(backend_port, 5000);
    let header = if tcp { 20 } else { 8 };
    assert_eq!(
        at_backend.payload[header..],
        data,
        "nothing else is changed"
    );

    let (seen, backend) = at_backend.addresses;
    let answer: Vec<u8> = data.iter().rev().copied().collect();
    let back = segment(tcp, (backend, backend_port), (seen, seen_port), 18, &answer);
    let (outcome, out) = both.agree(&wire::frame(&[], &back), "the backend's answer");
    assert!(matches!(outcome, Outcome::Redirect(_)), "{outcome:?}");
    let at_client = wire::see(&out).expect("a whole packet");
    assert_eq!(at_client.addresses, (vip, client));
    let expected = segment(tcp, (vip, example::PORT), (client, sport), 18, &answer);
    let expected = wire::see_packet(&expected).unwrap();
    assert_eq!(at_client.payload, expected.payload, "checksum and all");
}

#[test]
fn new_flow_without_a_source_port_goes_to_the_next_backend() {
    const PORTS: usize = 2;
    let mut both = Both::new();
    both.limit_ports(PORTS as u16);
    for tcp in [true, false] {
        for family in Family::BOTH {
            both.start_afresh(false);
            let (client, vip) = (family.client(1), family.service(2));
            let mut flows: HashMap<IpAddr, usize> = HashMap::new();
            for sport in 40_000..40_020 {
                let segment = segment(tcp, (client, sport), (vip, example::PORT), 2, b"hello");
                let (outcome, out) = both.agree(&wire::frame(&[], &segment), "a new flow");
                match outcome {
                    Outcome::Redirect(_) => {
                        let (_, backend) = wire::see(&out).expect("a whole packet").addresses;
                        *flows.entry(backend).or_default() += 1;
                    }
                    outcome => assert_eq!(outcome, Outcome::Drop),
                }
            }
            let counts: Vec<usize> = flows.into_values().collect();
            assert_eq!(counts, [PORTS; 2], "its own backend, and the next one");
        }
    }
}

fn port(bytes: &[u8]) -> u16 {
    u16::from_be_bytes([bytes[0], bytes[1]])
}

fn segment(tcp: bool, src: (IpAddr, u16), dst: (IpAddr, u16), flags: u8, data: &[u8]) -> Vec<u8> {
    if tcp {
        let mut segment = Tcp::new(src.1, dst.1, flags);
        segment.data = data.to_vec();
        return ip_packet(src.0, dst.0, number::TCP, &segment.bytes(src.0, dst.0));
    }
    ip_packet(src.0, dst.0, number::UDP, &wire::udp(src, dst, data))
}

#[test]
fn a_million_random_and_mutated_packets_get_the_same_from_kernel_and_host() {
    let count: usize =
        std::env::var("LB_TEST_PACKETS").map_or(1_000_000, |text| text.parse().expect("a number"));
    let mut both = Both::new();
    let mut random = Random::new();
    let table = packets::table();
    let mut open = Vec::new();
    let mut seen = [0u64; 5];
    for number in 0..count {
        if number % BATCH == 0 || both.has_turned() {
            // Every other time with slots that have changed hands.
            both.start_afresh(number / BATCH % 2 == 1);
            open = open_connections(&mut both);
        }
        let frame = match random.below(10) {
            0 => random_bytes(&mut random),
            1 | 2 => random_client(&mut random),
            3 => open[random.below(open.len() as u64) as usize].clone(),
            4 | 5 => {
                let frame = &open[random.below(open.len() as u64) as usize];
                mutated(frame.clone(), &mut random)
            }
            _ => {
                let (_, frame) = &table[random.below(table.len() as u64) as usize];
                mutated(frame.clone(), &mut random)
            }
        };
        if is_link_local(&frame) {
            continue;
        }
        let (outcome, _) = both.agree(&frame, "a random packet");
        let kind = match outcome {
            Outcome::Pass => 0,
            Outcome::Stack => 1,
            Outcome::Transmit => 2,
            Outcome::Redirect(_) => 3,
            Outcome::Drop => 4,
            Outcome::Neighbour(_) => unreachable!("not at the driver"),
        };
        seen[kind] += 1;
    }
    println!("pass, stack, transmit, redirect, drop: {seen:?}");
    assert!(
        seen.iter().all(|seen| *seen as usize > count / 1000),
        "{seen:?}"
    );
}

/// Whether a packet comes from a link-local address. The kernel finds no route for one (RFC 4291,
/// section 2.5.6), which the host's tables of routes cannot know.
fn is_link_local(frame: &[u8]) -> bool {
    let read = headers::ip(&Frame(frame.to_vec()));
    read.is_ok_and(|ip| ip.v6 && ip.src.to_addr()[0] == 0xfe && ip.src.to_addr()[1] & 0xc0 == 0x80)
}

fn random_bytes(random: &mut Random) -> Vec<u8> {
    let length = 14 + random.below(120);
    let mut frame: Vec<u8> = (0..length).map(|_| random.number() as u8).collect();
    // Something that looks like IP, more often than not.
    match random.below(4) {
        0 => {}
        1 => frame[12..14].copy_from_slice(&[0x86, 0xdd]),
        _ => frame[12..14].copy_from_slice(&[8, 0]),
    }
    frame
}

/// A client of a service, with random flags and length.
fn random_client(random: &mut Random) -> Vec<u8> {
    let family = Family::BOTH[random.below(2) as usize];
    let service = 1 + random.below(SERVICES.into()) as u32;
    let src = (
        family.client(random.below(8) as u16),
        1024 + random.below(64) as u16,
    );
    let dst = (family.service(service), example::PORT);
    let data = vec![7; random.below(64) as usize];
    let flags = [2, 16, 24, 17, 4, 18][random.below(6) as usize];
    let packet = segment(random.below(4) != 0, src, dst, flags, &data);
    wire::frame(&[], &packet)
}

/// Opens connections with the services on `nat`; packets of these in both directions.
fn open_connections(both: &mut Both) -> Vec<Vec<u8>> {
    let mut open = Vec::new();
    for family in Family::BOTH {
        for (service, tcp) in [(1, true), (1, false), (2, true), (2, false)] {
            let client = (family.client(3), 999);
            let vip = (family.service(service), example::PORT);
            let there = |flags| wire::frame(&[], &segment(tcp, client, vip, flags, &[1, 2, 3, 4]));
            let (_, out) = both.agree(&there(2), "a connection is opened");
            let at_backend = wire::see(&out).expect("a whole packet");
            let (seen, backend) = at_backend.addresses;
            let seen = (seen, port(&at_backend.payload[..2]));
            let backend = (backend, port(&at_backend.payload[2..4]));
            let back = |flags| wire::frame(&[], &segment(tcp, backend, seen, flags, &[5; 40]));
            both.agree(&back(18), "it is accepted");
            both.agree(&there(16), "it is established");
            open.extend([there(16), back(16), there(24), there(17)]);
        }
    }
    open
}

fn mutated(mut frame: Vec<u8>, random: &mut Random) -> Vec<u8> {
    for _ in 0..random.below(4) {
        let at = 12 + random.below(frame.len().min(130) as u64 - 12) as usize;
        frame[at] = match random.below(3) {
            0 => random.number() as u8,
            1 => frame[at] ^ 1 << random.below(8),
            _ => [0, 1, 4, 6, 17, 41, 44, 0x45, 0x46, 0x60, 0xff][random.below(11) as usize],
        };
    }
    match random.below(8) {
        0 => frame.truncate(14 + random.below(frame.len() as u64 - 13) as usize),
        1 => frame.extend(std::iter::repeat_n(0, random.below(40) as usize)),
        _ => {}
    }
    frame
}
