//! Fragments: the first decides, the rest follow.

use lb_common::abi::packet::PacketCounter;
use lb_common::decide::Outcome;
use lb_common::decide::simulation::example;
use lb_common::packet::Frame;

use crate::nat::REMOTE;
use crate::packets::{Spec, seen_ip, udp};
use crate::{FAMILIES, dropped, pass, untouched};

/// A fragment of an IPv6 packet; `at` in units of eight bytes.
fn fragment_v6(frame: &Frame, at: u16, more: bool, payload: &[u8]) -> Frame {
    const UDP: u8 = 17;
    let mut bytes = frame.0[..54].to_vec();
    let [high, low] = (at << 3 | u16::from(more)).to_be_bytes();
    bytes.extend([UDP, 0, high, low, 0, 0, 0, 9]);
    bytes.extend(payload);
    let len = (bytes.len() - 54) as u16;
    bytes[18..20].copy_from_slice(&len.to_be_bytes());
    bytes[20] = 44;
    Frame(bytes)
}

#[test]
fn the_same_holds_for_fragments_of_ipv6() {
    let family = FAMILIES[1];
    let mut world = family.world();
    let whole = Spec {
        payload: 1000,
        ..udp(family.client, &family.service(REMOTE))
    }
    .frame();
    let data = whole.0[54..].to_vec();
    let first = fragment_v6(&whole, 0, true, &data[..512]);
    let second = fragment_v6(&whole, 64, false, &data[512..]);
    dropped(&mut world, &second, PacketCounter::DropFragment);
    let (outcome, first) = pass(&mut world, &first);
    assert_eq!(outcome, Outcome::Redirect(example::INSIDE));
    let (outcome, second) = pass(&mut world, &second);
    assert_eq!(outcome, Outcome::Redirect(example::INSIDE));
    assert_eq!(first.0[22..54], second.0[22..54], "the same addresses");
    // Put together they are what a whole packet would have become.
    let mut joined = first.0[14..54].to_vec();
    joined.extend([&first.0[62..], &second.0[62..]].concat());
    let len = (joined.len() - 40) as u16;
    joined[4..6].copy_from_slice(&len.to_be_bytes());
    joined[6] = 17;
    let seen = seen_ip(&joined);
    assert_eq!(seen.payload.len(), 1000);
    assert!(family.is_backend(REMOTE, seen.dst));
    // A fragment for somebody else is not ours.
    let other = udp(family.client, "2001:db8:9::1").frame();
    untouched(&mut world, &fragment_v6(&other, 64, false, &[0; 16]));
}

/// A fragment of an IPv4 packet; `at` in units of eight bytes.
pub(crate) fn fragment(frame: &Frame, at: u16, more: bool, payload: &[u8]) -> Frame {
    let mut bytes = frame.0[..34].to_vec();
    bytes.extend(payload);
    let len = (bytes.len() - 14) as u16;
    bytes[16..18].copy_from_slice(&len.to_be_bytes());
    bytes[20..22].copy_from_slice(&(at | u16::from(more) << 13).to_be_bytes());
    bytes[24..26].fill(0);
    let sum = crate::packets::checksum(&bytes[14..34], 0);
    bytes[24..26].copy_from_slice(&sum.to_be_bytes());
    Frame(bytes)
}

#[test]
fn the_first_fragment_decides_and_the_rest_follow() {
    let family = FAMILIES[0];
    let mut world = family.world();
    let whole = Spec {
        payload: 1000,
        ..udp(family.client, "192.0.2.2")
    }
    .frame();
    let data = whole.0[34..].to_vec();
    let first = fragment(&whole, 0, true, &data[..512]);
    let second = fragment(&whole, 64, false, &data[512..]);
    dropped(&mut world, &second, PacketCounter::DropFragment);
    let (outcome, first) = pass(&mut world, &first);
    assert_eq!(outcome, Outcome::Redirect(example::INSIDE));
    let (outcome, second) = pass(&mut world, &second);
    assert_eq!(outcome, Outcome::Redirect(example::INSIDE));
    assert_eq!(first.0[26..34], second.0[26..34], "the same addresses");
    // Put together they are what a whole packet would have become.
    let mut joined = first.0[14..].to_vec();
    joined.extend(&second.0[34..]);
    let len = joined.len() as u16;
    joined[2..4].copy_from_slice(&len.to_be_bytes());
    joined[6..8].fill(0);
    joined[10..12].fill(0);
    let sum = crate::packets::checksum(&joined[..20], 0);
    joined[10..12].copy_from_slice(&sum.to_be_bytes());
    let seen = seen_ip(&joined);
    assert_eq!(seen.payload.len(), 1000);
    assert!(family.is_backend(REMOTE, seen.dst));
    // A fragment for somebody else is not ours.
    let other = udp(family.client, "198.51.100.77").frame();
    untouched(&mut world, &fragment(&other, 64, false, &[0; 16]));
}
