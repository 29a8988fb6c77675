//! Clients on this host, at their system calls. Some backends need their packets rewritten. A connection
//! to a service with such a backend goes to the backend itself from the start. It costs nothing per
//! packet. The client sees the service's address all the same.
//!
//! Backends on the other paths, and all uncertain cases, are left as they are. Such a
//! connection comes to `lb_steer` like any other.
//!
//! The functions that are not inlined are functions of their own to the verifier: it checks each
//! once, not for each of the ways that lead to it. They also keep the stack in bounds, of which all
//! that call each other have 512 bytes; for its sake addresses are passed as numbers.

use aya_ebpf::EbpfContext as _;
use aya_ebpf::helpers::{bpf_get_netns_cookie, bpf_get_socket_cookie};
use aya_ebpf::programs::SockAddrContext;
use lb_common::abi::local::{Asked, Halves, LocalDatagram, LocalPeer, halves, whole};
use lb_common::abi::{
    Backend, BackendId, Counter, ServiceHead, ServiceId, ServiceKey, path, protocol,
};
use lb_common::access::refuses;
use lb_common::addr::{self, Addr};
use lb_common::select::{Client, Reason, select};

use crate::access;
use crate::frame::Call;
use crate::maps::{BACKENDS, TABLES, count_by_number};
use crate::socket_maps::{LOCAL_ADDRESSES, LOCAL_PEER, META, asked_by, remember_asked, service_at};
use crate::steer::lb_sent;
use crate::tables::{ServiceTables, Taker, search};

/// connect(2), of TCP and UDP.
#[inline(always)]
pub fn connect<const V6: bool>(ctx: &SockAddrContext) {
    if !in_our_namespace(ctx) {
        return;
    }
    let call = Call::<V6>::new(ctx);
    let (asked, bound, socket) = (call.addr(), call.bound_addr(), call.socket());
    let Some((id, backend)) = choose(&call, asked, bound) else {
        // SAFETY: the kernel gave the socket to this run.
        if let Some(former) = unsafe { LOCAL_PEER.of(socket) } {
            former.backend = BackendId::NONE;
        }
        return;
    };
    // SAFETY: as above. Without memory for it the connection goes the ordinary way.
    if let Some(peer) = unsafe { LOCAL_PEER.made(socket) } {
        let to = halves(&backend.addr);
        peer.asked = asked;
        peer.asked_port = call.port();
        peer.bound = bound;
        peer.addr = to;
        peer.port = backend.port;
        peer.backend = id;
        peer.service = backend.service;
        call.rename(to, backend.port);
    }
}

/// sendmsg(2) and sendto(2) with an address, of UDP.
#[inline(always)]
pub fn send<const V6: bool>(ctx: &SockAddrContext) {
    if !in_our_namespace(ctx) {
        return;
    }
    let call = Call::<V6>::new(ctx);
    let asked = call.addr();
    let Some((id, backend)) = choose(&call, asked, call.message_source()) else {
        return;
    };
    // Not remembered, the answer would seem to come from a stranger.
    let [high, low] = asked;
    if lb_asked_by(cookie(ctx), id.0, high, low, call.port().into()) != 0 {
        call.rename(halves(&backend.addr), backend.port);
    }
}

/// Remembers that the socket with this cookie asked for that address and port when it was sent to
/// the backend. Not 0 when that is remembered.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn lb_asked_by(cookie: u64, id: u32, high: u64, low: u64, port: u32) -> u32 {
    let Some(backend) = BACKENDS.get(BackendId(id).index()) else {
        return 0;
    };
    let asked = Asked {
        addr: [high, low],
        port: port as u16,
        pad: [0; 3],
    };
    let key = datagram_key(cookie, halves(&backend.addr), backend.port);
    u32::from(asked_by(&key) == Some(asked) || remember_asked(&key, &asked))
}

/// recvmsg(2) and recvfrom(2) that ask for the sender, of UDP.
#[inline(always)]
pub fn receive<const V6: bool>(ctx: &SockAddrContext) {
    if !in_our_namespace(ctx) {
        return;
    }
    let call = Call::<V6>::new(ctx);
    let (addr, port) = (call.addr(), call.port());
    if let Some(peer) = connected_to(&call, addr, port) {
        return call.rename(meant_by(peer.asked), peer.asked_port);
    }
    let key = datagram_key(cookie(ctx), addr, port);
    if let Some(asked) = asked_by(&key) {
        call.rename(meant_by(asked.addr), asked.port);
    }
}

