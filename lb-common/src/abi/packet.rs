//! Layouts of the packet paths, `nat` and `dsr`.
//!
//! Addresses and ports lie here as they lie in a packet, in network byte order, and are handled as
//! whole words: the programs load and compare them without looking at single bytes.

use super::{BackendId, ServiceId};
use crate::addr::Addr;

mod flow;
mod slots;

pub use flow::{FlowEntry, FlowKey, FlowSet, Hop, NatPort, state};
pub use slots::{DsrSlot, DsrTable, Tracked, dsr};

/// Entries of the `VIPS` map: listen addresses with ports, listen addresses alone, and the host's
/// own addresses.
pub const MAX_VIPS: usize = 8192;

/// An IPv6 address, or an IPv4 address mapped into one, as four words in memory order.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Ip(pub [u32; 4]);

/// Third word of an IPv4 address: `::ffff:a.b.c.d`.
const MAPPED: u32 = u32::from_ne_bytes([0, 0, 0xff, 0xff]);

impl Ip {
    /// An IPv4 address, its four bytes in memory order.
    #[inline(always)]
    pub const fn v4(word: u32) -> Self {
        Self([0, 0, MAPPED, word])
    }

    /// Whether it is an IPv4 address.
    #[inline(always)]
    pub const fn is_v4(&self) -> bool {
        let [a, b, c, _] = self.0;
        a | b == 0 && c == MAPPED
    }

    /// The address as a number, in two halves, the most significant first.
    #[inline(always)]
    pub const fn halves(&self) -> (u64, u64) {
        let [a, b, c, d] = self.0;
        (
            (u32::from_be(a) as u64) << 32 | u32::from_be(b) as u64,
            (u32::from_be(c) as u64) << 32 | u32::from_be(d) as u64,
        )
    }

    /// The same address as bytes.
    #[inline(always)]
    pub const fn to_addr(self) -> Addr {
        let [a, b, c, d] = self.0;
        let (a, b, c, d) = (
            a.to_ne_bytes(),
            b.to_ne_bytes(),
            c.to_ne_bytes(),
            d.to_ne_bytes(),
        );
        [
            a[0], a[1], a[2], a[3], b[0], b[1], b[2], b[3], c[0], c[1], c[2], c[3], d[0], d[1],
            d[2], d[3],
        ]
    }

    /// The address that bytes stand for.
    #[inline(always)]
    pub const fn from_addr(a: &Addr) -> Self {
        Self([
            u32::from_ne_bytes([a[0], a[1], a[2], a[3]]),
            u32::from_ne_bytes([a[4], a[5], a[6], a[7]]),
            u32::from_ne_bytes([a[8], a[9], a[10], a[11]]),
            u32::from_ne_bytes([a[12], a[13], a[14], a[15]]),
        ])
    }
}

/// Key of the `VIPS` map.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct VipKey {
    /// Exact address; the agent writes out wildcards as the addresses of the host.
    pub addr: Ip,
    /// Port in network byte order; 0 for the entry of the address itself.
    pub port_be: u16,
    /// One of [`super::protocol`]; 0 for the entry of the address itself.
    pub protocol: u8,
    /// Padding, zero.
    pub pad: u8,
}
const _: () = assert!(size_of::<VipKey>() == 20);

impl VipKey {
    /// The key of a port of an address.
    #[inline(always)]
    pub const fn new(addr: Ip, port_be: u16, protocol: u8) -> Self {
        Self {
            addr,
            port_be,
            protocol,
            pad: 0,
        }
    }

    /// The key of the address itself.
    #[inline(always)]
    pub const fn address(addr: Ip) -> Self {
        Self::new(addr, 0, 0)
    }
}

/// Value of the `VIPS` map.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Vip {
    /// The service that listens there; unused in the entry of an address itself.
    pub service: ServiceId,
    /// Bits of [`vip`].
    pub flags: u32,
}
const _: () = assert!(size_of::<Vip>() == 8);

impl Vip {
    /// No service listens on the address.
    pub const NONE: Self = Self {
        service: ServiceId(u32::MAX),
        flags: 0,
    };

    /// Whether it is [`Vip::NONE`].
    #[inline(always)]
    pub const fn is_none(&self) -> bool {
        self.service.0 == u32::MAX
    }
}

