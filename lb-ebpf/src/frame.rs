//! Every read of a kernel context: addresses and ports as `lb_common` wants them.
//!
//! The verifier allows some fields to be read only word by word, so each is read volatile and
//! for itself: the compiler may not join two reads into one.

use aya_ebpf::bindings::{bpf_sk_lookup, bpf_sock, bpf_sock_ops};
use aya_ebpf::programs::{SkLookupContext, SockOpsContext};
use core::ptr;
use lb_common::abi::ServiceKey;
use lb_common::addr::{self, Addr};

/// Linux's AF_INET.
pub const AF_INET: u32 = 2;

/// Reads one field of a context.
macro_rules! field {
    ($ctx:expr, $($path:tt)+) => {{
        // SAFETY: the context is valid for as long as the program runs.
        let place = unsafe { &raw const (*$ctx).$($path)+ };
        // SAFETY: as above; the field is aligned.
        unsafe { ptr::read_volatile(place) }
    }};
}

/// An address of either family. Both are read before the family is looked at: reads in two
/// branches would be joined into one through a changed pointer, which the verifier refuses.
macro_rules! address {
    ($ctx:expr, $v4:ident, $v6:ident) => {{
        let v4 = field!($ctx, $v4);
        let v6 = [
            field!($ctx, $v6[0]),
            field!($ctx, $v6[1]),
            field!($ctx, $v6[2]),
            field!($ctx, $v6[3]),
        ];
        if field!($ctx, family) == AF_INET {
            addr::from_v4(v4.to_ne_bytes())
        } else {
            join(v6)
        }
    }};
}

#[inline(always)]
fn join(words: [u32; 4]) -> Addr {
    let [a, b, c, d] = words.map(u32::to_ne_bytes);
    [
        a[0], a[1], a[2], a[3], b[0], b[1], b[2], b[3], c[0], c[1], c[2], c[3], d[0], d[1], d[2],
        d[3],
    ]
}

/// A connection, or a datagram, that looks for its socket.
pub struct Lookup {
    /// Where it goes.
    pub service: ServiceKey,
    /// Whence it comes.
    pub client: Addr,
}

impl Lookup {
    #[inline(always)]
    pub fn new(ctx: &SkLookupContext) -> Self {
        let ctx: *const bpf_sk_lookup = ctx.lookup;
        let local = address!(ctx, local_ip4, local_ip6);
        let port = field!(ctx, local_port) as u16;
        Self {
            service: ServiceKey::new(local, port, field!(ctx, protocol) as u8),
            client: address!(ctx, remote_ip4, remote_ip6),
        }
    }
}

/// The address family of a connection: AF_INET or AF_INET6.
#[inline(always)]
pub fn family(ctx: &SkLookupContext) -> u32 {
    field!(ctx.lookup, family)
}

/// A TCP socket that something happened to.
pub struct Socket {
    ops: *const bpf_sock_ops,
}

impl Socket {
    #[inline(always)]
    pub fn new(ctx: &SockOpsContext) -> Self {
        Self { ops: ctx.ops }
    }

    /// The address that it is bound to, or that its connection came to.
    #[inline(always)]
    pub fn local_addr(&self) -> Addr {
        address!(self.ops, local_ip4, local_ip6)
    }

    /// The port that it is bound to.
    #[inline(always)]
    pub fn local_port(&self) -> u16 {
        field!(self.ops, local_port) as u16
    }

    /// The address of the other end.
    #[inline(always)]
    pub fn remote_addr(&self) -> Addr {
        address!(self.ops, remote_ip4, remote_ip6)
    }

    /// The socket itself, for socket storage; `None` for a socket that is only half made.
    #[inline(always)]
    pub fn socket(&self) -> Option<*mut bpf_sock> {
        let socket = field!(self.ops, __bindgen_anon_2.sk);
        (!socket.is_null()).then_some(socket)
    }
}
