//! Packets that are cut off, contradictory, impossible, or simply strange.

use lb_common::abi::packet::PacketCounter;
use lb_common::decide::Outcome;
use lb_common::packet::Frame;
use proptest::prelude::*;

use crate::packets::{SYN, Spec, tcp, udp};
use crate::{FAMILIES, dropped, pass, untouched};

#[test]
fn whatever_is_cut_off_at_any_byte_is_dropped_or_passed_and_never_sent() {
    for family in FAMILIES {
        for number in [1, 2, 4, 5, 6] {
            for tags in 0..=2 {
                let spec = Spec {
                    tags,
                    payload: 30,
                    ..tcp(family.client, &family.service(number), SYN)
                };
                let frame = spec.frame();
                for len in 0..frame.0.len() {
                    let mut world = family.world();
                    let cut = Frame(frame.0[..len].to_vec());
                    let (outcome, out) = pass(&mut world, &cut);
                    assert!(
                        matches!(outcome, Outcome::Pass | Outcome::Drop),
                        "{len} bytes: {outcome:?}"
                    );
                    assert_eq!(out, cut);
                }
            }
        }
    }
}

#[test]
fn a_header_that_contradicts_itself_is_dropped_at_a_service_and_passed_elsewhere() {
    let family = FAMILIES[0];
    for (at, value) in [(14, 0x44u8), (14, 0x4f), (46, 0x10)] {
        let mut bytes = tcp(family.client, "192.0.2.1", SYN).frame().0;
        bytes[at] = value;
        dropped(
            &mut family.world(),
            &Frame(bytes),
            PacketCounter::DropMalformed,
        );
        let mut bytes = tcp(family.client, "198.51.100.7", SYN).frame().0;
        bytes[at] = value;
        untouched(&mut family.world(), &Frame(bytes));
    }
    // A UDP length beyond the packet.
    let mut bytes = udp(family.client, "192.0.2.1").frame().0;
    bytes[38..40].copy_from_slice(&500u16.to_be_bytes());
    dropped(
        &mut family.world(),
        &Frame(bytes),
        PacketCounter::DropMalformed,
    );
}

#[test]
fn martians_and_spoofed_addresses_are_dropped() {
    let v4 = [
        ("127.0.0.1", PacketCounter::DropMartian),
        ("0.1.2.3", PacketCounter::DropMartian),
        ("224.0.0.1", PacketCounter::DropMartian),
        ("255.255.255.255", PacketCounter::DropMartian),
        ("192.0.2.254", PacketCounter::DropSpoofed),
        ("192.0.2.2", PacketCounter::DropSpoofed),
    ];
    let v6 = [
        ("::1", PacketCounter::DropMartian),
        ("::", PacketCounter::DropMartian),
        ("ff02::1", PacketCounter::DropMartian),
        ("2001:db8::fe", PacketCounter::DropSpoofed),
    ];
    for number in [1, 2, 4] {
        for (source, reason) in v4 {
            let frame = tcp(source, &FAMILIES[0].service(number), SYN).frame();
            dropped(&mut FAMILIES[0].world(), &frame, reason);
        }
        for (source, reason) in v6 {
            let frame = tcp(source, &FAMILIES[1].service(number), SYN).frame();
            dropped(&mut FAMILIES[1].world(), &frame, reason);
        }
    }
}

/// A SYN with extension headers of these kinds before it.
fn extended(kinds: &[u8], dst: &str) -> Frame {
    let plain = tcp(FAMILIES[1].client, dst, SYN).frame().0;
    let mut headers = Vec::new();
    for (i, kind) in kinds.iter().enumerate() {
        let next = kinds.get(i + 1).copied().unwrap_or(6);
        match kind {
            // Authentication: in words, less two.
            51 => headers.extend([next, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]),
            // An atomic fragment.
            44 => headers.extend([next, 0, 0, 0, 0, 0, 0, 7]),
            _ => headers.extend([next, 0, 1, 4, 0, 0, 0, 0]),
        }
    }
    let mut bytes = plain[..54].to_vec();
    bytes.extend(&headers);
    bytes.extend(&plain[54..]);
    bytes[20] = kinds.first().copied().unwrap_or(6);
    let len = (bytes.len() - 54) as u16;
    bytes[18..20].copy_from_slice(&len.to_be_bytes());
    Frame(bytes)
}

