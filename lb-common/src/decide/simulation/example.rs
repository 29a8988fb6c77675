//! A small world for tests: services on `nat` and `dsr`, with the addresses that their names say.

use super::*;
use crate::abi::TABLE_SLOTS;
use crate::abi::packet::{kind, vip};
use crate::addr;
use crate::hash::ClientHash;
use crate::maglev::{Member, fill};
use core::net::IpAddr;
use std::sync::OnceLock;

/// Interface that packets come by.
pub const INGRESS: u32 = 7;
/// Interface towards the backends.
pub const INSIDE: u32 = 9;
/// The listen port of all services, host byte order.
pub const PORT: u16 = 80;
/// The services, by the last number of their addresses: 192.0.2.N and 2001:db8::N.
pub const SERVICES: [(u32, u8, u8); 6] = [
    (1, kind::CONTAINER, path::NAT),
    (2, kind::REMOTE, path::NAT),
    (3, kind::LOCAL, path::NAT),
    (4, kind::IP, path::DSR),
    (5, kind::GUE, path::DSR),
    (6, kind::L2, path::DSR),
];

/// An address as it lies in a packet.
pub fn ip(text: &str) -> Ip {
    let ip: IpAddr = text.parse().unwrap_or(IpAddr::from([0; 4]));
    Ip::from_addr(&addr::from_ip(ip))
}

/// The world, `now_s` seconds after the start of the machine. Each service has three backends
/// for IPv4 and three for IPv6, and listens to TCP and UDP.
pub fn world(now_s: u32) -> Box<Simulation> {
    static WORLD: OnceLock<Box<Simulation>> = OnceLock::new();
    let mut world = WORLD.get_or_init(build).clone();
    world.now_s = now_s;
    world
}

fn build() -> Box<Simulation> {
    let mut world = Box::new(Simulation {
        ingress: INGRESS,
        settings: PacketSettings {
            closing_s: 30,
            syn_s: 30,
            established_s: 86_400,
            udp_s: 60,
            cpus: 1,
            seed: 0x5eed,
            ..PacketSettings::default()
        },
        ..Simulation::default()
    });
    world.flows.describe(&mut world.settings);
    for (number, kind, path) in SERVICES {
        for v6 in [false, true] {
            add_service(&mut world, number, kind, path, v6);
        }
    }
    let own = [ip("192.0.2.254"), ip("2001:db8::fe")];
    for own in own {
        let entry = Vip {
            service: ServiceId(0),
            flags: vip::OWN,
        };
        world.vips.insert(VipKey::address(own), entry);
    }
    world
}

/// The index of backend `nth` of a service.
pub fn index(number: u32, v6: bool, nth: u32) -> u32 {
    number * 10 + u32::from(v6) * 5 + nth
}

fn add_service(world: &mut Simulation, number: u32, kind: u8, path: u8, v6: bool) {
    let service = ServiceId(number * 2 + u32::from(v6));
    let address = if v6 {
        ip(&std::format!("2001:db8::{number}"))
    } else {
        ip(&std::format!("192.0.2.{number}"))
    };
    let dsr = if path == path::DSR { vip::DSR } else { 0 };
    for protocol in [protocol::TCP, protocol::UDP] {
        let key = VipKey::new(address, PORT.to_be(), protocol);
        let entry = Vip {
            service,
            flags: dsr,
        };
        world.vips.insert(key, entry);
    }
    let entry = Vip {
        service,
        flags: vip::SERVICE | vip::ECHO,
    };
    world.vips.insert(VipKey::address(address), entry);
    let ids: Vec<BackendId> = (1..=3)
        .map(|nth| add_backend(world, service, kind, path, index(number, v6, nth)))
        .collect();
    let members: Vec<Member> = ids
        .iter()
        .map(|id| Member {
            addr: world.backends[&id.index()].addr,
            port: PORT,
            weight: 1,
        })
        .collect();
    let mut owners = std::vec![0u32; TABLE_SLOTS];
    let filled = fill(&members, &mut owners);
    debug_assert!(filled.is_ok(), "three members fill a table");
    let slots: Vec<BackendId> = owners.iter().map(|owner| ids[*owner as usize]).collect();
    let dsr = slots.iter().map(|owner| {
        let slot = DsrSlot {
            owner: *owner,
            base: *owner,
        };
        (slot, 0)
    });
    world.services.insert(
        service.0,
        Service {
            head: ServiceHead {
                clients: ClientHash::new([1, 2], u64::from(number)),
                hash_key: [1, 2],
                affinity_ns: 3_600_000_000_000,
                total_weight: 3,
                id: service,
                members: 3,
                max_load_permille: 0,
                ipv4_prefix: 32,
                ipv6_prefix: 64,
                flags: 0,
            },
            members: ids,
            dsr: Arc::new(if path == path::DSR {
                dsr.collect()
            } else {
                Vec::new()
            }),
            slots: Arc::new(slots),
        },
    );
}

fn add_backend(
    world: &mut Simulation,
    service: ServiceId,
    kind: u8,
    path: u8,
    index: u32,
) -> BackendId {
    let id = BackendId::new(index as u16, 1);
    let v6 = index % 10 > 5;
    let address = if v6 {
        ip(&std::format!("fd00::{index}"))
    } else {
        ip(&std::format!("10.0.0.{index}"))
    };
    let source = if v6 {
        ip("fd00::ffff")
    } else {
        ip("10.0.255.1")
    };
    let port = if path == path::DSR { PORT } else { 5000 };
    world.backends.insert(
        index,
        Backend {
            addr: address.to_addr(),
            port,
            protocol: protocol::TCP,
            state: state::UP,
            id,
            service,
            weight: 1,
            path,
            pad: 0,
        },
    );
    let target = Target {
        addr: if kind == kind::LOCAL {
            Ip::default()
        } else {
            address
        },
        source,
        id,
        port_be: if kind == kind::GUE { 6080 } else { port }.to_be(),
        first_port: 32_768,
        ports: 28_000,
        kind,
        source_bits: 8,
        mtu: 0,
        pad: 0,
        ifindex: INSIDE,
    };
    world.targets.insert(index, target);
    id
}

/// The way to the backends, or to the clients.
pub fn hop(world: &Simulation, ifindex: u32) -> Hop {
    Hop {
        ifindex,
        at_s: world.now_s,
        macs: [0x0202_0202, 0x0404_0202, 0x0404_0404],
        mtu: 1500,
    }
}
