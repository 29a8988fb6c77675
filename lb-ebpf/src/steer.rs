//! `lb_steer`: which service a connection is for, and its hand-over to a socket.

use aya_ebpf::bindings::bpf_sk_lookup;
use aya_ebpf::bindings::sk_action::{SK_DROP, SK_PASS};
use aya_ebpf::helpers::bpf_ktime_get_boot_ns;
use aya_ebpf::programs::SkLookupContext;
use lb_common::abi::local;
use lb_common::abi::{
    Affinity, AffinityKey, Backend, BackendId, Counter, ListenKey, MAX_GROUP, PROXY_HTTP,
    ServiceHead, ServiceTable, arrival, path, protocol,
};
use lb_common::addr;
use lb_common::select::{Client, Reason, select};

use crate::access::denies;
use crate::caps;
use crate::frame::{Lookup, family, is_trial};
use crate::maps::{BACKENDS, TABLES, count, remember_udp, udp_affinity};
use crate::socket_maps::{BACKEND_STATS, LISTENERS, PROXY, service_at};
use crate::tables::{ServiceTables, Taker, search};

/// `bpf_sk_assign` on a socket of an address family that cannot take the connection.
const EAFNOSUPPORT: i32 = 97;
const AF_INET6: u32 = 10;
/// How old a UDP client's affinity may grow before a datagram renews it.
const UDP_RENEW_NS: u64 = 1_000_000_000;

/// Returns SK_PASS with a socket assigned, SK_PASS without one if no service is concerned, or
/// SK_DROP, which refuses the connection.
#[inline(always)]
pub fn steer(ctx: &SkLookupContext) -> u32 {
    let lookup = Lookup::new(ctx);
    let Some(service) = service_at(&lookup.service) else {
        return SK_PASS;
    };
    let Some(table) = TABLES.get_value(service.0, &0) else {
        return SK_PASS;
    };
    if !is_trial(ctx) && denies(service, &lookup.client) {
        return SK_DROP;
    }
    let http = table.head.flags & ServiceHead::HTTP != 0;
    if !http && table.head.members == 0 {
        return SK_PASS;
    }
    if !is_trial(ctx) && caps::is_full(service, &lookup.client) {
        return SK_DROP;
    }
    if http {
        return to_l7(ctx);
    }
    to_backend(ctx, &lookup, table)
}

/// Hands a connection or datagram of a service with members to the chosen backend.
#[inline(always)]
fn to_backend(ctx: &SkLookupContext, lookup: &Lookup, table: &ServiceTable) -> u32 {
    let service = table.head.id;
    let client = Client::new(&table.head, &lookup.client);
    let mut tables = ServiceTables {
        table,
        protocol: lookup.service.protocol,
        taker: Steering { ctx: ctx.lookup },
    };
    let Some(choice) = select(&mut tables, &client) else {
        if !is_trial(ctx) {
            count(service, Counter::Refused);
        }
        return SK_DROP;
    };
    if is_trial(ctx) {
        return SK_PASS;
    }
    count(service, counter_of(choice.reason));
    if lookup.service.protocol == protocol::UDP {
        let [high, low] = local::halves(&client.key.prefix);
        lb_sent(service.0, choice.backend.0, high, low);
    }
    SK_PASS
}

/// The counter of a reason.
#[inline(always)]
const fn counter_of(reason: Reason) -> Counter {
    match reason {
        Reason::Affinity => Counter::Affinity,
        Reason::Slot => Counter::Slot,
        Reason::Next => Counter::Next,
    }
}

/// The L7 path chooses a backend for each request; connections all go there.
#[inline(always)]
fn to_l7(ctx: &SkLookupContext) -> u32 {
    match PROXY.redirect_sk_lookup(ctx, family(ctx) | PROXY_HTTP, 0) {
        Ok(()) => SK_PASS,
        Err(_) => SK_DROP,
    }
}

/// Counts a datagram to the backend with this id, and remembers its client, whose address or prefix has
/// these halves (`local::Halves`). TCP clients are remembered once their handshake is complete,
/// by `lb_listen`; UDP has none.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn lb_sent(service: u32, id: u32, high: u64, low: u64) -> u32 {
    let Some(table) = TABLES.get_value(service, &0) else {
        return 0;
    };
    let key = AffinityKey {
        prefix: addr::client_prefix(
            &local::whole([high, low]),
            table.head.ipv4_prefix,
            table.head.ipv6_prefix,
        ),
        service: table.head.id,
    };
    note_datagram(&table.head, &key, BackendId(id));
    1
}