#[test]
fn extension_headers_are_walked_up_to_six() {
    let family = FAMILIES[1];
    for kinds in [
        vec![0],
        vec![0, 60, 43],
        vec![44],
        vec![51, 60],
        vec![0, 60, 43, 44, 51, 60],
    ] {
        let (outcome, out) = pass(&mut family.world(), &extended(&kinds, "2001:db8::1"));
        assert!(
            matches!(outcome, Outcome::Redirect(_)),
            "{kinds:?}: {outcome:?}"
        );
        crate::packets::seen(&out);
    }
    let many = extended(&[0, 60, 60, 60, 60, 60, 60], "2001:db8::1");
    dropped(&mut family.world(), &many, PacketCounter::DropMalformed);
    untouched(
        &mut family.world(),
        &extended(&[0, 60, 60, 60, 60, 60, 60], "2001:db8:9::1"),
    );
    let frame = extended(&[0, 60, 43, 44, 51, 60], "2001:db8::1");
    for len in 54..frame.0.len() {
        let cut = Frame(frame.0[..len].to_vec());
        dropped(&mut family.world(), &cut, PacketCounter::DropMalformed);
    }
}

#[test]
fn ip_options_stay_where_they_are() {
    let family = FAMILIES[0];
    for number in [1, 2, 4] {
        let plain = tcp(family.client, &family.service(number), SYN).frame().0;
        let mut bytes = plain[..34].to_vec();
        bytes.extend([1, 1, 1, 0]);
        bytes.extend(&plain[34..]);
        bytes[14] = 0x46;
        let len = (bytes.len() - 14) as u16;
        bytes[16..18].copy_from_slice(&len.to_be_bytes());
        bytes[24..26].fill(0);
        let sum = crate::packets::checksum(&bytes[14..38], 0);
        bytes[24..26].copy_from_slice(&sum.to_be_bytes());
        let (outcome, out) = pass(&mut family.world(), &Frame(bytes));
        assert!(matches!(outcome, Outcome::Redirect(_)));
        let inner = if number == 4 {
            &out.0[34..]
        } else {
            &out.0[14..]
        };
        assert_eq!(inner[20..24], [1, 1, 1, 0]);
        crate::packets::seen_ip(inner);
    }
}

#[test]
fn a_datagram_without_checksum_keeps_having_none() {
    let family = FAMILIES[0];
    let mut bytes = udp(family.client, "192.0.2.1").frame().0;
    bytes[40..42].fill(0);
    let (_, out) = pass(&mut family.world(), &Frame(bytes));
    assert_eq!(out.0[40..42], [0, 0]);
}

#[test]
fn what_is_not_ip_passes() {
    for family in FAMILIES {
        let mut arp = tcp(family.client, &family.service(1), SYN).frame().0;
        arp[12..14].copy_from_slice(&[8, 6]);
        untouched(&mut family.world(), &Frame(arp));
    }
    untouched(&mut FAMILIES[0].world(), &Frame(Vec::new()));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4000))]
    #[test]
    fn no_packet_however_damaged_does_harm(
        number in 1u32..=6, v6: bool, tags in 0u8..=2, is_udp: bool, payload in 0usize..64,
        damage in prop::collection::vec((0usize..140, any::<u8>()), 0..6), cut in 0usize..200,
    ) {
        let family = FAMILIES[usize::from(v6)];
        let mut world = family.world();
        let spec = Spec {
            tags, payload, flags: (!is_udp).then_some(SYN),
            ..tcp(family.client, &family.service(number), SYN)
        };
        let mut bytes = spec.frame().0;
        for (at, value) in damage {
            if let Some(byte) = bytes.get_mut(at) {
                *byte = value;
            }
        }
        bytes.truncate(cut.max(14));
        let before = Frame(bytes);
        let (outcome, out) = pass(&mut world, &before);
        if matches!(outcome, Outcome::Pass | Outcome::Drop) {
            prop_assert_eq!(out, before);
        }
    }
}