/// getpeername(2).
#[inline(always)]
pub fn peer_name<const V6: bool>(ctx: &SockAddrContext) {
    if !in_our_namespace(ctx) {
        return;
    }
    let call = Call::<V6>::new(ctx);
    if let Some(peer) = connected_to(&call, call.addr(), call.port()) {
        call.rename(meant_by(peer.asked), peer.asked_port);
    }
}

/// The peer stored for the socket, if it is connected to the backend at `addr` and `port`.
#[inline(always)]
fn connected_to<const V6: bool>(
    call: &Call<V6>,
    addr: Halves,
    port: u16,
) -> Option<&'static LocalPeer> {
    // SAFETY: the kernel gave the socket to this run.
    let peer = unsafe { LOCAL_PEER.of(call.socket()) }?;
    is_to(peer, addr, port).then_some(peer)
}

/// Whether a socket with this peer is connected to the backend at `addr` and `port` for a service.
#[inline(always)]
pub fn is_to(peer: &LocalPeer, addr: Halves, port: u16) -> bool {
    peer.backend != BackendId::NONE && peer.addr == addr && peer.port == port
}

/// Chooses the backend for the address and port that the client asks for. They must be those of a
/// service, and the backend must be reachable directly.
/// `bound` is the source address, or the wildcard when the client leaves it open.
#[inline(always)]
fn choose<const V6: bool>(
    call: &Call<V6>,
    asked: Halves,
    bound: Halves,
) -> Option<(BackendId, &'static Backend)> {
    let port_and_protocol = u32::from(call.port()) << 8 | u32::from(call.protocol());
    let ([a, b], [c, d]) = (asked, bound);
    let id = BackendId(lb_choose(port_and_protocol, a, b, c, d));
    if id == BackendId::NONE {
        return None;
    }
    Some((id, BACKENDS.get(id.index())?))
}

/// Chooses, counts and remembers: the id of a backend, or 0. The first two halves are the
/// address that the client asks for, the others its bound address.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn lb_choose(port_and_protocol: u32, a: u64, b: u64, c: u64, d: u64) -> u32 {
    let (port, protocol) = ((port_and_protocol >> 8) as u16, port_and_protocol as u8);
    let asked = ServiceKey::new(whole(meant_by([a, b])), port, protocol);
    chosen(&asked, &whole([c, d])).unwrap_or(BackendId::NONE).0
}

#[inline(always)]
fn chosen(asked: &ServiceKey, bound: &Addr) -> Option<BackendId> {
    let service = service_at(asked)?;
    let client = source(&asked.addr, bound)?;
    // A connection that goes the ordinary way comes to `lb_steer`, which refuses it.
    if is_denied(service, &client) {
        return None;
    }
    let [high, low] = halves(&client);
    let choice = lb_select(service.0, asked.protocol.into(), high, low);
    let id = BackendId(choice as u32);
    if id == BackendId::NONE || !is_reached(BACKENDS.get(id.index())?, &asked.addr, bound) {
        return None;
    }
    count_by_number(service, (choice >> 32) as u32);
    // TCP clients are remembered and counted by `lb_listen` when their connection stands.
    if asked.protocol == protocol::UDP {
        lb_sent(service.0, id.0, high, low);
    }
    Some(id)
}

/// Whether a service refuses a client, which `lb_steer` counts.
#[inline(always)]
fn is_denied(service: ServiceId, client: &Addr) -> bool {
    if !access::is_guarded(service) {
        return false;
    }
    let [high, low] = halves(client);
    lb_refuses(service.0, high, low) != 0
}

/// The same for the client whose address has these halves.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn lb_refuses(service: u32, high: u64, low: u64) -> u32 {
    refuses(&access::Maps, ServiceId(service), &whole([high, low])).into()
}