/// Bits of [`Vip::flags`].
pub mod vip {
    /// On a port: all backends are on the `dsr` path, and `DSR_TABLES` has the service's table.
    pub const DSR: u32 = 1;
    /// On an address: a service listens on it, on some port.
    pub const SERVICE: u32 = 2;
    /// On an address: answer echo requests, since the host itself does not have the address.
    pub const ECHO: u32 = 4;
    /// On an address: it is the host's own. No packet may come from it.
    pub const OWN: u32 = 8;
}

/// The one value of the `ADDRESS_MARKS` map: the possible uses of an address, without asking the
/// larger maps (a Bloom filter with one hash; Bloom, "Space/time trade-offs in hash coding with
/// allowable errors", 1970). Marks of other addresses may show; none is missing as long as they are
/// set before their entries are.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AddressMarks(pub [u8; AddressMarks::SIZE]);

impl AddressMarks {
    /// Number of places.
    pub const SIZE: usize = 8192;
    /// The address has an entry in `VIPS`.
    pub const KNOWN: u8 = 1;
    /// A service on the `dsr` path listens there.
    pub const DSR: u8 = 2;
    /// Replies of flows may come from there: it is or was a backend's on the `nat` path.
    pub const BACKEND: u8 = 4;
    /// Replies of flows may go there, to source ports that were given out.
    pub const SOURCE: u8 = 8;
    /// No marks.
    pub const NONE: Self = Self([0; Self::SIZE]);

    /// The place of an address, below [`AddressMarks::SIZE`].
    #[inline(always)]
    pub const fn place(address: &Ip) -> usize {
        let [a, b, c, d] = address.0;
        // The multiplier of Fibonacci hashing (Knuth, volume 3, section 6.4).
        ((a ^ b ^ c ^ d).wrapping_mul(0x9e37_79b1) >> 19) as usize
    }

    /// Marks an address by its entry in `VIPS`. False if it was marked before.
    pub const fn note_vip(&mut self, key: &VipKey, entry: &Vip) -> bool {
        let dsr = key.port_be != 0 && entry.flags & vip::DSR != 0;
        let marks = Self::KNOWN | if dsr { Self::DSR } else { 0 };
        self.add(&key.addr, marks)
    }

    /// Marks the address of a backend, and the destination of its replies. False if they were marked before.
    pub const fn note_target(&mut self, target: &Target) -> bool {
        let given_out = target.ports != 0 && self.add(&target.source, Self::SOURCE);
        self.add(&target.addr, Self::BACKEND) || given_out
    }

    const fn add(&mut self, address: &Ip, marks: u8) -> bool {
        let place = &mut self.0[Self::place(address)];
        let new = *place & marks != marks;
        *place |= marks;
        new
    }
}

/// Value of the `NEAR_VIPS` map, at [`NearVip::place`]: an entry of `VIPS` that is found without
/// looking for it. Of entries that would have the same place, one has it.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NearVip {
    /// The key; zeros if there is none.
    pub key: VipKey,
    /// The value.
    pub vip: Vip,
    /// Padding, zero.
    pub pad: u32,
}
const _: () = assert!(size_of::<NearVip>() == 32);

impl NearVip {
    /// Number of places.
    pub const PLACES: usize = 4096;
    /// No entry.
    pub const NONE: Self = Self {
        key: VipKey::new(Ip([0; 4]), 0, 0),
        vip: Vip::NONE,
        pad: 0,
    };

    /// Whether it is the entry of `key`, which has a port.
    #[inline(always)]
    pub const fn is_of(&self, key: &VipKey) -> bool {
        let ([a, b, c, d], [e, f, g, h]) = (self.key.addr.0, key.addr.0);
        let ports = self.key.port_be ^ key.port_be;
        let protocols = self.key.protocol ^ key.protocol;
        (a ^ e) | (b ^ f) | (c ^ g) | (d ^ h) | ports as u32 | protocols as u32 == 0
    }

    /// The place of a key, below [`NearVip::PLACES`].
    #[inline(always)]
    pub const fn place(key: &VipKey) -> u32 {
        let place = AddressMarks::place(&key.addr) as u32;
        (place ^ key.port_be as u32 ^ key.protocol as u32) % Self::PLACES as u32
    }
}

