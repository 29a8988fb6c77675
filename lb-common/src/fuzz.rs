//! Properties that hold for any bytes: the targets of `cargo fuzz`, and of a seeded run as a plain test.

use alloc::vec::Vec;

use crate::decap::{self, Admission};
use crate::decide::Outcome;
use crate::decide::simulation::{Simulation, example};
use crate::packet::Frame;

/// A frame through the packet paths, twice, so that the second meets the state that the first has left. A packet
/// that is passed is untouched, and one that is sent on keeps its Ethernet header.
pub fn decide(bytes: &[u8]) {
    let mut world = world();
    for _ in 0..2 {
        let mut frame = Frame(bytes.to_vec());
        let outcome = world.receive(&mut frame).outcome();
        match outcome {
            Outcome::Pass => assert_eq!(frame.0, bytes, "passed is untouched"),
            Outcome::Transmit | Outcome::Redirect(_) => assert!(frame.0.len() >= 34, "{outcome:?}"),
            Outcome::Stack | Outcome::Neighbour(_) | Outcome::Drop => {}
        }
    }
}

/// A world in which every backend and one client can be reached.
fn world() -> Simulation {
    let mut world = (*example::world(1_000_000)).clone();
    let hop = example::hop(&world, example::INSIDE);
    let targets: Vec<_> = world.targets.values().map(|target| target.addr).collect();
    let client = example::ip("203.0.113.9");
    world
        .routes
        .extend(targets.into_iter().chain([client]).map(|ip| (ip, hop)));
    world
}

/// A frame through `lb_decap`: untouched, or shorter by headers that it may have.
pub fn decap(bytes: &[u8]) {
    let mut frame = bytes.to_vec();
    let port_be = 6080u16.to_be();
    let outcome = decap::unwrap(&mut frame, port_be, |_| Admission::Admitted);
    if outcome == decap::Outcome::Unwrapped {
        let taken = bytes.len() - frame.len();
        assert!([20, 28, 32, 40, 48, 52].contains(&taken), "{taken}");
        assert_eq!(frame[..12], bytes[..12], "the Ethernet addresses stay");
    } else {
        assert_eq!(frame, bytes, "{outcome:?}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Bytes that look like a packet to a service, as a fuzzer would soon find.
    fn frames() -> impl Strategy<Value = Vec<u8>> {
        let noise = prop::collection::vec(any::<u8>(), 0..120);
        let version = prop_oneof![Just(0x45u8), Just(0x46), Just(0x60), any::<u8>()];
        (noise, version, any::<[u8; 6]>(), 1u8..=6).prop_map(
            |(mut frame, version, pick, service)| {
                let v6 = version == 0x60;
                if frame.len() > 54 {
                    frame[12..14].copy_from_slice(if v6 { &[0x86, 0xdd] } else { &[8, 0] });
                    frame[14] = version;
                    let len = frame.len() as u8 - 14;
                    let protocol = [6, 17, 1, 58, 4, 41][usize::from(pick[0] % 6)];
                    if v6 {
                        frame[18..22].copy_from_slice(&[0, len - 40, protocol, pick[1]]);
                        let vip = [0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, service];
                        frame[38..54].copy_from_slice(&vip);
                    } else {
                        frame[16..18].copy_from_slice(&[0, len]);
                        frame[20..24].copy_from_slice(&[pick[2] & 0x60, 0, pick[1], protocol]);
                        frame[30..34].copy_from_slice(&[192, 0, 2, service]);
                        frame[36..38].copy_from_slice(&[0, 80]);
                    }
                }
                frame
            },
        )
    }

    proptest! {
        #[test]
        fn any_bytes_are_decided(frame in frames()) {
            decide(&frame);
        }

        #[test]
        fn any_bytes_are_unwrapped_or_left_alone(frame in frames()) {
            decap(&frame);
        }
    }
}
