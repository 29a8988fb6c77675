//! Packets in, packets out: each way of wrapping, each truncated at every byte, and random ones.

use super::*;
use proptest::prelude::*;
use std::vec;
use std::vec::Vec;

const GUE_PORT: u16 = 6080;

/// An IPv4 packet with a right checksum.
fn v4(protocol: u8, payload: &[u8]) -> Vec<u8> {
    let len = (20 + payload.len() as u16).to_be_bytes();
    let mut packet = vec![0x45, 0, len[0], len[1], 7, 7, 0x40, 0, 64, protocol, 0, 0];
    packet.extend([192, 0, 2, 1, 192, 0, 2, 2]);
    let sum: u32 = packet
        .chunks(2)
        .map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]])))
        .sum();
    let sum = !((sum & 0xffff) + (sum >> 16)) as u16;
    packet[10..12].copy_from_slice(&sum.to_be_bytes());
    packet.extend(payload);
    packet
}

fn v6(protocol: u8, payload: &[u8]) -> Vec<u8> {
    let len = (payload.len() as u16).to_be_bytes();
    let mut packet = vec![0x60, 0, 0, 0, len[0], len[1], protocol, 64];
    packet.extend([0x20; 16]);
    packet.extend([0x30; 16]);
    packet.extend(payload);
    packet
}

fn udp(port: u16, payload: &[u8]) -> Vec<u8> {
    let len = (8 + payload.len() as u16).to_be_bytes();
    let port = port.to_be_bytes();
    let mut datagram = vec![0x99, 0x99, port[0], port[1], len[0], len[1], 0, 0];
    datagram.extend(payload);
    datagram
}

/// A frame of these tags and this packet.
fn frame(tags: &[[u8; 4]], packet: &[u8]) -> Vec<u8> {
    let mut frame = vec![1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12];
    frame.extend(tags.iter().flatten());
    let v6 = packet[0] >> 4 == 6;
    frame.extend(if v6 { [0x86, 0xdd] } else { [8, 0] });
    frame.extend(packet);
    frame
}

fn gue(variant: u8, inner: &[u8]) -> Vec<u8> {
    let protocol = if inner[0] >> 4 == 6 { 41 } else { 4 };
    let head: &[u8] = if variant == 0 {
        &[0, protocol, 0, 0]
    } else {
        &[]
    };
    udp(GUE_PORT, &[head, inner].concat())
}

fn inners() -> [Vec<u8>; 2] {
    [v4(6, b"an inner packet"), v6(17, b"another inner packet")]
}

const TAGS: [&[[u8; 4]]; 3] = [
    &[],
    &[[0x81, 0, 0, 5]],
    &[[0x88, 0xa8, 0, 5], [0x81, 0, 0x60, 6]],
];

/// Each wrapping of each inner packet behind each kind of Ethernet header, and its inner packet.
fn wrapped() -> Vec<(Vec<u8>, Vec<u8>)> {
    let mut all = Vec::new();
    for tags in TAGS {
        for inner in inners() {
            let protocol = if inner[0] >> 4 == 6 { 41 } else { 4 };
            for outer in [
                v4(protocol, &inner),
                v6(protocol, &inner),
                v4(17, &gue(0, &inner)),
                v4(17, &gue(1, &inner)),
                v6(17, &gue(0, &inner)),
                v6(17, &gue(1, &inner)),
            ] {
                all.push((frame(tags, &outer), frame(tags, &inner)));
            }
        }
    }
    all
}

fn admitted(_: &Wrapped) -> Admission {
    Admission::Admitted
}

fn run(frame: &[u8]) -> (Outcome, Vec<u8>) {
    let mut frame = frame.to_vec();
    let outcome = unwrap(&mut frame, GUE_PORT.to_be(), admitted);
    (outcome, frame)
}

#[test]
fn every_wrapping_comes_off_and_nothing_else() {
    for (frame, inner) in wrapped() {
        assert_eq!(run(&frame), (Outcome::Unwrapped, inner));
    }
}

#[test]
fn what_is_cut_off_anywhere_is_left_alone() {
    for (frame, _) in wrapped() {
        for len in 0..frame.len() {
            let (outcome, after) = run(&frame[..len]);
            assert_ne!(outcome, Outcome::Unwrapped, "{len} of {frame:x?}");
            assert_eq!(after, frame[..len]);
        }
    }
}

#[test]
fn padding_behind_the_packet_stays_and_does_not_disturb() {
    for (mut frame, mut inner) in wrapped() {
        frame.extend([0; 10]);
        inner.extend([0; 10]);
        assert_eq!(run(&frame), (Outcome::Unwrapped, inner));
    }
}

