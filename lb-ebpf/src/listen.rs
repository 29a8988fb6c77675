//! `lb_listen`: which sockets listen, which backend each accepted connection belongs to, and how
//! many of them are open.

use aya_ebpf::bindings::{
    BPF_NOEXIST, BPF_SOCK_OPS_ACTIVE_ESTABLISHED_CB, BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB,
    BPF_SOCK_OPS_STATE_CB, BPF_SOCK_OPS_STATE_CB_FLAG, BPF_SOCK_OPS_TCP_LISTEN_CB, BPF_TCP_CLOSE,
    bpf_sock,
};
use aya_ebpf::helpers::{bpf_get_netns_cookie, bpf_ktime_get_boot_ns};
use aya_ebpf::programs::SockOpsContext;
use aya_log_ebpf::{debug, warn};
use lb_common::abi::local::{halves, whole};
use lb_common::abi::{
    Affinity, AffinityKey, BackendId, ListenKey, MAX_GROUP, OwnerKey, ServiceHead, ServiceId,
    ServiceKey, SocketOwner, arrival, protocol,
};
use lb_common::addr::Addr;
use lb_common::clients::Counted;
use lb_common::select::Client;

use crate::caps;
use crate::connect;
use crate::frame::Socket;
use crate::maps::{ACTIVE, AFFINITY, BACKENDS, SERVICE_ACTIVE, TABLES, count};
use crate::socket_maps::{
    BACKEND_STATS, LISTENERS, LOCAL_PEER, META, OWNERS, SOCKET_CLIENT, SOCKET_OWNER, add,
    service_at,
};

/// `bpf_sock_hash_update` with BPF_NOEXIST on a key that is there.
const EEXIST: i32 = 17;
/// The same on a socket that can be in no sockhash.
const EOPNOTSUPP: i32 = 95;

#[inline(always)]
pub fn socket_event(ctx: &SockOpsContext) {
    match ctx.op() {
        BPF_SOCK_OPS_TCP_LISTEN_CB if is_ours(ctx) => listening(ctx),
        BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB if is_ours(ctx) => {
            // Nothing to count is no failure.
            let _ = established(ctx);
        }
        BPF_SOCK_OPS_ACTIVE_ESTABLISHED_CB if is_ours(ctx) => {
            let _ = connected(ctx);
        }
        BPF_SOCK_OPS_STATE_CB if ctx.arg(1) == BPF_TCP_CLOSE => {
            let _ = closed(ctx);
        }
        _ => {}
    }
}

/// Whether the socket is in the agent's network namespace. This program sees those of all, so this
/// comes before any look-up.
#[inline(always)]
fn is_ours(ctx: &SockOpsContext) -> bool {
    // SAFETY: the helper takes the context of a sock_ops program.
    let cookie = unsafe { bpf_get_netns_cookie(ctx.ops.cast()) };
    META.get(0).is_some_and(|meta| meta.netns_cookie == cookie)
}

/// Notes a socket that has begun to listen.
#[inline(always)]
fn listening(ctx: &SockOpsContext) {
    let socket = Socket::new(ctx);
    let (addr, port) = (socket.local_addr(), socket.local_port());
    if let Some(sk) = socket.socket() {
        // SAFETY: the kernel gave the socket to this run.
        if unsafe { (*sk).bound_dev_if } != 0 {
            // The hand-over does not ask by which interface a client came (SO_BINDTODEVICE).
            debug!(
                ctx,
                "the listener on port {} is bound to an interface", port
            );
            return;
        }
        let owner = SocketOwner {
            addr,
            port,
            pad: 0,
            backend: BackendId::NONE,
        };
        // SAFETY: the kernel gave the socket to this run.
        if unsafe { SOCKET_OWNER.set(sk, owner) }.is_err() {
            warn!(
                ctx,
                "no memory to count the connections of the listener on port {}", port
            );
        }
    }
    enter(ctx, addr, port);
}

/// Enters a listening socket as the first member of its address that is free.
#[inline(always)]
fn enter(ctx: &SockOpsContext, addr: Addr, port: u16) {
    let mut member = 0;
    while member < MAX_GROUP {
        let mut key = ListenKey {
            addr,
            port,
            protocol: protocol::TCP,
            member,
        };
        // SAFETY: the context is valid while the program runs.
        let ops = unsafe { &mut *ctx.ops };
        match LISTENERS.update(&mut key, ops, u64::from(BPF_NOEXIST)) {
            Ok(()) => {
                debug!(ctx, "listening on port {} as member {}", port, member);
                return;
            }
            Err(error) if error == -EEXIST => member += 1,
            // An MPTCP socket, which no sockhash takes. The agent tells of those of its backends.
            Err(error) if error == -EOPNOTSUPP => {
                debug!(ctx, "the listener on port {} is MPTCP", port);
                return;
            }
            Err(error) => {
                warn!(
                    ctx,
                    "the listener on port {} is not noted: error {}", port, error
                );
                return;
            }
        }
    }
}

/// Counts a connection with a complete handshake, and stores the backend of its client.
#[inline(always)]
fn established(ctx: &SockOpsContext) -> Option<()> {
    let socket = Socket::new(ctx);
    let sk = socket.socket()?;
    let came_to = ServiceKey::new(socket.local_addr(), socket.local_port(), protocol::TCP);
    let service = service_at(&came_to)?;
    if caps::cap(service) != 0 {
        count_client(ctx, service, sk);
    }
    // SAFETY: the kernel gave the socket to this run.
    let owner = unsafe { SOCKET_OWNER.of(sk) }?;
    let key = OwnerKey {
        addr: owner.addr,
        port: owner.port,
        protocol: protocol::TCP,
        pad: 0,
        service,
    };
    // SAFETY: the agent is the only writer; an id is one aligned word, read whole.
    let backend = *unsafe { OWNERS.get(key) }?;
    owner.backend = backend;
    let head = &TABLES.get_value(service.0, &0)?.head;
    let client = Client::new(head, &socket.remote_addr());
    opened(ctx, head, &client.key, backend)
}