/// Value of [`Target::kind`].
pub mod kind {
    /// `nat`, on this host: rewritten and passed on to the host's own stack.
    pub const LOCAL: u8 = 1;
    /// `nat`, behind this host: the destination is rewritten.
    pub const CONTAINER: u8 = 2;
    /// `nat`, on another host: the source is rewritten too, to [`Target::source`].
    pub const REMOTE: u8 = 3;
    /// `dsr`, wrapped in IPv4 (protocol 4 or 41) or IPv6, as is the backend's own address.
    pub const IP: u8 = 4;
    /// `dsr`, wrapped in UDP: Generic UDP Encapsulation, variant 1 (draft-ietf-intarea-gue-09).
    pub const GUE: u8 = 5;
    /// `dsr`, sent on to the backend's MAC address as it is.
    pub const L2: u8 = 6;
}

/// Value of the `TARGETS` map, at [`BackendId::index`]: how packets get to a backend.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Target {
    /// The backend's address.
    pub addr: Ip,
    /// [`kind::REMOTE`]: source of packets to the backend. [`kind::CONTAINER`]: the same for clients
    /// on the backend's own network, if [`Target::ifindex`] is not 0. [`kind::IP`], [`kind::GUE`]:
    /// source of the outer header; the programs mix a hash of the flow into its last
    /// [`Target::source_bits`] bits.
    pub source: Ip,
    /// The backend of this entry: an id of another generation finds nothing.
    pub id: BackendId,
    /// The backend's port in network byte order. [`kind::GUE`]: of the outer header.
    pub port_be: u16,
    /// [`kind::REMOTE`], [`kind::CONTAINER`]: the first source port to be given out, host byte order.
    pub first_port: u16,
    /// [`kind::REMOTE`], [`kind::CONTAINER`]: how many are given out from there.
    pub ports: u16,
    /// One of [`kind`]; 0 for none.
    pub kind: u8,
    /// Bits of the outer source that vary, 0 to 16.
    pub source_bits: u8,
    /// Greatest packet on the way to the backend, outer headers included, bytes; 0 for the
    /// MTU of the route.
    pub mtu: u16,
    /// Padding, zero.
    pub pad: u16,
    /// [`kind::CONTAINER`]: interface of the backend's network; 0 if this host has no address there.
    pub ifindex: u32,
}
const _: () = assert!(size_of::<Target>() == 52);

/// Key of the `FRAGMENTS` map (RFC 791, section 3.2; RFC 8200, section 4.5).
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct FragmentKey {
    /// Source address.
    pub src: Ip,
    /// Destination address.
    pub dst: Ip,
    /// Identification, as it lies in the packet.
    pub id: u32,
    /// Protocol of the payload.
    pub protocol: u32,
}
const _: () = assert!(size_of::<FragmentKey>() == 40);

/// Value of the `FRAGMENTS` map: the ports, which only the first fragment has.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Fragment {
    /// Source and destination port, network byte order.
    pub ports: [u16; 2],
    /// When the first came, CLOCK_MONOTONIC in seconds.
    pub at_s: u32,
}
const _: () = assert!(size_of::<Fragment>() == 8);

/// Value of the per-CPU `PACKET_BACKENDS` map, at [`BackendId::index`].
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PacketBackend {
    /// Packets to the backend.
    pub packets: u64,
    /// Their bytes, frames as they came.
    pub bytes: u64,
    /// New flows on the `nat` path.
    pub flows: u64,
    /// Flows with a handshake that the backend completed.
    pub answered: u64,
    /// Flows that the backend refused (RST to a SYN).
    pub refused: u64,
    /// The way to the backend.
    pub hop: Hop,
}
const _: () = assert!(size_of::<PacketBackend>() == 64);

/// The one value of the `PACKET_SETTINGS` map.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PacketSettings {
    /// Age at which a closing TCP flow (FIN, RST) is over, seconds.
    pub closing_s: u32,
    /// Age at which a TCP flow without complete handshake is over, seconds.
    pub syn_s: u32,
    /// Age at which an established TCP flow is over, seconds.
    pub established_s: u32,
    /// Age at which a UDP flow is over, seconds.
    pub udp_s: u32,
    /// Number of CPUs that share out source ports, at least 1.
    pub cpus: u32,
    /// Seed of the hash that source ports are looked for by.
    pub seed: u32,
    /// Not 0: frames that go back by the interface that they came by are redirected to it. A veth
    /// with a peer that runs no XDP program is not told of frames that are sent by XDP_TX.
    pub redirects_back: u32,
    /// Results of route look-ups before this second (CLOCK_MONOTONIC) is not trusted: they have
    /// changed since.
    pub routes_s: u32,
    /// Elements of `FLOWS4`, and of `FLOWS6`.
    pub sets: u32,
    /// Elements of `NAT_PORTS`, a power of two.
    pub ports: u32,
    /// Not 0: this host has routing rules of its own, which clients have to pass.
    pub rules: u32,
    /// Not 0: at the driver, a SYN that its listener on this host would answer by a SYN cookie gets it.
    pub syn_cookies: u32,
    /// Key of the hash that flows are looked for by; it stays as long as the flows.
    pub key: [u64; 6],
}
const _: () = assert!(size_of::<PacketSettings>() == 96);