#[test]
fn who_wraps_and_for_whom_is_asked() {
    let packet = frame(&[], &v4(4, &inners()[0]));
    let mut copy = packet.clone();
    let outcome = unwrap(&mut copy, 0, |wrapped| {
        assert_eq!(wrapped.source, addr::from_v4([192, 0, 2, 1]));
        assert_eq!(wrapped.destination, addr::from_v4([192, 0, 2, 2]));
        Admission::OtherHost
    });
    assert_eq!((outcome, &copy), (Outcome::OtherHost, &packet));
    let outcome = unwrap(&mut copy, 0, |_| Admission::Refused);
    assert_eq!((outcome, &copy), (Outcome::Refused, &packet));
}

#[test]
fn what_is_not_understood_is_left_to_the_kernel() {
    let inner = &inners()[0];
    let with = |packet: Vec<u8>, at: usize, byte: u8| {
        let mut packet = packet;
        packet[at] = byte;
        packet
    };
    // An IPv4 header with one byte changed, and its checksum made right for that.
    let mended = |at: usize, byte: u8| {
        let mut packet = with(v4(4, inner), at, byte);
        packet[10..12].fill(0);
        let sum: u32 = packet[..20]
            .chunks(2)
            .map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]])))
            .sum();
        let sum = !((sum & 0xffff) + (sum >> 16)) as u16;
        packet[10..12].copy_from_slice(&sum.to_be_bytes());
        packet
    };
    let other_port = v4(17, &udp(6081, inner));
    use Outcome::{Malformed, NotWrapped};
    for (packet, expected, why) in [
        (v4(6, b"data"), NotWrapped, "TCP"),
        (v6(58, b"data"), NotWrapped, "ICMPv6"),
        (other_port, NotWrapped, "a UDP port that is not GUE's"),
        (mended(0, 0x46), NotWrapped, "options in the outer header"),
        (mended(6, 0x20), NotWrapped, "the first fragment"),
        (mended(7, 0x01), NotWrapped, "a later fragment"),
        (with(v4(4, inner), 10, 0xaa), Malformed, "a wrong checksum"),
        (
            mended(3, 19),
            Malformed,
            "a length below that of the header",
        ),
        (
            with(v4(4, inner), 20, 0x65),
            Malformed,
            "IPv6 where IPv4 was told",
        ),
        (
            with(v4(4, inner), 20, 0x44),
            Malformed,
            "an inner header that is too short",
        ),
        (
            with(v4(4, inner), 22, 0xff),
            Malformed,
            "an inner packet longer than the outer",
        ),
        (
            with(v4(41, &inners()[1]), 24, 0xff),
            Malformed,
            "the same for IPv6",
        ),
        (
            v4(17, &with(gue(0, inner), 8, 0x20)),
            NotWrapped,
            "a GUE control message",
        ),
        (
            v4(17, &with(gue(0, inner), 8, 0x01)),
            NotWrapped,
            "GUE options",
        ),
        (
            v4(17, &with(gue(0, inner), 10, 0x80)),
            NotWrapped,
            "GUE flags",
        ),
        (v4(17, &with(gue(0, inner), 9, 6)), NotWrapped, "TCP in GUE"),
        (
            v4(17, &with(gue(0, inner), 8, 0x80)),
            NotWrapped,
            "GUE variant 2",
        ),
        (
            v4(17, &with(gue(1, inner), 8, 0x55)),
            Malformed,
            "IP version 5 in GUE",
        ),
        (
            v4(17, &with(gue(0, inner), 5, 9)),
            Malformed,
            "a UDP length that does not fit",
        ),
    ] {
        let frame = frame(&[], &packet);
        assert_eq!(run(&frame), (expected, frame), "{why}");
    }
    let three = [[0x81, 0, 0, 5]; 3];
    let deep = frame(&three, &v4(4, inner));
    assert_eq!(run(&deep), (NotWrapped, deep), "three tags");
    let mut gue_off = frame(&[], &v4(17, &gue(0, inner)));
    assert_eq!(unwrap(&mut gue_off, 0, admitted), NotWrapped, "no GUE port");
}

proptest! {
    #[test]
    fn only_what_fits_comes_off_however_a_packet_is_mutated(
        which in 0usize..36, at in 0usize..120, byte: u8, len in 0usize..160
    ) {
        let (mut packet, _) = wrapped().swap_remove(which);
        let at = at % packet.len();
        packet[at] = byte;
        packet.truncate(len);
        let (outcome, after) = run(&packet);
        if outcome == Outcome::Unwrapped {
            let taken = packet.len() - after.len();
            prop_assert!([20, 28, 32, 40, 48, 52].contains(&taken));
            prop_assert_eq!(&after[..12], &packet[..12]);
        } else {
            prop_assert_eq!(after, packet);
        }
    }

    #[test]
    fn random_bytes_are_read_within_their_bounds(packet in prop::collection::vec(any::<u8>(), 0..120)) {
        let (outcome, after) = run(&packet);
        prop_assert!(outcome == Outcome::Unwrapped || after == packet);
    }
}
