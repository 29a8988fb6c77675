//! TCP segments that Linux has joined to packets whose length does not fit into the header (BIG TCP).

use lb_common::decide::Outcome;
use lb_common::decide::simulation::example;
use lb_common::packet::Frame;

use crate::nat::open;
use crate::packets::{ACK, Spec, tcp};
use crate::{FAMILIES, Family, dropped, pass};
use lb_common::abi::packet::PacketCounter;

const CONTAINER: u32 = 1;
/// Bytes behind the TCP header.
const PAYLOAD: usize = 100_000;

/// A packet of more than 64 KiB, over IPv6 as Linux before 7.0 has it (`jumbo`) or later ones.
fn big(family: &Family, number: u32, jumbo: bool) -> Frame {
    let spec = Spec {
        payload: 1000,
        ..tcp(family.client, &family.service(number), ACK)
    };
    let mut frame = spec.frame().0;
    frame.resize(frame.len() - 1000 + PAYLOAD, 7);
    if family.v6 {
        frame[18..20].copy_from_slice(&[0; 2]);
        if jumbo {
            // RFC 2675, section 2.
            let next = std::mem::replace(&mut frame[20], 0);
            let length = (frame.len() - 54 + 8) as u32;
            let option = [&[next, 0, 0xc2, 4], &length.to_be_bytes()[..]].concat();
            frame.splice(54..54, option);
        }
    } else {
        frame[16..18].copy_from_slice(&[0; 2]);
        let mut sum: u32 = frame[14..34]
            .chunks(2)
            .map(|half| u32::from(u16::from_be_bytes([half[0], half[1]])))
            .sum::<u32>()
            - u32::from(u16::from_be_bytes([frame[24], frame[25]]));
        while sum > 0xffff {
            sum = (sum & 0xffff) + (sum >> 16);
        }
        frame[24..26].copy_from_slice(&(!(sum as u16)).to_be_bytes());
    }
    Frame(frame)
}

#[test]
fn packet_of_more_than_64_kib_goes_on_as_it_is() {
    for family in FAMILIES {
        for jumbo in [false, true] {
            let mut world = family.world();
            let seen = open(&mut world, &family, CONTAINER);
            for hop in world.routes.values_mut() {
                hop.mtu = u32::MAX;
            }
            let routes_s = world.now_s + 1;
            world.now_s = routes_s;
            world.settings.routes_s = routes_s;
            for hop in world.routes.values_mut() {
                hop.at_s = routes_s;
            }
            let frame = big(&family, CONTAINER, jumbo);
            let (outcome, out) = pass(&mut world, &frame);
            assert_eq!(outcome, Outcome::Redirect(example::INSIDE));
            assert_eq!(out.0.len(), frame.0.len());
            let (dst, lengths) = if family.v6 {
                (38..54, 18..20)
            } else {
                (30..34, 16..18)
            };
            let address = match seen.dst {
                std::net::IpAddr::V4(ip) => ip.octets().to_vec(),
                std::net::IpAddr::V6(ip) => ip.octets().to_vec(),
            };
            assert_eq!(out.0[dst], address);
            assert_eq!(out.0[lengths], [0; 2], "the kernel fills it in");
        }
    }
}

#[test]
fn short_packet_that_tells_no_length_is_malformed() {
    let family = FAMILIES[0];
    let mut world = family.world();
    let mut frame = tcp(family.client, &family.service(CONTAINER), ACK).frame();
    frame.0[16..18].copy_from_slice(&[0; 2]);
    dropped(&mut world, &frame, PacketCounter::DropMalformed);
}

#[test]
fn wrapped_packet_of_more_than_64_kib_tells_no_length_either() {
    for family in FAMILIES {
        for number in [4, 5] {
            let mut world = family.world();
            for hop in world.routes.values_mut() {
                hop.mtu = u32::MAX;
            }
            let (outcome, out) = pass(&mut world, &big(&family, number, false));
            assert_eq!(outcome, Outcome::Redirect(example::INSIDE));
            let (first, length) = if family.v6 {
                (0x60, 18..20)
            } else {
                (0x45, 16..18)
            };
            assert_eq!(out.0[14], first);
            assert_eq!(out.0[length], [0; 2]);
        }
    }
}
