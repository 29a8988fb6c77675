//! Every access to a kernel context: addresses and ports as `lb_common` wants them.
//!
//! The verifier allows some fields to be read only word by word, so each is read volatile and
//! for itself: the compiler may not join two reads into one.

use aya_ebpf::bindings::{bpf_sk_lookup, bpf_sock, bpf_sock_addr, bpf_sock_ops};
use aya_ebpf::programs::{SkLookupContext, SockAddrContext, SockOpsContext};
use core::ptr;
use lb_common::abi::ServiceKey;
use lb_common::abi::local::Halves;
use lb_common::addr::Addr;

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

/// Writes one field of a context.
macro_rules! set_field {
    ($ctx:expr, $value:expr, $($path:tt)+) => {{
        // SAFETY: the context is valid for as long as the program runs.
        let place = unsafe { &raw mut (*$ctx).$($path)+ };
        // SAFETY: as above; the field is aligned, and nothing else refers to it.
        unsafe { ptr::write_volatile(place, $value) }
    }};
}

/// Four fields of a context, one for each word of an IPv6 address.
macro_rules! words {
    ($ctx:expr, $($path:tt)+) => {
        [
            field!($ctx, $($path)+[0]),
            field!($ctx, $($path)+[1]),
            field!($ctx, $($path)+[2]),
            field!($ctx, $($path)+[3]),
        ]
    };
}

/// An address of either family. Both are read before the family is looked at: reads in two
/// branches would be joined into one through a changed pointer, which the verifier refuses.
macro_rules! address {
    ($ctx:expr, $v4:ident, $v6:ident) => {{
        let v4 = field!($ctx, $v4);
        let v6 = words!($ctx, $v6);
        joined(if field!($ctx, family) == AF_INET {
            mapped(v4)
        } else {
            paired(v6)
        })
    }};
}

/// The address with these halves, by way of one number: where bytes of two addresses are chosen from,
/// the compiler keeps each in eight bytes of the stack. (`local::whole` takes less stack where they
/// are not.)
#[inline(always)]
fn joined([high, low]: Halves) -> Addr {
    let (upper, lower) = if cfg!(target_endian = "little") {
        (low, high)
    } else {
        (high, low)
    };
    (u128::from(upper) << 64 | u128::from(lower)).to_ne_bytes()
}

/// A connection, or a datagram, that looks for its socket.
pub struct Lookup {
    /// The destination.
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

/// Whether the client's port is 0, which no real client has: the agent tries the program out.
#[inline(always)]
pub fn is_trial(ctx: &SkLookupContext) -> bool {
    field!(ctx.lookup, remote_port) == 0
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

    /// The port of the other end.
    #[inline(always)]
    pub fn remote_port(&self) -> u16 {
        // Network byte order, in the upper half on every machine.
        let port_be = field!(self.ops, remote_port) >> 16;
        u16::from_be(port_be as u16)
    }

    /// The socket itself, for socket storage; `None` for a socket that is only half made.
    #[inline(always)]
    pub fn socket(&self) -> Option<*mut bpf_sock> {
        let socket = field!(self.ops, __bindgen_anon_2.sk);
        (!socket.is_null()).then_some(socket)
    }
}

/// A system call that names an address: connect(2), sendmsg(2), recvmsg(2), getpeername(2). The
/// kernel lets the programs for IPv4 touch the fields for IPv4 only, and the others likewise, so
/// the family is part of the type. An IPv6 socket that names an IPv4-mapped address is met in
/// either.
pub struct Call<const V6: bool>(*mut bpf_sock_addr);

impl<const V6: bool> Call<V6> {
    #[inline(always)]
    pub fn new(ctx: &SockAddrContext) -> Self {
        Self(ctx.sock_addr)
    }

    /// The address that is named: the destination or the source.
    #[inline(always)]
    pub fn addr(&self) -> Halves {
        if V6 {
            paired(words!(self.0, user_ip6))
        } else {
            mapped(field!(self.0, user_ip4))
        }
    }

    /// The port beside it.
    #[inline(always)]
    pub fn port(&self) -> u16 {
        u16::from_be(field!(self.0, user_port) as u16)
    }

    /// Names another address. An IPv4 address in a program for IPv6 is written as a mapped one.
    #[inline(always)]
    pub fn rename(&self, addr: Halves, port: u16) {
        let [a, b, c, d] = unpaired(addr);
        if V6 {
            set_field!(self.0, a, user_ip6[0]);
            set_field!(self.0, b, user_ip6[1]);
            set_field!(self.0, c, user_ip6[2]);
        }
        if V6 {
            set_field!(self.0, d, user_ip6[3]);
        } else {
            set_field!(self.0, d, user_ip4);
        }
        set_field!(self.0, u32::from(port.to_be()), user_port);
    }

    /// The IP protocol of the socket.
    #[inline(always)]
    pub fn protocol(&self) -> u8 {
        field!(self.0, protocol) as u8
    }

    /// The address that the socket is bound to; the wildcard when it is bound to none.
    #[inline(always)]
    pub fn bound_addr(&self) -> Halves {
        let socket = self.socket();
        if V6 {
            paired(words!(socket, src_ip6))
        } else {
            mapped(field!(socket, src_ip4))
        }
    }

    /// The source address of a datagram that is being sent: the one that the socket is bound to or
    /// that comes with the datagram (IP_PKTINFO), else the wildcard.
    #[inline(always)]
    pub fn message_source(&self) -> Halves {
        if V6 {
            paired(words!(self.0, msg_src_ip6))
        } else {
            mapped(field!(self.0, msg_src_ip4))
        }
    }

    /// The socket itself.
    #[inline(always)]
    pub fn socket(&self) -> *mut bpf_sock {
        field!(self.0, __bindgen_anon_1.sk)
    }
}

/// An IPv4 address as the halves of a mapped one.
#[inline(always)]
fn mapped(v4: u32) -> Halves {
    let marker = u32::from_ne_bytes([0, 0, 0xff, 0xff]);
    paired([0, 0, marker, v4])
}

/// Four words in memory order as two.
#[inline(always)]
fn paired([a, b, c, d]: [u32; 4]) -> Halves {
    let pair = |first: u32, second: u32| {
        let (low, high) = if cfg!(target_endian = "little") {
            (first, second)
        } else {
            (second, first)
        };
        u64::from(high) << 32 | u64::from(low)
    };
    [pair(a, b), pair(c, d)]
}

/// Two words in memory order as four.
#[inline(always)]
fn unpaired([high, low]: Halves) -> [u32; 4] {
    let split = |pair: u64| {
        let (low, high) = (pair as u32, (pair >> 32) as u32);
        if cfg!(target_endian = "little") {
            (low, high)
        } else {
            (high, low)
        }
    };
    let ((a, b), (c, d)) = (split(high), split(low));
    [a, b, c, d]
}