/// Value of the `DEVICES` map, by interface index.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Device {
    /// Bits of [`device`].
    pub flags: u32,
}
const _: () = assert!(size_of::<Device>() == 4);

/// Value of the `INTERFACES` map, at [`Interface::place`]: an interface that the programs are on.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Interface {
    /// Its index; 0 for none. Of interfaces with the same place, one has it.
    pub ifindex: u32,
    /// Its MAC address, two bytes each in memory order.
    pub mac: [u16; 3],
    /// Bits of [`interface`].
    pub flags: u16,
}
const _: () = assert!(size_of::<Interface>() == 12);

impl Interface {
    /// Number of places.
    pub const PLACES: usize = 1024;

    /// The place of an interface, below [`Interface::PLACES`].
    #[inline(always)]
    pub const fn place(ifindex: u32) -> u32 {
        ifindex % Self::PLACES as u32
    }
}

/// Bits of [`Interface::flags`].
pub mod interface {
    /// Its packets have no Ethernet header: tun, WireGuard, PPP.
    pub const BARE: u16 = 1;
    /// [`super::Interface::mac`] is its address.
    pub const HAS_MAC: u16 = 2;
}

/// Bits of [`Device::flags`].
pub mod device {
    /// Frames can be redirected to it by XDP (its driver has `ndo_xdp_xmit`, and for a veth the
    /// peer polls). Without, `lb_xdp` leaves them to the stack, which needs `ip_forward`.
    pub const XDP_TARGET: u32 = 1;
}

/// Index into the per-CPU `PACKET_STATS` map.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PacketCounter {
    /// Passed untouched: not for a service, or its backend is reached by another path.
    Passed = 0,
    /// For a service, and passed on to the stack: its backend is reached by another path.
    OtherPath = 1,
    /// Forwarded from clients to backends.
    Forwarded = 2,
    /// Forwarded from backends to clients.
    Replied = 3,
    /// Rewritten, and left to the stack to deliver: local backends, and next hops not known yet.
    ToStack = 4,
    /// Echo requests answered.
    Echoed = 5,
    /// ICMP errors passed on, mended.
    IcmpPassed = 6,
    /// Resets sent for unknown flows and for flows of a removed backend.
    ResetSent = 7,
    /// ICMP errors sent: unreachable, too big, time exceeded.
    IcmpSent = 8,
    /// New flows entered.
    FlowNew = 9,
    /// Flows that completed their handshake.
    FlowEstablished = 10,
    /// Flows that completed it while the quota of established flows was used up: they may be
    /// pushed out.
    FlowQuota = 11,
    /// Flows of `dsr` tracked because their slot was not clean.
    Tracked = 12,
    /// Dropped: no backend can take it.
    DropNoBackend = 13,
    /// Dropped: headers do not fit the packet, or each other.
    DropMalformed = 14,
    /// Dropped: a source address that cannot come from a wire.
    DropMartian = 15,
    /// Dropped: the source is an address of this host or of a service.
    DropSpoofed = 16,
    /// Dropped: hop limit used up, and no answer possible.
    DropTtl = 17,
    /// Dropped: a fragment without its first one.
    DropFragment = 18,
    /// Dropped: no source port is free.
    DropNoPort = 19,
    /// Dropped: too big for the way to the backend, and no answer possible.
    DropTooBig = 20,
    /// Dropped: an ICMP error about nothing that is known.
    DropIcmp = 21,
    /// Dropped: the kernel refused to change the packet or to store its flow.
    DropKernel = 22,
    /// Dropped: no route to the next hop.
    DropNoRoute = 23,
    /// Flows pushed out by others before they were over.
    FlowEvicted = 24,
    /// Dropped: no room for a new flow.
    DropNoRoom = 25,
    /// New flows that went to another backend, as no source port towards their own was free.
    FlowElsewhere = 26,
    /// SYNs that were answered at the driver by a SYN cookie. They are among [`PacketCounter::Passed`], too.
    SynCookie = 27,
}

impl PacketCounter {
    /// Number of counters.
    pub const COUNT: usize = 28;
}