/// Chooses a backend of `service` for the client with these halves of an address: its id, and above
/// it the counter of the reason; 0 for none.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn lb_select(service: u32, protocol: u32, high: u64, low: u64) -> u64 {
    let Some(table) = TABLES.get_value(service, &0) else {
        return 0;
    };
    if table.head.members == 0 || table.head.flags & ServiceHead::HTTP != 0 {
        return 0;
    }
    let client = Client::new(&table.head, &whole([high, low]));
    let mut tables = ServiceTables {
        table,
        protocol: protocol as u8,
        taker: Caller,
    };
    let Some(choice) = select(&mut tables, &client) else {
        return 0;
    };
    let counter = match choice.reason {
        Reason::Affinity => Counter::Affinity,
        Reason::Slot => Counter::Slot,
        Reason::Next => Counter::Next,
    };
    u64::from(choice.backend.0) | (counter as u64) << 32
}

/// A client on this host.
struct Caller;

impl Taker for Caller {
    /// A missing listener shows only when the connection is made.
    #[inline(always)]
    fn takes(&mut self, _backend: &Backend) -> bool {
        true
    }

    #[inline(always)]
    fn search(&mut self, service: u32, hash: u64, bounded: bool) -> u64 {
        search(Self, service, hash, bounded)
    }
}

/// The address of the client: its bound address, else the source address of a connection to the service.
/// `None` when the destination is not on this host. A service on all addresses has the addresses of this
/// host, not of others.
#[inline(always)]
pub fn source(asked: &Addr, bound: &Addr) -> Option<Addr> {
    let source = source_towards(asked)?;
    Some(if *bound == addr::wildcard_of(bound) {
        source
    } else {
        *bound
    })
}

/// Whether a client that asked for `addr` can be sent to the backend itself.
#[inline(always)]
fn is_reached(backend: &Backend, addr: &Addr, bound: &Addr) -> bool {
    let rewritten = backend.path == path::NAT || backend.path == path::DSR;
    let same_family = addr::is_v4(&backend.addr) == addr::is_v4(addr);
    // Packets from 127.0.0.1 or ::1 cannot leave this host.
    let can_leave = !addr::is_loopback(bound) || source_towards(&backend.addr).is_some();
    rewritten && same_family && can_leave
}

/// The source address of a connection to `addr` when the client has not bound one; `None` when
/// `addr` is not this host's.
#[inline(always)]
fn source_towards(addr: &Addr) -> Option<Addr> {
    // SAFETY: the agent seldom changes an entry; a torn one would be a client of its own for once.
    if let Some(source) = unsafe { LOCAL_ADDRESSES.get(addr) } {
        return Some(*source);
    }
    // All of 127.0.0.0/8 is this host's, and only 127.0.0.1 is among its addresses.
    let mapped = addr::is_v4(addr) && addr::is_loopback(addr);
    mapped.then_some(addr::LOOPBACK_V4)
}

/// Resolves the address that a client names: the wildcards stand for the loopback address of their family
/// (as in connect(2) on Linux), all others for themselves.
#[inline(always)]
pub fn meant_by(addr: Halves) -> Halves {
    const ANY: [Halves; 2] = [halves(&addr::ANY_V4), halves(&addr::ANY_V6)];
    const LOOPBACK: [Halves; 2] = [halves(&addr::LOOPBACK_V4), halves(&addr::LOOPBACK_V6)];
    if addr == ANY[0] {
        LOOPBACK[0]
    } else if addr == ANY[1] {
        LOOPBACK[1]
    } else {
        addr
    }
}

/// The hooks see every network namespace; only that of the agent counts.
#[inline(always)]
fn in_our_namespace(ctx: &SockAddrContext) -> bool {
    // SAFETY: the helper takes the context of a program of this type.
    let cookie = unsafe { bpf_get_netns_cookie(ctx.as_ptr()) };
    META.get(0).is_some_and(|meta| meta.netns_cookie == cookie)
}

/// The cookie of the socket (SO_COOKIE).
#[inline(always)]
fn cookie(ctx: &SockAddrContext) -> u64 {
    // SAFETY: the helper takes the context of a program of this type.
    unsafe { bpf_get_socket_cookie(ctx.as_ptr()) }
}

#[inline(always)]
fn datagram_key(cookie: u64, addr: Halves, port: u16) -> LocalDatagram {
    LocalDatagram {
        cookie,
        addr,
        port,
        pad: [0; 3],
    }
}