/// Counts a connection for its client until it closes, also one that the agent takes.
#[inline(always)]
fn count_client(ctx: &SockOpsContext, service: ServiceId, sk: *mut bpf_sock) {
    let counted = caps::count(service, &Socket::new(ctx).remote_addr());
    if counted == Counted::NONE {
        return;
    }
    // SAFETY: the kernel gave the socket to this run.
    if !is_told_of_the_end(ctx) || unsafe { SOCKET_CLIENT.set(sk, counted) }.is_err() {
        caps::take(counted);
    }
}

/// Asks the kernel for an event when the connection closes.
#[inline(always)]
fn is_told_of_the_end(ctx: &SockOpsContext) -> bool {
    let flags = ctx.cb_flags() | BPF_SOCK_OPS_STATE_CB_FLAG;
    ctx.set_cb_flags(flags as i32).is_ok()
}

/// The same on the client's side, for a client on this host whose connection `lb_connect4` or
/// `lb_connect6` has sent to a backend.
#[inline(always)]
fn connected(ctx: &SockOpsContext) -> Option<()> {
    let socket = Socket::new(ctx);
    let sk = socket.socket()?;
    // SAFETY: the kernel gave the socket to this run.
    let peer = unsafe { LOCAL_PEER.of(sk) }?;
    if !connect::is_to(peer, halves(&socket.remote_addr()), socket.remote_port()) {
        return None;
    }
    let owner = SocketOwner {
        addr: whole(peer.addr),
        port: peer.port,
        pad: 0,
        backend: peer.backend,
    };
    // SAFETY: as above.
    unsafe { SOCKET_OWNER.set(sk, owner) }.ok()?;
    let head = &TABLES.get_value(peer.service.0, &0)?.head;
    let asked = whole(connect::meant_by(peer.asked));
    let client = Client::new(head, &connect::source(&asked, &whole(peer.bound))?);
    opened(ctx, head, &client.key, peer.backend)
}

/// Counts a connection until it closes, and remembers its client.
#[inline(always)]
fn opened(
    ctx: &SockOpsContext,
    head: &ServiceHead,
    client: &AffinityKey,
    backend: BackendId,
) -> Option<()> {
    if !is_told_of_the_end(ctx) {
        return None;
    }
    add(&ACTIVE, backend.index(), 1);
    add(&SERVICE_ACTIVE, head.id.0, 1);
    if let Some(stats) = BACKEND_STATS.get_ptr_mut(backend.index()) {
        // SAFETY: this CPU's own element, valid while the program runs.
        unsafe { (*stats).connections += 1 };
    }
    if head.affinity_ns == 0 {
        return None;
    }
    remember(head, client, backend)
}

/// Remembers the backend of a client, and counts how the client came to it.
#[inline(always)]
fn remember(head: &ServiceHead, client: &AffinityKey, backend: BackendId) -> Option<()> {
    // SAFETY: boot time can be read anywhere.
    let seen_ns = unsafe { bpf_ktime_get_boot_ns() };
    let affinity = Affinity {
        seen_ns,
        backend,
        pad: 0,
    };
    let known = AFFINITY.get_ptr_mut(client);
    // SAFETY: the kernel returned a valid, aligned value; a torn read at worst counts a client wrongly.
    let before = known.map(|known| unsafe { known.read() });
    if let Some(counter) = arrival(before.as_ref(), &affinity, head.affinity_ns) {
        count(head.id, counter);
    }
    if let Some(known) = known
        && before.is_some_and(|before| before.backend == backend)
    {
        // Half the time of an insertion.
        // SAFETY: a field of a value that the kernel keeps while the program runs.
        let place = unsafe { &raw mut (*known).seen_ns };
        // SAFETY: an aligned word. Should the place have been given to another client meanwhile, that one
        // was seen at this moment, too.
        unsafe { place.write_volatile(seen_ns) };
        return Some(());
    }
    // A full map pushes out the client unseen for longest; nothing else can fail.
    AFFINITY.insert(client, affinity, 0).ok()
}

/// Takes a closed connection off the count.
#[inline(always)]
fn closed(ctx: &SockOpsContext) -> Option<()> {
    let sk = Socket::new(ctx).socket()?;
    // SAFETY: the kernel gave the socket to this run.
    if let Some(counted) = unsafe { SOCKET_CLIENT.of(sk) } {
        caps::take(core::mem::take(counted));
    }
    // SAFETY: as above.
    let owner = unsafe { SOCKET_OWNER.of(sk) }?;
    let backend = owner.backend;
    if backend == BackendId::NONE {
        return None;
    }
    owner.backend = BackendId::NONE;
    add(&ACTIVE, backend.index(), -1);
    add(&SERVICE_ACTIVE, owner_service(backend)?.0, -1);
    Some(())
}

/// The service of a backend. Its entry keeps it after the backend has been removed, and the agent
/// gives an index out again only when its count is back at zero.
#[inline(always)]
fn owner_service(backend: BackendId) -> Option<ServiceId> {
    Some(BACKENDS.get(backend.index())?.service)
}