#[inline(always)]
fn note_datagram(head: &ServiceHead, key: &AffinityKey, backend: BackendId) {
    if let Some(stats) = BACKEND_STATS.get_ptr_mut(backend.index()) {
        // SAFETY: this CPU's own element, valid while the program runs.
        unsafe { (*stats).datagrams += 1 };
    }
    // SAFETY: boot time can be read anywhere.
    let now_ns = unsafe { bpf_ktime_get_boot_ns() };
    let known = udp_affinity(key);
    let known = known.as_ref();
    let fresh = known.is_some_and(|known| {
        known.backend == backend && now_ns.wrapping_sub(known.seen_ns) < UDP_RENEW_NS
    });
    if !fresh {
        let affinity = Affinity {
            seen_ns: now_ns,
            backend,
            pad: 0,
        };
        if let Some(counter) = arrival(known, &affinity, head.affinity_ns) {
            count(head.id, counter);
        }
        remember_udp(key, &affinity);
    }
}

/// One run of the program.
struct Steering {
    ctx: *mut bpf_sk_lookup,
}

impl Taker for Steering {
    #[inline(always)]
    fn takes(&mut self, backend: &Backend) -> bool {
        lb_hand_over(self.ctx, backend.id.index()) != 0
    }

    #[inline(always)]
    fn search(&mut self, service: u32, hash: u64, bounded: bool) -> u64 {
        lb_search(self.ctx, service, hash, u32::from(bounded))
    }
}

/// See [`search`].
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn lb_search(ctx: *mut bpf_sk_lookup, service: u32, hash: u64, bounded: u32) -> u64 {
    search(Steering { ctx }, service, hash, bounded != 0)
}

/// Hands the connection to the backend at `index`; 0 when it cannot take it.
///
/// A function of its own to the verifier, which checks it once instead of at every step of the
/// selection: this keeps `lb_steer` small enough for it.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn lb_hand_over(ctx: *mut bpf_sk_lookup, index: u32) -> u32 {
    let Some(backend) = BACKENDS.get(index) else {
        return 0;
    };
    let ctx = SkLookupContext::new(ctx);
    let done = if backend.path == path::SOCKET {
        to_socket(&ctx, backend)
    } else {
        to_agent(&ctx, backend)
    };
    u32::from(done)
}

/// Looks for a listening socket of the backend: bound to its very address, to the wildcard of its
/// family, or to `::` without IPV6_V6ONLY.
#[inline(always)]
fn to_socket(ctx: &SkLookupContext, backend: &Backend) -> bool {
    let own = addr::halves(&backend.addr);
    let wildcard = addr::halves(&addr::wildcard_of(&backend.addr));
    let any_v6 = addr::halves(&addr::ANY_V6);
    let bound = [own, wildcard, any_v6];
    let meet = family(ctx) == AF_INET6 || wildcard == any_v6;
    let mut member = 0;
    while member < MAX_GROUP {
        for (high, low) in bound {
            let (port, protocol) = (backend.port, backend.protocol);
            let key = ListenKey {
                addr: addr::join(high, low),
                port,
                protocol,
                member,
            };
            match LISTENERS.redirect_sk_lookup(ctx, key, 0) {
                Ok(()) => return true,
                // Two families only meet in user space. (A socket for IPv6 alone at the port of an
                // IPv4 backend belongs to another program, as far as its IPv4 clients are concerned.)
                Err(error) if error == -EAFNOSUPPORT && meet => return to_agent(ctx, backend),
                Err(_) => {}
            }
        }
        member += 1;
    }
    false
}

/// TCP goes to the agent's listening socket. The agent's UDP sockets are bound to the service
/// address itself, where the ordinary lookup finds them.
#[inline(always)]
fn to_agent(ctx: &SkLookupContext, backend: &Backend) -> bool {
    backend.protocol == protocol::UDP || PROXY.redirect_sk_lookup(ctx, family(ctx), 0).is_ok()
}
