//! The packet paths on the host: packet in, verdict, packet out, one sentence each.

mod bans;
mod big_tcp;
mod draft;
mod dsr;
mod fragments;
mod frames;
mod icmp;
mod nat;
mod neighbours;
mod own;
mod packets;
mod plain;
mod ports;
mod resets;
mod strange;

use std::net::IpAddr;

use lb_common::abi::packet::PacketCounter;
use lb_common::decide::Outcome;
use lb_common::decide::simulation::{Simulation, example};
use lb_common::packet::Frame;

/// Both families: a client and the addresses of services.
const FAMILIES: [Family; 2] = [
    Family {
        v6: false,
        client: "203.0.113.9",
        services: "192.0.2.",
        backends: "10.0.0.",
        source: "10.0.255.1",
        router: "198.51.100.1",
    },
    Family {
        v6: true,
        client: "2001:db8:5::9",
        services: "2001:db8::",
        backends: "fd00::",
        source: "fd00::ffff",
        router: "2001:db8:77::1",
    },
];

/// The addresses of one family.
#[derive(Clone, Copy)]
struct Family {
    v6: bool,
    client: &'static str,
    services: &'static str,
    backends: &'static str,
    source: &'static str,
    router: &'static str,
}

impl Family {
    fn service(&self, number: u32) -> String {
        format!("{}{number}", self.services)
    }

    /// Whether an address is one of the backends of a service.
    fn is_backend(&self, number: u32, ip: IpAddr) -> bool {
        (1..=3).any(|nth| {
            let address = format!("{}{}", self.backends, example::index(number, self.v6, nth));
            ip == address.parse::<IpAddr>().unwrap()
        })
    }

    /// A world with routes to the client and to all backends.
    fn world(&self) -> Box<Simulation> {
        let mut world = example::world(1_000_000);
        let outside = example::hop(&world, example::INGRESS);
        let inside = example::hop(&world, example::INSIDE);
        world.routes.insert(example::ip(self.client), outside);
        for (number, ..) in example::SERVICES {
            for nth in 1..=3 {
                let index = example::index(number, self.v6, nth);
                let address = example::ip(&format!("{}{index}", self.backends));
                world.routes.insert(address, inside);
            }
        }
        world
    }
}

/// Sends a packet through the world, by the short way if it can take that. The long way must lead
/// to the same.
fn pass(world: &mut Simulation, frame: &Frame) -> (Outcome, Frame) {
    let (mut other, mut long) = (world.clone(), frame.clone());
    let expected = other.receive_by_stages(&mut long).outcome();
    let mut out = frame.clone();
    let outcome = world.receive(&mut out).outcome();
    assert_eq!(outcome, expected, "{:02x?}", frame.0);
    if outcome != Outcome::Drop {
        assert_eq!(out, long, "{:02x?}", frame.0);
    }
    assert!(*world == other, "{:02x?}", frame.0);
    (outcome, out)
}

/// Checks that a packet is not touched.
fn untouched(world: &mut Simulation, frame: &Frame) {
    let (outcome, out) = pass(world, frame);
    assert_eq!(outcome, Outcome::Pass);
    assert_eq!(out, *frame);
}

/// Checks that a packet is dropped, for this reason.
fn dropped(world: &mut Simulation, frame: &Frame, reason: PacketCounter) {
    let before = world.counter(reason);
    let (outcome, _) = pass(world, frame);
    assert_eq!(outcome, Outcome::Drop);
    assert_eq!(world.counter(reason), before + 1, "{reason:?}");
}
