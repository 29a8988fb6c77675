//! A table of frames (`frames.txt`), each with what becomes of it. Frames and checks are made here byte by
//! byte, by code that the packet paths do not share.

use std::net::IpAddr;

use lb_common::abi::packet::PacketCounter;
use lb_common::decide::Outcome;
use lb_common::decide::simulation::{Simulation, example};
use lb_common::packet::Frame;

use crate::draft::Draft;
use crate::nat::open;
use crate::packets::{checksum, icmp};
use crate::{FAMILIES, Family, pass};

const TABLE: &str = include_str!("frames.txt");

#[test]
fn every_frame_of_the_table_becomes_what_the_table_says() {
    let rows = TABLE
        .lines()
        .filter(|line| !line.is_empty() && !line.starts_with('#'));
    let mut wrong = Vec::new();
    let mut count = 0;
    for row in rows {
        let fields: Vec<&str> = row.split('|').map(str::trim).collect();
        let [name, recipe, expected] = fields[..] else {
            panic!("three columns: {row}");
        };
        count += 1;
        let found = become_of(recipe);
        if found != expected {
            wrong.push(format!("{name} ({recipe}): {found}, not {expected}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(count >= 100, "{count} frames");
}

/// What becomes of the frame that a recipe makes, in the words of the table.
fn become_of(recipe: &str) -> String {
    let family = FAMILIES[usize::from(recipe.starts_with('6'))];
    let mut world = family.world();
    let words: Vec<&str> = recipe.split_whitespace().collect();
    let draft = Draft::of(&family, &words);
    if words.contains(&"open") {
        open(&mut world, &family, draft.service.expect("a service"));
    }
    let before = world.counters.clone();
    let frame = draft.frame();
    let (outcome, out) = pass(&mut world, &frame);
    match outcome {
        Outcome::Drop => drop_reason(&world, &before),
        Outcome::Pass => {
            assert_eq!(out, frame, "{recipe}: passed is untouched");
            "pass".into()
        }
        Outcome::Redirect(example::INSIDE) if draft.is_icmp => {
            mended(&family, &draft, &frame, &out)
        }
        Outcome::Redirect(example::INSIDE) => sent(&family, &draft, &frame.0, &out.0),
        Outcome::Transmit => answered(&draft, &out),
        other => format!("{other:?}"),
    }
}

fn drop_reason(world: &Simulation, before: &std::collections::HashMap<u32, u64>) -> String {
    let count = |reason: &PacketCounter| {
        world.counter(*reason) - before.get(&(*reason as u32)).copied().unwrap_or(0)
    };
    let reasons = REASONS.iter().filter(|(reason, _)| count(reason) == 1);
    let names: Vec<&str> = reasons.map(|(_, name)| *name).collect();
    format!("drop {}", names.join(" "))
}

const REASONS: [(PacketCounter, &str); 9] = [
    (PacketCounter::DropMalformed, "malformed"),
    (PacketCounter::DropNoBackend, "no backend"),
    (PacketCounter::DropFragment, "fragment"),
    (PacketCounter::DropTtl, "ttl"),
    (PacketCounter::DropIcmp, "icmp"),
    (PacketCounter::DropTooBig, "too big"),
    (PacketCounter::DropMartian, "martian"),
    (PacketCounter::DropSpoofed, "spoofed"),
    (PacketCounter::DropKernel, "kernel"),
];

/// What a backend gets: nothing but addresses, ports, lifetime and checksums may be others.
fn sent(family: &Family, draft: &Draft, before: &[u8], out: &[u8]) -> String {
    let service = draft.service.expect("a service");
    let before = draft.packet_of(before);
    let out = &out[14..];
    if service >= 4 {
        return wrapped(family, draft, before, out);
    }
    let (src, dst) = ends(family.v6, out);
    if !family.is_backend(service, dst) {
        return format!("sent to {dst}");
    }
    if service == 1 && src != draft.src {
        return format!("sent from {src}");
    }
    if !family.v6 && checksum(&out[..header(out)], 0) != 0 {
        return "a wrong IPv4 checksum".into();
    }
    if let Some(wrong) = draft.transport_checksum_fault(out) {
        return wrong;
    }
    let blank = |packet: &[u8]| draft.blanked(packet);
    let mut expected = blank(before);
    expected[if family.v6 { 7 } else { 8 }] -= 1;
    if blank(out) == expected {
        "sent".into()
    } else {
        format!("changed: {:02x?} to {:02x?}", expected, blank(out))
    }
}

/// What a backend of `dsr` gets: the packet with a lifetime of one less, in what is around it.
fn wrapped(family: &Family, draft: &Draft, before: &[u8], out: &[u8]) -> String {
    let service = draft.service.expect("a service");
    let outer = match (service, family.v6) {
        (4, false) => 20,
        (4, true) => 40,
        (5, false) => 28,
        (5, true) => 48,
        _ => 0,
    };
    if outer != 0 && !family.is_backend(service, ends(family.v6, out).1) {
        return "wrapped for somebody else".into();
    }
    let inner = &out[outer..];
    let mut expected = before.to_vec();
    expected[if family.v6 { 7 } else { 8 }] -= 1;
    if !family.v6 {
        let length = header(&expected);
        expected[10..12].fill(0);
        let sum = checksum(&expected[..length], 0);
        expected[10..12].copy_from_slice(&sum.to_be_bytes());
    }
    if inner.starts_with(&expected) {
        ["wrapped", "wrapped", "sent"][service as usize - 4].into()
    } else {
        format!("changed: {expected:02x?} to {inner:02x?}")
    }
}

/// What a backend gets of an ICMP error: the same, about the packet as the backend has sent it.
fn mended(family: &Family, draft: &Draft, before: &Frame, out: &Frame) -> String {
    let service = draft.service.expect("a service");
    let (src, dst, kind, code, word, quote) = icmp(out);
    let (asked_src, _, asked_kind, asked_code, asked_word, asked) = icmp(before);
    if !family.is_backend(service, dst) {
        return format!("an error for {dst}");
    }
    let backend_port = quote[header_of(family.v6, &quote)..][..2].to_vec();
    if (kind, code, word) != (asked_kind, asked_code, asked_word) || quote.len() != asked.len() {
        return format!("another error: {kind} {code} {word}, {} bytes", quote.len());
    }
    let from_backend = backend_port == 5000u16.to_be_bytes();
    if ends(family.v6, &quote) != (dst, draft.src) || !from_backend || src != asked_src {
        return format!("an error about {:?}", ends(family.v6, &quote));
    }
    "mended".into()
}

/// What the client gets back.
fn answered(draft: &Draft, out: &Frame) -> String {
    let packet = &out.0[14..];
    let v6 = packet[0] >> 4 == 6;
    let (src, dst) = ends(v6, packet);
    assert_eq!(dst, draft.src, "an answer goes to who has asked");
    let (protocol, at) = if v6 { (packet[6], 40) } else { (packet[9], 20) };
    if protocol == 6 {
        let flags = packet[at + 13];
        assert_eq!(src, draft.dst);
        return if flags & 4 != 0 {
            "reset".into()
        } else {
            format!("flags {flags:#x}")
        };
    }
    let (_, _, kind, code, ..) = icmp(out);
    match (v6, kind) {
        (false, 0) | (true, 129) => "echoed".into(),
        _ => format!("icmp {kind} {code}"),
    }
}

fn header_of(v6: bool, packet: &[u8]) -> usize {
    if v6 { 40 } else { header(packet) }
}

fn header(packet: &[u8]) -> usize {
    usize::from(packet[0] & 15) * 4
}

fn ends(v6: bool, packet: &[u8]) -> (IpAddr, IpAddr) {
    let six = |at: usize| <[u8; 16]>::try_from(&packet[at..at + 16]).unwrap().into();
    let four = |at: usize| <[u8; 4]>::try_from(&packet[at..at + 4]).unwrap().into();
    if v6 {
        (six(8), six(24))
    } else {
        (four(12), four(16))
    }
}
