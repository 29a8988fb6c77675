//! Segments that end a connection, and such that only pretend to.

use lb_common::abi::packet::{PacketCounter, state};
use lb_common::decide::simulation::Simulation;

use crate::nat::{back, open, there};
use crate::packets::{ACK, FIN, RST, SYN, Spec, tcp};
use crate::{FAMILIES, Family, pass};

const CONTAINER: u32 = 1;

/// A segment of the client with another sequence number than its connection has.
fn off_by(family: &Family, flags: u8, off: u32) -> lb_common::packet::Frame {
    let mut frame = tcp(family.client, &family.service(CONTAINER), flags).frame();
    let at = if family.v6 { 58 } else { 38 };
    let seq = u32::from_be_bytes(frame.0[at..at + 4].try_into().unwrap());
    let new = seq.wrapping_add(off);
    frame.0[at..at + 4].copy_from_slice(&new.to_be_bytes());
    let sum_at = at + 12;
    let sum = u16::from_be_bytes(frame.0[sum_at..sum_at + 2].try_into().unwrap());
    let halves = |number: u32| u64::from(number >> 16) + u64::from(number & 0xffff);
    let mut total = u64::from(!sum) + halves(!seq) + halves(new);
    while total > 0xffff {
        total = (total & 0xffff) + (total >> 16);
    }
    frame.0[sum_at..sum_at + 2].copy_from_slice(&(!(total as u16)).to_be_bytes());
    frame
}

fn is_ended(world: &Simulation) -> bool {
    let flows = world.flows.all();
    assert_eq!(flows.len(), 1);
    state::is_ended(flows[0].at.state)
}

#[test]
fn reset_that_the_receiver_would_not_accept_ends_no_flow() {
    for family in FAMILIES {
        for off in [1 << 20, 1 << 31, u32::MAX - (1 << 20)] {
            let mut world = family.world();
            open(&mut world, &family, CONTAINER);
            pass(&mut world, &off_by(&family, RST, off));
            assert!(!is_ended(&world), "{off}");
        }
        let mut world = family.world();
        open(&mut world, &family, CONTAINER);
        pass(&mut world, &off_by(&family, RST, 0));
        assert!(is_ended(&world));
    }
}

#[test]
fn fin_far_from_the_window_closes_nothing() {
    for family in FAMILIES {
        let mut world = family.world();
        let seen = open(&mut world, &family, CONTAINER);
        pass(&mut world, &off_by(&family, FIN | ACK, 1 << 24));
        back(&mut world, &seen, FIN | ACK);
        assert!(!is_ended(&world));
        pass(&mut world, &off_by(&family, FIN | ACK, 0));
        assert!(is_ended(&world));
    }
}

#[test]
fn sequence_number_of_a_fast_sender_is_followed_within_the_second() {
    for family in FAMILIES {
        let mut world = family.world();
        open(&mut world, &family, CONTAINER);
        for mib in 1..=8 {
            for step in 0..32 {
                let off = (mib - 1) * (1 << 20) + step * (1 << 15) + 40_000;
                pass(&mut world, &off_by(&family, ACK, off));
            }
        }
        pass(&mut world, &off_by(&family, RST, 8 << 20));
        assert!(is_ended(&world));
    }
}

#[test]
fn receiver_that_speaks_on_has_not_accepted_the_reset() {
    for family in FAMILIES {
        let mut world = family.world();
        let seen = open(&mut world, &family, CONTAINER);
        pass(&mut world, &off_by(&family, RST, 5));
        assert!(is_ended(&world));
        // What had been sent before tells nothing.
        back(&mut world, &seen, ACK);
        assert!(is_ended(&world));
        world.now_s += 3;
        back(&mut world, &seen, ACK);
        assert!(!is_ended(&world));
        world.now_s += 1;
        there(
            &mut world,
            &tcp(family.client, &family.service(CONTAINER), ACK),
        );
        let flow = world.flows.all()[0];
        assert!(flow.is(state::PINNED | state::ESTABLISHED));
    }
}

#[test]
fn backend_that_refuses_a_syn_has_sent_no_sequence_number_before() {
    for family in FAMILIES {
        let mut world = family.world();
        let spec = tcp(family.client, &family.service(CONTAINER), SYN);
        let seen = there(&mut world, &spec);
        back(&mut world, &seen, RST | ACK);
        assert!(is_ended(&world));
        let again = Spec { ..spec };
        let new = world.counter(PacketCounter::FlowNew);
        there(&mut world, &again);
        assert_eq!(world.counter(PacketCounter::FlowNew), new + 1);
    }
}
