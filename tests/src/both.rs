//! The same world twice: on the host in memory, in the kernel in maps and routes.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use crate::kernel_map::KernelMap;
use crate::prog_run::PacketProgram;
use crate::topology::hosts::Host;
use crate::wire;
use lb_agent::dataplane::bpf::FlowSettings;
use lb_agent::dataplane::bpf::trial::Trial;
use lb_common::abi::packet::{
    AddressMarks, Device, DsrSlot, DsrTable, FlowKey, FlowSet, FragmentKey, Hop, Interface, Ip,
    NatPort, NearVip, device, interface,
};
use lb_common::abi::{AffinityKey, BackendId, MAX_MEMBERS, ServiceId, ServiceTable, TABLE_SLOTS};
use lb_common::access::{Rules, Set};
use lb_common::addr;
use lb_common::decide::Outcome;
use lb_common::decide::simulation::{Flows, Service, Simulation, example};
use lb_common::packet::Frame;

use crate::packets::Family;

/// XDP_DROP and the others (`linux/bpf.h`); 0 is XDP_ABORTED.
const XDP: [u32; 4] = [1, 2, 3, 4];
/// Flows that both have room for.
const FLOWS: u32 = 256;
/// Seconds that may turn during a packet: states are not compared after that, until the next fresh
/// start.
const TURNS: u32 = 3;
/// The loopback interface, by which packets come in a test run.
const INGRESS: u32 = 1;
/// Ethernet addresses of the wire and of all hosts behind it.
const OURS: [u8; 6] = [2, 0, 0, 0, 0, 0x11];
const THEIRS: [u8; 6] = [2, 0, 0, 0, 0, 0x22];

/// The simulation on the host and the kernel's programs, fed with the same packets.
pub struct Both {
    host: Simulation,
    fresh: Simulation,
    kernel: PacketProgram,
    namespace: Host,
    pins: PathBuf,
    turned: bool,
    turns: u32,
    _trial: Trial,
}

impl Both {
    /// Makes both data planes and moves this thread to the namespace in which the kernel has the
    /// routes.
    #[allow(clippy::new_without_default)]
    pub fn new() -> Self {
        let settings = FlowSettings {
            flows: FLOWS,
            ..FlowSettings::default()
        };
        let flows = Flows::sized(settings.sets(), settings.ports());
        Self::with(Trial::packets(FLOWS).unwrap(), flows, &settings)
    }

    /// The kernel's with room for so many flows; the host's has none.
    pub fn sized(flows: u32) -> Self {
        let settings = FlowSettings {
            flows,
            ..FlowSettings::default()
        };
        Self::with(
            Trial::packets(flows).unwrap(),
            Flows::sized(0, 0),
            &settings,
        )
    }

    fn with(mut trial: Trial, flows: Flows, sizes: &FlowSettings) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let pins = PathBuf::from(format!(
            "/sys/fs/bpf/lbt-packets-{}-{count}",
            std::process::id()
        ));
        trial.load("lb_xdp").unwrap();
        trial.pin("lb_xdp", &pins);
        let namespace = Host::new("packets");
        let mut fresh = world(&namespace);
        fresh.flows = flows;
        fresh.settings.sets = sizes.sets();
        fresh.settings.ports = sizes.ports();
        // The kernel looks up routes in the namespace of the calling thread.
        namespace.enter();
        let both = Self {
            host: fresh.clone(),
            kernel: PacketProgram::open(&pins.join("lb_xdp")).unwrap(),
            fresh,
            namespace,
            pins,
            turned: false,
            turns: 0,
            _trial: trial,
        };
        both.fill();
        both
    }

    /// The kernel's program alone, without the simulation.
    pub fn kernel(&mut self) -> &mut PacketProgram {
        &mut self.kernel
    }

    /// Index of the interface that all routes go by.
    pub fn wire(&self) -> u32 {
        let mut routes = self.fresh.routes.values();
        routes.next().expect("a route").ifindex
    }

    /// Gives the kernel routes to all addresses, by a router on the wire.
    pub fn route_to_everybody(&self) {
        let theirs = mac(THEIRS);
        let wire = ["dev", "wire"];
        for (address, router) in [("169.254.9.1/30", "169.254.9.2"), ("fd99::1/64", "fd99::2")] {
            let add = |what: &[&str]| self.namespace.ip(&[what, &wire[..]].concat());
            add(&["address", "add", address]);
            add(&[
                "neigh",
                "add",
                router,
                "lladdr",
                &theirs,
                "nud",
                "permanent",
            ]);
            let family = if address.contains(':') { "-6" } else { "-4" };
            add(&[family, "route", "add", "default", "via", router]);
        }
    }

    fn map(&self, name: &str) -> KernelMap {
        KernelMap::open(&self.pins.join(name)).unwrap()
    }

    /// Puts bans and lists in force in both, in the place of none.
    pub fn put_rules(&mut self, rules: Rules) {
        let (map, guards) = (self.map("RULES"), self.map("GUARDS"));
        rules
            .iter()
            .for_each(|(key, rule)| map.put(key, rule).unwrap());
        let set = Set::new(rules);
        for id in self.fresh.services.keys() {
            guards.put(id, &set.guards(ServiceId(*id))).unwrap();
        }
        self.fresh.access = set.clone();
        self.host.access = set;
    }

    /// Writes the tables of the world into the kernel's maps.
    fn fill(&self) {
        let world = &self.fresh;
        let (vips, targets) = (self.map("VIPS"), self.map("TARGETS"));
        let near_vips = self.map("NEAR_VIPS");
        let mut marks = AddressMarks::NONE;
        for (key, vip) in &world.vips {
            marks.note_vip(key, vip);
            if key.port_be != 0 {
                let near = NearVip {
                    key: *key,
                    vip: *vip,
                    pad: 0,
                };
                near_vips.put(&NearVip::place(key), &near).unwrap();
            }
            vips.put(key, vip).unwrap();
        }
        for (index, target) in &world.targets {
            marks.note_target(target);
            targets.put(index, target).unwrap();
        }
        self.map("ADDRESS_MARKS").put(&0u32, &marks).unwrap();
        let backends = self.map("BACKENDS");
        for (index, backend) in &world.backends {
            backends.put(index, backend).unwrap();
        }
        self.map("PACKET_SETTINGS")
            .put(&0u32, &world.settings)
            .unwrap();
        let takes = Device {
            flags: device::XDP_TARGET,
        };
        self.map("DEVICES").put(&self.wire(), &takes).unwrap();
        let interface = Interface {
            ifindex: INGRESS,
            mac: world.mac,
            flags: interface::HAS_MAC,
        };
        let place = Interface::place(INGRESS);
        self.map("INTERFACES").put(&place, &interface).unwrap();
        for (id, service) in &world.services {
            let table = KernelMap::with_value(&*service_table(service)).unwrap();
            self.map("TABLES").put_map(*id, &table).unwrap();
        }
        self.fill_dsr();
    }

    fn fill_dsr(&self) {
        for (id, service) in &self.host.services {
            if !service.dsr.is_empty() {
                let table = KernelMap::with_value(&*dsr_table(service)).unwrap();
                self.map("DSR_TABLES").put_map(*id, &table).unwrap();
            }
        }
    }

    /// Forgets all flows and clients. With `changed`, a third of the slots of the `dsr` services
    /// have changed hands.
    pub fn start_afresh(&mut self, changed: bool) {
        let slots_before = self.slots();
        self.host = self.fresh.clone();
        self.turned = false;
        if changed {
            self.host.services.values_mut().for_each(change_hands);
        }
        // Most starts change no slot, and the tables are large.
        if self.slots() != slots_before {
            self.fill_dsr();
        }
        let settings = &self.host.settings;
        let (v4, v6) = (self.map("FLOWS4"), self.map("FLOWS6"));
        for set in 0..settings.sets {
            v4.put(&set, &FlowSet::<3>::EMPTY).unwrap();
            v6.put(&set, &FlowSet::<9>::EMPTY).unwrap();
        }
        let ports = self.map("NAT_PORTS");
        for place in 0..settings.ports {
            ports.put(&place, &NatPort::default()).unwrap();
        }
        self.map("TRACKED").clear::<FlowKey>().unwrap();
        self.map("FRAGMENTS").clear::<FragmentKey>().unwrap();
        for name in ["AFFINITY", "AFFINITY_UDP"] {
            self.map(name)
                .clear::<[u8; size_of::<AffinityKey>()]>()
                .unwrap();
        }
    }

    /// Leaves so many source ports towards each backend, on one CPU; forgets all flows.
    pub fn limit_ports(&mut self, ports: u16) {
        self.fresh.settings.cpus = 1;
        for target in self.fresh.targets.values_mut() {
            target.ports = ports;
        }
        self.fill();
        self.start_afresh(false);
    }

    /// The slots of DSR services, by which two states of them are compared.
    fn slots(&self) -> Vec<DsrSlot> {
        let services = self.host.services.values();
        let mut slots: Vec<DsrSlot> = services
            .filter_map(|service| service.dsr.iter().map(|(slot, _)| *slot).find(is_dirty))
            .collect();
        slots.sort_by_key(|slot| slot.owner);
        slots
    }

    /// Whether a second turned during a packet. The two data planes may have seen different times
    /// since, and [`Self::agree`] uses the host's alone until a fresh start.
    pub fn has_turned(&self) -> bool {
        self.turned
    }

    /// Runs a packet through both data planes, which must agree. Returns the outcome and the frame.
    pub fn agree(&mut self, frame: &[u8], sentence: &str) -> (Outcome, Vec<u8>) {
        self.host.now_s = settled_s();
        let mut on_host = Frame(frame.to_vec());
        let outcome = self.host.receive(&mut on_host).outcome();
        let (verdict, out) = self.kernel.run(frame).unwrap();
        let out = out.to_vec();
        if now().0 != self.host.now_s && !self.turned {
            self.turned = true;
            self.turns += 1;
            assert!(
                self.turns <= TURNS,
                "seconds turn amid packets again and again"
            );
        }
        if self.turned {
            return (outcome, on_host.0);
        }
        let [drop, pass, transmit, redirect] = XDP;
        let expected = match outcome {
            Outcome::Drop => drop,
            Outcome::Pass | Outcome::Stack | Outcome::Neighbour(_) => pass,
            Outcome::Transmit => transmit,
            Outcome::Redirect(_) => redirect,
        };
        assert_eq!(
            verdict, expected,
            "{sentence}: host {outcome:?}: {frame:02x?}"
        );
        if outcome == Outcome::Pass {
            assert_eq!(out, frame, "{sentence}: passed is untouched");
        }
        if outcome != Outcome::Drop {
            assert_eq!(out, on_host.0, "{sentence}: {outcome:?}: {frame:02x?}");
        }
        // Checksums that are right in an incoming packet must be right in the outgoing one.
        let goes = !matches!(outcome, Outcome::Pass | Outcome::Drop);
        if goes
            && wire::see(frame).is_ok()
            && let Err(wrong) = wire::see(&out)
        {
            panic!("{sentence}: {wrong}: {frame:02x?}");
        }
        (outcome, out)
    }
}

/// The clock that the packet paths read: seconds, and milliseconds of the next one.
fn now() -> (u32, u64) {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::MonotonicCoarse);
    (now.tv_sec as u32, now.tv_nsec as u64 / 1_000_000)
}

/// The current second, which will last for a while. Waits if the second has only just turned or is
/// about to turn, since a CPU may learn of it a tick later.
fn settled_s() -> u32 {
    loop {
        let (second, ms) = now();
        match ms {
            20..950 => return second,
            _ => std::thread::sleep(Duration::from_millis((1020 - ms) % 1000)),
        }
    }
}

fn is_dirty(slot: &DsrSlot) -> bool {
    !slot.is_clean()
}

/// Gives the slots of a service's first backend to the second.
fn change_hands(service: &mut Service) {
    if service.dsr.is_empty() {
        return;
    }
    let (old, new) = (service.members[0], service.members[1]);
    for (slot, _) in Arc::make_mut(&mut service.dsr) {
        if slot.owner == old {
            *slot = DsrSlot {
                owner: new,
                base: old,
            };
        }
    }
}

/// The example world with routes over a wire, which the kernel has too.
fn world(namespace: &Host) -> Simulation {
    let ours = mac(OURS);
    let theirs = mac(THEIRS);
    let wire = ["link", "add", "wire", "address", &ours, "type", "veth"];
    namespace.ip(&[&wire[..], &["peer", "name", "far"]].concat());
    for end in ["wire", "far"] {
        namespace.ip(&["link", "set", end, "up"]);
    }
    for path in ["ipv4/ip_forward", "ipv6/conf/all/forwarding"] {
        let forward = format!("echo 1 > /proc/sys/net/{path}");
        let done = namespace.command("sh").args(["-c", &forward]).status();
        assert!(done.unwrap().success(), "{forward}");
    }
    let mut world = *example::world(0);
    world.ingress = INGRESS;
    world.mac = halves(wire::RECEIVER);
    let ifindex = interface_index(namespace);
    let mut macs = [0; 3];
    let bytes = [THEIRS, OURS].concat();
    for (word, bytes) in macs.iter_mut().zip(bytes.as_chunks::<4>().0) {
        *word = u32::from_ne_bytes(*bytes);
    }
    let hop = Hop {
        ifindex,
        at_s: 0,
        macs,
        mtu: 1500,
    };
    let backends = world
        .backends
        .values()
        .map(|backend| Ip::from_addr(&backend.addr));
    let clients = Family::BOTH
        .into_iter()
        .flat_map(|family| (0..8).map(move |number| family.client(number)))
        .map(|ip| Ip::from_addr(&addr::from_ip(ip)));
    for ip in backends.chain(clients).collect::<Vec<_>>() {
        let text = addr::to_ip(&ip.to_addr()).to_string();
        namespace.ip(&["route", "add", &text, "dev", "wire"]);
        namespace.ip(&[
            "neigh",
            "add",
            &text,
            "lladdr",
            &theirs,
            "dev",
            "wire",
            "nud",
            "permanent",
        ]);
        world.routes.insert(ip, hop);
    }
    world
}

fn interface_index(namespace: &Host) -> u32 {
    let mut command = namespace.command("ip");
    let output = command
        .args(["-o", "link", "show", "wire"])
        .output()
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    text.split(':').next().unwrap().parse().unwrap()
}

fn halves([a, b, c, d, e, f]: [u8; 6]) -> [u16; 3] {
    [[a, b], [c, d], [e, f]].map(u16::from_ne_bytes)
}

fn mac(bytes: [u8; 6]) -> String {
    bytes.map(|byte| format!("{byte:02x}")).join(":")
}

fn members(service: &Service) -> [BackendId; MAX_MEMBERS] {
    let mut members = [BackendId::NONE; MAX_MEMBERS];
    members[..service.members.len()].copy_from_slice(&service.members);
    members
}

fn service_table(service: &Service) -> Box<ServiceTable> {
    let mut table = Box::new(ServiceTable {
        head: service.head,
        members: members(service),
        slots: [BackendId::NONE; TABLE_SLOTS],
        pad: 0,
    });
    table.slots.copy_from_slice(&service.slots);
    assert_ne!(service.head.id, ServiceId(0));
    table
}

fn dsr_table(service: &Service) -> Box<DsrTable> {
    let mut table = Box::new(DsrTable::new(service.head, members(service)));
    for (place, (slot, _)) in service.dsr.iter().enumerate() {
        table.set_slot(place, *slot);
    }
    table.settle();
    table
}
